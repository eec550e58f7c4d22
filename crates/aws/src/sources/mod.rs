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
//! - A token goes to the origin of an endpoint that the operator allows, headers to that of the source that they were
//!   given for, and nowhere else.

mod answer;
mod connect;
mod glance;
mod http;
mod object;
mod oci;
mod way;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceLocation, SourcePolicy, SourceRefused, shown};
use image_tasks_domain::{Failure, FailureCode, GlanceEndpoints, Login};
use image_tasks_flows::ports::{ObjectRef, Objects, Source, SourceInfo, SourcePin, Sources};
use reqwest::{Certificate, Client, Url};

use self::http::HttpSource;
use self::object::ObjectSource;
use self::oci::OciSource;
use self::way::Way;
use crate::config::{ConfigError, invalid};

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

/// How web servers are met.
#[derive(Debug, Clone)]
struct Terms {
    patience: Patience,
    /// Authorities that are trusted beside those that everybody trusts.
    roots: Vec<Certificate>,
}

/// The certificates of a PEM text. Its line breaks may have become blanks, as they do on the way through a console.
fn certificates(pem: &str) -> Option<Vec<Certificate>> {
    let lines = pem.split_whitespace().collect::<Vec<_>>().join("\n");
    let lines = lines.replace("-----BEGIN\nCERTIFICATE", "-----BEGIN CERTIFICATE");
    let lines = lines.replace("-----END\nCERTIFICATE", "-----END CERTIFICATE");
    let found = Certificate::from_pem_bundle(lines.as_bytes()).ok()?;
    // Whether each is a certificate is found out where it is used.
    Client::builder().tls_certs_only(found.clone()).build().ok()?;
    Some(found).filter(|found| !found.is_empty())
}

/// Opens the sources that the operator's policy allows.
pub struct AllowedSources {
    policy: SourcePolicy,
    objects: Arc<dyn Objects>,
    terms: Terms,
    glances: GlanceEndpoints,
}

impl AllowedSources {
    /// Under this policy; buckets are read through `objects`.
    pub fn new(policy: SourcePolicy, objects: Arc<dyn Objects>, patience: Patience) -> Self {
        Self {
            policy,
            objects,
            terms: Terms { patience, roots: Vec::new() },
            glances: GlanceEndpoints::default(),
        }
    }

    /// Servers whose certificates are of these authorities, too: in PEM, which may be empty.
    ///
    /// # Errors
    /// [`ConfigError`] where that is no PEM of certificates.
    pub fn with_ca(self, pem: &str) -> Result<Self, ConfigError> {
        if pem.is_empty() {
            return Ok(self);
        }
        let told = "it must be PEM: -----BEGIN CERTIFICATE----- and so on, for each certificate";
        let roots = certificates(pem).ok_or_else(|| invalid("SOURCE_CA_PEM", pem, told))?;
        Ok(Self { terms: Terms { roots, ..self.terms }, ..self })
    }

    /// These endpoints, too: with a caller's token, and on the port that they name.
    #[must_use]
    pub fn with_glances(self, glances: GlanceEndpoints) -> Self {
        Self { glances, ..self }
    }

    /// Which addresses may be connected to for a URL, with a token or without.
    fn addresses(&self, url: &Url, login: Option<&Login>) -> Result<AddressPolicy, Failure> {
        match login {
            None | Some(Login::Headers(_)) => Ok(self.policy.addresses.clone()),
            Some(Login::Token(_)) if self.glances.allow(url) => {
                Ok(self.policy.addresses.with_port(url.port_or_known_default().unwrap_or(0)))
            }
            Some(Login::Token(_)) => {
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
        login: Option<&Login>,
        pin: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        let source: Box<dyn Source> = match location {
            SourceLocation::Http(url) => {
                let own = self.addresses(url, login)?;
                let (url, login, others) = (url.clone(), login.cloned(), self.policy.addresses.clone());
                let way = Way { url, login, accept: None, own, others, terms: self.terms.clone() };
                return Ok(Box::new(HttpSource::open(way, pin).await?));
            }
            SourceLocation::Oci(location) => {
                Box::new(OciSource::open(location, &self.policy.addresses, &self.terms).await?)
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
