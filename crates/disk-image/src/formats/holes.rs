//! A raw disk of which an archive holds only what isn't a hole: GNU tar's sparse files, as Google Cloud packs its disks.
//!
//! Threat model: runs that overlap or aren't in order would give one byte two values; `HolesLayout::new` refuses them. How
//! many there may be is the archive's reader's to say, before it reads them.

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    extent::Stored,
    regions::Regions,
    walk::{Stretch, Tables},
};

/// Runs that are given out in one step.
const STEP: usize = 4096;

/// Where on the disk the bytes of the file belong, one run behind the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolesLayout {
    /// Bytes of the disk.
    pub(crate) virtual_size: u64,
    /// First byte on the disk, and length.
    runs: Vec<(u64, u64)>,
}

impl HolesLayout {
    /// `None` where runs overlap, leave the disk, or don't have as many bytes as the file.
    pub(crate) fn new(virtual_size: u64, file_size: u64, runs: Vec<(u64, u64)>) -> Option<Self> {
        let (mut end, mut sum) = (0, 0_u64);
        for (start, len) in &runs {
            if *start < end {
                return None;
            }
            end = start.checked_add(*len)?;
            sum = sum.checked_add(*len)?;
        }
        (end <= virtual_size && sum == file_size).then_some(Self { virtual_size, runs })
    }

    pub(crate) fn tables(&self) -> HolesTables {
        HolesTables { layout: self.clone(), next: 0, on_disk: 0, in_file: 0 }
    }
}

/// The walk's state.
#[derive(Debug)]
pub(crate) struct HolesTables {
    layout: HolesLayout,
    next: usize,
    on_disk: u64,
    in_file: u64,
}

impl Tables for HolesTables {
    fn step(&mut self, _: &Regions, out: &mut Stretch) -> Result<()> {
        let rest = self.layout.runs.get(self.next..).unwrap_or_default();
        for (start, len) in rest.iter().take(STEP) {
            out.push(start - self.on_disk, Stored::Zero);
            out.push(*len, Stored::Raw { offset: self.in_file });
            self.on_disk = start + len;
            self.in_file += len;
            self.next += 1;
        }
        if rest.len() <= STEP {
            out.push(self.layout.virtual_size - self.on_disk, Stored::Zero);
            self.on_disk = self.layout.virtual_size;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{extent::Extent, walk::DiskWalker, walk::Walker};

    #[test]
    fn bytes_lie_where_their_runs_say() {
        let layout = HolesLayout::new(100, 30, vec![(10, 10), (20, 5), (60, 15), (100, 0)]).unwrap();
        let mut walker = Walker::new([DiskWalker::new(Box::new(layout.tables()), 100, 30, None)]);
        let mut found = Vec::new();
        while let Some(Extent { start, len, stored }) = walker.next(&Regions::new(30)).unwrap() {
            found.push((start, len, stored));
        }
        let raw = |offset| Stored::Raw { offset };
        assert_eq!(
            found,
            [
                (0, 10, Stored::Zero),
                (10, 15, raw(0)),
                (25, 35, Stored::Zero),
                (60, 15, raw(15)),
                (75, 25, Stored::Zero)
            ]
        );
    }

    #[test]
    fn more_runs_than_a_step_has() {
        let runs: Vec<_> = (0..10_000).map(|n| (n * 2, 1)).collect();
        let layout = HolesLayout::new(20_000, 10_000, runs).unwrap();
        let mut walker = Walker::new([DiskWalker::new(Box::new(layout.tables()), 20_000, 10_000, None)]);
        let mut end = 0;
        while let Some(extent) = walker.next(&Regions::new(10_000)).unwrap() {
            assert_eq!(extent.start, end);
            end = extent.end();
        }
        assert_eq!(end, 20_000);
    }

    #[test]
    fn runs_that_are_no_disk_are_refused() {
        for (size, file, runs) in [
            (100, 10, vec![(0, 5), (4, 5)]),
            (100, 10, vec![(50, 5), (4, 5)]),
            (100, 10, vec![(95, 10)]),
            (100, 11, vec![(0, 10)]),
            (100, 9, vec![(0, 10)]),
            (u64::MAX, 10, vec![(u64::MAX, 10)]),
        ] {
            assert_eq!(HolesLayout::new(size, file, runs.clone()), None, "{runs:?}");
        }
    }
}
