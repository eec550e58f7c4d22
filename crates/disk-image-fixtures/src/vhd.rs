//! VHD images: footer, dynamic header and table, each field lying, with checksums that hold.

use disk_image::{ByteRange, Code, Format};

use crate::{Hostile, Sound, Sparse};

// Footer.
const VERSION: u64 = 12;
const HEADER_AT: u64 = 16;
const CREATOR: u64 = 28;
const CURRENT_SIZE: u64 = 48;
const GEOMETRY: u64 = 56;
const KIND: u64 = 60;
pub(crate) const SUM: usize = 64;
const SAVED: u64 = 84;
// Dynamic header, from its own begin.
const TABLE_AT: u64 = 16;
const HEADER_VERSION: u64 = 24;
const ENTRIES: u64 = 28;
const BLOCK: u64 = 32;
pub(crate) const HEADER_SUM: usize = 36;
const PARENT_UUID: u64 = 40;
const PARENT_NAME: u64 = 64;
const LOCATORS: u64 = 576;

const HEADER: u64 = 512;
const TABLE: u64 = 1536;
const END: u64 = 22 * 512;

/// With the checksum at `sum` set.
pub(crate) fn sealed(mut bytes: Vec<u8>, sum: usize) -> Vec<u8> {
    bytes[sum..sum + 4].fill(0);
    let total: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    bytes[sum..sum + 4].copy_from_slice(&(!total).to_be_bytes());
    bytes
}

fn summed(file: Sparse, from: u64, len: u64, sum: usize) -> Sparse {
    let bytes = sealed(file.read(ByteRange { start: from, end: from + len }), sum);
    file.with(from, &bytes)
}

fn footer(kind: u32, size: u64) -> Sparse {
    Sparse::zeros(512)
        .with(0, b"conectix")
        .be32(8, 2)
        .be32(VERSION, 0x0001_0000)
        .be64(HEADER_AT, if kind == 2 { u64::MAX } else { HEADER })
        .with(CREATOR, b"win ")
        .be64(40, size)
        .be64(CURRENT_SIZE, size)
        .be32(KIND, kind)
}

/// A dynamic disk with this footer and, behind the headers, what `change` makes of it. Checksums are set last.
fn dynamic_with(footer: Sparse, change: impl Fn(Sparse) -> Sparse) -> Sparse {
    let footer = summed(footer, 0, 512, SUM).read(ByteRange { start: 0, end: 512 });
    let file = Sparse::zeros(END)
        .with(HEADER, b"cxsparse")
        .be64(HEADER + 8, u64::MAX)
        .be64(HEADER + TABLE_AT, TABLE)
        .be32(HEADER + HEADER_VERSION, 0x0001_0000)
        .be32(HEADER + ENTRIES, 4)
        .be32(HEADER + BLOCK, 4096)
        .be32(TABLE, 4)
        .be32(TABLE + 4, u32::MAX)
        .be32(TABLE + 8, 13)
        .be32(TABLE + 12, u32::MAX)
        .with(5 * 512, &[9; 4096])
        .with(14 * 512, &[8; 4096]);
    summed(change(file), HEADER, 1024, HEADER_SUM).with(0, &footer).with(END, &footer)
}

/// 16 KiB in blocks of 4 KiB: 0 and 2 are stored.
fn dynamic() -> Sparse {
    dynamic_with(footer(3, 16 << 10), |file| file)
}

/// A disk of at most 8 MiB, all stored, in blocks of 64 KiB.
pub(crate) fn dynamic_of(disk: &[u8]) -> Sparse {
    const BLOCK_BYTES: usize = 64 << 10;
    const FIRST: u64 = TABLE + 512;
    let footer = summed(footer(3, disk.len() as u64), 0, 512, SUM).read(ByteRange { start: 0, end: 512 });
    let blocks = u32::try_from(disk.len().div_ceil(BLOCK_BYTES)).unwrap_or_default();
    let file = Sparse::zeros(FIRST)
        .with(HEADER, b"cxsparse")
        .be64(HEADER + 8, u64::MAX)
        .be64(HEADER + TABLE_AT, TABLE)
        .be32(HEADER + HEADER_VERSION, 0x0001_0000)
        .be32(HEADER + ENTRIES, blocks)
        .be32(HEADER + BLOCK, 64 << 10)
        .with(TABLE, &[0xff; 512]);
    let file = (0..).zip(disk.chunks(BLOCK_BYTES)).fold(file, |file, (n, block)| {
        let at = file.len();
        let padded =
            file.be32(TABLE + 4 * n, u32::try_from(at / 512).unwrap_or_default()).with(at, &[0xff; 512]);
        padded.with(at + 512, &[0; BLOCK_BYTES]).with(at + 512, block)
    });
    let end = file.len();
    summed(file, HEADER, 1024, HEADER_SUM).with(0, &footer).with(end, &footer)
}

fn with_footer(change: impl Fn(Sparse) -> Sparse) -> Sparse {
    dynamic_with(change(footer(3, 16 << 10)), |file| file)
}

fn with_header(change: impl Fn(Sparse) -> Sparse) -> Sparse {
    dynamic_with(footer(3, 16 << 10), change)
}

fn fixed_of(size: u64) -> Sparse {
    let footer = summed(footer(2, size), 0, 512, SUM).read(ByteRange { start: 0, end: 512 });
    Sparse::zeros(8192).with(100, &[1; 600]).with(8192, &footer)
}

pub(crate) fn sound() -> Vec<Sound> {
    // 4 cylinders, 4 heads, 2 sectors: 16 KiB.
    let by_geometry = with_footer(|f| f.with(CREATOR, b"vpc ").with(GEOMETRY, &[0, 4, 4, 2]));
    let dynamic_end = |at: u64, bytes: &[u8]| resummed(dynamic().with(END + at, bytes), END);
    [
        ("vhd-dynamic", dynamic()),
        ("vhd-fixed", fixed_of(8192)),
        ("vhd-by-geometry", by_geometry),
        // Old versions of Virtual PC.
        ("vhd-dynamic-footer-of-511-bytes", dynamic().cut(END + 511)),
        ("vhd-fixed-footer-of-511-bytes", fixed_of(8192).cut(8192 + 511)),
        // What programs set in one copy alone.
        ("vhd-copies-of-other-times", dynamic_end(24, b"time")),
        ("vhd-copies-of-other-ids", dynamic_end(68, b"an id of sixteen")),
        ("vhd-copies-of-other-versions", dynamic_end(32, b"\0\x0a\0\0Mac ")),
        ("vhd-copies-of-other-checksums", dynamic().be32(END + SUM as u64, 1)),
        // What block devices are filled up with, and what transfers leave behind.
        ("vhd-bytes-behind", dynamic().with(END + 512, &[0; 512])),
        ("vhd-many-bytes-behind", dynamic().with(END + 512, &[3; 70_001])),
        ("vhd-a-byte-behind", dynamic().with(END + 512, b"\n")),
        ("vhd-bytes-behind-an-empty-disk", emptied().with(TABLE + 1024, &[0; 4096])),
    ]
    .map(|(name, file)| Sound { name, format: Format::Vhd, file })
    .to_vec()
}

pub(crate) fn hostile() -> Vec<Hostile> {
    [footers(), headers(), blocks()]
        .concat()
        .into_iter()
        .map(|(name, file, code)| Hostile::new(format!("vhd-{name}"), Format::Vhd, file, code))
        .collect()
}

type Case = (&'static str, Sparse, Code);

fn footers() -> Vec<Case> {
    use Code::{BackingFile, BadHeader, Corrupt, OutOfBounds, TooLarge, Truncated, UnsupportedFeature};
    vec![
        ("checksum", dynamic().be32(SUM as u64, 1).be32(END + SUM as u64, 1), BadHeader),
        ("version-2", with_footer(|f| f.be32(VERSION, 0x0002_0000)), UnsupportedFeature),
        ("kind-0", with_footer(|f| f.be32(KIND, 0)), UnsupportedFeature),
        ("kind-6", with_footer(|f| f.be32(KIND, 6)), UnsupportedFeature),
        ("differencing", with_footer(|f| f.be32(KIND, 4)), BackingFile),
        ("fixed-with-dynamic-header", with_footer(|f| f.be32(KIND, 2).be64(HEADER_AT, u64::MAX)), BadHeader),
        ("footer-of-other-size", resummed(dynamic().be64(END + CURRENT_SIZE, 8 << 10), END), BadHeader),
        ("footer-of-other-geometry", resummed(dynamic().with(END + GEOMETRY, &[1]), END), BadHeader),
        ("footer-of-other-creator", resummed(dynamic().with(END + CREATOR, b"vpc "), END), BadHeader),
        ("footer-of-other-kind", resummed(dynamic().be32(END + KIND, 2), END), BadHeader),
        ("footer-of-other-header", resummed(dynamic().be64(END + HEADER_AT, 1024), END), BadHeader),
        ("footer-of-saved-state", resummed(dynamic().with(END + SAVED, &[1]), END), BadHeader),
        ("header-other-than-footer", dynamic().with(70, &[1]), BadHeader),
        ("header-of-fixed-dynamic-kind", fixed_kind_dynamic(), BadHeader),
        ("saved-state", with_footer(|f| f.with(SAVED, &[1])), Corrupt),
        ("size-0", with_footer(|f| f.be64(CURRENT_SIZE, 0)), BadHeader),
        ("size-64-tib", with_footer(|f| f.be64(CURRENT_SIZE, 64 << 40)), TooLarge),
        ("size-beyond-table", with_footer(|f| f.be64(CURRENT_SIZE, 20 << 10)), Code::BadTable),
        ("geometry-0", with_footer(|f| f.with(CREATOR, b"vpc ")), BadHeader),
        (
            "geometry-beyond-size",
            with_footer(|f| f.with(CREATOR, b"vpc ").with(GEOMETRY, &[0, 5, 4, 2])),
            BadHeader,
        ),
        ("header-outside", with_footer(|f| f.be64(HEADER_AT, END)), OutOfBounds),
        ("header-unaligned", with_footer(|f| f.be64(HEADER_AT, 513)), OutOfBounds),
        ("header-over-footer", with_footer(|f| f.be64(HEADER_AT, 0)), OutOfBounds),
        ("header-beyond-64-bits", with_footer(|f| f.be64(HEADER_AT, u64::MAX - 511)), OutOfBounds),
        ("footer-cut-off", dynamic().cut(END), Truncated),
        ("footer-of-510-bytes", dynamic().cut(END + 510), Truncated),
        ("fixed-footer-of-510-bytes", fixed_of(8192).cut(8192 + 510), Truncated),
        ("bytes-before-footer", gapped(), Truncated),
        ("other-footer-before-bytes-behind", other_before_bytes(), BadHeader),
        ("fixed-cut", fixed_of(8704), Truncated),
        ("fixed-64-gib", fixed_of(64 << 30), Truncated),
    ]
}

/// With the checksum of the footer at `at` set.
fn resummed(file: Sparse, at: u64) -> Sparse {
    summed(file, at, 512, SUM)
}

/// Bytes behind the footer, and a gap in front of it: somebody took a block away.
fn gapped() -> Sparse {
    let footer = dynamic().read(ByteRange { start: 0, end: 512 });
    dynamic().with(END, &[0; 1024]).with(END + 512, &footer).with(END + 1024, &[0; 512])
}

/// Bytes behind a footer that describes another disk than its copy in front.
fn other_before_bytes() -> Sparse {
    resummed(dynamic().be64(END + CURRENT_SIZE, 8 << 10), END).with(END + 512, &[0; 512])
}

/// A disk without a block: the footer follows the table.
fn emptied() -> Sparse {
    let footer = dynamic().read(ByteRange { start: 0, end: 512 });
    dynamic().cut(TABLE).with(TABLE, &[0xff; 512]).with(TABLE + 512, &footer)
}

/// A dynamic disk's footer at the end of a disk that begins otherwise.
fn fixed_kind_dynamic() -> Sparse {
    let footer = dynamic().read(ByteRange { start: 0, end: 512 });
    Sparse::zeros(END).with(END, &footer)
}

fn headers() -> Vec<Case> {
    use Code::{BackingFile, BadHeader, BadTable, OutOfBounds, TableTooLarge, UnsupportedFeature};
    let field = |at: u64, n: u32| with_header(move |h| h.be32(HEADER + at, n));
    let offset = |n: u64| with_header(move |h| h.be64(HEADER + TABLE_AT, n));
    vec![
        ("header-missing", with_header(|h| h.with(HEADER, b"xxsparse")), BadHeader),
        ("header-checksum", dynamic().be32(HEADER + HEADER_SUM as u64, 7), BadHeader),
        ("header-version-2", field(HEADER_VERSION, 0x0002_0000), UnsupportedFeature),
        ("parent-uuid", with_header(|h| h.with(HEADER + PARENT_UUID, &[1])), BackingFile),
        ("parent-name", with_header(|h| h.with(HEADER + PARENT_NAME, b"\0/\0e\0t\0c")), BackingFile),
        ("parent-locator", with_header(|h| h.with(HEADER + LOCATORS, b"W2ku")), BackingFile),
        ("last-parent-locator", with_header(|h| h.with(HEADER + LOCATORS + 191, &[1])), BackingFile),
        ("block-0", field(BLOCK, 0), BadHeader),
        ("block-256", field(BLOCK, 256), BadHeader),
        ("block-3000", field(BLOCK, 3000), BadHeader),
        ("block-2-gib", field(BLOCK, 1 << 31), BadHeader),
        ("entries-0", field(ENTRIES, 0), BadTable),
        ("entries-3", field(ENTRIES, 3), BadTable),
        ("entries-4-billion", field(ENTRIES, u32::MAX), TableTooLarge),
        ("table-behind-the-end", offset(END), OutOfBounds),
        ("table-beyond-64-bits", offset(u64::MAX), OutOfBounds),
        ("table-over-footer", offset(0), OutOfBounds),
        ("table-over-header", offset(1532), BadTable),
        ("table-in-header", offset(512), BadTable),
    ]
}

fn blocks() -> Vec<Case> {
    use Code::{BadTable, Truncated};
    let entry = |at: u64, n: u32| dynamic().be32(TABLE + at, n);
    vec![
        ("block-twice", entry(8, 4), BadTable),
        ("block-over-block", entry(8, 12), BadTable),
        ("block-over-the-footers-copy", entry(0, 0), BadTable),
        ("block-over-header", entry(0, 2), BadTable),
        ("block-over-table", entry(0, 3), BadTable),
        ("block-over-footer", entry(8, 14), Truncated),
        ("block-outside", entry(8, 22), Truncated),
        ("block-far-outside", entry(8, u32::MAX - 1), Truncated),
    ]
}
