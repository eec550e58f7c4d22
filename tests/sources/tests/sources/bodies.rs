//! Servers whose ranges, lengths or bytes aren't what they say.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use image_tasks_domain::FailureCode::*;
use serde_json::json;

use crate::server::{Asked, Reply, Step, answer_as, answer_of, serves, serves_whole};
use crate::world::QUOTA;
use crate::{Ends, IMAGE, Row, good, well};

/// Those that look are answered well, those that read so.
fn once_read(
    bad: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| if asked.is_look() { good(asked) } else { bad(asked) }
}

/// Those that copy are answered so, the first `times` of them.
fn once_copied(
    times: u64,
    after: usize,
    then: Vec<Step>,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    let copies = std::sync::atomic::AtomicU64::new(0);
    move |asked| {
        let is_copy = asked.is_copy(IMAGE.len());
        let number = copies.fetch_add(u64::from(is_copy), std::sync::atomic::Ordering::SeqCst);
        if is_copy && number < times { cut(good(asked), after, &then) } else { good(asked) }
    }
}

/// An answer up to so many bytes behind its head; then those steps.
fn cut(reply: Reply, after: usize, then: &[Step]) -> Reply {
    let Some(Step::Send(mut bytes)) = reply.into_iter().next() else { return Vec::new() };
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    bytes.truncate(head + after);
    [vec![Step::Send(bytes)], then.to_vec()].concat()
}

fn partial(range: &str, body: &[u8]) -> Reply {
    answer_of("206 Partial Content", &format!("{range}\nETag: \"v1\""), body)
}

/// A body in chunks, with what ends it.
fn chunked(bytes: &[u8], end: &str) -> Reply {
    let mut body = Vec::new();
    for chunk in bytes.chunks(50_000) {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(end.as_bytes());
    answer_as("200 OK", "Transfer-Encoding: chunked", &body)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn ranges() -> Vec<Row> {
    let invalid = |words| Ends::Badly(SourceInvalid, words);
    let changed = || Ends::Badly(SourceChanged, "changed while it was read");
    let too_large = || Ends::Badly(SourceTooLarge, "the quota is 1048576");
    vec![
        Row::new("has no ranges", well(), |_| serves_whole(&IMAGE, "ETag: \"v1\"")),
        Row::new("says that it has ranges and has none", well(), |_| {
            serves_whole(&IMAGE, "ETag: \"v1\"\nAccept-Ranges: bytes")
        }),
        Row::new("has ranges and does not know the length", well(), |asked| match asked.range {
            Some(_) => partial("Content-Range: bytes 0-0/*", &IMAGE[..1]),
            None => serves_whole(&IMAGE, "ETag: \"v1\""),
        }),
        Row::new("answers another range at the first look", invalid("another Content-Range"), |_| {
            partial("Content-Range: bytes 5-5/200000", b"a")
        }),
        Row::new("answers `206` and not with which range", invalid("another Content-Range"), |_| {
            partial("", b"a")
        }),
        Row::new("answers ranges as `multipart/byteranges`", invalid("another Content-Range"), |_| {
            partial("Content-Type: multipart/byteranges; boundary=x", b"--x\r\n\r\na\r\n--x--\r\n")
        }),
        Row::new(
            "answers another range once it is read",
            invalid("with bytes"),
            once_read(|asked| {
                let len = asked.range.map_or(0, |(first, last)| last - first + 1);
                partial(&format!("Content-Range: bytes 1-{len}/200000"), &IMAGE[1..=len.min(199_999)])
            }),
        ),
        Row::new(
            "answers another length once it is read",
            changed(),
            once_read(|asked| {
                let (first, last) = asked.range.unwrap_or_default();
                partial(&format!("Content-Range: bytes {first}-{last}/200001"), &IMAGE[first..=last])
            }),
        ),
        Row::new(
            "has ranges at the first look only",
            invalid("served ranges first"),
            once_read(|_| serves_whole(&IMAGE, "ETag: \"v1\"")),
        ),
        Row::new("says that it has more than the quota, with ranges", too_large(), |_| {
            partial(&format!("Content-Range: bytes 0-0/{}", QUOTA + 1), b"a")
        }),
        Row::new("says that it has more than the quota, without ranges", too_large(), |_| {
            answer_as("200 OK", "Content-Length: 9223372036854775807", b"abc")
        }),
        Row::new(
            "sends without end, in chunks",
            Ends::Badly(SourceTooLarge, "more than 1.0 MiB, the quota"),
            |_| chunked(&vec![1; 2 << 20], ""),
        ),
    ]
}

fn bytes() -> Vec<Row> {
    let unreachable = |words| Ends::Badly(SourceUnreachable, words);
    let whole_then = |end: &'static str| move |_: &Asked| chunked(&IMAGE, end);
    vec![
        Row::new("sends in chunks", well(), whole_then("0\r\n\r\n")),
        Row::new("sends in chunks, with a trailer", well(), whole_then("0\r\nX-Sum: 1\r\n\r\n")),
        Row::new("sends in chunks and not the last one", unreachable("broke off"), whole_then("")),
        Row::new(
            "sends in chunks and says no number for one",
            unreachable("broke off"),
            whole_then("zz\r\n"),
        ),
        Row::new("speaks HTTP/1.0 and says no length", well(), |_| {
            let mut bytes = b"HTTP/1.0 200 OK\r\n\r\n".to_vec();
            bytes.extend_from_slice(&IMAGE);
            vec![Step::Send(bytes)]
        }),
        Row::new(
            "breaks off in the middle, always",
            unreachable("broke off"),
            once_copied(99, 90_000, Vec::new()),
        ),
        Row::new("breaks off in the middle, four times", well(), once_copied(4, 90_000, Vec::new())),
        Row::new("resets in the middle, four times", well(), once_copied(4, 90_000, vec![Step::Reset])),
        Row::new(
            "falls silent in the middle, always",
            unreachable("fell silent"),
            once_copied(99, 90_000, vec![Step::Hang]),
        ),
        Row::new("falls silent in the middle, once", well(), once_copied(1, 90_000, vec![Step::Hang])),
        Row::new(
            "falls silent before its last byte, once",
            well(),
            once_copied(1, 199_999, vec![Step::Hang]),
        ),
        Row::new("pauses for a second in the middle", well(), |asked| {
            let rest = good(asked);
            let Some(Step::Send(bytes)) = rest.first() else { return rest };
            let (one, two) = bytes.split_at(bytes.len() / 2);
            vec![Step::Send(one.to_vec()), Step::Pause(Duration::from_secs(1)), Step::Send(two.to_vec())]
        }),
        Row::new("breaks off, without ranges, always", unreachable("broke off"), |_| {
            cut(serves_whole(&IMAGE, ""), 90_000, &[])
        }),
        Row::new("breaks off, without ranges, once", well(), |asked| match asked.number {
            1 => cut(serves_whole(&IMAGE, ""), 90_000, &[]),
            _ => serves_whole(&IMAGE, ""),
        }),
        Row::new(
            "sends more than the range",
            Ends::Badly(SourceInvalid, "sent more than"),
            once_read(|asked| {
                let (first, last) = asked.range.unwrap_or_default();
                let range = format!("Content-Range: bytes {first}-{last}/200000");
                partial(&range, &[&IMAGE[first..=last], b"more"].concat())
            }),
        ),
    ]
}

fn contents() -> Vec<Row> {
    let page = b"<!DOCTYPE html><html><title>Log in</title></html>".repeat(20);
    let packed = gzip(&IMAGE);
    let encoded = |encoding: &'static str| {
        move |asked: &Asked| serves(asked, &IMAGE, &format!("ETag: \"v1\"\nContent-Encoding: {encoding}"))
    };
    let not_unpacked = || Ends::Badly(SourceInvalid, "isn't unpacked here");
    let (one, two, three) = (page.clone(), packed.clone(), packed.clone());
    vec![
        Row::new(
            "sends a page to log in, where any format is taken",
            Ends::Badly(UnknownFormat, ""),
            move |asked| serves(asked, &one, "ETag: \"v1\"\nContent-Type: text/html"),
        )
        .with(json!({})),
        Row::new(
            "sends a page to log in, where a qcow2 is asked for",
            Ends::Badly(FormatMismatch, ""),
            move |asked| serves(asked, &page, "ETag: \"v1\"\nContent-Type: text/html"),
        )
        .with(json!({"import_from_format": "qcow2"})),
        Row::new("has an empty file", Ends::Well(Bytes::new()), |asked| serves(asked, b"", "ETag: \"v1\"")),
        Row::new("encodes by `br`", not_unpacked(), encoded("br")),
        Row::new("encodes by `deflate`", not_unpacked(), encoded("deflate")),
        Row::new("encodes by `gzip, br`", not_unpacked(), encoded("gzip, br")),
        Row::new("says `identity` for an encoding", well(), encoded("identity")),
        Row::new("says `aws-chunked` for an encoding", well(), encoded("aws-chunked")),
        Row::new("says `gzip` of a file that isn't", well(), encoded("gzip")),
        Row::new("encodes a file in gzip as `gzip`", well(), move |asked| {
            serves(asked, &two, "ETag: \"v1\"\nContent-Encoding: gzip")
        }),
        Row::new("has a file in gzip that ends early", Ends::Badly(BadData, "incomplete"), move |asked| {
            serves(asked, &three[..three.len() - 20], "ETag: \"v1\"")
        }),
        Row::new(
            "has a file in gzip that is damaged",
            Ends::Badly(BadData, "can't be unpacked"),
            move |asked| {
                let mut damaged = packed.clone();
                let middle = damaged.len() / 2;
                damaged[middle..middle + 50].fill(0xff);
                serves(asked, &damaged, "ETag: \"v1\"")
            },
        ),
        Row::new(
            "has a small file that unpacks to more than the quota",
            Ends::Badly(SourceTooLarge, "more than 1.0 MiB, the quota"),
            |asked| {
                let bomb = Bytes::from(gzip(&vec![0; 8 << 20]));
                serves(asked, &bomb, "ETag: \"v1\"")
            },
        ),
    ]
}

pub(crate) fn rows() -> Vec<Row> {
    [ranges(), bytes(), contents()].into_iter().flatten().collect()
}
