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
//! - A token goes to the origin of an endpoint that the operator allows, and nowhere else.

mod answer;
mod connect;
mod glance;
mod http;
mod object;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceLocation, SourcePolicy, SourceRefused, shown};
use image_tasks_domain::{Failure, FailureCode, GlanceEndpoints, Secret};
use image_tasks_flows::ports::{ObjectRef, Objects, Source, SourceInfo, SourcePin, Sources};
use reqwest::Url;

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
    glances: GlanceEndpoints,
}

impl AllowedSources {
    /// Under this policy; buckets are read through `objects`.
    pub fn new(policy: SourcePolicy, objects: Arc<dyn Objects>, patience: Patience) -> Self {
        Self { policy, objects, patience, glances: GlanceEndpoints::default() }
    }

    /// These endpoints, too: with a caller's token, and on the port that they name.
    #[must_use]
    pub fn with_glances(self, glances: GlanceEndpoints) -> Self {
        Self { glances, ..self }
    }

    /// Which addresses may be connected to for a URL, with a token or without.
    fn addresses(&self, url: &Url, token: Option<&Secret>) -> Result<AddressPolicy, Failure> {
        match token {
            None => Ok(self.policy.addresses.clone()),
            Some(_) if self.glances.allow(url) => {
                Ok(self.policy.addresses.with_port(url.port_or_known_default().unwrap_or(0)))
            }
            Some(_) => {
                let message = format!("{} is below no endpoint that tokens are sent to", shown(url));
                Err(Failure::new(FailureCode::SourceForbidden, message))
            }
        }
    }
}

#[async_trait]
impl Sources for AllowedSources {
    async fn open(
        &self,
        location: &SourceLocation,
        token: Option<&Secret>,
        pin: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        let source: Box<dyn Source> = match location {
            SourceLocation::Http(url) => {
                let addresses = self.addresses(url, token)?;
                Box::new(
                    HttpSource::open(url, token, &addresses, &self.policy.addresses, self.patience).await?,
                )
            }
            SourceLocation::S3 { bucket, key } | SourceLocation::Staged { bucket, key } => {
                self.policy.check(location).map_err(|refused| forbidden(&location.to_string(), &refused))?;
                let at = ObjectRef { bucket: bucket.clone(), key: key.clone() };
                Box::new(ObjectSource::open(Arc::clone(&self.objects), at, location.to_string()).await?)
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
    Failure::new(FailureCode::SourceChanged, format!("{what} changed while it was read; ask for it again"))
}

fn forbidden(what: &str, refused: &SourceRefused) -> Failure {
    Failure::new(FailureCode::SourceForbidden, format!("{what}: {refused}"))
}
