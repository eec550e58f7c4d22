//! VHDX images: headers, regions, metadata and table, each lying, with checksums that hold.

use disk_image::{ByteRange, Code, Format};

use crate::{Hostile, Sound, Sparse};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
pub(crate) const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
pub(crate) const REGIONS: [u64; 2] = [192 * KIB, 256 * KIB];
pub(crate) const LOG: u64 = MIB;
const TABLE: u64 = 2 * MIB;
const METADATA: u64 = 3 * MIB;
const DATA: u64 = 4 * MIB;
const END: u64 = 6 * MIB;
/// Blocks of 1 MiB; the 4097th lies behind the first sector bitmap's entry.
const BLOCKS: u64 = 4098;
const BITMAP: u64 = 4096;

// Of a header, from its begin.
const SEQUENCE: u64 = 8;
const LOG_GUID: u64 = 48;
const VERSION: u64 = 66;
const LOG_LEN: u64 = 68;
const LOG_AT: u64 = 72;
// Of the region table.
const COUNT: u64 = 8;
const FIRST_REGION: u64 = 16;
const SECOND_REGION: u64 = 48;
const THIRD_REGION: u64 = 80;
// Of the metadata region.
const ITEM_COUNT: u64 = 10;
const PARAMETERS: u64 = 64 * KIB;
const SIZE: u64 = 64 * KIB + 8;
const LOGICAL: u64 = 64 * KIB + 16;
const PHYSICAL: u64 = 64 * KIB + 20;
const DISK_ID: u64 = 64 * KIB + 24;

const BAT_GUID: &[u8; 16] = b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
const METADATA_GUID: &[u8; 16] = b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const ITEMS: [(&[u8; 16], u64, u32); 5] = [
    (b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b", PARAMETERS, 8),
    (b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8", SIZE, 8),
    (b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f", LOGICAL, 4),
    (b"\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56", PHYSICAL, 4),
    (b"\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46", DISK_ID, 16),
];
const PARENT_LOCATOR: &[u8; 16] = b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";

/// CRC-32C, bit by bit: the reader's own is another implementation.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}

/// With the checksum set.
pub(crate) fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[4..8].fill(0);
    let sum = crc32c(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn summed(file: Sparse, from: u64, len: u64) -> Sparse {
    let bytes = sealed(file.read(ByteRange { start: from, end: from + len }));
    file.with(from, &bytes)
}

/// Checksums of headers and region tables, after a change.
fn resummed(file: Sparse) -> Sparse {
    let file = HEADERS.into_iter().fold(file, |file, at| summed(file, at, 4 * KIB));
    REGIONS.into_iter().fold(file, |file, at| summed(file, at, 64 * KIB))
}

fn header(file: Sparse, at: u64, sequence: u64) -> Sparse {
    file.with(at, b"head")
        .le64(at + SEQUENCE, sequence)
        .le16(at + VERSION, 1)
        .le32(at + LOG_LEN, 1 << 20)
        .le64(at + LOG_AT, LOG)
}

fn region(file: Sparse, at: u64, guid: &[u8], place: (u64, u32), required: u32) -> Sparse {
    file.with(at, guid).le64(at + 16, place.0).le32(at + 24, place.1).le32(at + 28, required)
}

fn item(file: Sparse, index: u64, guid: &[u8], place: (u64, u32), flags: u32) -> Sparse {
    let at = METADATA + 32 + 32 * index;
    let offset = u32::try_from(place.0).unwrap_or_default();
    file.with(at, guid).le32(at + 16, offset).le32(at + 20, place.1).le32(at + 24, flags)
}

/// Two blocks are stored: the first one, and one behind the sector bitmap's entry.
fn dynamic() -> Sparse {
    let file = HEADERS.into_iter().zip(1..).fold(Sparse::zeros(END), |file, (at, n)| header(file, at, n));
    let file = REGIONS.into_iter().fold(file.with(0, b"vhdxfile"), |file, at| {
        let file = file.with(at, b"regi").le32(at + COUNT, 2);
        let file = region(file, at + FIRST_REGION, BAT_GUID, (TABLE, 1 << 20), 1);
        region(file, at + SECOND_REGION, METADATA_GUID, (METADATA, 1 << 20), 1)
    });
    let file = file.with(METADATA, b"metadata").le16(METADATA + ITEM_COUNT, 5);
    let items = ITEMS.into_iter().zip(0..);
    let file = items.fold(file, |file, ((guid, at, len), n)| item(file, n, guid, (at, len), 4));
    let file = file
        .le32(METADATA + PARAMETERS, 1 << 20)
        .le64(METADATA + SIZE, BLOCKS * MIB)
        .le32(METADATA + LOGICAL, 512)
        .le32(METADATA + PHYSICAL, 4096)
        .le64(TABLE, DATA | 6)
        .le64(TABLE + 8, 2)
        .le64(TABLE + 8 * (BITMAP + 1), (DATA + MIB) | 6)
        .with(DATA, &[4; 5000])
        .with(DATA + MIB, &[5; 5000]);
    resummed(file)
}

/// A small disk, all stored.
pub(crate) fn dynamic_of(disk: &[u8]) -> Sparse {
    let file = dynamic().cut(DATA).with(TABLE, &[0; 64 << 10]).le64(METADATA + SIZE, disk.len() as u64);
    let blocks = (disk.len() as u64).div_ceil(MIB);
    let file = (0..blocks).fold(file, |file, n| file.le64(TABLE + 8 * n, (DATA + n * MIB) | 6));
    file.with(DATA + blocks * MIB - 1, &[0]).with(DATA, disk)
}

pub(crate) fn sound() -> Vec<Sound> {
    let one_header = dynamic().with(HEADERS[1], &[0; 4096]);
    let one_region_table = dynamic().with(REGIONS[1] + 5, &[0xff]);
    let leave_allocated = dynamic().le32(METADATA + PARAMETERS + 4, 1);
    [
        ("vhdx-dynamic", dynamic()),
        ("vhdx-one-header", one_header),
        ("vhdx-one-region-table", one_region_table),
        ("vhdx-leave-blocks-allocated", leave_allocated),
    ]
    .map(|(name, file)| Sound { name, format: Format::Vhdx, file })
    .to_vec()
}

pub(crate) fn hostile() -> Vec<Hostile> {
    [headers(), regions(), items(), values(), blocks()]
        .concat()
        .into_iter()
        .map(|(name, file, code)| Hostile::new(format!("vhdx-{name}"), Format::Vhdx, file, code))
        .collect()
}

type Case = (&'static str, Sparse, Code);

fn headers() -> Vec<Case> {
    use Code::{BadHeader, BadTable, Corrupt, OutOfBounds, Truncated, UnsupportedFeature};
    // The second header has the higher sequence number: it is the one that counts.
    let current = |change: fn(Sparse, u64) -> Sparse| resummed(change(dynamic(), HEADERS[1]));
    let both = HEADERS.into_iter().fold(dynamic(), |file, at| file.le32(at + 4, 1));
    let same = resummed(dynamic().le64(HEADERS[1] + SEQUENCE, 1).with(HEADERS[1] + 16, &[1]));
    vec![
        ("headers-without-checksum", both, BadHeader),
        ("headers-of-one-sequence", same, BadHeader),
        ("headers-missing", dynamic().with(HEADERS[0], b"x").with(HEADERS[1], b"x"), BadHeader),
        ("log-to-replay", current(|f, at| f.with(at + LOG_GUID + 3, &[1])), Corrupt),
        ("version-2", current(|f, at| f.le16(at + VERSION, 2)), UnsupportedFeature),
        ("log-outside", current(|f, at| f.le64(at + LOG_AT, END)), OutOfBounds),
        ("log-beyond-64-bits", current(|f, at| f.le64(at + LOG_AT, u64::MAX << 20)), OutOfBounds),
        ("log-unaligned", current(|f, at| f.le64(at + LOG_AT, LOG + 512)), BadTable),
        ("log-over-headers", current(|f, at| f.le64(at + LOG_AT, 0)), BadTable),
        ("log-over-table", current(|f, at| f.le64(at + LOG_AT, TABLE)), BadTable),
        ("log-of-half-a-mib", current(|f, at| f.le32(at + LOG_LEN, 1 << 19)), BadTable),
        ("identifier-only", dynamic().cut(64 * KIB), Truncated),
    ]
}

fn regions() -> Vec<Case> {
    use Code::{BadHeader, BadTable, OutOfBounds, TableTooLarge, UnsupportedFeature};
    let each = |change: fn(Sparse, u64) -> Sparse| resummed(REGIONS.into_iter().fold(dynamic(), change));
    let broken = REGIONS.into_iter().fold(dynamic(), |file, at| file.le32(at + 4, 1));
    vec![
        ("region-tables-without-checksum", broken, BadHeader),
        ("region-tables-differ", resummed(dynamic().le64(REGIONS[1] + FIRST_REGION + 16, LOG)), BadHeader),
        ("regions-4-billion", each(|f, at| f.le32(at + COUNT, u32::MAX)), TableTooLarge),
        ("regions-0", each(|f, at| f.le32(at + COUNT, 0)), BadHeader),
        (
            "region-table-missing",
            each(|f, at| f.with(at + FIRST_REGION, &[9]).le32(at + FIRST_REGION + 28, 0)),
            BadHeader,
        ),
        (
            "region-twice",
            each(|f, at| region(f.le32(at + COUNT, 3), at + THIRD_REGION, BAT_GUID, (LOG, 1 << 20), 1)),
            BadTable,
        ),
        (
            "region-unknown-required",
            each(|f, at| region(f.le32(at + COUNT, 3), at + THIRD_REGION, &[7; 16], (LOG, 1 << 20), 1)),
            UnsupportedFeature,
        ),
        ("region-outside", each(|f, at| f.le64(at + FIRST_REGION + 16, END)), OutOfBounds),
        ("region-beyond-64-bits", each(|f, at| f.le64(at + FIRST_REGION + 16, u64::MAX << 20)), OutOfBounds),
        ("region-unaligned", each(|f, at| f.le64(at + FIRST_REGION + 16, TABLE + 4096)), BadTable),
        ("region-of-0-bytes", each(|f, at| f.le32(at + FIRST_REGION + 24, 0)), BadTable),
        ("region-over-headers", each(|f, at| f.le64(at + FIRST_REGION + 16, 0)), BadTable),
        ("region-over-region", each(|f, at| f.le64(at + FIRST_REGION + 16, METADATA)), BadTable),
        ("region-over-log", each(|f, at| f.le64(at + FIRST_REGION + 16, LOG)), BadTable),
    ]
}

fn items() -> Vec<Case> {
    use Code::{BackingFile, BadHeader, BadTable, OutOfBounds, TableTooLarge, UnsupportedFeature};
    let with_item = |guid: &[u8], flags: u32| {
        item(dynamic().le16(METADATA + ITEM_COUNT, 6), 5, guid, (PARAMETERS + 64, 20), flags)
    };
    let place = |at: u64, len: u32| item(dynamic(), 1, ITEMS[1].0, (at, len), 4);
    vec![
        ("metadata-missing", dynamic().with(METADATA, b"x"), BadHeader),
        ("metadata-of-65535-items", dynamic().le16(METADATA + ITEM_COUNT, u16::MAX), TableTooLarge),
        ("metadata-of-0-items", dynamic().le16(METADATA + ITEM_COUNT, 0), BadHeader),
        ("item-missing", dynamic().le16(METADATA + ITEM_COUNT, 3), BadHeader),
        ("item-twice", with_item(ITEMS[1].0, 4), BadTable),
        ("item-unknown-required", with_item(&[7; 16], 4), UnsupportedFeature),
        ("item-of-the-user-required", with_item(ITEMS[1].0, 5), UnsupportedFeature),
        ("item-over-the-table", place(0, 8), OutOfBounds),
        ("item-outside-its-region", place(MIB - 4, 8), OutOfBounds),
        ("item-of-0-bytes", place(SIZE, 0), OutOfBounds),
        ("item-of-4-bytes", place(SIZE, 4), BadHeader),
        ("item-of-2-mib", place(SIZE, 2 << 20), OutOfBounds),
        ("parent-locator", with_item(PARENT_LOCATOR, 4), BackingFile),
    ]
}

fn values() -> Vec<Case> {
    use Code::{BackingFile, BadHeader, BadTable, TooLarge, UnsupportedFeature};
    let word = |at: u64, n: u32| dynamic().le32(METADATA + at, n);
    let size = |n: u64| dynamic().le64(METADATA + SIZE, n);
    vec![
        ("differencing", word(PARAMETERS + 4, 2), BackingFile),
        ("unknown-parameter", word(PARAMETERS + 4, 4), UnsupportedFeature),
        ("block-0", word(PARAMETERS, 0), BadHeader),
        ("block-512-kib", word(PARAMETERS, 1 << 19), BadHeader),
        ("block-3-mib", word(PARAMETERS, 3 << 20), BadHeader),
        ("block-1-gib", word(PARAMETERS, 1 << 30), BadHeader),
        ("logical-sector-0", word(LOGICAL, 0), BadHeader),
        ("logical-sector-520", word(LOGICAL, 520), BadHeader),
        ("physical-sector-1-mib", word(PHYSICAL, 1 << 20), BadHeader),
        ("size-0", size(0), BadHeader),
        ("size-of-half-a-sector", size(MIB + 256), BadHeader),
        ("size-64-tib", size(64 << 40), TooLarge),
        ("size-beyond-the-format", size(65 << 40), BadHeader),
        ("size-beyond-the-table", size(900 << 30), BadTable),
    ]
}

fn blocks() -> Vec<Case> {
    use Code::{BadTable, Truncated};
    let entry = |index: u64, n: u64| dynamic().le64(TABLE + 8 * index, n);
    vec![
        ("block-partially-present", entry(1, DATA | 7), BadTable),
        ("block-of-reserved-state", entry(1, 4), BadTable),
        ("block-with-reserved-bits", entry(0, DATA | 6 | 1 << 10), BadTable),
        ("block-twice", entry(1, DATA | 6), BadTable),
        ("block-over-headers", entry(1, 6), BadTable),
        ("block-over-log", entry(1, LOG | 6), BadTable),
        ("block-over-table", entry(1, TABLE | 6), BadTable),
        ("block-over-metadata", entry(1, METADATA | 6), BadTable),
        ("block-outside", entry(1, END | 6), Truncated),
        ("block-far-outside", entry(1, u64::MAX << 20 | 6), Truncated),
        ("block-cut-off", dynamic().cut(END - 512), Truncated),
        ("bitmap-present", entry(BITMAP, (END - MIB) | 6), BadTable),
    ]
}
