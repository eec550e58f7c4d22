//! Streams and archives around a disk: none of them is a disk.

use crate::{
    Sparse,
    ova::{Archive, KIND, MAGIC},
};

/// A file that begins like a stream or an archive that isn't unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Packed {
    /// Its format, as a refusal names it.
    pub name: &'static str,
    /// The program that unpacks it.
    pub by: &'static str,
    /// How it begins.
    pub begins: &'static [u8],
}

const fn packed(name: &'static str, by: &'static str, begins: &'static [u8]) -> Packed {
    Packed { name, by, begins }
}

/// One of each.
pub const PACKED: &[Packed] = &[
    packed("zip", "unzip", b"PK\x03\x04\x14\0\0\0\x08\0"),
    packed("zip", "unzip", b"PK\x05\x06\0\0\0\0"),
    packed("7z", "7z x", b"7z\xbc\xaf\x27\x1c\0\x04"),
    packed("RAR", "unrar x", b"Rar!\x1a\x07\x01\0"),
    packed("LZ4 (legacy frames)", "lz4 -d", b"\x02\x21\x4c\x18\x10\0\0\0"),
    packed("lzip", "lzip -d", b"LZIP\x01\x0c"),
    packed("LZMA", "xz -d --format=lzma", b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x12"),
    packed("LZMA", "xz -d --format=lzma", b"\x5d\0\0\xc0\0\0\0\x10\0\0\0\0\0\0\x12"),
    packed("LZO", "lzop -d", b"\x89LZO\0\r\n\x1a\n\x10\x40"),
    packed("compress (.Z)", "uncompress", b"\x1f\x9d\x90\x61"),
    packed("zstd of a version before 0.8", "zstd -d of that version", b"\x27\xb5\x2f\xfd\x24"),
    packed("lrzip", "lrunzip", b"LRZI\0\x06"),
    packed("Snappy", "snzip -d", b"\xff\x06\0\0sNaPpY"),
    packed("an Android sparse image", "simg2img", b"\x3a\xff\x26\xed\x01\0\0\0"),
];

/// A tar of that disk in every dialect.
pub fn tars(disk: &[u8]) -> Vec<(&'static str, Sparse)> {
    let of = |change: fn(Sparse) -> Sparse| Archive::new().changed("disk.img", disk, change).end();
    let pax =
        Archive::new().changed("PaxHeaders/disk.img", b"22 mtime=1700000000.5\n", |h| h.with(KIND, b"x"));
    vec![
        ("v7", of(|header| header.with(MAGIC, &[0; 8]).with(KIND, &[0]))),
        ("ustar", of(|header| header)),
        ("gnu", of(|header| header.with(MAGIC, b"ustar  \0"))),
        ("gnu-sparse", of(|header| header.with(MAGIC, b"ustar  \0").with(KIND, b"S"))),
        ("pax", pax.member("disk.img", disk).end()),
    ]
}
