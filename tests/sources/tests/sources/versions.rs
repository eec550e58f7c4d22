//! Servers whose file changes, or that say so.

use image_tasks_domain::FailureCode::*;
use serde_json::json;

use crate::server::{answer_of, serves, serves_whole};
use crate::{Ends, IMAGE, Row, good, well};

const THEN: &str = "Last-Modified: Mon, 23 Nov 2026 10:00:00 GMT";
const LATER: &str = "Last-Modified: Mon, 23 Nov 2026 10:00:01 GMT";
/// SHA-512 of nothing that is served here.
const OTHER: &str = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                     47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

pub(crate) fn rows() -> Vec<Row> {
    let changed = || Ends::Badly(SourceChanged, "changed while it was read");
    vec![
        Row::new("sends another `ETag` each time", changed(), |asked| {
            serves(asked, &IMAGE, &format!("ETag: \"v{}\"", asked.number))
        }),
        Row::new("sends another `ETag` once it is read", changed(), |asked| {
            serves(asked, &IMAGE, if asked.is_look() { "ETag: \"v1\"" } else { "ETag: \"v2\"" })
        }),
        Row::new("sends another weak `ETag` once it is read", changed(), |asked| {
            serves(asked, &IMAGE, if asked.is_look() { "ETag: W/\"v1\"" } else { "ETag: W/\"v2\"" })
        }),
        Row::new("sends another `Last-Modified` once it is read", changed(), |asked| {
            serves(asked, &IMAGE, if asked.is_look() { THEN } else { LATER })
        }),
        Row::new("answers `412` to its own `ETag`", Ends::Badly(SourceChanged, ""), |asked| {
            match asked.is_look() {
                true => good(asked),
                false => answer_of("412 Precondition Failed", "", b""),
            }
        }),
        Row::new("has a longer file once it is read", changed(), |asked| match asked.is_look() {
            true => good(asked),
            false => serves(asked, &[&IMAGE[..], b"more"].concat(), "ETag: \"v1\""),
        }),
        Row::new("has a shorter file once it is read", Ends::Badly(SourceChanged, "x.img"), |asked| {
            match asked.is_look() {
                true => good(asked),
                false => serves(asked, &IMAGE[..190_000], "ETag: \"v1\""),
            }
        }),
        Row::new("has an empty file once it is read", Ends::Badly(SourceChanged, "answered 416"), |asked| {
            match asked.is_look() {
                true => good(asked),
                false => serves(asked, b"", "ETag: \"v1\""),
            }
        }),
        Row::new("has a longer file and no ranges, once it is read", changed(), |asked| match asked.number {
            0 => serves_whole(&IMAGE, ""),
            _ => serves_whole(&[&IMAGE[..], b"more"].concat(), ""),
        }),
        Row::new("sends an `ETag` at the first look only", well(), |asked| {
            serves(asked, &IMAGE, if asked.number == 0 { "ETag: \"v1\"" } else { "" })
        }),
        Row::new("sends a weak `ETag`", well(), |asked| serves(asked, &IMAGE, "ETag: W/\"v1\"")),
        Row::new("sends `Last-Modified` alone", well(), |asked| serves(asked, &IMAGE, THEN)),
        Row::new("sends neither `ETag` nor `Last-Modified`", well(), |asked| serves(asked, &IMAGE, "")),
        Row::new(
            "hands over other bytes of the same length than the hash says",
            Ends::Badly(ChecksumMismatch, ""),
            good,
        )
        .with(json!({"import_from_format": "raw", "image_properties": {}, "os_hash_algo": "sha512",
                "os_hash_value": OTHER})),
        Row::new(
            "shows a disk and hands over a qcow2 with a backing file",
            Ends::Badly(Polyglot, ""),
            |asked| {
                let mut evil = IMAGE.to_vec();
                evil[..72].fill(0);
                // Magic, version 2, and the name of a file of the host (QEMU, docs/interop/qcow2).
                evil[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
                evil[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 11]);
                evil[512..523].copy_from_slice(b"/etc/shadow");
                if asked.is_copy(IMAGE.len()) { serves(asked, &evil, "ETag: \"v1\"") } else { good(asked) }
            },
        ),
    ]
}
