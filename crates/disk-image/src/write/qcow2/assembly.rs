//! The file's bytes, any range of them, from the blobs' indexes.

use std::ops::Range;
use std::sync::Arc;

use super::index::Cursor;
use super::{BlobIndex, BlobSummary, Entry, File, Geometry, Result, WriteError, layout::Layout};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
const VERSION: u32 = 3;
const HEADER_LENGTH: u32 = 112;
const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;
const COMPRESSION_TYPE_ZSTD: u8 = 1;
/// 16-bit refcounts.
const REFCOUNT_ORDER: u32 = 4;
/// L1 and L2: the refcount is exactly one.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const SECTOR: u64 = 512;

/// Bytes are handed out once there are about this many.
const CHUNK: usize = 1 << 20;
/// Most bytes of a blob that are asked for at once.
const READ: u64 = 8 << 20;

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssemblyStep {
    /// These are the next bytes.
    Bytes(Vec<u8>),
    /// Give the index of this blob to [`Assembly::give`].
    Index(usize),
    /// These bytes of this blob are the next, at most 8 MiB.
    Blob(usize, Range<u64>),
    /// The range is whole.
    Done,
}

/// Computes a range of the file as a stream. Holds one index, 2 bytes for each cluster of one blob, and about a MiB of output.
#[derive(Debug)]
pub struct Assembly {
    file: Arc<File>,
    /// Next cluster of the file, and the one behind the last.
    at: u64,
    end: u64,
    given: Option<Given>,
    /// Refcounts of the clusters of one blob.
    counts: Option<(usize, Vec<u16>)>,
    /// The open cluster of refcounts, or of an L2 table with the next blob that may have entries in it.
    block: Vec<u8>,
    table: Option<(usize, Vec<u8>)>,
    /// Bytes not yet handed out.
    out: Vec<u8>,
}

/// An index, and how far its entries are in L2 tables.
#[derive(Debug)]
struct Given {
    blob: usize,
    index: BlobIndex,
    cursor: Cursor,
}

impl Assembly {
    /// Of bytes of the file, in whole clusters.
    ///
    /// # Errors
    /// [`WriteError::Range`] for others.
    pub fn new(file: Arc<File>, range: Range<u64>) -> Result<Self> {
        let cluster = file.geometry.cluster();
        let whole = range.start.is_multiple_of(cluster) && range.end.is_multiple_of(cluster);
        if !whole || range.start > range.end || range.end > file.len() {
            return Err(WriteError::Range(format!("bytes {range:?} of a file of {}", file.len())));
        }
        Ok(Self {
            at: range.start / cluster,
            end: range.end / cluster,
            file,
            given: None,
            counts: None,
            block: Vec::new(),
            table: None,
            out: Vec::new(),
        })
    }

    /// Says what to do next, until [`AssemblyStep::Done`].
    ///
    /// # Errors
    /// [`WriteError::Index`] where an index can't be.
    pub fn step(&mut self) -> Result<AssemblyStep> {
        let file = Arc::clone(&self.file);
        let layout = &file.layout;
        while self.at < self.end && self.at < layout.short && self.out.len() < CHUNK {
            let asked = if self.at < layout.refcount_blocks {
                front(&file, self.at, &mut self.out);
                None
            } else if self.at < layout.l2 {
                self.refcounts()?
            } else {
                self.l2()?
            };
            match asked {
                Some(blob) => return Ok(AssemblyStep::Index(blob)),
                None => self.at += 1,
            }
        }
        if !self.out.is_empty() {
            return Ok(AssemblyStep::Bytes(std::mem::take(&mut self.out)));
        }
        if self.at == self.end {
            return Ok(AssemblyStep::Done);
        }
        let (blob, place) =
            file.blob_at(self.at).ok_or_else(|| WriteError::Index("a hole in the file".into()))?;
        let start = file.bytes(self.at - place.start);
        let end = file.bytes(self.end.min(place.end) - place.start).min(start + READ);
        self.at += (end - start) >> file.geometry.cluster_bits();
        Ok(AssemblyStep::Blob(blob, start..end))
    }

    /// Takes the index that the last [`AssemblyStep::Index`] asked for.
    ///
    /// # Errors
    /// [`WriteError::Index`] if it isn't the one that was summed up.
    pub fn give(&mut self, blob: usize, index: BlobIndex) -> Result<()> {
        let summary = self.file.blobs.get(blob);
        let same = summary.is_some_and(|s| BlobSummary { place: s.place, ..index.summary() } == *s);
        if !same || index.cluster_bits() != self.file.geometry.cluster_bits() {
            return Err(WriteError::Index(format!("of blob {blob}: it isn't the one that was summed up")));
        }
        let cursor = index.cursor();
        self.given = Some(Given { blob, index, cursor });
        Ok(())
    }

    /// Goes on with the open cluster of refcounts; the blob whose index that needs, if it is not there.
    fn refcounts(&mut self) -> Result<Option<usize>> {
        let file = Arc::clone(&self.file);
        let (layout, size) = (&file.layout, file.geometry.cluster());
        let first = (self.at - layout.refcount_blocks) * file.geometry.refcount_entries();
        let end = first + file.geometry.refcount_entries();
        loop {
            let at = first + self.block.len() as u64 / 2;
            if at == end {
                break;
            }
            if at < layout.short {
                self.counts_of(1, layout.short.min(end) - at);
                continue;
            }
            let Some((blob, place)) = file.blob_at(at) else {
                self.counts_of(0, end - at);
                continue;
            };
            if self.counts.as_ref().is_none_or(|(of, _)| *of != blob) {
                match self.given.take_if(|given| given.blob == blob) {
                    Some(given) => self.counts = Some((blob, given.index.refcounts()?)),
                    None => return Ok(Some(blob)),
                }
            }
            let (_, counts) = self.counts.as_ref().ok_or_else(|| WriteError::Index("no refcounts".into()))?;
            let index = |cluster: u64| usize::try_from(cluster - place.start).unwrap_or(usize::MAX);
            let here = counts.get(index(at)..index(place.end.min(end)));
            let here = here.ok_or_else(|| WriteError::Index("fewer refcounts than clusters".into()))?;
            self.block.extend(here.iter().flat_map(|count| count.to_be_bytes()));
        }
        debug_assert_eq!(self.block.len() as u64, size);
        self.out.append(&mut self.block);
        Ok(None)
    }

    /// `times` refcounts in a row.
    fn counts_of(&mut self, count: u16, times: u64) {
        for _ in 0..times {
            self.block.extend_from_slice(&count.to_be_bytes());
        }
    }

    /// Goes on with the open L2 table; the blob whose index that needs, if it is not there.
    fn l2(&mut self) -> Result<Option<usize>> {
        let file = Arc::clone(&self.file);
        let slot = file.layout.tables.nth(self.at - file.layout.l2);
        let slot = slot.ok_or_else(|| WriteError::Index("there is no such L2 table".into()))?;
        let per = file.geometry.table_entries();
        let clusters = slot * per..(slot + 1) * per;
        let (mut next, mut table) = self.table.take().unwrap_or_else(|| {
            let before = |blob: &BlobSummary| blob.first_cluster + blob.clusters <= clusters.start;
            (file.blobs.partition_point(before), vec![0; 1 << file.geometry.cluster_bits()])
        });
        while let Some(blob) = file.blobs.get(next).filter(|blob| blob.first_cluster < clusters.end) {
            if blob.has_table(slot) {
                let given = self.given.as_mut().filter(|given| given.blob == next);
                let Some(Given { index, cursor, .. }) = given else {
                    self.table = Some((next, table));
                    return Ok(Some(next));
                };
                let base = file.bytes(file.places.get(next).copied().unwrap_or(0));
                let mut before = cursor.clone();
                while let Some(entry) = cursor.next(index)? {
                    if entry.cluster >= clusters.end {
                        *cursor = before;
                        break;
                    }
                    if entry.cluster >= clusters.start {
                        set(&file.geometry, &mut table, &entry, base);
                    }
                    before = cursor.clone();
                }
            }
            next += 1;
        }
        self.out.append(&mut table);
        Ok(None)
    }
}

/// Sets an entry of an L2 table.
fn set(geometry: &Geometry, table: &mut [u8], entry: &Entry, base: u64) {
    let bits = geometry.compressed_offset_bits();
    let host = base + entry.offset;
    let value = if entry.len == 0 {
        host | COPIED
    } else {
        let more_sectors = (host + u64::from(entry.len) - 1) / SECTOR - host / SECTOR;
        host | more_sectors << bits | COMPRESSED
    };
    let at = usize::try_from(entry.cluster % geometry.table_entries()).unwrap_or(usize::MAX);
    if let Some(place) = table.chunks_exact_mut(8).nth(at) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// One cluster of header, refcount table or L1.
fn front(file: &File, cluster: u64, out: &mut Vec<u8>) {
    let start = out.len();
    let layout = &file.layout;
    if cluster == 0 {
        header(&file.geometry, layout, out);
    } else {
        let per = file.geometry.table_entries();
        for i in 0..per {
            let entry = if cluster < layout.l1 {
                let block = (cluster - layout.refcount_table) * per + i;
                let blocks = layout.l2 - layout.refcount_blocks;
                if block < blocks { file.bytes(layout.refcount_blocks + block) } else { 0 }
            } else {
                let rank = layout.tables.rank((cluster - layout.l1) * per + i);
                rank.map_or(0, |rank| file.bytes(layout.l2 + rank) | COPIED)
            };
            out.extend_from_slice(&entry.to_be_bytes());
        }
    }
    out.resize(start + (1 << file.geometry.cluster_bits()), 0);
}

fn header(geometry: &Geometry, layout: &Layout, out: &mut Vec<u8>) {
    let zstd = geometry.codec() == super::Codec::Zstd;
    let at = |cluster: u64| cluster << geometry.cluster_bits();
    // Bounded by the checks of geometry and layout: L1 by 32 MiB, refcount table by 8 MiB.
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 12]); // no backing file
    out.extend_from_slice(&geometry.cluster_bits().to_be_bytes());
    out.extend_from_slice(&geometry.virtual_size().to_be_bytes());
    out.extend_from_slice(&[0; 4]); // no encryption
    out.extend_from_slice(&small(geometry.l1_entries()));
    out.extend_from_slice(&(if geometry.l1_entries() == 0 { 0 } else { at(layout.l1) }).to_be_bytes());
    out.extend_from_slice(&at(layout.refcount_table).to_be_bytes());
    out.extend_from_slice(&small(layout.l1 - layout.refcount_table));
    out.extend_from_slice(&[0; 12]); // no snapshots
    out.extend_from_slice(&(if zstd { INCOMPATIBLE_COMPRESSION_TYPE } else { 0 }).to_be_bytes());
    out.extend_from_slice(&[0; 16]); // no compatible or autoclear features
    out.extend_from_slice(&REFCOUNT_ORDER.to_be_bytes());
    out.extend_from_slice(&HEADER_LENGTH.to_be_bytes());
    out.push(if zstd { COMPRESSION_TYPE_ZSTD } else { 0 });
    // Zeros up to the cluster's end: padding, and the end of the (empty) header extensions.
}
