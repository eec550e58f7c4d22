//! Where everything is in the file, from the summaries alone.

use super::{BlobSummary, Geometry, Place, Result, WriteError};
use crate::write::parts::MAX_OBJECT;

/// QEMU `QCOW_MAX_REFTABLE_SIZE`.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// An increasing set of L1 indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots(Vec<Run>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    end: u64,
    /// Indexes in the runs before.
    before: u64,
}

impl Slots {
    /// Adds indexes; their first is not below that of the last addition.
    pub(super) fn add(&mut self, slots: std::ops::Range<u64>) {
        match self.0.last_mut() {
            Some(last) if slots.start <= last.end => last.end = last.end.max(slots.end),
            _ => self.0.push(Run { first: slots.start, end: slots.end, before: self.len() }),
        }
    }

    /// Runs of (first, how many).
    pub(super) fn runs(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|run| (run.first, run.end - run.first)).collect()
    }

    pub(super) fn len(&self) -> u64 {
        self.0.last().map_or(0, |run| run.before + run.end - run.first)
    }

    /// Place of an index among all in the set.
    pub(super) fn rank(&self, slot: u64) -> Option<u64> {
        let run = self.0.get(self.0.partition_point(|run| run.end <= slot))?;
        Some(run.before + slot.checked_sub(run.first)?)
    }

    /// The index at that place.
    pub(super) fn nth(&self, rank: u64) -> Option<u64> {
        let run = self.0.get(self.0.partition_point(|run| run.before <= rank).checked_sub(1)?)?;
        Some(run.first + (rank - run.before)).filter(|slot| *slot < run.end)
    }
}

/// The file's regions, in clusters. All that lies before the blobs with parts of their own passes a worker.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) refcount_table: u64,
    pub(super) l1: u64,
    pub(super) refcount_blocks: u64,
    pub(super) l2: u64,
    /// First of the blobs that are joined.
    pub(super) short: u64,
    /// First of the blobs with parts of their own.
    pub(super) own: u64,
    pub(super) end: u64,
    /// L1 indexes that have a table.
    pub(super) tables: Slots,
}

impl Layout {
    pub(super) fn new(geometry: &Geometry, blobs: &[BlobSummary]) -> Result<Self> {
        let tables = check(geometry, blobs)?;
        let clusters = |place: Place| -> u64 {
            blobs.iter().filter(|b| b.place == place).map(|b| b.len >> geometry.cluster_bits()).sum()
        };
        let (short, own) = (clusters(Place::Joined), clusters(Place::Own));
        let l1 = (geometry.l1_entries() * 8).div_ceil(geometry.cluster());

        // More refcounts need more blocks, which need refcounts: from the least upwards until it holds.
        let (mut table, mut blocks) = (1, 1);
        loop {
            let l2_at = 1 + table + l1 + blocks;
            let short_at = l2_at + tables.len();
            let end = short_at + short + own;
            let need_blocks = end.div_ceil(geometry.refcount_entries());
            let need_table = (need_blocks * 8).div_ceil(geometry.cluster());
            if (need_table, need_blocks) == (table, blocks) {
                let layout = Self {
                    refcount_table: 1,
                    l1: 1 + table,
                    refcount_blocks: 1 + table + l1,
                    l2: l2_at,
                    short: short_at,
                    own: short_at + short,
                    end,
                    tables,
                };
                return layout.check_limits(geometry);
            }
            (table, blocks) = (need_table, need_blocks);
        }
    }

    fn check_limits(self, geometry: &Geometry) -> Result<Self> {
        let bytes = |clusters: u64| clusters.saturating_mul(geometry.cluster());
        let too_large = |what: &str, is: u64, most: u64| {
            if is > most {
                return Err(WriteError::TooLarge(format!("{what} of {is} bytes, the limit is {most}")));
            }
            Ok(())
        };
        too_large("a file", bytes(self.end), MAX_OBJECT.min(geometry.host_limit()))?;
        too_large("a refcount table", bytes(self.l1 - self.refcount_table), MAX_REFCOUNT_TABLE_BYTES)?;
        Ok(self)
    }
}

/// Checks that the blobs cover the disk once, in order; answers the L1 indexes in use.
fn check(geometry: &Geometry, blobs: &[BlobSummary]) -> Result<Slots> {
    let bad = |i: usize, what: &str| WriteError::Index(format!("summary of blob {i}: {what}"));
    let mut tables = Slots::default();
    let (mut next, mut total) = (0u64, 0u64);
    for (i, blob) in blobs.iter().enumerate() {
        if blob.first_cluster != next {
            return Err(bad(i, &format!("begins at cluster {}, expected is {next}", blob.first_cluster)));
        }
        next = next.checked_add(blob.clusters).ok_or_else(|| bad(i, "its range passes any disk"))?;
        total = total.checked_add(blob.len).filter(|t| *t <= MAX_OBJECT).ok_or_else(|| {
            WriteError::TooLarge(format!("blobs of more than {MAX_OBJECT} bytes, S3's limit of an object"))
        })?;
        if !blob.len.is_multiple_of(geometry.cluster()) {
            return Err(bad(i, "its length is not whole clusters"));
        }
        let mut past = blob.first_cluster / geometry.table_entries();
        for (first, count) in &blob.tables {
            let end = first.checked_add(*count).filter(|end| *first >= past && *end > *first);
            past = end.ok_or_else(|| bad(i, "its tables are out of order"))?;
            tables.add(*first..past);
        }
        if past > next.div_ceil(geometry.table_entries()).max(blob.first_cluster / geometry.table_entries()) {
            return Err(bad(i, "it has tables outside of its range"));
        }
    }
    if next != geometry.clusters() {
        return Err(WriteError::Index(format!(
            "the blobs cover {next} clusters, the disk has {}",
            geometry.clusters()
        )));
    }
    Ok(tables)
}
