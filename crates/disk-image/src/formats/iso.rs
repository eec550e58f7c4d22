//! ISO 9660 images: stored as they are, once their volume descriptor is sound.
//!
//! Threat model: the first 32 KiB ("system area") belong to no standard and may hold a partition table (hybrid images) or a
//! boot loader, and nothing there is interpreted here. Other formats' signatures there are polyglots, refused by
//! [`inspect`](crate::inspect::inspect). Field offsets are ECMA-119, 8.4.

use crate::{
    error::{Code, Error, Result},
    fields::{be16, be32, le16, le32},
    formats::raw::RawLayout,
    regions::Regions,
};

const SECTOR: u64 = 2048;
/// Volume descriptors begin in sector 16.
const FIRST_DESCRIPTOR: u64 = 16;
/// Honest images have a handful of volume descriptors before the terminator.
const MAX_DESCRIPTORS: u64 = 64;
const PRIMARY: u8 = 1;
const TERMINATOR: u8 = 255;

/// The primary volume descriptor's size fits the file.
pub(crate) fn open(regions: &Regions) -> Result<RawLayout> {
    for sector in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + MAX_DESCRIPTORS {
        let descriptor = regions.read(sector * SECTOR, 2048)?;
        if descriptor.get(1..6) != Some(b"CD001") {
            return Err(bad(format!("sector {sector} holds no volume descriptor")));
        }
        match descriptor.first() {
            Some(&PRIMARY) => {
                check_size(descriptor, regions.size())?;
                return Ok(RawLayout::open(regions));
            }
            Some(&TERMINATOR) => break,
            _ => {}
        }
    }
    Err(bad("no primary volume descriptor before the terminator".into()))
}

fn check_size(descriptor: &[u8], file_size: u64) -> Result<()> {
    let (blocks, blocks_be) = (le32(descriptor, 80)?, be32(descriptor, 84)?);
    let (block, block_be) = (le16(descriptor, 128)?, be16(descriptor, 130)?);
    if blocks != blocks_be || block != block_be {
        return Err(bad("the two byte orders of the volume size differ".into()));
    }
    if !matches!(block, 512 | 1024 | 2048) {
        return Err(bad(format!("logical blocks of {block} bytes")));
    }
    let volume = u64::from(blocks) * u64::from(block);
    if volume > file_size {
        return Err(Error::refused(
            Code::Truncated,
            format!("the ISO 9660 volume has {volume} bytes, but the file has {file_size}"),
        ));
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::refused(Code::BadHeader, format!("ISO 9660: {message}"))
}
