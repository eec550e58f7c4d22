//! What a web server's answer says, as RFC 9110 has it, and what it means for an import.

use std::fmt;
use std::time::Duration;

use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::SourcePin;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED,
    RETRY_AFTER,
};
use reqwest::{Response, StatusCode};

/// What a `Content-Encoding` may be: streams that are found by their first bytes and unpacked, and, of objects in S3, what
/// an upload left behind or what is no encoding at all.
const TAKEN: [&str; 8] = ["identity", "gzip", "x-gzip", "zstd", "xz", "aws-chunked", "binary", "utf-8"];

/// A `Content-Range` of bytes (RFC 9110, section 14.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// First and last byte; `None` in an answer 416.
    pub(super) sent: Option<(u64, u64)>,
    /// Bytes in all; `None`: the server doesn't know.
    pub(super) total: Option<u64>,
}

/// As the header has it.
impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sent {
            Some((first, last)) => write!(f, "bytes {first}-{last}/")?,
            None => f.write_str("bytes */")?,
        }
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (sent, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(digits(total)?) };
        if sent == "*" {
            return Some(Self { sent: None, total });
        }
        let (first, last) = sent.split_once('-')?;
        let (first, last) = (digits(first)?, digits(last)?);
        (first <= last && total.is_none_or(|total| last < total))
            .then_some(Self { sent: Some((first, last)), total })
    }
}

/// A `Retry-After` (RFC 9110, section 10.2.3): seconds, or a time, which is held against the server's own clock.
fn delay(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Some(seconds) = digits(text) {
        return Some(Duration::from_secs(seconds));
    }
    let (then, now) = (httpdate::parse_http_date(text).ok()?, httpdate::parse_http_date(date?).ok()?);
    Some(then.duration_since(now).unwrap_or_default())
}

/// A number without sign or blanks, which `parse` would take.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The parts of an answer's head that matter here.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) length: Option<u64>,
    pub(super) range: Option<ContentRange>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) encoding: Option<String>,
    /// From now.
    pub(super) retry_after: Option<Duration>,
}

impl Head {
    pub(super) fn of(answer: &Response) -> Self {
        let headers = answer.headers();
        Self {
            status: answer.status(),
            length: text(headers, &CONTENT_LENGTH).and_then(|t| digits(&t)),
            range: text(headers, &CONTENT_RANGE).and_then(|t| ContentRange::parse(&t)),
            etag: text(headers, &ETAG),
            last_modified: text(headers, &LAST_MODIFIED),
            encoding: text(headers, &CONTENT_ENCODING),
            retry_after: text(headers, &RETRY_AFTER)
                .and_then(|wait| delay(&wait, text(headers, &DATE).as_deref())),
        }
    }

    /// Whether the answer contradicts the pin. A validator that is missing contradicts nothing.
    pub(super) fn contradicts(&self, pin: &SourcePin) -> bool {
        let differs = |now: &Option<String>, then: &Option<String>| {
            now.as_ref().zip(then.as_ref()).is_some_and(|(now, then)| now != then)
        };
        differs(&self.etag, &pin.etag) || differs(&self.last_modified, &pin.last_modified)
    }

    /// A failure for what can't be read; `what` names the source.
    pub(super) fn failure(&self, what: &str) -> Failure {
        let answered = format!("{what} answered {}", self.status);
        let code = match self.status.as_u16() {
            404 | 410 => FailureCode::SourceNotFound,
            401 | 403 | 407 => FailureCode::SourceDenied,
            412 | 416 => FailureCode::SourceChanged,
            408 | 425 | 429 | 500..=599 => FailureCode::Transient,
            _ => FailureCode::SourceInvalid,
        };
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Failure::busy(answered, self.retry_after.unwrap_or_default())
            }
            _ => Failure::new(code, answered),
        }
    }

    /// Whether the bytes can be taken as they come. None were asked to be encoded, and many servers say of a file that lies
    /// there in gzip that it is encoded so: as with `curl`, the file is what is sent, and is unpacked by what it is.
    pub(super) fn check_encoding(&self, what: &str) -> Result<(), Failure> {
        match self.encoding.as_deref() {
            Some(encoding) if !TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(encoding)) => {
                let message = format!(
                    "{what} sends Content-Encoding '{encoding}' though it was asked for none, and that isn't \
                     unpacked here; have the server send the file as it is"
                );
                Err(Failure::new(FailureCode::SourceInvalid, message))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_time_by_the_servers_own_clock() {
        let date = Some("Thu, 26 Nov 2026 20:00:00 GMT");
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Thu, 26 Nov 2026 20:01:30 GMT", Some(90)),
            ("Thu, 26 Nov 2026 19:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(delay(text, date), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(delay("Thu, 26 Nov 2026 20:01:30 GMT", None), None);
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        let sent = |first, last, total| Some(ContentRange { sent: Some((first, last)), total });
        assert_eq!(ContentRange::parse("bytes 0-0/1"), sent(0, 0, Some(1)));
        assert_eq!(ContentRange::parse(" bytes 5-9/*"), sent(5, 9, None));
        assert_eq!(ContentRange::parse("bytes */0"), Some(ContentRange { sent: None, total: Some(0) }));
        for text in ["bytes 0-0/1", "bytes 5-9/*", "bytes */0"] {
            assert_eq!(ContentRange::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "bytes",
            "bytes 0-0",
            "items 0-0/1",
            "bytes 1-0/5",
            "bytes 0-5/5",
            "bytes +0-0/1",
            "bytes -1/5",
            "bytes 0-/5",
            "bytes 0-18446744073709551616/*",
            "bytes 0x0-1/5",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad:?}");
        }
    }
}
