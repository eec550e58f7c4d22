//! FAT file systems, as far as the way to `\EFI\BOOT` (Microsoft, "FAT: General Overview of On-Disk Format", 1.03).
//!
//! All names on that way are of the old form, 8 and 3 characters, so long names are passed over.

use super::disk::Disk;
use crate::{
    error::Result,
    fields::{le16, le32},
};

const ENTRY: usize = 32;
/// A volume's label, and each piece of a long name.
const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// Clusters of a directory that are looked at; one holds all that an installer puts there.
const MAX_CLUSTERS: usize = 8;
/// Bytes of a cluster, and of a root directory with a place of its own.
const MAX_CLUSTER: u64 = 64 << 10;

/// A file system that is sound as far as it is needed.
pub(super) struct Fat<'a> {
    disk: &'a Disk<'a>,
    width: Width,
    /// The first allocation table.
    table_at: u64,
    /// Where cluster 2 begins.
    data_at: u64,
    end: u64,
    cluster: u64,
    clusters: u64,
    root: Directory,
}

/// Bits of an entry in the allocation table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

/// Where a directory's entries are.
#[derive(Clone, Copy)]
enum Directory {
    /// In one place.
    Fixed { at: u64, len: u64 },
    /// In a chain that begins with this cluster.
    Chain(u64),
}

/// A file or directory.
#[derive(Clone, Copy)]
struct Entry {
    is_directory: bool,
    cluster: u64,
    size: u64,
}

/// What was found of a name in a stretch of a directory.
enum Found {
    Entry(Entry),
    /// The directory ends.
    End,
    /// It goes on.
    NotYet,
}

impl<'a> Fat<'a> {
    /// The file system between these bytes of the disk, if there is one.
    pub(super) fn open(disk: &'a Disk<'a>, start: u64, end: u64) -> Result<Option<Self>> {
        let Some(sector) = disk.read(start, 512)?.filter(|sector| sector.get(510..) == Some(&[0x55, 0xaa]))
        else {
            return Ok(None);
        };
        let byte = |at: usize| u64::from(sector.get(at).copied().unwrap_or(0));
        let short = |at: usize| le16(sector, at).map(u64::from);
        let long = |at: usize| le32(sector, at).map(u64::from);
        let (bytes, per_cluster, reserved, tables) = (short(11)?, byte(13), short(14)?, byte(16));
        let (root_entries, short_table) = (short(17)?, short(22)?);
        let table = if short_table == 0 { long(36)? } else { short_table };
        let sectors = match short(19)? {
            0 => long(32)?,
            sectors => sectors,
        };
        let root_len = root_entries * ENTRY as u64;
        let cluster = bytes * per_cluster;
        if ![512, 1024, 2048, 4096].contains(&bytes)
            || !per_cluster.is_power_of_two()
            || [reserved, tables, table].contains(&0)
            || cluster > MAX_CLUSTER
        {
            return Ok(None);
        }
        let root_sector = reserved + tables * table;
        let data_sector = root_sector + root_len.div_ceil(bytes);
        let clusters = sectors.saturating_sub(data_sector) / per_cluster;
        // Firmware holds to the counts by which the widths are told apart, so a small volume of 32 bits is none to it.
        let width = match (clusters, short_table) {
            (65_525.., 0) => Width::ThirtyTwo,
            (1..4085, 1..) => Width::Twelve,
            (4085..65_525, 1..) => Width::Sixteen,
            _ => return Ok(None),
        };
        let place = |sector: u64| start.checked_add(sector * bytes);
        let (Some(table_at), Some(root_at), Some(data_at)) =
            (place(reserved), place(root_sector), place(data_sector))
        else {
            return Ok(None);
        };
        let root = match width {
            Width::ThirtyTwo => Directory::Chain(long(44)?),
            Width::Twelve | Width::Sixteen => {
                Directory::Fixed { at: root_at, len: root_len.min(MAX_CLUSTER) }
            }
        };
        Ok(Some(Self { disk, width, table_at, data_at, end, cluster, clusters, root }))
    }

    /// Whether `\EFI\BOOT` holds a program of that name and for that machine.
    pub(super) fn has_loader(&self, (name, machine): (&[u8; 11], u16)) -> Result<bool> {
        let mut directory = self.root;
        for name in [b"EFI        ", b"BOOT       "] {
            match self.find(directory, name)? {
                Some(Entry { is_directory: true, cluster, .. }) => directory = Directory::Chain(cluster),
                _ => return Ok(false),
            }
        }
        match self.find(directory, name)? {
            Some(file) if !file.is_directory => self.is_program(file, machine),
            _ => Ok(false),
        }
    }

    /// Whether a file begins as a program for that machine does (PE format, "MS-DOS Stub", "COFF File Header").
    fn is_program(&self, file: Entry, machine: u16) -> Result<bool> {
        let Some(at) = self.place(file.cluster) else { return Ok(false) };
        // The header is near the file's begin; how the file goes on doesn't matter.
        let Some(begin) =
            self.read(at, file.size.min(self.cluster))?.filter(|begin| begin.starts_with(b"MZ"))
        else {
            return Ok(false);
        };
        let header = le32(begin, 0x3c).ok().and_then(|at| begin.get(usize::try_from(at).ok()?..));
        let header = header.and_then(|header| header.strip_prefix(b"PE\0\0"));
        Ok(header.is_some_and(|header| le16(header, 0) == Ok(machine)))
    }

    fn find(&self, directory: Directory, name: &[u8; 11]) -> Result<Option<Entry>> {
        let mut cluster = match directory {
            Directory::Fixed { at, len } => {
                let entries = self.read(at, len)?.unwrap_or_default();
                return Ok(match self.search(entries, name)? {
                    Found::Entry(entry) => Some(entry),
                    Found::End | Found::NotYet => None,
                });
            }
            Directory::Chain(first) => first,
        };
        for _ in 0..MAX_CLUSTERS {
            let Some(at) = self.place(cluster) else { return Ok(None) };
            let Some(entries) = self.read(at, self.cluster)? else { return Ok(None) };
            match self.search(entries, name)? {
                Found::Entry(entry) => return Ok(Some(entry)),
                Found::End => return Ok(None),
                Found::NotYet => {}
            }
            let Some(next) = self.next(cluster)? else { return Ok(None) };
            cluster = next;
        }
        self.disk.miss();
        Ok(None)
    }

    /// The cluster behind this one; `None` where the table can't be read.
    fn next(&self, cluster: u64) -> Result<Option<u64>> {
        let (at, len) = match self.width {
            Width::Twelve => (cluster + cluster / 2, 2),
            Width::Sixteen => (cluster * 2, 2),
            Width::ThirtyTwo => (cluster * 4, 4),
        };
        let Some(entry) = self.read(self.table_at.saturating_add(at), len)? else { return Ok(None) };
        Ok(Some(match self.width {
            Width::Twelve if cluster % 2 == 1 => u64::from(le16(entry, 0)? >> 4),
            Width::Twelve => u64::from(le16(entry, 0)? & 0xfff),
            Width::Sixteen => u64::from(le16(entry, 0)?),
            Width::ThirtyTwo => u64::from(le32(entry, 0)? & 0x0fff_ffff),
        }))
    }

    /// Where a cluster lies; `None` where it is none: the marks for a chain's end are no clusters either.
    fn place(&self, cluster: u64) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
        self.data_at.checked_add(index * self.cluster)
    }

    /// Bytes of the file system.
    fn read(&self, at: u64, len: u64) -> Result<Option<&'a [u8]>> {
        if at.checked_add(len).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        self.disk.read(at, len)
    }

    fn search(&self, entries: &[u8], name: &[u8; 11]) -> Result<Found> {
        for entry in entries.chunks_exact(ENTRY) {
            if entry.starts_with(&[0]) {
                return Ok(Found::End);
            }
            let attributes = entry.get(11).copied().unwrap_or(VOLUME_LABEL);
            if !entry.starts_with(name) || attributes & VOLUME_LABEL != 0 {
                continue;
            }
            // Narrower tables have something else in the upper half.
            let high = if self.width == Width::ThirtyTwo { u64::from(le16(entry, 20)?) } else { 0 };
            return Ok(Found::Entry(Entry {
                is_directory: attributes & DIRECTORY != 0,
                cluster: high << 16 | u64::from(le16(entry, 26)?),
                size: u64::from(le32(entry, 28)?),
            }));
        }
        Ok(Found::NotYet)
    }
}
