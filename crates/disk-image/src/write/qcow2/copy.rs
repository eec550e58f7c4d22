//! A raw object becomes a qcow2 file with S3 copying nearly all of its bytes.
//!
//! Uncompressed data clusters can lie in the file as they lie in the raw object, so data parts are `UploadPartCopy` of ranges of
//! it. A part needs 5 MiB, though: holes shorter than that stay in the file, as free clusters that nothing refers to, and so does
//! what fills a lone island up to 5 MiB. A few small islands ride in part 1 instead, and so does a cluster that the object's end
//! cuts short: only these and the metadata pass through the caller.

use std::ops::Range;

use super::{BlobIndex, BlobSummary, Codec, Entry, Geometry, Place, Result, WriteError};
use crate::write::parts::{MAX_PART, MAX_PARTS, MIN_PART};

/// Most bytes of islands in part 1, and the share of the image that they may be.
const MAX_INLINE: u64 = 4 << 20;
const INLINE_SHARE: u64 = 512;
/// Shortest hole that is worth one more part.
const MIN_HOLE: u64 = 1 << 20;

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
    /// Plans for a raw object of `size` bytes, of which only `data` (ranges of bytes in order) isn't all zeros; no part is longer
    /// than `max_part`.
    ///
    /// # Errors
    /// [`WriteError::Range`] if `data` isn't in order or passes the end; [`WriteError::TooLarge`] past 10,000 parts.
    pub fn new(size: u64, data: &[Range<u64>], max_part: u64) -> Result<Self> {
        let geometry = Geometry::new(size, Codec::None)?;
        let data = clusters(&geometry, data)?;
        let max_part = max_part.clamp(2 * MIN_PART, MAX_PART) / geometry.cluster();
        let mut hole = MIN_HOLE / geometry.cluster();
        loop {
            let pieces = pieces(&geometry, &data, hole, max_part);
            let own = pieces.iter().filter(|p| p.place == Place::Own).count() as u64;
            if own < MAX_PARTS {
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

    /// The image's numbers, for [`Assembly::new`](super::Assembly::new).
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The ranges as blobs, for [`Assembly::new`](super::Assembly::new).
    ///
    /// # Errors
    /// As [`index`](Self::index).
    pub fn summaries(&self) -> Result<Vec<BlobSummary>> {
        (0..self.pieces.len())
            .map(|k| Ok(BlobSummary { place: self.piece(k)?.place, ..self.index(k)?.summary() }))
            .collect()
    }

    /// The index of blob `k`, for [`Assembly::give`](super::Assembly::give).
    ///
    /// # Errors
    /// [`WriteError::Range`] if there is no such blob.
    pub fn index(&self, k: usize) -> Result<BlobIndex> {
        let piece = self.piece(k)?.clusters.clone();
        // It covers the disk up to where the next one begins; the first from the disk's begin.
        let from = if k == 0 { 0 } else { piece.start };
        let to = self.pieces.get(k + 1).map_or(self.geometry.clusters(), |next| next.clusters.start);
        let bits = self.geometry.cluster_bits();
        let first = self.data.partition_point(|run| run.end <= piece.start);
        let runs = self.data.iter().skip(first).take_while(|run| run.start < piece.end);
        let entries: Vec<Entry> = runs
            .flat_map(|run| run.start.max(piece.start)..run.end.min(piece.end))
            .map(|cluster| Entry::plain(cluster, (cluster - piece.start) << bits))
            .collect();
        BlobIndex::new(bits, from..to, (piece.end - piece.start) << bits, &entries)
    }

    /// The range of the raw object that is blob `k`. In part 1, it may end before the blob does: zeros follow.
    ///
    /// # Errors
    /// [`WriteError::Range`] if there is no such blob.
    pub fn source(&self, k: usize) -> Result<Range<u64>> {
        let piece = &self.piece(k)?.clusters;
        let bits = self.geometry.cluster_bits();
        Ok(piece.start << bits..(piece.end << bits).min(self.geometry.size()))
    }

    /// What S3 copies: part number from 2, and the range of the raw object.
    pub fn copies(&self) -> impl Iterator<Item = (u32, Range<u64>)> {
        let own = self.pieces.iter().filter(|p| p.place == Place::Own);
        let bits = self.geometry.cluster_bits();
        (2..).zip(own.map(move |p| p.clusters.start << bits..p.clusters.end << bits))
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

/// Cuts the data into pieces that S3 can copy, or that part 1 takes in.
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
            pieces.push(Piece { clusters: range, place: Place::First });
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
        pieces.push(Piece { clusters: whole..whole + 1, place: Place::First });
    }
    // The disk must be covered even where it holds nothing.
    if pieces.is_empty() {
        pieces.push(Piece { clusters: 0..0, place: Place::First });
    }
    pieces
}
