//! Microsoft VHD, fixed and dynamic ("Virtual Hard Disk Image Format Specification", 2006).
//!
//! Goal: the bytes and the size that QEMU sees (`block/vpc.c`): some writers mean the geometry, all others the footer's size.
//!
//! Threat model: a dynamic disk has its footer at both ends, so two readers could see two disks: both must be alike. Block offsets
//! are an attacker's: no block may lie over another, over the tables or past the footer. Parents are refused.
//! Sector bitmaps of blocks are not read, as in QEMU: in a disk without parent a sector outside of the map is zero anyway.

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
    regions::Regions,
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
}

impl VhdLayout {
    pub(crate) fn open(regions: &Regions, limits: &Limits) -> Result<Self> {
        let view = View::whole(regions);
        let Some(end) = view.size().checked_sub(FOOTER) else {
            return Err(Error::refused(
                Code::Truncated,
                format!("VHD: {} bytes hold no footer", view.size()),
            ));
        };
        let footer = view.read(end, FOOTER, "VHD footer")?;
        let head = view.read(0, FOOTER, "VHD header")?;
        if !footer.starts_with(COOKIE) {
            return Err(Error::refused(Code::Truncated, "VHD: the last 512 bytes are not its footer"));
        }
        let virtual_size = check_footer(footer, limits)?;
        match be32(footer, 60)? {
            FIXED => {
                if head.starts_with(COOKIE) && end > 0 {
                    return Err(bad("a fixed disk's footer, but a dynamic disk's header"));
                }
                if virtual_size > end {
                    return Err(Error::refused(
                        Code::Truncated,
                        format!(
                            "VHD: a fixed disk of {virtual_size} bytes, but the file holds {end} before its footer"
                        ),
                    ));
                }
                Ok(Self { virtual_size, blocks: None })
            }
            DYNAMIC => {
                if head != footer {
                    return Err(bad("the header's copy of the footer differs from the footer"));
                }
                let blocks = open_blocks(view, be64(footer, 16)?, end, virtual_size)?;
                Ok(Self { virtual_size, blocks: Some(blocks) })
            }
            DIFFERENCING => {
                Err(Error::refused(Code::BackingFile, "VHD: a differencing disk continues a parent disk"))
            }
            kind => Err(Error::refused(Code::UnsupportedFeature, format!("VHD: disk type {kind}"))),
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
        }
    }
}

/// Checks a footer's own fields and tells the disk's size.
fn check_footer(footer: &[u8], limits: &Limits) -> Result<u64> {
    check_sum(footer, 64, "footer")?;
    let version = be32(footer, 12)?;
    if version != VERSION {
        return Err(Error::refused(Code::UnsupportedFeature, format!("VHD: footer version {version:#x}")));
    }
    if footer.get(84).is_none_or(|saved| *saved != 0) {
        return Err(Error::refused(Code::Corrupt, "VHD: the disk belongs to a machine in saved state"));
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

fn open_blocks(view: View<'_>, at: u64, end: u64, virtual_size: u64) -> Result<Blocks> {
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
    Ok(Blocks { table, block, bitmap, header: at })
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
                claims.claim(self.file_size - FOOTER, FOOTER, "VHD footer")?;
                none.insert(claims)
            }
        };
        for _ in 0..STEP.min(self.table.count() - self.next) {
            let sector = u32::from_be_bytes(self.table.entry(view, self.next)?);
            if sector == ABSENT {
                out.push(blocks.block, Stored::Zero);
            } else {
                let offset = u64::from(sector) * SECTOR;
                if !view.holds(offset, blocks.bitmap + blocks.block + FOOTER) {
                    return Err(Error::refused(
                        Code::Truncated,
                        format!(
                            "VHD: block {} at sector {sector}, but the file ends before it does",
                            self.next
                        ),
                    ));
                }
                claims.claim(offset, blocks.bitmap + blocks.block, "VHD block")?;
                out.push(blocks.block, Stored::Raw { offset: offset + blocks.bitmap });
            }
            self.next += 1;
        }
        Ok(())
    }
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadHeader, format!("VHD: {message}"))
}
