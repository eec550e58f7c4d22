//! A disk as far as it may be read.

use std::cell::Cell;

use crate::{
    error::{Error, Result},
    regions::{ByteRange, Regions},
};

/// Bytes that are asked for at least: what stands behind a structure is often wanted next.
const AHEAD: u64 = 16 << 10;

/// The disk, and whether something was wanted that can't be had.
pub(super) struct Disk<'a> {
    regions: &'a Regions,
    reach: u64,
    missed: Cell<bool>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(regions: &'a Regions, reach: u64) -> Self {
        Self { regions, reach: reach.min(regions.size()), missed: Cell::new(false) }
    }

    /// `len` bytes at `at`; `None` where the disk or the reach ends before.
    pub(super) fn read(&self, at: u64, len: u64) -> Result<Option<&'a [u8]>> {
        let range = ByteRange::at(at, len).filter(|range| range.end <= self.regions.size());
        let (Some(range), Ok(count)) = (range, usize::try_from(len)) else { return Ok(None) };
        if range.end > self.reach {
            self.miss();
            return Ok(None);
        }
        match self.regions.read(at, count) {
            Err(Error::Need(_)) => {
                let end = range.end.max(at.saturating_add(AHEAD).min(self.reach));
                Err(Error::Need(vec![ByteRange { start: at, end }]))
            }
            read => read.map(Some),
        }
    }

    /// As [`read`](Self::read), and less where there is less.
    pub(super) fn read_up_to(&self, at: u64, len: u64) -> Result<&'a [u8]> {
        Ok(self.read(at, len.min(self.reach.saturating_sub(at)))?.unwrap_or_default())
    }

    /// Something that matters is not looked at.
    pub(super) fn miss(&self) {
        self.missed.set(true);
    }

    pub(super) fn has_missed(&self) -> bool {
        self.missed.get()
    }
}
