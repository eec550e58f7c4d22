//! Reduce: what the file is, from the blobs' summaries alone, and how it is cut into parts.

use std::ops::Range;

use super::{BlobSummary, Geometry, Place, Result, WriteError, layout::Layout};
use crate::write::parts::{BlobCut, MAX_PART, MAX_PARTS};

/// A file of blobs.
#[derive(Debug, Clone)]
pub struct File {
    pub(super) geometry: Geometry,
    pub(super) blobs: Vec<BlobSummary>,
    /// First cluster of each blob in the file.
    pub(super) places: Vec<u64>,
    /// The blobs that have bytes, in the order of the file.
    pub(super) order: Vec<usize>,
    pub(super) layout: Layout,
}

/// A part of the file; the number of the first is 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePart {
    /// Its bytes of the file.
    pub range: Range<u64>,
    /// The blob and the bytes of it that are this part, where S3 copies them; else an [`Assembly`](super::Assembly) makes it.
    pub copied: Option<(usize, Range<u64>)>,
}

impl File {
    /// Lays out the file. `blobs` cover the disk in order.
    ///
    /// # Errors
    /// [`WriteError::Index`] if they don't, [`WriteError::TooLarge`] past a limit of qcow2 or S3.
    pub fn new(geometry: Geometry, blobs: Vec<BlobSummary>) -> Result<Self> {
        let layout = Layout::new(&geometry, &blobs)?;
        let (mut short, mut own) = (layout.short, layout.own);
        let mut place = |blob: &BlobSummary| {
            let next = if blob.place == Place::Joined { &mut short } else { &mut own };
            let at = *next;
            *next += blob.len >> geometry.cluster_bits();
            at
        };
        let places: Vec<u64> = blobs.iter().map(&mut place).collect();
        let mut order: Vec<usize> = (0..blobs.len()).collect();
        order.retain(|k| blobs.get(*k).is_some_and(|blob| blob.len > 0));
        order.sort_by_key(|k| places.get(*k).copied());
        Ok(Self { geometry, blobs, places, order, layout })
    }

    /// Bytes of the file.
    pub const fn len(&self) -> u64 {
        self.bytes(self.layout.end)
    }

    /// A file has its header at least.
    pub const fn is_empty(&self) -> bool {
        self.layout.end == 0
    }

    /// The blobs, as they were given.
    pub fn blobs(&self) -> &[BlobSummary] {
        &self.blobs
    }

    /// Cuts the file into parts that S3 takes: what is made, then the blobs that are copied. Where the metadata are too short for
    /// a part, the first blob's begin goes with them.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`] where 10,000 parts aren't enough.
    pub fn parts(&self, cut: &BlobCut) -> Result<Vec<FilePart>> {
        let own: Vec<(usize, Range<u64>)> = self.own().collect();
        let mut made = self.bytes(self.layout.own);
        if let Some((_, first)) = own.first().filter(|_| made < cut.least) {
            let filled = cut.least.next_multiple_of(self.geometry.cluster());
            let rest = first.end.saturating_sub(filled);
            let is_part = rest > cut.least || (rest > 0 && own.len() == 1);
            made = if is_part { filled } else { first.end };
        }
        let clusters = made >> self.geometry.cluster_bits();
        let count = made.div_ceil(cut.made).max(1);
        let edge = |i: u64| self.bytes(i * clusters / count);
        let mut parts: Vec<FilePart> =
            (0..count).map(|i| FilePart { range: edge(i)..edge(i + 1), copied: None }).collect();
        for (blob, place) in own {
            let range = place.start.max(made)..place.end;
            if range.is_empty() {
                continue;
            }
            let copied = range.start - place.start..place.end - place.start;
            parts.push(FilePart { range, copied: Some((blob, copied)) });
        }
        let too_large = |why: String| Err(WriteError::TooLarge(why));
        match parts.iter().find(|part| part.range.end - part.range.start > MAX_PART) {
            Some(part) => too_large(format!("a part of {} bytes", part.range.end - part.range.start)),
            None if parts.len() as u64 > MAX_PARTS => {
                too_large(format!("{} parts, S3 takes {MAX_PARTS}", parts.len()))
            }
            None => Ok(parts),
        }
    }

    /// The blobs that have parts of their own, and where they are in the file.
    fn own(&self) -> impl Iterator<Item = (usize, Range<u64>)> {
        self.order.iter().filter_map(|k| {
            let blob = self.blobs.get(*k).filter(|blob| blob.place == Place::Own)?;
            let start = self.bytes(*self.places.get(*k)?);
            Some((*k, start..start + blob.len))
        })
    }

    /// The blob that a cluster of the file belongs to, and the blob's clusters of the file.
    pub(super) fn blob_at(&self, cluster: u64) -> Option<(usize, Range<u64>)> {
        let place = |k: &usize| self.places.get(*k).copied().unwrap_or(u64::MAX);
        let behind = self.order.partition_point(|k| place(k) <= cluster);
        let k = *self.order.get(behind.checked_sub(1)?)?;
        let start = place(&k);
        let end = start + (self.blobs.get(k)?.len >> self.geometry.cluster_bits());
        (start..end).contains(&cluster).then_some((k, start..end))
    }

    pub(super) const fn bytes(&self, clusters: u64) -> u64 {
        clusters << self.geometry.cluster_bits()
    }
}
