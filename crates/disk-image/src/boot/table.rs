//! Partition tables: the master boot record (UEFI 2.10, 5.2) and the GPT behind it (5.3).
//!
//! A GPT counts as firmware counts it: the master boot record protects it and its checksums are right. Partitions inside of an
//! extended one are left out. So is the copy of a GPT at the disk's end: firmware goes there only where the first one is broken.

use super::{Machine, Table, disk::Disk};
use crate::{
    error::Result,
    fields::{le32, le64},
};

/// Most bytes of a GPT's entries; nearly all have 16 KiB.
const MAX_ENTRIES: u64 = 64 << 10;
const SECTOR: u64 = 512;
/// "Legacy BIOS bootable" (UEFI 2.10, 5.3.3).
const LEGACY_BOOT: u64 = 1 << 2;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The EFI system partition.
    Efi,
    /// A FAT, by its type.
    Fat,
    /// GRUB's second stage on a GPT.
    BiosBoot,
    /// The root file system for that machine.
    Root(Machine),
    /// Anything else.
    Other,
}

/// A partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partition {
    /// Its first byte.
    pub(super) start: u64,
    /// One past its last byte.
    pub(super) end: u64,
    /// What it is for.
    pub(super) kind: Kind,
    /// Whether it is marked for a BIOS to start.
    pub(super) active: bool,
}

/// The table of a disk that begins with `head`, and its partitions.
pub(super) fn read(disk: &Disk<'_>, head: &[u8]) -> Result<(Table, Vec<Partition>)> {
    let Some((records, is_protective)) = master_boot_record(head) else {
        return Ok((Table::None, Vec::new()));
    };
    if is_protective {
        for sector in [512, 4096] {
            if let Some(mut partitions) = gpt(disk, u64::from(sector))? {
                // Of a hybrid record only the mark counts.
                partitions.extend(
                    records.iter().filter(|p| p.active).map(|p| Partition { kind: Kind::Other, ..*p }),
                );
                return Ok((Table::Gpt(sector), partitions));
            }
        }
    }
    Ok((Table::Mbr, records))
}

/// The four records, and whether one of them protects a GPT; `None` where the sector is something else.
fn master_boot_record(head: &[u8]) -> Option<(Vec<Partition>, bool)> {
    let records = head.get(446..510)?;
    if head.get(510..512) != Some(&[0x55, 0xaa]) || is_boot_sector(head) {
        return None;
    }
    let (mut partitions, mut is_protective) = (Vec::new(), false);
    for record in records.chunks_exact(16) {
        let status = *record.first()?;
        let kind = *record.get(4)?;
        let (start, sectors) = (le32(record, 8).ok()?, le32(record, 12).ok()?);
        if status & 0x7f != 0 {
            return None;
        }
        is_protective |= kind == 0xee && start == 1;
        if kind == 0 || kind == 0xee || sectors == 0 {
            continue;
        }
        partitions.push(Partition {
            start: u64::from(start) * SECTOR,
            end: (u64::from(start) + u64::from(sectors)) * SECTOR,
            kind: match kind {
                0xef => Kind::Efi,
                0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => Kind::Fat,
                _ => Kind::Other,
            },
            active: status == 0x80,
        });
    }
    (is_protective || !partitions.is_empty()).then_some((partitions, is_protective))
}

/// Whether the first sector belongs to a file system rather than to a table: it says FAT or NTFS where these have their names.
fn is_boot_sector(head: &[u8]) -> bool {
    let is = |at: usize, name: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(name));
    is(3, b"NTFS    ") || is(3, b"EXFAT   ") || is(54, b"FAT1") || is(82, b"FAT32   ")
}

fn gpt(disk: &Disk<'_>, sector: u64) -> Result<Option<Vec<Partition>>> {
    let Some(header) = disk.read(sector, SECTOR)?.filter(|header| header.starts_with(b"EFI PART")) else {
        return Ok(None);
    };
    let (len, sum, place) = (le32(header, 12)?, le32(header, 16)?, le64(header, 24)?);
    let (entries_at, count, size) = (le64(header, 72)?, le32(header, 80)?, le32(header, 84)?);
    let entries_sum = le32(header, 88)?;
    let checked = usize::try_from(len).ok().filter(|len| *len >= 92).and_then(|len| header.get(..len));
    let is_sound = checked.is_some_and(|header| {
        let mut header = header.to_vec();
        header.splice(16..20, [0; 4]);
        crc32(&header) == sum
    });
    let bytes = u64::from(count) * u64::from(size);
    if !is_sound || place != 1 || !size.is_power_of_two() || size < 128 || bytes > MAX_ENTRIES {
        return Ok(None);
    }
    let Some(entries_at) = entries_at.checked_mul(sector) else { return Ok(None) };
    let Some(entries) = disk.read(entries_at, bytes)?.filter(|entries| crc32(entries) == entries_sum) else {
        return Ok(None);
    };
    let mut partitions = Vec::new();
    for entry in entries.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX)) {
        let (first, last, attributes) = (le64(entry, 32)?, le64(entry, 40)?, le64(entry, 48)?);
        let start = first.checked_mul(sector);
        let end = last.checked_add(1).and_then(|end| end.checked_mul(sector));
        let (Some(kind), Some((start, end))) = (kind_of(entry), start.zip(end)) else { continue };
        partitions.push(Partition { start, end, kind, active: attributes & LEGACY_BOOT != 0 });
    }
    Ok(Some(partitions))
}

/// By an entry's type; `None` where the entry is unused.
fn kind_of(entry: &[u8]) -> Option<Kind> {
    let kind = entry.get(..16).filter(|kind| **kind != [0; 16])?;
    let known = [
        // UEFI 2.10, 5.3.3; GNU GRUB manual, "BIOS installation"; Discoverable Partitions Specification.
        (guid(0xc12a_7328, 0xf81f, 0x11d2, 0xba4b, 0x00a0_c93e_c93b), Kind::Efi),
        (guid(0x2168_6148, 0x6449, 0x6e6f, 0x744e, 0x6565_6445_4649), Kind::BiosBoot),
        (guid(0x4f68_bce3, 0xe8cd, 0x4db1, 0x96e7, 0xfbca_f984_b709), Kind::Root(Machine::X86_64)),
        (guid(0xb921_b045, 0x1df0, 0x41c3, 0xaf44, 0x4c6f_280d_3fae), Kind::Root(Machine::Aarch64)),
    ];
    Some(known.iter().find(|(guid, _)| guid == kind).map_or(Kind::Other, |(_, kind)| *kind))
}

/// A GUID of the five numbers that it is written with, as it lies on a disk (UEFI 2.10, appendix A).
fn guid(a: u32, b: u16, c: u16, d: u16, e: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let parts =
        [&a.to_le_bytes()[..], &b.to_le_bytes(), &c.to_le_bytes(), &d.to_be_bytes(), &e.to_be_bytes()[2..]];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes)).unwrap_or(u32::MAX)
}
