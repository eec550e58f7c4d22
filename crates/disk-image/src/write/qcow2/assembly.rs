//! Reduce: part 1 from the blobs' summaries and indexes.

use super::{
    BlobIndex, BlobSummary, Entry, Geometry, Place, Result, WriteError, index::Cursor, layout::Layout,
};

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

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssemblyStep {
    /// These are part 1's next bytes.
    Bytes(Vec<u8>),
    /// Give the index of this blob to [`Assembly::give`]. Each is asked for twice: once for refcounts, once for L2 tables.
    Index(usize),
    /// This blob's bytes are part 1's next.
    Blob(usize),
    /// Part 1 is whole.
    Done,
}

/// Computes part 1 of the file as a stream. Holds one index, 2 bytes for each cluster of one blob, and about a MiB of output.
#[derive(Debug)]
pub struct Assembly {
    geometry: Geometry,
    blobs: Vec<BlobSummary>,
    /// First cluster of each blob in the file.
    places: Vec<u64>,
    layout: Layout,
    stage: Stage,
    given: Option<BlobIndex>,
    /// Bytes not yet handed out.
    out: Vec<u8>,
    /// The open L2 table and its L1 index.
    table: Option<(u64, Vec<u8>)>,
    tables_done: u64,
}

/// What comes next; blobs by their number.
#[derive(Debug)]
enum Stage {
    /// Clusters of header, refcount table and L1.
    Front(u64),
    /// Refcounts of metadata clusters that are still to come.
    MetadataCounts(u64),
    Counts(Place, usize),
    CountsEnd,
    Tables(usize, Option<Cursor>),
    Short(usize),
    Free,
    Done,
}

impl Assembly {
    /// Lays out the file. `blobs` cover the disk in order.
    ///
    /// # Errors
    /// [`WriteError::Index`] if they don't, [`WriteError::TooLarge`] past a limit of qcow2 or S3.
    pub fn new(geometry: Geometry, blobs: Vec<BlobSummary>) -> Result<Self> {
        let layout = Layout::new(&geometry, &blobs)?;
        let (mut short, mut own) = (layout.short, layout.own);
        let places = blobs
            .iter()
            .map(|blob| {
                let next = if blob.place == Place::First { &mut short } else { &mut own };
                let at = *next;
                *next += blob.len >> geometry.cluster_bits();
                at
            })
            .collect();
        Ok(Self {
            geometry,
            blobs,
            places,
            layout,
            stage: Stage::Front(0),
            given: None,
            out: Vec::new(),
            table: None,
            tables_done: 0,
        })
    }

    /// Bytes of part 1.
    pub const fn first_part_len(&self) -> u64 {
        self.layout.own << self.geometry.cluster_bits()
    }

    /// Bytes of the file.
    pub const fn file_len(&self) -> u64 {
        self.layout.end << self.geometry.cluster_bits()
    }

    /// Whether part 1 is the whole file: a `PutObject` will do.
    pub const fn is_single(&self) -> bool {
        self.layout.own == self.layout.end
    }

    /// Says what to do next, until [`AssemblyStep::Done`].
    ///
    /// # Errors
    /// [`WriteError::Index`] where an index can't be.
    pub fn step(&mut self) -> Result<AssemblyStep> {
        loop {
            let flush = matches!(self.stage, Stage::Short(_) | Stage::Done) && !self.out.is_empty();
            if flush || self.out.len() >= CHUNK {
                return Ok(AssemblyStep::Bytes(std::mem::take(&mut self.out)));
            }
            match &self.stage {
                Stage::Front(cluster) => self.front(*cluster),
                Stage::MetadataCounts(left) => self.metadata_counts(*left),
                Stage::Counts(place, from) => {
                    let (place, from) = (*place, *from);
                    match self.wanted(from, |b| b.place == place && b.len > 0) {
                        Some(k) => match self.given.take() {
                            Some(index) => self.counts(&index.refcounts()?, Stage::Counts(place, k + 1)),
                            None => return Ok(AssemblyStep::Index(k)),
                        },
                        None if place == Place::First => {
                            let free = self.layout.own - self.layout.free;
                            self.counts_of(0, free);
                            self.stage = Stage::Counts(Place::Own, 0);
                        }
                        None => self.stage = Stage::CountsEnd,
                    }
                }
                Stage::CountsEnd => {
                    let blocks = self.layout.l2 - self.layout.refcount_blocks;
                    self.counts_of(0, blocks * self.geometry.refcount_entries() - self.layout.end);
                    self.stage = Stage::Tables(0, None);
                }
                Stage::Tables(from, _) => match self.wanted(*from, |b| !b.tables.is_empty()) {
                    Some(k) if self.given.is_none() => return Ok(AssemblyStep::Index(k)),
                    Some(k) => self.tables(k)?,
                    None => {
                        self.close_table()?;
                        self.stage = Stage::Short(0);
                    }
                },
                Stage::Short(from) => match self.wanted(*from, |b| b.place == Place::First && b.len > 0) {
                    Some(k) => {
                        self.stage = Stage::Short(k + 1);
                        return Ok(AssemblyStep::Blob(k));
                    }
                    None => self.stage = Stage::Free,
                },
                Stage::Free => {
                    // At most MIN_PART, rounded up to a cluster.
                    let free = (self.layout.own - self.layout.free) << self.geometry.cluster_bits();
                    self.out.resize(usize::try_from(free).unwrap_or(0), 0);
                    self.stage = Stage::Done;
                }
                Stage::Done => return Ok(AssemblyStep::Done),
            }
        }
    }

    /// Takes the index that the last [`AssemblyStep::Index`] asked for.
    ///
    /// # Errors
    /// [`WriteError::Index`] if it isn't the one that was summed up.
    pub fn give(&mut self, blob: usize, index: BlobIndex) -> Result<()> {
        let summary = self.blobs.get(blob);
        let same = summary.is_some_and(|s| BlobSummary { place: s.place, ..index.summary() } == *s);
        if !same || index.cluster_bits() != self.geometry.cluster_bits() {
            return Err(WriteError::Index(format!("of blob {blob}: it isn't the one that was summed up")));
        }
        self.given = Some(index);
        Ok(())
    }

    fn wanted(&self, from: usize, which: impl Fn(&BlobSummary) -> bool) -> Option<usize> {
        self.blobs.iter().skip(from).position(which).map(|i| from + i)
    }

    /// One cluster of header, refcount table or L1.
    fn front(&mut self, cluster: u64) {
        let start = self.out.len();
        let layout = &self.layout;
        if cluster == 0 {
            header(&self.geometry, layout, &mut self.out);
        } else {
            let per = self.geometry.table_entries();
            for i in 0..per {
                let entry = if cluster < layout.l1 {
                    let block = (cluster - layout.refcount_table) * per + i;
                    let blocks = layout.l2 - layout.refcount_blocks;
                    if block < blocks { self.offset(layout.refcount_blocks + block) } else { 0 }
                } else {
                    let rank = layout.tables.rank((cluster - layout.l1) * per + i);
                    rank.map_or(0, |rank| self.offset(layout.l2 + rank) | COPIED)
                };
                self.out.extend_from_slice(&entry.to_be_bytes());
            }
        }
        self.out.resize(start + (1 << self.geometry.cluster_bits()), 0);
        self.stage = if cluster + 1 < self.layout.refcount_blocks {
            Stage::Front(cluster + 1)
        } else {
            Stage::MetadataCounts(self.layout.short)
        };
    }

    fn metadata_counts(&mut self, left: u64) {
        let now = left.min(CHUNK as u64 / 2);
        self.counts_of(1, now);
        self.stage =
            if left > now { Stage::MetadataCounts(left - now) } else { Stage::Counts(Place::First, 0) };
    }

    fn counts(&mut self, counts: &[u16], next: Stage) {
        self.out.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        self.stage = next;
    }

    /// `times` refcounts in a row.
    fn counts_of(&mut self, count: u16, times: u64) {
        for _ in 0..times {
            self.out.extend_from_slice(&count.to_be_bytes());
        }
    }

    /// Goes on with the L2 entries of blob `k`, up to the end of a table or of the index.
    fn tables(&mut self, k: usize) -> Result<()> {
        let Some(index) = self.given.take() else { return Ok(()) };
        let Stage::Tables(_, cursor) = &mut self.stage else { return Ok(()) };
        let mut cursor = cursor.take().unwrap_or_else(|| index.cursor());
        let base = self.places.get(k).copied().unwrap_or(0) << self.geometry.cluster_bits();
        let mut before = cursor.clone();
        while let Some(entry) = cursor.next(&index)? {
            let slot = entry.cluster / self.geometry.table_entries();
            if self.table.as_ref().is_some_and(|(open, _)| *open != slot) {
                // The table is whole: hand it out before this entry is read again.
                self.close_table()?;
                self.stage = Stage::Tables(k, Some(before));
                self.given = Some(index);
                return Ok(());
            }
            self.set(slot, &entry, base);
            before = cursor.clone();
        }
        self.stage = Stage::Tables(k + 1, None);
        Ok(())
    }

    /// Sets an L2 entry in the open table.
    fn set(&mut self, slot: u64, entry: &Entry, base: u64) {
        let bits = self.geometry.compressed_offset_bits();
        let host = base + entry.offset;
        let value = if entry.len == 0 {
            host | COPIED
        } else {
            let more_sectors = (host + u64::from(entry.len) - 1) / SECTOR - host / SECTOR;
            host | more_sectors << bits | COMPRESSED
        };
        let size = 1usize << self.geometry.cluster_bits();
        let (_, table) = self.table.get_or_insert_with(|| (slot, vec![0; size]));
        let at = usize::try_from(entry.cluster % self.geometry.table_entries()).unwrap_or(usize::MAX);
        if let Some(place) = table.chunks_exact_mut(8).nth(at) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    fn close_table(&mut self) -> Result<()> {
        let Some((slot, table)) = self.table.take() else { return Ok(()) };
        if self.layout.tables.rank(slot) != Some(self.tables_done) {
            return Err(WriteError::Index(format!("L2 table {slot} is out of order")));
        }
        self.tables_done += 1;
        self.out.extend_from_slice(&table);
        Ok(())
    }

    const fn offset(&self, cluster: u64) -> u64 {
        cluster << self.geometry.cluster_bits()
    }
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
