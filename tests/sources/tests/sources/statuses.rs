//! Servers that refuse, are busy, or answer something else.

use image_tasks_domain::FailureCode::{self, *};

use crate::answers::first;
use crate::server::{Asked, Reply, answer_of, serves_whole};
use crate::{Ends, IMAGE, Row, good, well};

/// Any request is answered so.
fn always(status: &'static str, headers: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |_| answer_of(status, headers, b"")
}

/// So are those for ranges; there is the whole alone.
fn to_ranges(status: &'static str) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| match asked.range {
        Some(_) => answer_of(status, "", b""),
        None => serves_whole(&IMAGE, "ETag: \"v1\""),
    }
}

const STATUSES: [(&str, FailureCode, &str); 21] = [
    ("204 No Content", SourceInvalid, "answered 204"),
    ("205 Reset Content", SourceInvalid, "answered 205"),
    ("304 Not Modified", SourceInvalid, "answered 304"),
    ("400 Bad Request", SourceInvalid, "answered 400"),
    ("401 Unauthorized", SourceDenied, "answered 401"),
    ("402 Payment Required", SourceInvalid, "answered 402"),
    ("403 Forbidden", SourceDenied, "answered 403"),
    ("404 Not Found", SourceNotFound, "answered 404"),
    ("405 Method Not Allowed", SourceInvalid, "answered 405"),
    ("407 Proxy Authentication Required", SourceDenied, "answered 407"),
    ("408 Request Timeout", SourceUnreachable, "answered 408"),
    ("410 Gone", SourceNotFound, "answered 410"),
    ("421 Misdirected Request", SourceInvalid, "answered 421"),
    ("425 Too Early", SourceUnreachable, "answered 425"),
    ("451 Unavailable For Legal Reasons", SourceInvalid, "answered 451"),
    ("500 Internal Server Error", SourceUnreachable, "answered 500"),
    ("501 Not Implemented", SourceUnreachable, "answered 501"),
    ("502 Bad Gateway", SourceUnreachable, "answered 502"),
    ("504 Gateway Timeout", SourceUnreachable, "answered 504"),
    ("507 Insufficient Storage", SourceUnreachable, "answered 507"),
    ("999 Request Denied", SourceInvalid, "answered 999"),
];

pub(crate) fn rows() -> Vec<Row> {
    let unreachable = |words| Ends::Badly(SourceUnreachable, words);
    let mut rows: Vec<_> = STATUSES
        .map(|(status, code, words)| {
            Row::new(format!("answers `{status}`"), Ends::Badly(code, words), always(status, ""))
        })
        .into();
    rows.extend(
        ["400 Bad Request", "403 Forbidden", "416 Range Not Satisfiable", "501 Not Implemented"]
            .map(|status| Row::new(format!("answers `{status}` to ranges only"), well(), to_ranges(status))),
    );
    rows.extend([
        Row::new("answers `500` four times, then well", well(), first(4, always("500 Error", ""))),
        Row::new("answers `503` once, and not for how long", well(), first(1, always("503 Busy", ""))),
        Row::new(
            "answers `429` once, and asks for a second",
            well(),
            first(1, always("429 Busy", "Retry-After: 1")),
        ),
        Row::new(
            "is busy until a time by its own clock",
            well(),
            first(
                1,
                always(
                    "503 Busy",
                    "Date: Thu, 26 Nov 2026 20:00:00 GMT\nRetry-After: Thu, 26 Nov 2026 20:00:01 GMT",
                ),
            ),
        ),
        Row::new("is busy until `soon`", well(), first(1, always("429 Busy", "Retry-After: soon"))),
        Row::new("is busy once while it is read", well(), |asked| match asked.number {
            2 => answer_of("503 Busy", "", b""),
            _ => good(asked),
        }),
        Row::new(
            "is busy for ever",
            unreachable("at most 10 are waited"),
            always("429 Busy", "Retry-After: 1"),
        ),
        Row::new(
            "asks to come back in an hour",
            unreachable("asks to come back in 3600 seconds"),
            always("503 Busy", "Retry-After: 3600"),
        ),
    ]);
    rows
}
