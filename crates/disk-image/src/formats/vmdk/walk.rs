//! Grain directory and grain tables, in virtual order.
//!
//! Goal: of a compressed grain only its first sector is in the tables; its length is in front of its bytes. Reading that from each grain
//! would be a request a grain, so a grain's bytes are taken to end where the next one known begins, and whoever decodes it checks the
//! marker. Only the last grain of a batch has no next one: its marker is read here, which also finds a file that was cut.
//!
//! Memory: one batch of grain tables.

use super::{SECTOR, TABLE_ENTRIES, VmdkLayout};
use crate::{
    claims::Claims,
    error::{Code, Error, Result},
    extent::Stored,
    fields::{le32, le64},
    formats::table::Table,
    formats::view::View,
    regions::{ByteRange, Regions},
    walk::{Stretch, Tables},
};

/// Grain tables read at once: 8 GiB of the disk at the usual grain of 64 KiB, one range of 512 KiB where they are neighbours.
const BATCH: u64 = 256;
/// Tables of a batch that lie this close are read as one range.
const GAP: u64 = 16 << 10;
const TABLE_BYTES: u64 = TABLE_ENTRIES * 4;
/// Sector of the disk (u64) and length (u32), in front of the compressed bytes.
const MARKER_BYTES: u64 = 12;
/// A table's entry for a grain of zeros, if the header's flag says so.
const ZERO_GRAIN: u32 = 1;

/// The walk's state.
#[derive(Debug)]
pub(crate) struct VmdkTables {
    layout: VmdkLayout,
    directory: Table<4>,
    /// With the directory, from the first batch on. Header and descriptor lie before the first grain's place.
    claims: Option<Claims>,
    /// Next entry of the directory.
    next: u64,
    /// Grain tables whose grains aren't given out yet: directory entries from `next`.
    batch: Option<Vec<u32>>,
}

impl VmdkTables {
    pub(super) fn new(layout: VmdkLayout) -> Self {
        let count = layout.grains().div_ceil(TABLE_ENTRIES);
        let directory = Table::new("VMDK grain directory", layout.directory, count);
        Self { layout, directory, claims: None, next: 0, batch: None }
    }

    fn claim(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let layout = &self.layout;
        let claims = match &mut self.claims {
            Some(claims) => claims,
            none => {
                let mut claims = Claims::new(layout.base.saturating_add(layout.size));
                let bytes = (self.directory.count() * 4).next_multiple_of(SECTOR);
                claims.claim(layout.base + layout.directory, bytes, "VMDK grain directory")?;
                none.insert(claims)
            }
        };
        claims.claim(layout.base + offset, len, what)
    }

    fn tables_left(&self) -> u64 {
        (self.directory.count() - self.next).min(BATCH)
    }

    /// Reads the next tables; the sectors of all their grains, 0 where a table is absent. Nothing where all are.
    fn load(&mut self, view: View<'_>) -> Result<Vec<u32>> {
        let mut tables = Vec::new();
        for index in self.next..self.next + self.tables_left() {
            let sector = u32::from_le_bytes(self.directory.entry(view, index)?);
            let offset = u64::from(sector) * SECTOR;
            if sector != 0 && !view.holds(offset, TABLE_BYTES) {
                return Err(Error::refused(
                    Code::OutOfBounds,
                    format!("VMDK: grain table {index} at sector {sector} is outside of the file"),
                ));
            }
            tables.push(offset);
        }
        let mut sectors = Vec::new();
        if tables.iter().all(|offset| *offset == 0) {
            return Ok(sectors);
        }
        view.need(&joined(&tables))?;
        for offset in tables {
            if offset == 0 {
                sectors.resize(sectors.len() + 512, 0);
                continue;
            }
            self.claim(offset, TABLE_BYTES, "VMDK grain table")?;
            let table = view.read(offset, TABLE_BYTES, "VMDK grain table")?;
            sectors.extend(table.chunks_exact(4).map_while(|e| e.try_into().ok()).map(u32::from_le_bytes));
        }
        Ok(sectors)
    }

    fn is_zero(&self, sector: u32) -> bool {
        sector == 0 || (self.layout.zero_grains && sector == ZERO_GRAIN)
    }

    /// Where each stored grain ends at most, sorted by where it begins.
    fn ends(&self, view: View<'_>, sectors: &[u32], first: u64) -> Result<Vec<(u32, u64)>> {
        let mut begins: Vec<(u32, u64)> = sectors
            .iter()
            .zip(first..)
            .filter(|(s, _)| !self.is_zero(**s))
            .map(|(s, grain)| (*s, grain))
            .collect();
        begins.sort_unstable();
        let Some(&(last, grain)) = begins.last() else { return Ok(Vec::new()) };
        self.check_place(view, last, MARKER_BYTES + 1)?;
        let end = self.marked_end(view, last, grain)?;
        let nexts = begins.iter().skip(1).map(|(s, _)| u64::from(*s) * SECTOR).chain([end]);
        let most = self.longest();
        Ok(begins
            .iter()
            .zip(nexts)
            .map(|((s, _), end)| (*s, end.min(u64::from(*s) * SECTOR + most)))
            .collect())
    }

    /// Marker and stream of a grain: deflate's fixed codes need 9 bits a byte at worst; stored blocks less.
    fn longest(&self) -> u64 {
        MARKER_BYTES + self.layout.grain + self.layout.grain / 8 + 64
    }

    /// Where the grain at `sector` ends by its own marker.
    fn marked_end(&self, view: View<'_>, sector: u32, grain: u64) -> Result<u64> {
        let offset = u64::from(sector) * SECTOR;
        let marker = view.read(offset, MARKER_BYTES, "VMDK grain")?;
        let (lba, len) = (le64(marker, 0)?, u64::from(le32(marker, 8)?));
        if lba.checked_mul(SECTOR) != grain.checked_mul(self.layout.grain) {
            return Err(Error::refused(
                Code::BadTable,
                format!(
                    "VMDK: the grain at sector {sector} is for sector {lba} of the disk, the tables say otherwise"
                ),
            ));
        }
        if len == 0 || MARKER_BYTES + len > self.longest() {
            return Err(Error::refused(
                Code::BadData,
                format!("VMDK: a compressed grain of {len} bytes at sector {sector}"),
            ));
        }
        let end = offset + MARKER_BYTES + len;
        if end > view.size() {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "VMDK: the grain at sector {sector} ends at byte {end}, but the file has {} bytes",
                    view.size()
                ),
            ));
        }
        Ok(end)
    }

    fn check_place(&self, view: View<'_>, sector: u32, len: u64) -> Result<u64> {
        let offset = u64::from(sector) * SECTOR;
        if u64::from(sector) < self.layout.overhead.max(1) {
            return Err(Error::refused(
                Code::BadTable,
                format!(
                    "VMDK: a grain at sector {sector}, inside the metadata of {} sectors",
                    self.layout.overhead
                ),
            ));
        }
        if !view.holds(offset, len) {
            return Err(Error::refused(
                Code::Truncated,
                format!("VMDK: a grain at sector {sector}, but the file ends at byte {}", view.size()),
            ));
        }
        Ok(offset)
    }

    fn push_raw(&mut self, view: View<'_>, sectors: &[u32], first: u64, out: &mut Stretch) -> Result<()> {
        for (sector, grain) in sectors.iter().zip(first..) {
            let len = self.grain_len(grain);
            if self.is_zero(*sector) {
                out.push(len, Stored::Zero);
                continue;
            }
            let offset = self.check_place(view, *sector, len)?;
            self.claim(offset, len, "VMDK grain")?;
            out.push(len, Stored::Raw { offset: view.base() + offset });
        }
        Ok(())
    }

    fn push_compressed(
        &mut self,
        view: View<'_>,
        sectors: &[u32],
        first: u64,
        out: &mut Stretch,
    ) -> Result<()> {
        let ends = self.ends(view, sectors, first)?;
        for (sector, grain) in sectors.iter().zip(first..) {
            let len = self.grain_len(grain);
            if self.is_zero(*sector) {
                out.push(len, Stored::Zero);
                continue;
            }
            let offset = self.check_place(view, *sector, MARKER_BYTES + 1)?;
            // Only where it begins is sure here; two grains can't begin in one sector.
            self.claim(offset, SECTOR, "VMDK grain")?;
            let end = ends
                .binary_search_by_key(sector, |(s, _)| *s)
                .ok()
                .and_then(|at| ends.get(at))
                .map(|(_, end)| *end);
            let stored = end
                .and_then(|end| u32::try_from(end - offset).ok())
                .zip(u32::try_from(self.layout.grain).ok());
            let (stored, unit) = stored.ok_or_else(|| {
                Error::refused(Code::BadTable, format!("VMDK: the grain at sector {sector} has no end"))
            })?;
            out.push(len, Stored::Grain { offset: view.base() + offset, len: stored, skip: 0, unit });
        }
        Ok(())
    }

    /// Bytes of the disk in a grain; the last one may be cut.
    fn grain_len(&self, grain: u64) -> u64 {
        self.layout
            .virtual_size
            .saturating_sub(grain.saturating_mul(self.layout.grain))
            .min(self.layout.grain)
    }
}

impl Tables for VmdkTables {
    fn step(&mut self, regions: &Regions, out: &mut Stretch) -> Result<()> {
        let view = View::part(regions, self.layout.base, self.layout.size)?;
        let count = self.tables_left();
        if count == 0 {
            return Ok(());
        }
        let first = self.next * TABLE_ENTRIES;
        let sectors = match self.batch.take() {
            Some(sectors) => sectors,
            None => self.load(view)?,
        };
        if sectors.is_empty() {
            out.push(count * TABLE_ENTRIES * self.layout.grain, Stored::Zero);
            self.next += count;
            return Ok(());
        }
        // Entries behind the disk's last grain are nobody's.
        let used = usize::try_from(self.layout.grains() - first).unwrap_or(usize::MAX).min(sectors.len());
        let pushed = if self.layout.compressed {
            self.push_compressed(view, &sectors[..used], first, out)
        } else {
            self.push_raw(view, &sectors[..used], first, out)
        };
        // Only the marker of the last grain is asked for after the tables were read, before anything is given out.
        if let Err(Error::Need(_)) = pushed {
            self.batch = Some(sectors);
            return pushed;
        }
        self.next += count;
        pushed
    }
}

/// The tables at `offsets` (0: none) as few ranges.
fn joined(offsets: &[u64]) -> Vec<ByteRange> {
    let mut sorted: Vec<u64> = offsets.iter().copied().filter(|o| *o != 0).collect();
    sorted.sort_unstable();
    let mut ranges: Vec<ByteRange> = Vec::new();
    for start in sorted {
        let end = start + TABLE_BYTES;
        match ranges.last_mut() {
            Some(last) if start <= last.end + GAP => last.end = last.end.max(end),
            _ => ranges.push(ByteRange { start, end }),
        }
    }
    ranges
}
