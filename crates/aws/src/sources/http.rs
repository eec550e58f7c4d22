//! A source on a web server.
//!
//! A source is opened by asking for its first byte: the answer tells size,
//! version and whether ranges work, which `HEAD` and `Accept-Ranges` only
//! claim. Redirects are followed when it is opened: [`super::way`].

use std::sync::Arc;

use async_trait::async_trait;
use disk_image::ByteRange;
use futures::{StreamExt, TryStreamExt};
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceLocation, shown};
use image_tasks_domain::{Failure, FailureCode, Login};
use image_tasks_flows::ports::{Body, Source, SourceInfo, SourcePin};
use percent_encoding::{AsciiSet, percent_encode};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, LOCATION,
    RANGE,
};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::answer::{ContentRange, Head};
use super::way::{Way, has_expired};
use super::{Patience, Terms, changed, connect, forbidden};
use crate::exact::exact;

/// What OpenStack's services take a token by.
const X_AUTH_TOKEN: &str = "x-auth-token";
pub(super) struct HttpSource {
    way: Way,
    /// At the way's end. Another one takes its place where its address has expired.
    server: Mutex<Arc<Server>>,
    info: SourceInfo,
}

impl HttpSource {
    /// Opens what is at the way's end; with a pin, that version.
    pub(super) async fn open(way: Way, pin: Option<&SourcePin>) -> Result<Self, Failure> {
        let (server, info) = way.end(pin).await?;
        Ok(Self { way, server: Mutex::new(Arc::new(server)), info })
    }

    /// What the server at the way's very beginning has answered to a request for the first byte.
    pub(super) async fn at(way: Way, server: Server, answer: Response) -> Result<Self, Failure> {
        let info = server.info(answer).await?;
        Ok(Self { way, server: Mutex::new(Arc::new(server)), info })
    }

    /// Asks the server, at an address of now where that of its mirror has expired.
    async fn ask<F: Future<Output = Result<Body, Failure>>>(
        &self,
        request: impl Fn(Arc<Server>) -> F,
    ) -> Result<Body, Failure> {
        let server = Arc::clone(&*self.server.lock().await);
        let failure = match request(Arc::clone(&server)).await {
            Err(failure) if self.info.pin.mirror.is_some() && has_expired(&failure) => failure,
            answered => return answered,
        };
        let renewed = {
            let mut now = self.server.lock().await;
            if Arc::ptr_eq(&now, &server) {
                *now = Arc::new(self.way.anew(&self.info.pin, failure).await?.0);
            }
            Arc::clone(&now)
        };
        request(renewed).await
    }

    async fn read_from(&self, server: &Server, range: ByteRange) -> Result<Body, Failure> {
        let what = &server.what;
        let (Some(last), Some(size)) = (range.end.checked_sub(1), self.info.size) else {
            return Err(Failure::new(
                FailureCode::Internal,
                format!("{what}: a range that can't be asked for"),
            ));
        };
        let asked = format!("bytes={}-{last}", range.start);
        let answer = server.ask(Some(&asked), Some(&self.info.pin)).await?;
        let head = Head::of(&answer);
        if head.contradicts(&self.info.pin) {
            return Err(changed(what));
        }
        match head.status {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK if head.length.is_some_and(|length| length != size) => return Err(changed(what)),
            StatusCode::OK => {
                let message = format!("{what} served ranges first, then answered 200 to {asked}");
                return Err(Failure::new(FailureCode::SourceInvalid, message));
            }
            _ => return Err(server.failure(&head)),
        }
        head.check_encoding(what)?;
        let expected = ContentRange { sent: Some((range.start, last)), total: Some(size) };
        match head.range {
            Some(range) if range == expected => {}
            Some(range) if range.total.is_some_and(|total| total != size) => return Err(changed(what)),
            other => {
                let sent = other.map_or("no Content-Range".to_owned(), |range| range.to_string());
                let message = format!("{what} answered {asked} of {size} bytes with {sent}");
                return Err(Failure::new(FailureCode::SourceInvalid, message));
            }
        }
        Ok(server.body(answer, Some(range.end - range.start)))
    }

    async fn stream_from(&self, server: &Server) -> Result<Body, Failure> {
        let what = &server.what;
        let answer = server.ask(None, Some(&self.info.pin)).await?;
        let head = Head::of(&answer);
        if head.contradicts(&self.info.pin) || self.info.size.zip(head.length).is_some_and(|(a, b)| a != b) {
            return Err(changed(what));
        }
        if head.status != StatusCode::OK {
            return Err(server.failure(&head));
        }
        head.check_encoding(what)?;
        Ok(server.body(answer, self.info.size))
    }
}

#[async_trait]
impl Source for HttpSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        self.ask(|server| async move { self.read_from(&server, range).await }).await
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.ask(|server| async move { self.stream_from(&server).await }).await
    }
}

/// One host, at checked addresses.
pub(super) struct Server {
    client: Client,
    url: Url,
    /// The URL as failures show it.
    pub(super) what: String,
    /// What goes with every request.
    login: HeaderMap,
    is_token: bool,
    patience: Patience,
}

impl Server {
    /// The URL's host, where its addresses are allowed. The login goes with every request.
    pub(super) async fn at(
        url: &Url,
        login: Option<&Login>,
        policy: &AddressPolicy,
        terms: &Terms,
    ) -> Result<Self, Failure> {
        let client = connect::client(url, policy, terms).await?;
        let said: Vec<_> = match login {
            None => Vec::new(),
            Some(Login::Token(token)) => vec![(X_AUTH_TOKEN, token.expose())],
            Some(Login::Headers(headers)) => headers.expose().collect(),
        };
        let is_token = matches!(login, Some(Login::Token(_)));
        let login = said.into_iter().map(|(name, value)| {
            let (name, mut value) = (HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?);
            value.set_sensitive(true);
            Some((name, value))
        });
        // Not told which: its value would stand beside it.
        let login = login.collect::<Option<_>>();
        let login = login.ok_or_else(|| Failure::new(FailureCode::Internal, "a login that is no header"))?;
        Ok(Self { client, url: url.clone(), what: shown(url), login, is_token, patience: terms.patience })
    }

    /// The same, with another header in every request.
    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.login.insert(name, value);
        self
    }

    /// A failure for an answer that can't be read.
    pub(super) fn failure(&self, head: &Head) -> Failure {
        let mut failure = head.failure(&self.what);
        if failure.code == FailureCode::SourceDenied {
            failure.message += match (self.is_token, self.login.is_empty()) {
                (true, _) => ": it does not take the token that came with the task, or not any longer",
                (false, false) => ": it does not take what import_from_headers says, or not any longer",
                (false, true) => "; where it wants to know who asks, say that by import_from_headers",
            };
        }
        failure
    }

    /// The answer's head; its body is not read yet.
    pub(super) async fn ask(
        &self,
        range: Option<&str>,
        pin: Option<&SourcePin>,
    ) -> Result<Response, Failure> {
        let mut request = self
            .client
            .get(self.url.clone())
            .header(ACCEPT, HeaderValue::from_static("*/*"))
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        // Only strong validators say "the same bytes" (RFC 9110, section 13.1.1).
        match pin {
            Some(SourcePin { etag: Some(etag), .. }) if !etag.starts_with("W/") => {
                request = request.header(IF_MATCH, etag);
            }
            Some(SourcePin { etag: None, last_modified: Some(at), .. }) => {
                request = request.header(IF_UNMODIFIED_SINCE, at);
            }
            _ => {}
        }
        // Those of the same name that stand there already give way.
        request
            .headers(self.login.clone())
            .send()
            .await
            .map_err(|error| unanswered(&error, &self.what, self.patience))
    }

    /// What the answer to a request for the first byte says of the source.
    pub(super) async fn info(&self, answer: Response) -> Result<SourceInfo, Failure> {
        let what = &self.what;
        let head = Head::of(&answer);
        let known = |size, ranges| {
            let (etag, last_modified) = (head.etag.clone(), head.last_modified.clone());
            SourceInfo { size, ranges, pin: SourcePin { etag, last_modified, size, mirror: None } }
        };
        let info = match (head.status, head.range) {
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange { sent: Some((0, 0)), total })) => {
                known(total, total.is_some())
            }
            (StatusCode::PARTIAL_CONTENT, _) => {
                let message = format!("{what} answered bytes=0-0 with another Content-Range");
                return Err(Failure::new(FailureCode::SourceInvalid, message));
            }
            (StatusCode::OK, _) => known(head.length, false),
            // There is no first byte.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(ContentRange { total: Some(0), .. })) => {
                known(Some(0), false)
            }
            // 400 is Glance's answer where its store reads from the start only; 403 and 501 are those of firewalls and of
            // small servers.
            (
                StatusCode::RANGE_NOT_SATISFIABLE
                | StatusCode::BAD_REQUEST
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_IMPLEMENTED,
                _,
            ) => return self.info_without_ranges().await,
            _ => return Err(self.failure(&head)),
        };
        head.check_encoding(what)?;
        Ok(info)
    }

    /// The answer's bytes, so many if that is known.
    fn body(&self, answer: Response, len: Option<u64>) -> Body {
        let (what, patience) = (self.what.clone(), self.patience);
        let stream = answer.bytes_stream().map_err(move |error| broken_off(&error, &what, patience)).boxed();
        match len {
            Some(len) => exact(stream, len, self.what.clone()),
            None => stream,
        }
    }

    /// For servers that refuse ranges instead of ignoring them, and empty sources of servers that don't say so.
    async fn info_without_ranges(&self) -> Result<SourceInfo, Failure> {
        let head = Head::of(&self.ask(None, None).await?);
        if head.status != StatusCode::OK {
            return Err(self.failure(&head));
        }
        head.check_encoding(&self.what)?;
        let Head { length: size, etag, last_modified, .. } = head;
        let pin = SourcePin { etag, last_modified, size, mirror: None };
        Ok(SourceInfo { size, ranges: false, pin })
    }

    /// Where a redirect leads, checked like what a user writes.
    pub(super) fn next_hop(&self, answer: &Response) -> Result<Url, Failure> {
        let what = &self.what;
        let invalid = |message: String| Failure::new(FailureCode::SourceInvalid, message);
        let to = answer.headers().get(LOCATION).map(|to| written_out(to.as_bytes()));
        let to =
            to.ok_or_else(|| invalid(format!("{what} answered {} without Location", answer.status())))?;
        let to = to.split('#').next().unwrap_or_default();
        // An absolute one is judged as written, before a parser has made an odd spelling regular.
        let text = if Url::parse(to).is_ok() {
            to.to_owned()
        } else {
            let joined = self.url.join(to);
            joined.map_err(|e| invalid(format!("{what} redirects to no URL: {e}")))?.to_string()
        };
        match SourceLocation::parse(&text) {
            Ok(SourceLocation::Http(next)) if self.url.scheme() == "https" && next.scheme() != "https" => {
                let message = format!("{what} redirects from https to {}", shown(&next));
                Err(Failure::new(FailureCode::SourceForbidden, message))
            }
            Ok(SourceLocation::Http(next)) => Ok(next),
            Ok(SourceLocation::S3 { .. } | SourceLocation::Oci(_) | SourceLocation::Staged { .. }) => {
                let message = format!("{what} redirects to a bucket");
                Err(Failure::new(FailureCode::SourceForbidden, message))
            }
            Err(refused) => Err(forbidden(&format!("redirect of {what}"), &refused)),
        }
    }
}

/// A `Location` as a URL can be: many servers send blanks and UTF-8 as they are (RFC 3987 has URLs of these).
fn written_out(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => percent_encode(bytes, BEYOND_ASCII).to_string(),
    };
    text.trim().replace(' ', "%20")
}

/// Nothing of ASCII: only what is beyond is written by its bytes.
const BEYOND_ASCII: &AsciiSet = &AsciiSet::EMPTY;

/// No answer at all.
fn unanswered(error: &reqwest::Error, what: &str, patience: Patience) -> Failure {
    let cause = root_cause(error);
    if cause.contains("certificate") {
        return Failure::new(FailureCode::SourceInvalid, format!("{what}: {}", of_certificate(&cause)));
    }
    let problem = match (error.is_connect(), error.is_timeout()) {
        (true, true) => format!("can't be connected to within {} seconds", patience.connect.as_secs_f32()),
        (true, false) => format!("can't be connected to: {cause}"),
        (false, true) => {
            format!("sent nothing for {} seconds, the longest that is waited", patience.idle.as_secs_f32())
        }
        (false, false) => format!("gave no answer: {cause}"),
    };
    Failure::transient(format!("{what} {problem}"))
}

/// What rustls tells by the name of its variant alone, in words.
fn of_certificate(cause: &str) -> String {
    let told = [
        ("UnknownIssuer", "its certificate is of an authority that is not trusted here"),
        ("NotValidForName", "its certificate is for another name"),
        ("NotValidYet", "its certificate is not valid yet"),
        ("Expired", "its certificate has expired"),
        ("Revoked", "its certificate was revoked"),
        ("InvalidPurpose", "its certificate is not for servers"),
    ];
    match told.into_iter().find(|(name, _)| cause.ends_with(name)) {
        Some((_, words)) => words.to_owned(),
        None => cause.to_owned(),
    }
}

pub(super) fn broken_off(error: &reqwest::Error, what: &str, patience: Patience) -> Failure {
    let problem = if error.is_timeout() {
        format!("fell silent for {} seconds", patience.idle.as_secs_f32())
    } else {
        format!("broke off: {}", root_cause(error))
    };
    Failure::transient(format!("{what} {problem}"))
}

/// The innermost cause: the outer ones repeat the URL, with its query.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let same = std::ptr::addr_eq(cause, std::ptr::from_ref(error));
    if same { "connection lost".to_owned() } else { cause.to_string() }
}
