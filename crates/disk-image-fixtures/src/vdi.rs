//! VDI images: each field that can lie, lying.

use disk_image::{Code, Format};

use crate::{Hostile, Sound, Sparse};

const VERSION: u64 = 0x44;
const HEADER_LEN: u64 = 0x48;
const KIND: u64 = 0x4c;
const MAP: u64 = 0x154;
const DATA: u64 = 0x158;
const SECTOR: u64 = 0x168;
const SIZE: u64 = 0x170;
const BLOCK: u64 = 0x178;
const EXTRA: u64 = 0x17c;
const BLOCKS: u64 = 0x180;
const ALLOCATED: u64 = 0x184;
const LINK: u64 = 0x1a8;
const PARENT: u64 = 0x1b8;
const MIB: u64 = 1 << 20;

/// A disk of 3 MiB, blocks 0 and 2 stored in the other order.
fn dynamic() -> Sparse {
    Sparse::zeros(1024 + 2 * MIB)
        .with(0, b"<<< a virtual disk >>>\n")
        .with(0x40, b"\x7f\x10\xda\xbe")
        .le32(VERSION, 0x0001_0001)
        .le32(HEADER_LEN, 0x190)
        .le32(KIND, 1)
        .le32(MAP, 512)
        .le32(DATA, 1024)
        .le32(SECTOR, 512)
        .le64(SIZE, 3 * MIB)
        .le32(BLOCK, 1 << 20)
        .le32(BLOCKS, 3)
        .le32(ALLOCATED, 2)
        .le32(512, 1)
        .le32(516, u32::MAX)
        .le32(520, 0)
        .with(1024, &[5; 700])
}

/// A disk of at most 128 MiB, all stored.
pub(crate) fn dynamic_of(disk: &[u8]) -> Sparse {
    let blocks = u32::try_from((disk.len() as u64).div_ceil(MIB)).unwrap_or_default();
    let file = dynamic()
        .cut(512)
        .le64(SIZE, disk.len() as u64)
        .le32(BLOCKS, blocks)
        .le32(ALLOCATED, blocks)
        .with(512, &[0xff; 512]);
    let file = (0..blocks).fold(file, |file, n| file.le32(512 + 4 * u64::from(n), n));
    file.with(1023 + u64::from(blocks) * MIB, &[0]).with(1024, disk)
}

pub(crate) fn sound() -> Vec<Sound> {
    let discarded = dynamic().le32(516, u32::MAX - 1);
    [("vdi-dynamic", dynamic()), ("vdi-discarded", discarded)]
        .map(|(name, file)| Sound { name, format: Format::Vdi, file })
        .to_vec()
}

pub(crate) fn hostile() -> Vec<Hostile> {
    use Code::{BackingFile, BadHeader, BadTable, OutOfBounds, TooLarge, Truncated, UnsupportedFeature};
    let d = dynamic;
    [
        ("version-2", d().le32(VERSION, 0x0002_0000), UnsupportedFeature),
        ("version-0", d().le32(VERSION, 1), UnsupportedFeature),
        ("header-short", d().le32(HEADER_LEN, 0x60), BadHeader),
        ("header-long", d().le32(HEADER_LEN, u32::MAX), BadHeader),
        ("kind-0", d().le32(KIND, 0), UnsupportedFeature),
        ("kind-9", d().le32(KIND, 9), UnsupportedFeature),
        ("undo", d().le32(KIND, 3), BackingFile),
        ("differencing", d().le32(KIND, 4), BackingFile),
        ("link-uuid", d().with(LINK + 15, &[1]), BackingFile),
        ("parent-uuid", d().with(PARENT, &[1]), BackingFile),
        ("sector-4096", d().le32(SECTOR, 4096), BadHeader),
        ("block-64-kib", d().le32(BLOCK, 64 << 10), UnsupportedFeature),
        ("block-0", d().le32(BLOCK, 0), UnsupportedFeature),
        ("extra-bytes", d().le32(EXTRA, 512), UnsupportedFeature),
        ("size-0", d().le64(SIZE, 0), BadHeader),
        ("size-64-tib", d().le64(SIZE, 64 << 40), TooLarge),
        ("size-beyond-64-bits", d().le64(SIZE, u64::MAX), BadHeader),
        ("blocks-too-few", d().le32(BLOCKS, 2), BadHeader),
        ("blocks-too-many", d().le32(BLOCKS, u32::MAX), BadHeader),
        ("allocated-too-many", d().le32(ALLOCATED, 4), BadHeader),
        ("map-unaligned", d().le32(MAP, 516), BadTable),
        ("map-over-header", d().le32(MAP, 0), BadTable),
        ("map-behind-data", d().le32(MAP, 1024), BadTable),
        ("map-outside", d().le32(MAP, 1 << 30).le32(DATA, (1 << 30) + 512), OutOfBounds),
        ("data-unaligned", d().le32(DATA, 1025), BadTable),
        ("data-over-map", d().le32(DATA, 512), BadTable),
        ("data-outside", d().le32(DATA, 1 << 31), Truncated),
        ("cut-in-the-header", d().cut(500), Truncated),
        ("cut-in-the-last-block", d().cut(2 * MIB), Truncated),
        ("block-twice", d().le32(520, 1), BadTable),
        ("block-not-allocated", d().le32(520, 2), BadTable),
        ("block-far-outside", d().le32(520, u32::MAX - 2), BadTable),
    ]
    .map(|(name, file, code)| Hostile::new(format!("vdi-{name}"), Format::Vdi, file, code))
    .to_vec()
}
