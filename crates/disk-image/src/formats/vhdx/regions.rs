//! The region table: where block allocation table and metadata are.

use std::collections::HashSet;

use super::{HEADER_SECTION, bad, check_region, checksum_holds};
use crate::{
    error::{Code, Error, Result},
    fields::{le32, le64},
    formats::view::View,
};

const TABLE_BYTES: u64 = 64 << 10;
/// Both copies.
const TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// Of the second one.
pub(super) const END: u64 = TABLES[1] + TABLE_BYTES;
const ENTRY_BYTES: usize = 32;
/// As the specification says: what fits.
const MAX_ENTRIES: u32 = 2047;

/// 2DC27766-F623-4200-9D64-115E9BFD4A08
const BAT: [u8; 16] = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
/// 8B7CA206-4790-4B9A-B8FE-575F050F886E
const METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";

/// Offset and length of each region.
pub(super) struct Found {
    pub(super) table: (u64, u64),
    pub(super) metadata: (u64, u64),
}

pub(super) fn open(view: View<'_>) -> Result<Found> {
    let mut valid = Vec::new();
    for at in TABLES {
        let table = view.read(at, TABLE_BYTES, "VHDX region table")?;
        if table.starts_with(b"regi") && checksum_holds(table)? {
            valid.push(table);
        }
    }
    match valid.as_slice() {
        [] => Err(bad("neither region table is valid")),
        [only] => parse(view, only),
        [first, second, ..] if first == second => parse(view, first),
        _ => Err(bad("the two region tables differ")),
    }
}

fn parse(view: View<'_>, table: &[u8]) -> Result<Found> {
    let count = le32(table, 8)?;
    if count > MAX_ENTRIES {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("VHDX: {count} regions, more than {MAX_ENTRIES}"),
        ));
    }
    let (mut bat, mut metadata) = (None, None);
    let mut seen = HashSet::new();
    let entries = table.get(16..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    for entry in entries.take(usize::try_from(count).unwrap_or_default()) {
        let guid = entry.get(..16).unwrap_or_default();
        if !seen.insert(guid) {
            return Err(Error::refused(Code::BadTable, "VHDX: a region is listed twice"));
        }
        let region = || check_region(view, le64(entry, 16)?, u64::from(le32(entry, 24)?), "region");
        if guid == BAT {
            bat = Some(region()?);
        } else if guid == METADATA {
            metadata = Some(region()?);
        } else if le32(entry, 28)? & 1 != 0 {
            return Err(Error::refused(
                Code::UnsupportedFeature,
                format!("VHDX: an unknown region is required ({})", super::metadata::hex(guid)),
            ));
        }
    }
    match (bat, metadata) {
        (Some(table), Some(metadata)) => Ok(Found { table, metadata }),
        _ => Err(bad(format!(
            "no block allocation table or no metadata behind the first {HEADER_SECTION} bytes"
        ))),
    }
}
