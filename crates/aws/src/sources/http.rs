//! A source on a web server.
//!
//! A source is opened by asking for its first byte: the answer tells size,
//! version and whether ranges work, which `HEAD` and `Accept-Ranges` only
//! claim. Redirects are followed once, when it is opened; a token is dropped for
//! good where one leads to another origin.

use async_trait::async_trait;
use disk_image::ByteRange;
use futures::{StreamExt, TryStreamExt};
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceLocation, shown};
use image_tasks_domain::{Failure, FailureCode, Secret};
use image_tasks_flows::ports::{Body, Source, SourceInfo, SourcePin};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderValue, IF_MATCH, IF_UNMODIFIED_SINCE, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};

use super::answer::{ContentRange, Head};
use super::{Patience, changed, connect, forbidden};
use crate::exact::exact;

/// What OpenStack's services take a token by.
const X_AUTH_TOKEN: &str = "x-auth-token";
/// Redirects followed at most.
const REDIRECTS: usize = 5;

pub(super) struct HttpSource {
    server: Server,
    info: SourceInfo,
}

impl HttpSource {
    /// Connects to `own` addresses while the URL's origin is the one given, else to those of `others`.
    pub(super) async fn open(
        url: &Url,
        token: Option<&Secret>,
        own: &AddressPolicy,
        others: &AddressPolicy,
        patience: Patience,
    ) -> Result<Self, Failure> {
        let (mut url, mut token, mut policy) = (url.clone(), token, own);
        for _ in 0..=REDIRECTS {
            let server = Server::at(&url, token, policy, patience).await?;
            let answer = server.ask(Some("bytes=0-0"), None).await?;
            if answer.status().is_redirection() {
                let next = server.next_hop(&answer)?;
                if next.origin() != url.origin() {
                    (token, policy) = (None, others);
                }
                url = next;
                continue;
            }
            let info = server.info(answer).await?;
            return Ok(Self { server, info });
        }
        let message = format!("{} redirects more than {REDIRECTS} times", shown(&url));
        Err(Failure::new(FailureCode::SourceInvalid, message))
    }
}

#[async_trait]
impl Source for HttpSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        let Server { what, .. } = &self.server;
        let (Some(last), Some(size)) = (range.end.checked_sub(1), self.info.size) else {
            return Err(Failure::new(
                FailureCode::Internal,
                format!("{what}: a range that can't be asked for"),
            ));
        };
        let asked = format!("bytes={}-{last}", range.start);
        let answer = self.server.ask(Some(&asked), Some(&self.info.pin)).await?;
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
            _ => return Err(self.server.failure(&head)),
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
        Ok(body(answer, Some(range.end - range.start), what))
    }

    async fn stream(&self) -> Result<Body, Failure> {
        let Server { what, .. } = &self.server;
        let answer = self.server.ask(None, Some(&self.info.pin)).await?;
        let head = Head::of(&answer);
        if head.contradicts(&self.info.pin) || self.info.size.zip(head.length).is_some_and(|(a, b)| a != b) {
            return Err(changed(what));
        }
        if head.status != StatusCode::OK {
            return Err(self.server.failure(&head));
        }
        head.check_encoding(what)?;
        Ok(body(answer, self.info.size, what))
    }
}

/// One host, at checked addresses.
pub(super) struct Server {
    client: Client,
    url: Url,
    /// The URL as failures show it.
    pub(super) what: String,
    token: Option<HeaderValue>,
}

impl Server {
    /// The URL's host, where its addresses are allowed. The token goes with every request.
    pub(super) async fn at(
        url: &Url,
        token: Option<&Secret>,
        policy: &AddressPolicy,
        patience: Patience,
    ) -> Result<Self, Failure> {
        let client = connect::client(url, policy, patience).await?;
        let token = token.map(|token| HeaderValue::from_str(token.expose())).transpose();
        let mut token =
            token.map_err(|_| Failure::new(FailureCode::Internal, "a token that is no header's value"))?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self { client, url: url.clone(), what: shown(url), token })
    }

    /// A failure for an answer that can't be read.
    pub(super) fn failure(&self, head: &Head) -> Failure {
        let mut failure = head.failure(&self.what);
        if self.token.is_some() && failure.code == FailureCode::SourceDenied {
            failure.message += ": it does not take the token that came with the task, or not any longer";
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
        if let Some(token) = &self.token {
            request = request.header(X_AUTH_TOKEN, token);
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
        request.send().await.map_err(|error| unanswered(&error, &self.what))
    }

    /// What the answer to a request for the first byte says of the source.
    async fn info(&self, answer: Response) -> Result<SourceInfo, Failure> {
        let what = &self.what;
        let head = Head::of(&answer);
        let known = |size, ranges| {
            let pin = SourcePin { etag: head.etag.clone(), last_modified: head.last_modified.clone(), size };
            SourceInfo { size, ranges, pin }
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
            // 400 is Glance's answer where its store reads from the start only.
            (StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::BAD_REQUEST, _) => {
                return self.info_without_ranges().await;
            }
            _ => return Err(self.failure(&head)),
        };
        head.check_encoding(what)?;
        Ok(info)
    }

    /// For servers that refuse ranges instead of ignoring them, and empty sources of servers that don't say so.
    async fn info_without_ranges(&self) -> Result<SourceInfo, Failure> {
        let head = Head::of(&self.ask(None, None).await?);
        if head.status != StatusCode::OK {
            return Err(self.failure(&head));
        }
        head.check_encoding(&self.what)?;
        let pin = SourcePin { etag: head.etag, last_modified: head.last_modified, size: head.length };
        Ok(SourceInfo { size: head.length, ranges: false, pin })
    }

    /// Where a redirect leads, checked like what a user writes.
    fn next_hop(&self, answer: &Response) -> Result<Url, Failure> {
        let what = &self.what;
        let invalid = |message: String| Failure::new(FailureCode::SourceInvalid, message);
        let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
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
            Ok(SourceLocation::S3 { .. } | SourceLocation::Staged { .. }) => {
                let message = format!("{what} redirects to a bucket");
                Err(Failure::new(FailureCode::SourceForbidden, message))
            }
            Err(refused) => Err(forbidden(&format!("redirect of {what}"), &refused)),
        }
    }
}

fn body(answer: Response, len: Option<u64>, what: &str) -> Body {
    let named = what.to_owned();
    let stream = answer.bytes_stream().map_err(move |error| broken_off(&error, &named)).boxed();
    match len {
        Some(len) => exact(stream, len, what.to_owned()),
        None => stream,
    }
}

/// No answer at all.
fn unanswered(error: &reqwest::Error, what: &str) -> Failure {
    let cause = root_cause(error);
    if cause.contains("certificate") {
        return Failure::new(FailureCode::SourceInvalid, format!("{what}: {cause}"));
    }
    let problem = if error.is_timeout() {
        "did not answer in time".to_owned()
    } else if error.is_connect() {
        format!("can't be connected to: {cause}")
    } else {
        format!("gave no answer: {cause}")
    };
    Failure::transient(format!("{what} {problem}"))
}

pub(super) fn broken_off(error: &reqwest::Error, what: &str) -> Failure {
    let problem = if error.is_timeout() {
        "fell silent".to_owned()
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
