//! Microsoft VHDX, fixed and dynamic ([MS-VHDX]).
//!
//! Goal: two headers, two region tables, metadata items, block allocation table: each read by its specification.
//!
//! Threat model: everything is there twice, so that two readers could see two disks: valid copies must be alike. A log that waits to
//! be replayed would change the disk behind our back, so it is refused, as are parents. Blocks may not lie over each
//! other or over any region; checksums are demanded wherever the format has them.

mod metadata;
mod regions;

use serde::{Deserialize, Serialize};

use crate::{
    claims::Claims,
    error::{Code, Error, Result},
    extent::Stored,
    fields::{le16, le32, le64},
    formats::check_virtual_size,
    formats::table::{Table, check_table_bytes},
    formats::view::View,
    limits::Limits,
    regions::{ByteRange, Regions},
    walk::{Stretch, Tables},
};

pub(crate) const MIB: u64 = 1 << 20;
/// Headers and region tables: the first mebibyte of the file.
const HEADER_SECTION: u64 = MIB;
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: u64 = 4 << 10;
/// A block's BAT entry: state in 3 bits, 17 reserved, offset in MiB.
const STATE: u64 = 7;
const RESERVED: u64 = 0x000f_fff8;
const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const FULLY_PRESENT: u64 = 6;
/// Entries walked in one step.
const STEP: u64 = 4096;

/// What a walk over the blocks needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhdxLayout {
    pub(crate) virtual_size: u64,
    block: u64,
    /// Payload blocks for each sector bitmap block.
    chunk_ratio: u64,
    /// Offset of the block allocation table.
    table: u64,
    /// Offset and length of what no block may lie over: log, table, metadata.
    taken: Vec<(u64, u64)>,
}

impl VhdxLayout {
    pub(crate) fn open(regions: &Regions, limits: &Limits) -> Result<Self> {
        let view = View::whole(regions);
        if view.size() < HEADER_SECTION {
            return Err(Error::refused(
                Code::Truncated,
                format!("VHDX: {} bytes hold no headers", view.size()),
            ));
        }
        // Identifier, headers and region tables at once.
        view.need(&[ByteRange { start: 0, end: regions::END }])?;
        if !view.read(0, 8, "VHDX identifier")?.starts_with(b"vhdxfile") {
            return Err(Error::refused(Code::FormatMismatch, "VHDX: no file identifier"));
        }
        let log = open_headers(view)?;
        let found = regions::open(view)?;
        let metadata = metadata::open(view, found.metadata)?;
        check_virtual_size(metadata.virtual_size, limits)?;
        let chunk_ratio = (metadata.logical_sector << 23) / metadata.block;
        let layout = Self {
            virtual_size: metadata.virtual_size,
            block: metadata.block,
            chunk_ratio,
            table: found.table.0,
            taken: [log].into_iter().flatten().chain([found.table, found.metadata]).collect(),
        };
        let bytes = layout.entries() * 8;
        check_table_bytes(bytes, "VHDX: the block allocation table")?;
        if bytes > found.table.1 {
            return Err(Error::refused(
                Code::BadTable,
                format!(
                    "VHDX: the block allocation table needs {bytes} bytes, its region has {}",
                    found.table.1
                ),
            ));
        }
        let mut claims = Claims::new(view.size());
        layout.claim_taken(&mut claims)?;
        Ok(layout)
    }

    fn blocks(&self) -> u64 {
        self.virtual_size.div_ceil(self.block)
    }

    /// Entries up to the last payload block, with the sector bitmaps' between.
    fn entries(&self) -> u64 {
        let blocks = self.blocks();
        blocks + blocks.saturating_sub(1) / self.chunk_ratio
    }

    fn claim_taken(&self, claims: &mut Claims) -> Result<()> {
        claims.claim(0, HEADER_SECTION, "VHDX headers")?;
        self.taken.iter().try_for_each(|(offset, len)| claims.claim(*offset, *len, "VHDX region"))
    }

    pub(crate) fn tables(&self, file_size: u64) -> VhdxTables {
        VhdxTables {
            table: Table::new("VHDX block allocation table", self.table, self.entries()),
            layout: self.clone(),
            file_size,
            claims: None,
            next: 0,
            entry: 0,
        }
    }
}

/// Checks both headers; where the log is, if there is one.
fn open_headers(view: View<'_>) -> Result<Option<(u64, u64)>> {
    let mut valid = Vec::new();
    for at in HEADERS {
        let header = view.read(at, HEADER_BYTES, "VHDX header")?;
        if header.starts_with(b"head") && checksum_holds(header)? {
            valid.push((le64(header, 8)?, header));
        }
    }
    let current = match valid.as_slice() {
        [] => return Err(bad("neither header is valid")),
        [(_, only)] => only,
        [(a, first), (b, second), ..] if a == b => {
            if first != second {
                return Err(bad("two different headers of the same sequence number"));
            }
            first
        }
        [(a, first), (b, second), ..] => {
            if a > b {
                first
            } else {
                second
            }
        }
    };
    check_header(view, current)
}

fn check_header(view: View<'_>, header: &[u8]) -> Result<Option<(u64, u64)>> {
    let version = le16(header, 66)?;
    if version != 1 {
        return Err(Error::refused(
            Code::UnsupportedFeature,
            format!("VHDX version {version}; version 1 is read"),
        ));
    }
    if header.get(48..64).is_none_or(|guid| guid.iter().any(|b| *b != 0)) {
        return Err(Error::refused(
            Code::Corrupt,
            "VHDX: a log waits to be replayed (LogGuid is set): open and close the disk where it was used",
        ));
    }
    let (len, offset) = (u64::from(le32(header, 68)?), le64(header, 72)?);
    if len == 0 {
        return Ok(None);
    }
    check_region(view, offset, len, "log").map(Some)
}

/// A region is made of whole mebibytes behind the headers.
fn check_region(view: View<'_>, offset: u64, len: u64, what: &str) -> Result<(u64, u64)> {
    if offset < HEADER_SECTION || !offset.is_multiple_of(MIB) || len == 0 || !len.is_multiple_of(MIB) {
        return Err(Error::refused(
            Code::BadTable,
            format!(
                "VHDX: the {what} of {len} bytes at {offset} is not made of whole mebibytes behind the headers"
            ),
        ));
    }
    if !view.holds(offset, len) {
        return Err(Error::refused(
            Code::OutOfBounds,
            format!(
                "VHDX: the {what} of {len} bytes at {offset} is outside of the file of {} bytes",
                view.size()
            ),
        ));
    }
    Ok((offset, len))
}

/// CRC-32C of all bytes, with the checksum's own (4 to 8) as zeros.
fn checksum_holds(bytes: &[u8]) -> Result<bool> {
    let stored = le32(bytes, 4)?;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(bytes.get(..4).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(bytes.get(8..).unwrap_or_default());
    Ok(digest.finalize() == u64::from(stored))
}

/// The walk's state.
#[derive(Debug)]
pub(crate) struct VhdxTables {
    layout: VhdxLayout,
    table: Table<8>,
    file_size: u64,
    /// With all regions, from the first step on.
    claims: Option<Claims>,
    /// Next payload block, next entry of the table.
    next: u64,
    entry: u64,
}

impl Tables for VhdxTables {
    fn step(&mut self, regions: &Regions, out: &mut Stretch) -> Result<()> {
        let view = View::whole(regions);
        let claims = match &mut self.claims {
            Some(claims) => claims,
            none => {
                let mut claims = Claims::new(self.file_size);
                self.layout.claim_taken(&mut claims)?;
                none.insert(claims)
            }
        };
        let block = self.layout.block;
        for _ in 0..STEP.min(self.layout.blocks() - self.next) {
            let is_bitmap = self.entry % (self.layout.chunk_ratio + 1) == self.layout.chunk_ratio;
            if is_bitmap {
                check_bitmap(u64::from_le_bytes(self.table.entry(view, self.entry)?), self.entry)?;
                self.entry += 1;
            }
            let entry = u64::from_le_bytes(self.table.entry(view, self.entry)?);
            let stored = match entry & STATE {
                _ if entry & RESERVED != 0 => return Err(bad_entry(self.entry, "reserved bits are set")),
                NOT_PRESENT | UNDEFINED | ZERO | UNMAPPED => Stored::Zero,
                FULLY_PRESENT => {
                    let offset = entry & !(STATE | RESERVED);
                    // The last block may be cut: older versions of QEMU wrote it so.
                    let len = block.min(self.layout.virtual_size - self.next * block);
                    check_block(view, self.entry, offset, len)?;
                    claims.claim(offset, len, "VHDX block")?;
                    Stored::Raw { offset }
                }
                state => {
                    return Err(bad_entry(
                        self.entry,
                        &format!("state {state}, which a disk without parent can't have"),
                    ));
                }
            };
            out.push(block, stored);
            self.next += 1;
            self.entry += 1;
        }
        Ok(())
    }
}

fn check_bitmap(entry: u64, index: u64) -> Result<()> {
    if entry & STATE != NOT_PRESENT {
        return Err(bad_entry(index, "a sector bitmap, which only a differencing disk has"));
    }
    Ok(())
}

fn check_block(view: View<'_>, index: u64, offset: u64, len: u64) -> Result<()> {
    if !view.holds(offset, len) {
        return Err(Error::refused(
            Code::Truncated,
            format!(
                "VHDX: the block of table entry {index} at byte {offset}, but the file has {} bytes",
                view.size()
            ),
        ));
    }
    Ok(())
}

fn bad_entry(index: u64, what: &str) -> Error {
    Error::refused(Code::BadTable, format!("VHDX: block allocation table entry {index}: {what}"))
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadHeader, format!("VHDX: {message}"))
}
