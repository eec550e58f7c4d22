//! Metadata items: sizes, and whether there is a parent.

use std::collections::HashMap;

use super::{MIB, bad};
use crate::{
    error::{Code, Error, Result},
    fields::{le16, le32, le64},
    formats::view::View,
    regions::ByteRange,
};

const TABLE_BYTES: u64 = 64 << 10;
const ENTRY_BYTES: usize = 32;
const MAX_ENTRIES: u16 = 2047;
/// The format's limit of an item.
const MAX_ITEM: u64 = MIB;
const IS_USER: u32 = 1;
const IS_REQUIRED: u32 = 4;
const HAS_PARENT: u32 = 2;
const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
/// 64 TiB, the format's limit.
const MAX_DISK: u64 = 64 << 40;

/// CAA16737-FA36-4D43-B3B6-33F0AA44E76B
const PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
/// 2FA54224-CD1B-4876-B211-5DBED83BF4B8
const DISK_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
/// BECA12AB-B2E6-4523-93EF-C309E000C746
const DISK_ID: [u8; 16] = *b"\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46";
/// 8141BF1D-A96F-4709-BA47-F233A8FAAB5F
const LOGICAL_SECTOR: [u8; 16] = *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";
/// CDA348C7-445D-4471-9CC9-E9885251C556
const PHYSICAL_SECTOR: [u8; 16] = *b"\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56";
/// A8D35F2D-B30B-454D-ABF7-D3D84834AB0C
const PARENT_LOCATOR: [u8; 16] = *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";

/// What the items say.
pub(super) struct Metadata {
    pub(super) virtual_size: u64,
    pub(super) block: u64,
    pub(super) logical_sector: u64,
}

pub(super) fn open(view: View<'_>, region: (u64, u64)) -> Result<Metadata> {
    let table = view.read(region.0, TABLE_BYTES, "VHDX metadata table")?;
    let items = list(table, region)?;
    if items.contains_key(&PARENT_LOCATOR) {
        return Err(Error::refused(Code::BackingFile, "VHDX: a parent locator names a parent disk"));
    }
    let places = [PARAMETERS, DISK_SIZE, LOGICAL_SECTOR, PHYSICAL_SECTOR].map(|id| items.get(&id).copied());
    let [Some(parameters), Some(size), Some(logical), Some(physical)] = places else {
        return Err(bad("one of the required metadata items is missing"));
    };
    for (item, len) in [(parameters, 8), (size, 8), (logical, 4), (physical, 4)] {
        if item.1 != len {
            return Err(bad(format!("a metadata item of {} bytes instead of {len}", item.1)));
        }
    }
    let needed =
        [parameters, size, logical, physical].map(|(start, len)| ByteRange { start, end: start + len });
    view.need(&needed)?;
    let read = |(at, len): (u64, u64)| view.read(at, len, "VHDX metadata item");
    check(read(parameters)?, le64(read(size)?, 0)?, le32(read(logical)?, 0)?, le32(read(physical)?, 0)?)
}

/// Items by identifier: offset in the file and length.
fn list(table: &[u8], region: (u64, u64)) -> Result<HashMap<[u8; 16], (u64, u64)>> {
    if !table.starts_with(b"metadata") {
        return Err(bad("the metadata region has no table"));
    }
    let count = le16(table, 10)?;
    if count > MAX_ENTRIES {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("VHDX: {count} metadata items, more than {MAX_ENTRIES}"),
        ));
    }
    let mut items = HashMap::new();
    for entry in
        table.get(ENTRY_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES).take(usize::from(count))
    {
        let Some(id) = entry.first_chunk::<16>() else { continue };
        let (at, len, flags) = (u64::from(le32(entry, 16)?), u64::from(le32(entry, 20)?), le32(entry, 24)?);
        let known =
            [PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR].contains(id);
        if flags & IS_USER != 0 || !known {
            if flags & IS_REQUIRED != 0 {
                return Err(Error::refused(
                    Code::UnsupportedFeature,
                    format!("VHDX: an unknown metadata item is required ({})", hex(id)),
                ));
            }
            continue;
        }
        if at < TABLE_BYTES || len == 0 || len > MAX_ITEM || at + len > region.1 {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!(
                    "VHDX: a metadata item of {len} bytes at {at} is outside of its region of {} bytes",
                    region.1
                ),
            ));
        }
        if items.insert(*id, (region.0 + at, len)).is_some() {
            return Err(Error::refused(Code::BadTable, "VHDX: a metadata item is there twice"));
        }
    }
    Ok(items)
}

fn check(parameters: &[u8], virtual_size: u64, logical: u32, physical: u32) -> Result<Metadata> {
    let (block, flags) = (u64::from(le32(parameters, 0)?), le32(parameters, 4)?);
    if flags & HAS_PARENT != 0 {
        return Err(Error::refused(Code::BackingFile, "VHDX: a differencing disk continues a parent disk"));
    }
    if flags & !LEAVE_BLOCKS_ALLOCATED != 0 {
        return Err(Error::refused(
            Code::UnsupportedFeature,
            format!("VHDX: file parameter flags {flags:#x}"),
        ));
    }
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return Err(bad(format!("blocks of {block} bytes; a power of two from 1 to 256 MiB is allowed")));
    }
    if !matches!(logical, 512 | 4096) || !matches!(physical, 512 | 4096) {
        return Err(bad(format!("logical sectors of {logical} bytes, physical sectors of {physical}")));
    }
    let logical_sector = u64::from(logical);
    if !virtual_size.is_multiple_of(logical_sector) || virtual_size > MAX_DISK {
        return Err(bad(format!("a disk of {virtual_size} bytes: not whole sectors, or beyond 64 TiB")));
    }
    Ok(Metadata { virtual_size, block, logical_sector })
}

/// An identifier's bytes, as they are in the file.
pub(super) fn hex(id: &[u8]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}
