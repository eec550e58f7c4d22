//! Microsoft VHD, fixed and dynamic ("Virtual Hard Disk Image Format Specification", 2006).
//!
//! Goal: the bytes and the size that QEMU sees (`block/vpc.c`): some writers mean the geometry, all others the footer's size.
//!
//! Threat model: a dynamic disk has its footer at both ends, so two readers could see two disks: what says anything of the
//! disk must be alike in both. QEMU reads the copy in front and never looks for the other one, so that may have bytes behind
//! it; but it must be there, right behind the last block, or the file was cut. Block offsets are an attacker's: no block may
//! lie over another, over the tables or past the footer. Parents are refused.
//! Sector bitmaps of blocks are not read, as in QEMU: in a disk without parent a sector outside of the map is zero anyway.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    claims::Claims,
    error::{Code, Error, Result},
    extent::Stored,
    fields::{be16, be32, be64},
    formats::check_virtual_size,
    formats::table::{Table, check_table_bytes},
    formats::view::View,
    limits::Limits,
    regions::{ByteRange, Regions},
    walk::{Stretch, Tables},
};

const SECTOR: u64 = 512;
const FOOTER: u64 = 512;
const DYNAMIC_HEADER: u64 = 1024;
const COOKIE: &[u8] = b"conectix";
const VERSION: u32 = 0x0001_0000;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// A geometry that says only "larger than this": 65535 cylinders, 16 heads, 255 sectors.
const MAX_GEOMETRY: u64 = 65535 * 16 * 255;
/// 2040 GiB, the format's limit.
const MAX_BYTES: u64 = 2040 << 30;
/// Largest block taken; Hyper-V and QEMU write 2 MiB.
const MAX_BLOCK: u64 = 256 << 20;
const ABSENT: u32 = u32::MAX;
/// Entries walked in one step.
const STEP: u64 = 4096;
/// Creators whose disks end where the geometry says; all others have the footer's size (QEMU 10's `vpc.c`).
const BY_GEOMETRY: [&[u8; 4]; 2] = [b"vpc ", b"qemu"];

/// What a walk over the blocks needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhdLayout {
    pub(crate) virtual_size: u64,
    /// Of a dynamic disk.
    blocks: Option<Blocks>,
}

/// The parts of a footer that describe the disk: where its header is; its creator, size, geometry and kind; whether a
/// machine's state was saved with it. Time, versions, id and checksum may differ: programs set them in one copy alone.
const ESSENCE: [Range<usize>; 4] = [16..24, 28..32, 48..64, 84..85];

/// Where the blocks of a dynamic disk are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Blocks {
    /// Offset of the block allocation table.
    table: u64,
    /// Bytes of a block's data, and of the sector bitmap in front of it.
    block: u64,
    bitmap: u64,
    /// Offset of the dynamic header.
    header: u64,
    /// Where header and table end, in whole sectors.
    tables_end: u64,
    /// Offset of the footer, if it is the last of the file; else it is looked for behind the last block.
    footer: Option<u64>,
}

impl VhdLayout {
    pub(crate) fn open(regions: &Regions, limits: &Limits) -> Result<Self> {
        let view = View::whole(regions);
        let head = view.read(0, FOOTER.min(view.size()), "VHD header")?;
        let has_copy = head.starts_with(COOKIE) && view.size() > FOOTER;
        let end = view.size().next_multiple_of(SECTOR).saturating_sub(FOOTER);
        let last = footer_at(view, end)?;
        let footer = match &last {
            _ if has_copy => head,
            Some(footer) => footer.as_slice(),
            None => return Err(no_footer(end)),
        };
        let virtual_size = check_footer(footer, limits)?;
        if has_copy && last.is_some_and(|last| !are_alike(head, &last)) {
            return Err(bad("the header's copy of the footer describes another disk than the footer"));
        }
        match (be32(footer, 60)?, has_copy) {
            (FIXED, true) => Err(bad("a fixed disk's footer, but a dynamic disk's header")),
            (FIXED, false) if virtual_size > end => Err(Error::refused(
                Code::Truncated,
                format!(
                    "VHD: a fixed disk of {virtual_size} bytes, but the file holds {end} before its footer; \
                     a part of it is missing, fetch it again"
                ),
            )),
            (FIXED, false) => Ok(Self { virtual_size, blocks: None }),
            (DYNAMIC, true) => {
                let footer = last.map(|_| end);
                let blocks = open_blocks(view, head, footer, virtual_size)?;
                Ok(Self { virtual_size, blocks: Some(blocks) })
            }
            (DYNAMIC, false) => Err(bad("a dynamic disk's footer, and no copy of it in front")),
            (DIFFERENCING, _) => {
                Err(Error::refused(Code::BackingFile, "VHD: a differencing disk continues a parent disk"))
            }
            (kind, _) => Err(Error::refused(Code::UnsupportedFeature, format!("VHD: disk type {kind}"))),
        }
    }

    pub(crate) fn tables(&self, file_size: u64) -> VhdTables {
        let count = self.blocks.as_ref().map_or(0, |b| self.virtual_size.div_ceil(b.block));
        VhdTables {
            table: Table::new(
                "VHD block allocation table",
                self.blocks.as_ref().map_or(0, |b| b.table),
                count,
            ),
            layout: self.clone(),
            claims: None,
            file_size,
            next: 0,
            data_end: 0,
            last: None,
        }
    }
}

/// The footer at this place. Old versions of Virtual PC left out its last byte, a zero, and QEMU reads files in whole sectors.
fn footer_at(view: View<'_>, at: u64) -> Result<Option<[u8; 512]>> {
    let len = view.size().saturating_sub(at).min(FOOTER);
    if len < FOOTER - 1 {
        return Ok(None);
    }
    let mut footer = [0; 512];
    for (byte, there) in footer.iter_mut().zip(view.read(at, len, "VHD footer")?) {
        *byte = *there;
    }
    Ok(footer.starts_with(COOKIE).then_some(footer))
}

/// Whether both say the same of the disk.
fn are_alike(copy: &[u8], footer: &[u8]) -> bool {
    ESSENCE.into_iter().all(|part| copy.get(part.clone()) == footer.get(part))
}

fn no_footer(at: u64) -> Error {
    Error::refused(
        Code::Truncated,
        format!("VHD: there is no footer at byte {at}, so a part of the file is missing; fetch it again"),
    )
}

/// Checks a footer's own fields and tells the disk's size.
fn check_footer(footer: &[u8], limits: &Limits) -> Result<u64> {
    check_sum(footer, 64, "footer")?;
    let version = be32(footer, 12)?;
    if version != VERSION {
        return Err(Error::refused(Code::UnsupportedFeature, format!("VHD: footer version {version:#x}")));
    }
    if footer.get(84).is_none_or(|saved| *saved != 0) {
        return Err(Error::refused(
            Code::Corrupt,
            "VHD: the disk belongs to a machine in saved state; shut the machine down and send the disk again",
        ));
    }
    let current = be64(footer, 48)?;
    let (heads, sectors) =
        (footer.get(58).copied().unwrap_or_default(), footer.get(59).copied().unwrap_or_default());
    let geometry = u64::from(be16(footer, 56)?) * u64::from(heads) * u64::from(sectors);
    let creator = footer.get(28..32);
    let by_geometry = geometry != MAX_GEOMETRY && BY_GEOMETRY.iter().any(|by| creator == Some(by.as_slice()));
    let virtual_size = if by_geometry { geometry * SECTOR } else { current / SECTOR * SECTOR };
    check_virtual_size(virtual_size, limits)?;
    if virtual_size > MAX_BYTES {
        return Err(bad(format!("a disk of {virtual_size} bytes; the format ends at 2040 GiB")));
    }
    if virtual_size > current {
        return Err(bad(format!("a geometry of {virtual_size} bytes for a disk of {current}")));
    }
    Ok(virtual_size)
}

/// One's complement of the sum of all bytes but the checksum's own.
fn check_sum(bytes: &[u8], at: usize, what: &str) -> Result<()> {
    let stored = be32(bytes, at)?;
    let sum = bytes
        .iter()
        .enumerate()
        .filter(|(i, _)| !(at..at + 4).contains(i))
        .map(|(_, b)| u32::from(*b))
        .sum::<u32>();
    if !sum != stored {
        return Err(bad(format!("the checksum of the {what} is {stored:#x}, computed {:#x}", !sum)));
    }
    Ok(())
}

fn open_blocks(view: View<'_>, copy: &[u8], footer: Option<u64>, virtual_size: u64) -> Result<Blocks> {
    let (at, end) = (be64(copy, 16)?, footer.unwrap_or(view.size()));
    if at < FOOTER || !at.is_multiple_of(SECTOR) || at.checked_add(DYNAMIC_HEADER).is_none_or(|h| h > end) {
        return Err(Error::refused(
            Code::OutOfBounds,
            format!("VHD: the dynamic header at byte {at} is outside of the file"),
        ));
    }
    let header = view.read(at, DYNAMIC_HEADER, "VHD dynamic header")?;
    if !header.starts_with(b"cxsparse") {
        return Err(bad(format!("no dynamic header at byte {at}")));
    }
    check_sum(header, 36, "dynamic header")?;
    let version = be32(header, 24)?;
    if version != VERSION {
        return Err(Error::refused(
            Code::UnsupportedFeature,
            format!("VHD: dynamic header version {version:#x}"),
        ));
    }
    // Parent's UUID, name and locators.
    if header.get(40..56).into_iter().chain(header.get(64..768)).flatten().any(|b| *b != 0) {
        return Err(Error::refused(Code::BackingFile, "VHD: a dynamic disk that names a parent disk"));
    }
    let block = u64::from(be32(header, 32)?);
    if !block.is_power_of_two() || !(SECTOR..=MAX_BLOCK).contains(&block) {
        return Err(bad(format!("blocks of {block} bytes")));
    }
    let entries = u64::from(be32(header, 28)?);
    check_table_bytes(entries * 4, "VHD: the block allocation table")?;
    if entries < virtual_size.div_ceil(block) {
        return Err(Error::refused(
            Code::BadTable,
            format!("VHD: {entries} blocks of {block} bytes for a disk of {virtual_size}"),
        ));
    }
    let table = be64(header, 16)?;
    if table < FOOTER || table.checked_add(entries * 4).is_none_or(|t| t > end) {
        return Err(Error::refused(
            Code::OutOfBounds,
            format!(
                "VHD: the block allocation table of {entries} entries at byte {table} is outside of the file"
            ),
        ));
    }
    if table < at + DYNAMIC_HEADER && at < table + entries * 4 {
        return Err(Error::refused(
            Code::BadTable,
            "VHD: the block allocation table lies over the dynamic header",
        ));
    }
    // One bit a sector, in whole sectors.
    let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    let tables_end = (table + entries * 4).max(at + DYNAMIC_HEADER).next_multiple_of(SECTOR);
    Ok(Blocks { table, block, bitmap, header: at, tables_end, footer })
}

/// The walk's state.
#[derive(Debug)]
pub(crate) struct VhdTables {
    layout: VhdLayout,
    table: Table<4>,
    file_size: u64,
    /// With the headers and the table, from the first step on.
    claims: Option<Claims>,
    next: u64,
    /// Where the tables and the blocks end that were seen.
    data_end: u64,
    /// What the last block is, while the footer is looked for.
    last: Option<Stored>,
}

impl Tables for VhdTables {
    fn step(&mut self, regions: &Regions, out: &mut Stretch) -> Result<()> {
        let Some(blocks) = &self.layout.blocks else {
            out.push(self.layout.virtual_size, Stored::Raw { offset: 0 });
            return Ok(());
        };
        let view = View::whole(regions);
        let claims = match &mut self.claims {
            Some(claims) => claims,
            none => {
                let mut claims = Claims::new(self.file_size);
                claims.claim(0, FOOTER, "VHD header")?;
                claims.claim(blocks.header, DYNAMIC_HEADER, "VHD dynamic header")?;
                // Whole sectors: a table may end within one.
                let first = blocks.table / SECTOR * SECTOR;
                let end = (blocks.table + self.table.count() * 4).next_multiple_of(SECTOR);
                claims.claim(first, end - first, "VHD block allocation table")?;
                if let Some(footer) = blocks.footer {
                    claims.claim(footer, FOOTER, "VHD footer")?;
                }
                self.data_end = blocks.tables_end;
                none.insert(claims)
            }
        };
        let stored_len = blocks.bitmap + blocks.block;
        for _ in 0..STEP.min(self.table.count() - self.next) {
            let sector = u32::from_be_bytes(self.table.entry(view, self.next)?);
            let stored = if sector == ABSENT {
                Stored::Zero
            } else {
                let offset = u64::from(sector) * SECTOR;
                // No overflow: both are far below 64 bits.
                let end = offset + stored_len;
                if end > blocks.footer.unwrap_or(view.size()) {
                    return Err(Error::refused(
                        Code::Truncated,
                        format!(
                            "VHD: block {} at sector {sector}, but the file ends before it does; fetch it again",
                            self.next
                        ),
                    ));
                }
                claims.claim(offset, stored_len, "VHD block")?;
                self.data_end = self.data_end.max(end);
                Stored::Raw { offset: offset + blocks.bitmap }
            };
            self.next += 1;
            if self.next == self.table.count() && blocks.footer.is_none() {
                self.last = Some(stored);
            } else {
                out.push(blocks.block, stored);
            }
        }
        if let Some(last) = self.last {
            check_footer_behind(view, self.data_end)?;
            self.last = None;
            out.push(blocks.block, last);
        }
        Ok(())
    }
}

/// Bytes may lie behind a footer, but not in front of it: right behind the data it must be.
fn check_footer_behind(view: View<'_>, at: u64) -> Result<()> {
    let len = view.size().saturating_sub(at).min(FOOTER);
    let place = |start, len| ByteRange { start, end: start + len };
    if len > 0 {
        view.need(&[place(0, FOOTER), place(at, len)])?;
    }
    let copy = view.read(0, FOOTER, "VHD header")?;
    match footer_at(view, at)? {
        Some(footer) if are_alike(copy, &footer) => Ok(()),
        Some(_) => Err(bad("the header's copy of the footer describes another disk than the footer")),
        None => Err(no_footer(at)),
    }
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadHeader, format!("VHD: {message}"))
}
