//! What an OCI registry serves: manifests, and layers.
//!
//! Threat model: the registry is an attacker's, and where it sends us for a token is one more address that he names. He
//! wants a token of somebody else's registry, or to have us connect to where only we can.
//!
//! Invariants:
//! - A token is fetched from an address that is checked like a source's, over https where the registry is.
//! - It goes to the registry's own origin, and to no other: a layer that lies elsewhere is fetched without it.
//! - Nothing but what anybody gets is asked for: no name, no password.
//!
//! Facts: OCI distribution specification 1.1; Distribution, "Token Authentication Specification".

use std::sync::Arc;

use async_trait::async_trait;
use disk_image::ByteRange;
use futures::StreamExt;
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::oci::{OciLocation, OciObject};
use image_tasks_domain::source::{SourceLocation, shown};
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::{Body, Source, SourceInfo, SourcePin};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use serde_json::Value;
use tokio::sync::Mutex;

use super::answer::Head;
use super::http::{HttpSource, Server, broken_off};
use super::way::{Way, has_expired};
use super::{Terms, agrees, changed, forbidden};

/// Manifests of OCI and of Docker. Without their names some registries answer with what was before them.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
/// Most bytes of an answer with a token. Honest ones have some thousand.
const MOST: usize = 64 << 10;
const FIRST: &str = "bytes=0-0";

/// A manifest or a layer. Tokens, and the addresses that a registry redirects to, are good for minutes: what is denied
/// later is asked for anew.
pub(super) struct OciSource {
    location: OciLocation,
    policy: AddressPolicy,
    terms: Terms,
    info: SourceInfo,
    now: Mutex<Arc<HttpSource>>,
}

impl OciSource {
    pub(super) async fn open(
        location: &OciLocation,
        policy: &AddressPolicy,
        terms: &Terms,
    ) -> Result<Self, Failure> {
        let source = opened(location, policy, terms).await?;
        let mut info = source.info().clone();
        if location.is_pinned() {
            // A registry may lead to another store each time, whose validators are its own; the digest tells what is there.
            info.pin = SourcePin { size: info.size, ..SourcePin::default() };
        }
        let (location, policy, terms) = (location.clone(), policy.clone(), terms.clone());
        Ok(Self { location, policy, terms, info, now: Mutex::new(Arc::new(source)) })
    }

    async fn ask<F: Future<Output = Result<Body, Failure>>>(
        &self,
        request: impl Fn(Arc<HttpSource>) -> F,
    ) -> Result<Body, Failure> {
        let source = Arc::clone(&*self.now.lock().await);
        match request(Arc::clone(&source)).await {
            Err(failure) if has_expired(&failure) => {}
            answered => return answered,
        }
        let mut now = self.now.lock().await;
        // Of those who meet this together one asks.
        if Arc::ptr_eq(&now, &source) {
            let renewed = opened(&self.location, &self.policy, &self.terms).await?;
            if !agrees(renewed.info(), &self.info.pin) {
                return Err(changed(&self.location.to_string()));
            }
            *now = Arc::new(renewed);
        }
        let renewed = Arc::clone(&now);
        drop(now);
        request(renewed).await.map_err(|failure| without_login(&self.location, failure))
    }
}

#[async_trait]
impl Source for OciSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        self.ask(|source| async move { source.read(range).await }).await
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.ask(|source| async move { source.stream().await }).await
    }
}

async fn opened(
    location: &OciLocation,
    policy: &AddressPolicy,
    terms: &Terms,
) -> Result<HttpSource, Failure> {
    let accept = (!matches!(location.object, OciObject::Blob(_))).then_some(MANIFESTS);
    let way = |url| {
        let (own, others, terms) = (policy.clone(), policy.clone(), terms.clone());
        Way { url, login: None, accept, own, others, terms }
    };
    let url = location.url();
    let mut server = Server::at(&url, None, policy, terms).await?;
    if let Some(accept) = accept {
        server = server.with(ACCEPT, HeaderValue::from_static(accept));
    }
    let mut answer = server.ask(Some(FIRST), None).await?;
    if answer.status() == StatusCode::UNAUTHORIZED {
        let challenge = Challenge::of(answer.headers()).ok_or_else(|| denied(location))?;
        server = server.with(AUTHORIZATION, token(location, &challenge, policy, terms).await?);
        answer = server.ask(Some(FIRST), None).await?;
    }
    if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(denied(location));
    }
    let source = if answer.status().is_redirection() {
        HttpSource::open(way(server.next_hop(&answer)?), None).await
    } else {
        HttpSource::at(way(url), server, answer).await
    };
    source.map_err(|failure| without_login(location, failure))
}

/// What a web server's refusal advises, a login, is not taken here.
fn without_login(location: &OciLocation, failure: Failure) -> Failure {
    if failure.code == FailureCode::SourceDenied { denied(location) } else { failure }
}

fn denied(location: &OciLocation) -> Failure {
    let message = format!(
        "{location} is given to nobody without a login, or there is no such repository; make it public, or put the \
         disk elsewhere"
    );
    Failure::new(FailureCode::SourceDenied, message)
}

/// A token by which anybody may read the repository.
async fn token(
    location: &OciLocation,
    challenge: &Challenge,
    policy: &AddressPolicy,
    terms: &Terms,
) -> Result<HeaderValue, Failure> {
    let what = format!("{location}: the registry's token service");
    let invalid = |why: &str| Failure::new(FailureCode::SourceInvalid, format!("{what} {why}"));
    let url = realm(location, challenge)?;
    let server = Server::at(&url, None, policy, terms).await?;
    let answer = server.ask(None, None).await?;
    let head = Head::of(&answer);
    match head.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(denied(location)),
        status if status.is_redirection() => return Err(invalid("redirects, which it may not")),
        _ => return Err(server.failure(&head)),
    }
    let (mut body, mut chunks) = (Vec::new(), answer.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broken_off(&error, &shown(&url), terms.patience))?;
        if body.len().saturating_add(chunk.len()) > MOST {
            return Err(invalid("sends more than a token"));
        }
        body.extend_from_slice(&chunk);
    }
    let said: Value = serde_json::from_slice(&body).map_err(|_| invalid("sends no JSON"))?;
    let token = said["token"].as_str().or(said["access_token"].as_str());
    let token = token.ok_or_else(|| invalid("sends no token"))?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| invalid("sends a token that is none"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where the token is fetched. What it shall be good for is said by us, not by who asks for it.
fn realm(location: &OciLocation, challenge: &Challenge) -> Result<Url, Failure> {
    let what = format!("{location}: the registry's token service");
    let mut url = match SourceLocation::parse(&challenge.realm) {
        Ok(SourceLocation::Http(url)) if location.registry.scheme() != "https" || url.scheme() == "https" => {
            url
        }
        Ok(SourceLocation::Http(url)) => {
            let message = format!("{what} is at {}, which is not https", shown(&url));
            return Err(Failure::new(FailureCode::SourceForbidden, message));
        }
        Ok(_) => {
            return Err(Failure::new(FailureCode::SourceInvalid, format!("{what} is at no web address")));
        }
        Err(refused) => return Err(forbidden(&what, &refused)),
    };
    let mut query = url.query_pairs_mut();
    if let Some(service) = &challenge.service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", &format!("repository:{}:pull", location.repository));
    drop(query);
    Ok(url)
}

/// `WWW-Authenticate: Bearer realm="...",service="..."` (RFC 9110, section 11.3).
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut told = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        told.find_map(Self::parse)
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut challenge = Self::default();
        while !rest.trim_start_matches([' ', ',', '\t']).is_empty() {
            let (name, behind) = rest.trim_start_matches([' ', ',', '\t']).split_once('=')?;
            let (value, behind) = match behind.trim_start().strip_prefix('"') {
                Some(quoted) => quoted_string(quoted)?,
                None => {
                    let end = behind.find([',', ' ']).unwrap_or(behind.len());
                    (behind.get(..end)?.to_owned(), behind.get(end..)?)
                }
            };
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = value,
                "service" => challenge.service = Some(value),
                _ => {}
            }
            rest = behind;
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }
}

/// Up to the closing quotation mark, and what is behind it.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> OciLocation {
        match SourceLocation::parse(text) {
            Ok(SourceLocation::Oci(location)) => *location,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn challenges_as_registries_send_them() {
        for (text, realm, service) in [
            (
                r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull""#,
                "https://auth.example/token",
                Some("registry.example"),
            ),
            (r#"bearer service=x, realm="https://a/\"t""#, "https://a/\"t", Some("x")),
            (r#"Bearer realm="https://a/t""#, "https://a/t", None),
        ] {
            let challenge = Challenge { realm: realm.to_owned(), service: service.map(str::to_owned) };
            assert_eq!(Challenge::parse(text), Some(challenge), "{text}");
        }
        for text in
            ["", "Bearer", "Basic realm=\"x\"", "Bearer realm=\"x", "Bearer realm", "Bearer service=\"x\""]
        {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_is_fetched_where_a_source_may_be_and_for_that_repository() {
        let challenge = |realm: &str| Challenge { realm: realm.to_owned(), service: Some("s&x".to_owned()) };
        let registry = location("oci://registry.example/a/b:1");
        let url = realm(&registry, &challenge("https://auth.example/token?scope=other")).unwrap();
        assert_eq!(
            url.as_str(),
            "https://auth.example/token?scope=other&service=s%26x&scope=repository%3Aa%2Fb%3Apull"
        );
        for bad in
            ["http://auth.example/token", "s3://bucket/key", "https://0x7f.1/", "file:///etc/passwd", "/t"]
        {
            assert!(realm(&registry, &challenge(bad)).is_err(), "{bad}");
        }
    }
}
