//! A raw object becomes a qcow2 file with S3 copying nearly all of its bytes.
//!
//! Uncompressed data clusters can lie in the file as they lie in the raw object, so data parts are `UploadPartCopy` of ranges of
//! it. A part needs 5 MiB, though: holes shorter than that stay in the file, as free clusters that nothing refers to, and so does
//! what fills a lone island up to 5 MiB. A few small islands are joined behind the metadata instead, and so is a cluster that the
//! object's end cuts short: only these and the metadata pass through the caller.

use std::ops::Range;

use super::{BlobIndex, BlobSummary, Codec, Entry, Geometry, Place, Result, WriteError, layout::Slots};
use crate::write::parts::{MAX_DISK, MAX_PART, MAX_PARTS, MIN_PART, TooLarge};

/// Most bytes of islands that are joined, and the share of the image that they may be.
const MAX_INLINE: u64 = 4 << 20;
const INLINE_SHARE: u64 = 512;
/// Shortest hole that is worth one more part.
const MIN_HOLE: u64 = 1 << 20;
/// Most parts that are copied: those with the metadata of 40 TiB are a hundred.
const MAX_COPIES: u64 = MAX_PARTS - 200;
/// Parts that a full disk has at most, where parts may still be larger.
const FULL: u64 = MAX_PARTS / 2;

/// Which ranges of a raw object make up the file, in the order of the disk.
#[derive(Debug, Clone)]
pub struct CopyPlan {
    geometry: Geometry,
    /// Clusters with data, in order, apart from each other.
    data: Vec<Range<u64>>,
    /// Clusters copied whole, holes between them included; in order.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    clusters: Range<u64>,
    place: Place,
}

impl CopyPlan {
    /// Plans for a raw object of `size` bytes, of which only `data` (ranges of bytes in order) isn't all zeros. No part is longer
    /// than `max_part` where parts of that size are enough.
    ///
    /// # Errors
    /// [`WriteError::Range`] if `data` isn't in order or passes the end; [`WriteError::TooLarge`] past 10,000 parts.
    pub fn new(size: u64, data: &[Range<u64>], max_part: u64) -> Result<Self> {
        let geometry = Geometry::new(size, Codec::None)?;
        if size > MAX_DISK {
            return Err(WriteError::TooLarge(TooLarge { size }.to_string()));
        }
        let data = clusters(&geometry, data)?;
        let max_part = max_part.max(size.div_ceil(FULL)).clamp(2 * MIN_PART, MAX_PART) / geometry.cluster();
        let mut hole = MIN_HOLE / geometry.cluster();
        loop {
            let pieces = pieces(&geometry, &data, hole, max_part);
            let own = pieces.iter().filter(|p| p.place == Place::Own).count() as u64;
            if own <= MAX_COPIES {
                return Ok(Self { geometry, data, pieces });
            }
            if hole > geometry.clusters() {
                return Err(WriteError::TooLarge(format!(
                    "{own} parts of at most {} bytes",
                    max_part * geometry.cluster()
                )));
            }
            hole *= 2;
        }
    }

    /// The image's numbers, for [`File::new`](super::File::new).
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The ranges as blobs, for [`File::new`](super::File::new).
    ///
    /// # Errors
    /// [`WriteError::Range`]: a fault of ours.
    pub fn summaries(&self) -> Result<Vec<BlobSummary>> {
        let per = self.geometry.table_entries();
        (0..self.pieces.len())
            .map(|k| {
                let Piece { clusters, place } = self.piece(k)?;
                let covered = self.covered(k, clusters);
                let mut tables = Slots::default();
                self.data_of(clusters).for_each(|run| tables.add(run.start / per..run.end.div_ceil(per)));
                Ok(BlobSummary {
                    first_cluster: covered.start,
                    clusters: covered.end - covered.start,
                    len: (clusters.end - clusters.start) << self.geometry.cluster_bits(),
                    tables: tables.runs(),
                    place: *place,
                })
            })
            .collect()
    }

    /// The index of blob `k`, for [`Assembly::give`](super::Assembly::give).
    ///
    /// # Errors
    /// [`WriteError::Range`] if there is no such blob.
    pub fn index(&self, k: usize) -> Result<BlobIndex> {
        let piece = self.piece(k)?.clusters.clone();
        let bits = self.geometry.cluster_bits();
        let entries: Vec<Entry> = self
            .data_of(&piece)
            .flatten()
            .map(|cluster| Entry::plain(cluster, (cluster - piece.start) << bits))
            .collect();
        BlobIndex::new(bits, self.covered(k, &piece), (piece.end - piece.start) << bits, &entries)
    }

    /// The clusters of the disk that blob `k` stands for: up to where the next one begins, of the first from the disk's begin.
    fn covered(&self, k: usize, piece: &Range<u64>) -> Range<u64> {
        let from = if k == 0 { 0 } else { piece.start };
        let to = self.pieces.get(k + 1).map_or(self.geometry.clusters(), |next| next.clusters.start);
        from..to
    }

    /// The clusters of a piece that hold data.
    fn data_of(&self, piece: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (start, end) = (piece.start, piece.end);
        let first = self.data.partition_point(|run| run.end <= start);
        let runs = self.data.iter().skip(first).take_while(move |run| run.start < end);
        runs.map(move |run| run.start.max(start)..run.end.min(end))
    }

    /// The range of the raw object that is blob `k`. Of one that is joined it may end before the blob does: zeros follow.
    ///
    /// # Errors
    /// [`WriteError::Range`] if there is no such blob.
    pub fn source(&self, k: usize) -> Result<Range<u64>> {
        let piece = &self.piece(k)?.clusters;
        let bits = self.geometry.cluster_bits();
        Ok(piece.start << bits..(piece.end << bits).min(self.geometry.size()))
    }

    fn piece(&self, k: usize) -> Result<&Piece> {
        self.pieces.get(k).ok_or_else(|| WriteError::Range(format!("there is no blob {k}")))
    }
}

/// The clusters that hold data: in order, joined where they touch.
fn clusters(geometry: &Geometry, data: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    let mut past = 0;
    for run in data {
        if run.start < past || run.start >= run.end || run.end > geometry.size() {
            return Err(WriteError::Range(format!("data at {}..{} is out of order", run.start, run.end)));
        }
        past = run.end;
        let (start, end) = (run.start >> geometry.cluster_bits(), run.end.div_ceil(geometry.cluster()));
        match joined.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => joined.push(start..end),
        }
    }
    Ok(joined)
}

/// Cuts the data into pieces that S3 can copy, or that are joined.
fn pieces(geometry: &Geometry, data: &[Range<u64>], hole: u64, max_part: u64) -> Vec<Piece> {
    let least = MIN_PART.div_ceil(geometry.cluster());
    let whole = geometry.size() >> geometry.cluster_bits();
    let tail = data.last().is_some_and(|run| run.end > whole);
    let total: u64 = data.iter().map(|run| run.end - run.start).sum();
    let mut inline = (geometry.size() / INLINE_SHARE).min(MAX_INLINE) / geometry.cluster();
    // All of it: a range can be copied only from an object of more than 5 MiB, too (`UploadPartCopy`, "copy-source-range").
    let few = total <= least;
    if few {
        inline = least;
    }

    let mut pieces = Vec::new();
    let mut add = |range: Range<u64>| {
        let len = range.end - range.start;
        if len <= inline && (few || len < least) {
            inline -= len;
            pieces.push(Piece { clusters: range, place: Place::Joined });
            return;
        }
        let end = range.end.max(range.start + least).min(whole);
        let len = end - range.start;
        let parts = len.div_ceil(max_part);
        let edge = |i: u64| range.start + i * len / parts;
        pieces.extend((0..parts).map(|i| Piece { clusters: edge(i)..edge(i + 1), place: Place::Own }));
    };
    let mut open: Option<Range<u64>> = None;
    for run in data {
        let run = run.start..run.end.min(whole);
        if run.is_empty() {
            continue;
        }
        match &mut open {
            // With few data in all, nothing is filled up, so nothing needs joining.
            Some(o) if !few && run.start < (o.end + hole).max(o.start + least) => o.end = run.end,
            _ => {
                if let Some(done) = open.replace(run) {
                    add(done);
                }
            }
        }
    }
    if let Some(done) = open {
        add(done);
    }
    if tail {
        pieces.push(Piece { clusters: whole..whole + 1, place: Place::Joined });
    }
    // The disk must be covered even where it holds nothing.
    if pieces.is_empty() {
        pieces.push(Piece { clusters: 0..0, place: Place::Joined });
    }
    pieces
}
