//! Sources that a user names: on web servers, and in buckets that the operator allows.
//!
//! Threat model: location, server, redirects and every answer are an
//! attacker's. He wants us to connect to where only we can reach, to read
//! without end, or to give other bytes at the second look.
//!
//! Invariants:
//! - Connections go only to addresses that the policy has checked, at each redirect anew.
//! - Every answer is held against the pin; what contradicts it is `SourceChanged`, never mixed in.
//! - Failures name the source without its query, which may hold a secret.

mod answer;
mod connect;
mod http;
mod object;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::source::{SourceLocation, SourcePolicy, SourceRefused};
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::{Objects, Source, SourceInfo, SourcePin, Sources};

use self::http::HttpSource;
use self::object::ObjectSource;

/// How long a web server may keep us waiting. The flows try again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// Without a single byte.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(30) }
    }
}

/// Opens the sources that the operator's policy allows.
pub struct AllowedSources {
    policy: SourcePolicy,
    objects: Arc<dyn Objects>,
    patience: Patience,
}

impl AllowedSources {
    /// Under this policy; buckets are read through `objects`.
    pub fn new(policy: SourcePolicy, objects: Arc<dyn Objects>, patience: Patience) -> Self {
        Self { policy, objects, patience }
    }
}

#[async_trait]
impl Sources for AllowedSources {
    async fn open(
        &self,
        location: &SourceLocation,
        pin: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        self.policy.check(location).map_err(|refused| forbidden(&location.to_string(), &refused))?;
        let source: Box<dyn Source> = match location {
            SourceLocation::Http(url) => {
                Box::new(HttpSource::open(url, &self.policy.addresses, self.patience).await?)
            }
            SourceLocation::S3 { bucket, key } => {
                Box::new(ObjectSource::open(Arc::clone(&self.objects), bucket, key).await?)
            }
        };
        match pin {
            Some(pin) if !agrees(source.info(), pin) => Err(changed(&location.to_string())),
            _ => Ok(source),
        }
    }
}

/// Whether nothing that the source says contradicts the pin.
fn agrees(info: &SourceInfo, pin: &SourcePin) -> bool {
    fn same<T: PartialEq>(now: Option<&T>, then: Option<&T>) -> bool {
        now.zip(then).is_none_or(|(now, then)| now == then)
    }
    same(info.pin.etag.as_ref(), pin.etag.as_ref())
        && same(info.pin.last_modified.as_ref(), pin.last_modified.as_ref())
        && same(info.size.as_ref(), pin.size.as_ref())
}

fn changed(what: &str) -> Failure {
    Failure::new(FailureCode::SourceChanged, format!("{what} changed while it was read; import it again"))
}

fn forbidden(what: &str, refused: &SourceRefused) -> Failure {
    Failure::new(FailureCode::SourceForbidden, format!("{what}: {refused}"))
}
