//! VirtualBox disk images, dynamic and static.
//!
//! Goal: what QEMU reads (`block/vdi.c`): version 1.1, blocks of 1 MiB.
//!
//! Threat model: block numbers are an attacker's; a block used twice, past the allocated ones or past the file's end is refused.
//! Images that continue another one (undo, differencing, a parent's UUID) are refused: their bytes are elsewhere.

use serde::{Deserialize, Serialize};

use crate::{
    claims::Claims,
    error::{Code, Error, Result},
    extent::Stored,
    fields::{le32, le64},
    formats::check_virtual_size,
    formats::table::{Table, check_table_bytes},
    formats::view::View,
    limits::Limits,
    regions::Regions,
    walk::{Stretch, Tables},
};

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const HEADER_BYTES: u64 = 512;
const BLOCK: u64 = 1 << 20;
const SECTOR: u64 = 512;
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;
/// Map entries: no block; a block that was discarded. Both read as zeros.
const UNALLOCATED: u32 = u32::MAX;
const DISCARDED: u32 = u32::MAX - 1;
/// Entries walked in one step.
const STEP: u64 = 4096;

/// What a walk over the block map needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdiLayout {
    pub(crate) virtual_size: u64,
    map: u64,
    blocks_at: u64,
    blocks: u64,
    allocated: u64,
}

impl VdiLayout {
    pub(crate) fn open(regions: &Regions, limits: &Limits) -> Result<Self> {
        let view = View::whole(regions);
        if view.size() < HEADER_BYTES {
            return Err(Error::refused(
                Code::Truncated,
                format!("VDI: {} bytes hold no header", view.size()),
            ));
        }
        let header = view.read(0, HEADER_BYTES, "VDI header")?;
        check_kind(header)?;
        // QEMU rounds odd sizes up to a sector.
        let virtual_size = le64(header, 0x170)?
            .checked_next_multiple_of(SECTOR)
            .ok_or_else(|| bad("the disk's size exceeds 64 bits"))?;
        check_virtual_size(virtual_size, limits)?;
        let (map, blocks_at) = (u64::from(le32(header, 0x154)?), u64::from(le32(header, 0x158)?));
        let (blocks, allocated) = (u64::from(le32(header, 0x180)?), u64::from(le32(header, 0x184)?));
        if blocks != virtual_size.div_ceil(BLOCK) {
            return Err(bad(format!("{blocks} blocks for a disk of {virtual_size} bytes")));
        }
        if allocated > blocks {
            return Err(bad(format!("{allocated} of {blocks} blocks are allocated")));
        }
        check_table_bytes(blocks * 4, "VDI: the block map")?;
        let map_end = map + blocks * 4;
        if !map.is_multiple_of(SECTOR)
            || !blocks_at.is_multiple_of(SECTOR)
            || map < HEADER_BYTES
            || blocks_at < map_end
        {
            return Err(Error::refused(
                Code::BadTable,
                format!(
                    "VDI: block map at {map} to {map_end}, blocks at {blocks_at}: not aligned or not in order"
                ),
            ));
        }
        if !view.holds(map, blocks * 4) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!("VDI: the block map ends at {map_end}, outside of the file"),
            ));
        }
        if !view.holds(blocks_at, allocated * BLOCK) {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "VDI: {allocated} blocks from byte {blocks_at}, but the file has {} bytes",
                    view.size()
                ),
            ));
        }
        Ok(Self { virtual_size, map, blocks_at, blocks, allocated })
    }

    pub(crate) fn tables(&self, file_size: u64) -> VdiTables {
        VdiTables {
            map: Table::new("VDI block map", self.map, self.blocks),
            layout: self.clone(),
            claims: Claims::new(file_size),
            next: 0,
        }
    }
}

fn check_kind(header: &[u8]) -> Result<()> {
    if le32(header, 0x40)? != SIGNATURE {
        return Err(Error::refused(Code::FormatMismatch, "VDI: no signature at byte 64"));
    }
    let version = le32(header, 0x44)?;
    if version != VERSION {
        return Err(Error::refused(
            Code::UnsupportedFeature,
            format!("VDI version {}.{}; 1.1 is read", version >> 16, version & 0xffff),
        ));
    }
    // The header counts from byte 72: 384 bytes in VDI 1.1, 400 with the second geometry.
    let len = le32(header, 0x48)?;
    if !(0x180..=0x1b8).contains(&len) {
        return Err(bad(format!("a header of {len} bytes")));
    }
    match le32(header, 0x4c)? {
        DYNAMIC | STATIC => {}
        kind @ (3 | 4) => {
            let name = if kind == 3 { "an undo" } else { "a differencing" };
            return Err(Error::refused(
                Code::BackingFile,
                format!("VDI: {name} image continues a parent disk"),
            ));
        }
        kind => return Err(Error::refused(Code::UnsupportedFeature, format!("VDI: image type {kind}"))),
    }
    if [0x1a8..0x1b8, 0x1b8..0x1c8]
        .into_iter()
        .any(|uuid| header.get(uuid).is_none_or(|u| u.iter().any(|b| *b != 0)))
    {
        return Err(Error::refused(Code::BackingFile, "VDI: the UUID of a parent disk is set"));
    }
    let (sector, block, extra) = (le32(header, 0x168)?, le32(header, 0x178)?, le32(header, 0x17c)?);
    if u64::from(sector) != SECTOR {
        return Err(bad(format!("sectors of {sector} bytes")));
    }
    if u64::from(block) != BLOCK || extra != 0 {
        return Err(Error::refused(
            Code::UnsupportedFeature,
            format!("VDI: blocks of {block} bytes with {extra} extra; 1 MiB without extra is accepted"),
        ));
    }
    Ok(())
}

/// The walk's state.
#[derive(Debug)]
pub(crate) struct VdiTables {
    layout: VdiLayout,
    map: Table<4>,
    claims: Claims,
    next: u64,
}

impl Tables for VdiTables {
    fn step(&mut self, regions: &Regions, out: &mut Stretch) -> Result<()> {
        let view = View::whole(regions);
        for _ in 0..STEP.min(self.layout.blocks - self.next) {
            let block = u32::from_le_bytes(self.map.entry(view, self.next)?);
            if matches!(block, UNALLOCATED | DISCARDED) {
                out.push(BLOCK, Stored::Zero);
            } else {
                if u64::from(block) >= self.layout.allocated {
                    return Err(Error::refused(
                        Code::BadTable,
                        format!(
                            "VDI: map entry {} names block {block}, but {} are allocated",
                            self.next, self.layout.allocated
                        ),
                    ));
                }
                let offset = self.layout.blocks_at + u64::from(block) * BLOCK;
                self.claims.claim(offset, BLOCK, "VDI block")?;
                out.push(BLOCK, Stored::Raw { offset });
            }
            self.next += 1;
        }
        Ok(())
    }
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadHeader, format!("VDI: {message}"))
}
