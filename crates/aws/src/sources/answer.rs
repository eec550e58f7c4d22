//! What a web server's answer says, as RFC 9110 has it, and what it means for an import.

use std::fmt;

use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::SourcePin;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED,
};
use reqwest::{Response, StatusCode};

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
            encoding: text(headers, &CONTENT_ENCODING).filter(|e| !e.eq_ignore_ascii_case("identity")),
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
        Failure::new(code, answered)
    }

    /// Bytes as they are, not compressed on the way: ranges and sizes are of the source's own bytes.
    pub(super) fn check_encoding(&self, what: &str) -> Result<(), Failure> {
        match &self.encoding {
            None => Ok(()),
            Some(encoding) => {
                let message =
                    format!("{what} sends Content-Encoding '{encoding}' though it was asked for none");
                Err(Failure::new(FailureCode::SourceInvalid, message))
            }
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
