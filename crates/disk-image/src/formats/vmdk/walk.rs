//! Grain directory and grain tables, in virtual order.
//!
//! Goal: of a compressed grain only its first sector is in the tables; its length is in front of its bytes. Reading that
//! from each grain would be a request a grain. So a grain's bytes are taken to end where the next one known begins, and
//! whoever decodes it checks the marker. Only the last grain of a window has no next one: its marker is read here, which
//! also finds a file that was cut.
//!
//! Memory: one window of grain tables.

use super::{SECTOR, TABLE_ENTRIES, VmdkLayout};
use crate::{
    claims::Claims,
    error::{Code, Error, Result},
    extent::Stored,
    fields::{le32, le64},
    formats::table::Table,
    formats::view::View,
    regions::{ByteRange, Regions},
    walk::{MAX_NEEDS, Stretch, Tables, joined},
};

/// Grain tables of a window: 32 GiB of the disk at the usual grain of 64 KiB, 2 MiB where all are there.
const WINDOW: u64 = MAX_NEEDS as u64;
/// Grains given out in one step.
const STEP: usize = 4096;
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
    /// With the directory, from the first window on. Header and descriptor lie before the first grain's place.
    claims: Option<Claims>,
    /// Next entry of the directory.
    next: u64,
    /// Tables that were read and whose grains aren't all given out yet.
    window: Option<Window>,
}

/// What some grain tables say.
#[derive(Debug)]
struct Window {
    /// Number of the first grain that isn't given out.
    next: u64,
    /// The grains' sectors in virtual order, and how many of them are given out.
    sectors: Vec<u32>,
    given: usize,
    /// Of compressed grains: where they begin, in the order of the file.
    begins: Vec<u32>,
    /// Where the last of them ends, once its marker was read.
    end: Option<u64>,
}

impl VmdkTables {
    pub(super) fn new(layout: VmdkLayout) -> Self {
        let count = layout.grains().div_ceil(TABLE_ENTRIES);
        let directory = Table::new("VMDK grain directory", layout.directory, count);
        Self { layout, directory, claims: None, next: 0, window: None }
    }

    fn claim(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let layout = &self.layout;
        let claims = match &mut self.claims {
            Some(claims) => claims,
            none => {
                let mut claims = Claims::new(layout.size);
                let bytes = (self.directory.count() * 4).next_multiple_of(SECTOR);
                claims.claim(layout.directory, bytes, "VMDK grain directory")?;
                none.insert(claims)
            }
        };
        claims.claim(offset, len, what)
    }

    /// Reads the next `count` tables. Nothing where all are absent.
    fn load(&mut self, view: View<'_>, count: u64) -> Result<Option<Window>> {
        let mut tables = Vec::new();
        for index in self.next..self.next + count {
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
        let present = tables.iter().filter(|offset| **offset != 0);
        let ranges: Vec<_> = present.filter_map(|offset| ByteRange::at(*offset, TABLE_BYTES)).collect();
        if ranges.is_empty() {
            return Ok(None);
        }
        view.need(&joined(ranges))?;
        let mut sectors = Vec::new();
        for offset in tables {
            if offset == 0 {
                sectors.resize(sectors.len() + 512, 0);
                continue;
            }
            self.claim(offset, TABLE_BYTES, "VMDK grain table")?;
            let table = view.read(offset, TABLE_BYTES, "VMDK grain table")?;
            sectors.extend(table.chunks_exact(4).map_while(|e| e.try_into().ok()).map(u32::from_le_bytes));
        }
        let next = self.next * TABLE_ENTRIES;
        // Entries behind the disk's last grain are nobody's.
        sectors.truncate(usize::try_from(self.layout.grains() - next).unwrap_or(usize::MAX));
        let mut begins = Vec::new();
        if self.layout.compressed {
            begins.extend(sectors.iter().copied().filter(|sector| !self.is_zero(*sector)));
            begins.sort_unstable();
        }
        Ok(Some(Window { next, sectors, given: 0, begins, end: None }))
    }

    fn is_zero(&self, sector: u32) -> bool {
        sector == 0 || (self.layout.zero_grains && sector == ZERO_GRAIN)
    }

    /// Where the last grain of a window ends; 0 where that is asked of none.
    fn last_end(&self, view: View<'_>, window: &Window) -> Result<u64> {
        let Some(last) = window.begins.last() else { return Ok(0) };
        self.check_place(view, *last, MARKER_BYTES + 1)?;
        let at = window.sectors.iter().zip(window.next..).find(|(sector, _)| *sector == last);
        self.marked_end(view, *last, at.map_or(0, |(_, grain)| grain))
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

    /// Gives out the next grains of a window.
    fn push(&mut self, view: View<'_>, window: &mut Window, out: &mut Stretch) -> Result<()> {
        let to = window.sectors.len().min(window.given + STEP);
        for sector in &window.sectors[window.given..to] {
            let len = self.grain_len(window.next);
            window.next += 1;
            let stored = if self.is_zero(*sector) {
                Stored::Zero
            } else if self.layout.compressed {
                self.compressed(view, *sector, window)?
            } else {
                let offset = self.check_place(view, *sector, len)?;
                self.claim(offset, len, "VMDK grain")?;
                Stored::Raw { offset }
            };
            out.push(len, stored);
        }
        window.given = to;
        Ok(())
    }

    fn compressed(&mut self, view: View<'_>, sector: u32, window: &Window) -> Result<Stored> {
        let offset = self.check_place(view, sector, MARKER_BYTES + 1)?;
        // Only where it begins is sure here; two grains can't begin in one sector.
        self.claim(offset, SECTOR, "VMDK grain")?;
        let behind = window.begins.partition_point(|begin| *begin <= sector);
        let next = window.begins.get(behind).map(|begin| u64::from(*begin) * SECTOR).or(window.end);
        let len = next.and_then(|next| next.checked_sub(offset)).map(|len| len.min(self.longest()));
        let sizes = len.and_then(|len| u32::try_from(len).ok()).zip(u32::try_from(self.layout.grain).ok());
        let (len, unit) = sizes.ok_or_else(|| {
            Error::refused(Code::BadTable, format!("VMDK: the grain at sector {sector} has no end"))
        })?;
        Ok(Stored::Grain { offset, len, skip: 0, unit })
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
        let view = View::whole(regions);
        let mut window = match self.window.take() {
            Some(window) => window,
            None => {
                let count = WINDOW.min(self.directory.count() - self.next);
                let loaded = self.load(view, count)?;
                self.next += count;
                let Some(window) = loaded else {
                    out.push(count * TABLE_ENTRIES * self.layout.grain, Stored::Zero);
                    return Ok(());
                };
                window
            }
        };
        if window.end.is_none() {
            match self.last_end(view, &window) {
                Ok(end) => window.end = Some(end),
                Err(error) => {
                    self.window = Some(window);
                    return Err(error);
                }
            }
        }
        self.push(view, &mut window, out)?;
        self.window = Some(window).filter(|window| window.given < window.sectors.len());
        Ok(())
    }
}
