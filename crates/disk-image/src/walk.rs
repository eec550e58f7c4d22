//! Going through a layout once, in virtual order.
//!
//! Goal: every format's tables become the same extents under the same checks, with one stretch of one table in memory.
//!
//! Invariants of what comes out: no gaps, no overlap, adjacent extents merged, the last one ends at the virtual size, and every
//! stored byte lies inside the file.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    error::{Code, Error, Result, of_part},
    extent::{Extent, Stored},
    formats::ova::Place,
    regions::{ByteRange, Regions},
};

/// How far ahead a walker asks for tables in one [`Error::Need`]: bytes of tables. Gaps between them may take as many
/// again.
pub(crate) const READ_AHEAD: u64 = 4 << 20;
/// Tables asked for in one [`Error::Need`].
pub(crate) const MAX_NEEDS: usize = 1024;
/// Bytes between two tables that are read rather than making another request.
const MAX_GAP: u64 = 64 << 10;

/// Tables in the order of the file, those that overlap, touch or nearly touch as one range.
pub(crate) fn joined(mut tables: Vec<ByteRange>) -> Vec<ByteRange> {
    tables.sort_unstable();
    let mut ranges: Vec<ByteRange> = Vec::new();
    let mut spare = READ_AHEAD;
    for table in tables {
        match ranges.last_mut() {
            Some(last) if table.start.saturating_sub(last.end) <= spare.min(MAX_GAP) => {
                spare -= table.start.saturating_sub(last.end);
                last.end = last.end.max(table.end);
            }
            _ => ranges.push(table),
        }
    }
    ranges
}

/// One format's tables, read a stretch at a time.
pub(crate) trait Tables: std::fmt::Debug + Send {
    /// Appends the next stretch of the disk (a few thousand entries of a table), or nothing at the disk's end.
    /// After `Err(Need)` it is called again with those bytes and goes on: what it appended before that is kept.
    fn step(&mut self, regions: &Regions, out: &mut Stretch) -> Result<()>;
}

/// Receives a stretch of the disk. Extents follow each other, so none can overlap or leave a gap.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    at: u64,
    extents: VecDeque<Extent>,
}

impl Stretch {
    /// The next `len` bytes of the disk are `stored`. Nothing for 0 bytes.
    pub(crate) fn push(&mut self, len: u64, stored: Stored) {
        let next = Extent { start: self.at, len, stored };
        self.at = self.at.saturating_add(len);
        let joined = self.extents.back_mut().is_some_and(|last| last.join(&next));
        if !joined && len > 0 {
            self.extents.push_back(next);
        }
    }
}

/// Yields a layout's extents: those of its disk, in an archive of several those of one disk behind the other.
#[derive(Debug)]
pub struct Walker {
    disks: VecDeque<DiskWalker>,
    /// Bytes of the disks that are done.
    before: u64,
}

impl Walker {
    pub(crate) fn new(disks: impl IntoIterator<Item = DiskWalker>) -> Self {
        Self { disks: disks.into_iter().collect(), before: 0 }
    }

    /// The next extent; `None` after the last. After [`Error::Need`] call again once the bytes are there; all that was
    /// in `regions` before may be dropped then.
    ///
    /// # Errors
    /// [`Error::Need`], or the refusal of an image whose tables are not sound. Extents seen before a refusal are void.
    pub fn next(&mut self, regions: &Regions) -> Result<Option<Extent>> {
        while let Some(disk) = self.disks.front_mut() {
            let (next, base) = match &disk.place {
                None => (disk.next(regions)?, 0),
                Some(place) => {
                    let place = Arc::clone(place);
                    let part = regions.part(place.offset, place.size)?;
                    (of_part(disk.next(&part), place.offset, &place.name)?, place.offset)
                }
            };
            match next {
                Some(extent) => return Ok(Some(extent.moved(self.before, base))),
                None => self.before = self.before.saturating_add(disk.virtual_size),
            }
            self.disks.pop_front();
        }
        Ok(None)
    }
}

/// Yields a disk's extents.
#[derive(Debug)]
pub(crate) struct DiskWalker {
    /// Where the file of the disk is, if that isn't all.
    place: Option<Arc<Place>>,
    tables: Box<dyn Tables>,
    stretch: Stretch,
    held: Option<Extent>,
    virtual_size: u64,
    file_size: u64,
}

impl DiskWalker {
    pub(crate) fn new(
        tables: Box<dyn Tables>,
        virtual_size: u64,
        file_size: u64,
        place: Option<Arc<Place>>,
    ) -> Self {
        Self { place, tables, stretch: Stretch::default(), held: None, virtual_size, file_size }
    }

    fn next(&mut self, regions: &Regions) -> Result<Option<Extent>> {
        loop {
            while let Some(next) = self.stretch.extents.pop_front() {
                let Some(next) = self.checked(next)? else { continue };
                let joined = self.held.as_mut().is_some_and(|held| held.join(&next));
                if !joined && let Some(done) = self.held.replace(next) {
                    return Ok(Some(done));
                }
            }
            if self.stretch.at >= self.virtual_size {
                return Ok(self.held.take());
            }
            let before = self.stretch.at;
            self.tables.step(regions, &mut self.stretch)?;
            if self.stretch.at == before && self.stretch.extents.is_empty() {
                return Err(Error::refused(
                    Code::BadTable,
                    format!("the tables describe {before} bytes of a disk of {} bytes", self.virtual_size),
                ));
            }
        }
    }

    /// Cut to the disk's end; its bytes inside the file.
    fn checked(&self, mut extent: Extent) -> Result<Option<Extent>> {
        extent.len = extent.len.min(self.virtual_size.saturating_sub(extent.start));
        if extent.len == 0 {
            return Ok(None);
        }
        if let Some((offset, len)) = extent.source()
            && offset.checked_add(len).is_none_or(|end| end > self.file_size)
        {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "bytes {} to {} of the disk are stored in {len} bytes at offset {offset}, but the file has {} bytes",
                    extent.start,
                    extent.start + extent.len,
                    self.file_size
                ),
            ));
        }
        Ok(Some(extent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(start: u64) -> ByteRange {
        ByteRange { start, end: start + 2048 }
    }

    #[test]
    fn tables_join_whatever_their_order() {
        let near = 2048 + MAX_GAP;
        let tables = vec![table(2 * near + 1), table(near), table(0), table(0), table(10 * near)];
        let ranges = [(0, near + 2048), (2 * near + 1, 2 * near + 2049), (10 * near, 10 * near + 2048)];
        assert_eq!(joined(tables), ranges.map(|(start, end)| ByteRange { start, end }));
    }

    #[test]
    fn gaps_take_as_much_as_tables_at_most() {
        let ranges = joined((0..1024).map(|n| table(n * (2048 + MAX_GAP))).collect());
        let bytes: u64 = ranges.iter().map(|r| r.len()).sum();
        assert_eq!(bytes, 1024 * 2048 + READ_AHEAD);
    }
}
