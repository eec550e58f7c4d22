//! What a worker tells the reduce: where each cluster of its range is in its blob.
//!
//! # Encoding
//! Big-endian, 40 bytes: magic `QBIX`, version (u8, 1), cluster_bits (u8), 2 zero bytes, first cluster (u64), clusters (u64), the
//! blob's length (u64), entries (u64). Then the entries in the disk's order, in LEB128 numbers:
//! - `gap << 2 | kind`: clusters without data since the entry before, and what follows:
//! - kind 0: compressed, right behind the compressed cluster before it: length;
//! - kind 1: compressed: offset in the blob, length;
//! - kind 2: plain, the host cluster after the plain cluster before it;
//! - kind 3: plain: the blob's host cluster.
//!
//! So a cluster takes 1 to 3 bytes as a rule. Indexes come from our own bucket, but decoding trusts nothing: every number is
//! checked against the range and the blob before an entry is seen.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Result, WriteError, layout::Slots};
use crate::{fields::be64, varint, write::parts::MIN_PART};

const MAGIC: &[u8; 4] = b"QBIX";
const VERSION: u8 = 1;
const HEADER: usize = 40;

/// Where one cluster of the disk is in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number of the cluster on the virtual disk.
    pub cluster: u64,
    /// First byte in the blob.
    pub offset: u64,
    /// Bytes of the compressed cluster; 0 if it is stored as it is.
    pub len: u32,
}

impl Entry {
    pub(super) fn compressed(cluster: u64, offset: u64, len: usize) -> Self {
        Self { cluster, offset, len: u32::try_from(len).unwrap_or(u32::MAX) }
    }

    pub(super) const fn plain(cluster: u64, offset: u64) -> Self {
        Self { cluster, offset, len: 0 }
    }
}

/// Where a blob goes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Behind the metadata, joined with others: too short for a part.
    Joined,
    /// In a part of its own.
    Own,
}

/// What must be known of every blob to lay out the file. Small: all of a file's are in memory at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSummary {
    /// First cluster of its range of the disk.
    pub first_cluster: u64,
    /// Clusters of its range.
    pub clusters: u64,
    /// Bytes of the blob, whole clusters; 0 where the range is all zeros.
    pub len: u64,
    /// L2 tables that it has entries in: runs of (first L1 index, how many), in order.
    pub tables: Vec<(u64, u64)>,
    /// Where it goes.
    pub place: Place,
}

impl BlobSummary {
    /// Whether the blob has entries in the L2 table of that L1 index.
    pub(super) fn has_table(&self, slot: u64) -> bool {
        let behind = self.tables.partition_point(|(first, _)| *first <= slot);
        let run = behind.checked_sub(1).and_then(|i| self.tables.get(i));
        run.is_some_and(|(first, count)| slot - first < *count)
    }
}

/// The index of one blob, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobIndex {
    cluster_bits: u32,
    range: Range<u64>,
    len: u64,
    entries: u64,
    bytes: Vec<u8>,
}

impl BlobIndex {
    /// Encodes the entries of the blob of `len` bytes that covers the clusters `range`.
    pub(super) fn new(cluster_bits: u32, range: Range<u64>, len: u64, entries: &[Entry]) -> Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER + entries.len() * 3);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, u8::try_from(cluster_bits).unwrap_or(u8::MAX), 0, 0]);
        for number in [range.start, range.end - range.start, len, entries.len() as u64] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let mut next = Cursor::new(range.start);
        for entry in entries {
            let gap = entry.cluster.wrapping_sub(next.cluster) << 2;
            if entry.len == 0 {
                if entry.offset == next.plain {
                    varint::put(&mut bytes, gap | 2);
                } else {
                    varint::put(&mut bytes, gap | 3);
                    varint::put(&mut bytes, entry.offset >> cluster_bits);
                }
            } else {
                if entry.offset == next.packed {
                    varint::put(&mut bytes, gap);
                } else {
                    varint::put(&mut bytes, gap | 1);
                    varint::put(&mut bytes, entry.offset);
                }
                varint::put(&mut bytes, u64::from(entry.len));
            }
            next.pass(entry, cluster_bits);
        }
        Self::decode(bytes)
    }

    /// Reads an index and checks all of it.
    ///
    /// # Errors
    /// [`WriteError::Index`].
    pub fn decode(bytes: Vec<u8>) -> Result<Self> {
        let &[b'Q', b'B', b'I', b'X', VERSION, cluster_bits @ 9..=21, 0, 0, ..] = bytes.as_slice() else {
            return Err(bad("it has not the mark, version or cluster size of one"));
        };
        let field = |at| be64(&bytes, at).map_err(|_| bad("it is cut off"));
        let (first, clusters, len, entries) = (field(8)?, field(16)?, field(24)?, field(32)?);
        let end = first.checked_add(clusters).filter(|end| *end < 1 << 55);
        let end = end.ok_or_else(|| bad("its range passes any disk"))?;
        let cluster_bits = u32::from(cluster_bits);
        if !len.is_multiple_of(1 << cluster_bits) || len >= 1 << 56 {
            return Err(bad("the blob's length is not whole clusters"));
        }
        let index = Self { cluster_bits, range: first..end, len, entries, bytes };
        let mut cursor = index.cursor();
        let mut seen = 0;
        while cursor.next(&index)?.is_some() {
            seen += 1;
        }
        if seen != entries { Err(bad("entries are missing")) } else { Ok(index) }
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the blob.
    pub const fn blob_len(&self) -> u64 {
        self.len
    }

    /// log2 of the cluster size.
    pub(super) const fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// What the layout needs. A blob that S3 can't copy as a part is joined with others.
    pub fn summary(&self) -> BlobSummary {
        let mut tables = Slots::default();
        let mut cursor = self.cursor();
        while let Ok(Some(entry)) = cursor.next(self) {
            let slot = entry.cluster >> (self.cluster_bits - 3);
            tables.add(slot..slot + 1);
        }
        BlobSummary {
            first_cluster: self.range.start,
            clusters: self.range.end - self.range.start,
            len: self.len,
            tables: tables.runs(),
            place: if self.len <= MIN_PART { Place::Joined } else { Place::Own },
        }
    }

    /// Refcounts of the blob's clusters: how many clusters of the disk touch each.
    pub(super) fn refcounts(&self) -> Result<Vec<u16>> {
        let clusters =
            usize::try_from(self.len >> self.cluster_bits).map_err(|_| bad("the blob is too long"))?;
        let mut counts = vec![0u16; clusters];
        let mut cursor = self.cursor();
        while let Some(entry) = cursor.next(self)? {
            let last = entry.offset + u64::from(entry.len.max(1)) - 1;
            for host in entry.offset >> self.cluster_bits..=last >> self.cluster_bits {
                let count = usize::try_from(host).ok().and_then(|i| counts.get_mut(i));
                let count = count.ok_or_else(|| bad("an entry is outside of the blob"))?;
                *count = count.checked_add(1).ok_or_else(|| bad("a cluster is shared by more than 65535"))?;
            }
        }
        Ok(counts)
    }

    /// Reads the entries from the first.
    pub(super) const fn cursor(&self) -> Cursor {
        Cursor::new(self.range.start)
    }
}

/// A place among an index's entries, and what the next one is relative to.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    at: usize,
    seen: u64,
    cluster: u64,
    packed: u64,
    plain: u64,
}

impl Cursor {
    const fn new(first: u64) -> Self {
        Self { at: HEADER, seen: 0, cluster: first, packed: 0, plain: 0 }
    }

    fn pass(&mut self, entry: &Entry, cluster_bits: u32) {
        self.cluster = entry.cluster + 1;
        if entry.len == 0 {
            self.plain = entry.offset + (1 << cluster_bits);
        } else {
            self.packed = entry.offset + u64::from(entry.len);
        }
    }

    /// The next entry; `None` behind the last.
    pub(super) fn next(&mut self, index: &BlobIndex) -> Result<Option<Entry>> {
        if self.seen == index.entries {
            return if self.at == index.bytes.len() { Ok(None) } else { Err(bad("bytes follow its end")) };
        }
        let head = self.number(&index.bytes)?;
        let cluster = self.cluster.checked_add(head >> 2).filter(|c| index.range.contains(c));
        let cluster = cluster.ok_or_else(|| bad("an entry is outside of the range"))?;
        let size = 1u64 << index.cluster_bits;
        let (offset, len) = match head & 3 {
            0 => (self.packed, self.number(&index.bytes)?),
            1 => (self.number(&index.bytes)?, self.number(&index.bytes)?),
            2 => (self.plain, 0),
            _ => (
                self.number(&index.bytes)?.checked_mul(size).ok_or_else(|| bad("an offset is too large"))?,
                0,
            ),
        };
        if head & 2 == 0 && !(1..size).contains(&len) {
            return Err(bad("a length is not that of a compressed cluster"));
        }
        let end = offset.checked_add(if len == 0 { size } else { len });
        if end.is_none_or(|end| end > index.len) {
            return Err(bad("an entry is outside of the blob"));
        }
        let entry =
            Entry { cluster, offset, len: u32::try_from(len).map_err(|_| bad("a length is too large"))? };
        self.pass(&entry, index.cluster_bits);
        self.seen += 1;
        Ok(Some(entry))
    }

    fn number(&mut self, bytes: &[u8]) -> Result<u64> {
        let mut rest = bytes.get(self.at..).unwrap_or_default();
        let number = varint::take(&mut rest).ok_or_else(|| bad("it is cut off"))?;
        self.at = bytes.len() - rest.len();
        Ok(number)
    }
}

fn bad(what: &str) -> WriteError {
    WriteError::Index(format!("of a blob: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 16;

    fn sample() -> (Vec<Entry>, BlobIndex) {
        let entries = vec![
            Entry::compressed(100, 0, 400),
            Entry::compressed(101, 400, 65_000),
            Entry::plain(107, 3 * SIZE),
            Entry::compressed(108, 65_400, 1_000),
            Entry::plain(109, 4 * SIZE),
            Entry::compressed(40_000, 5 * SIZE, 1),
            Entry::plain(99_999, 2 * SIZE),
        ];
        let index = BlobIndex::new(16, 100..100_000, 6 * SIZE, &entries).unwrap();
        (entries, index)
    }

    fn entries(index: &BlobIndex) -> Vec<Entry> {
        let mut cursor = index.cursor();
        std::iter::from_fn(|| cursor.next(index).unwrap()).collect()
    }

    #[test]
    fn entries_survive_and_are_summed_up() {
        let (given, index) = sample();
        let again = BlobIndex::decode(index.as_bytes().to_vec()).unwrap();
        assert_eq!(entries(&again), given);
        assert_eq!(index.refcounts().unwrap(), [3, 1, 1, 1, 1, 1]);
        let summary = index.summary();
        assert_eq!(summary.tables, [(0, 1), (4, 1), (12, 1)]);
        assert_eq!((summary.first_cluster, summary.clusters), (100, 99_900));
        assert_eq!((summary.len, summary.place), (6 * SIZE, Place::Joined));
    }

    #[test]
    fn wrong_entries_are_refused() {
        let refused =
            |entry: Entry| matches!(BlobIndex::new(16, 5..10, 2 * SIZE, &[entry]), Err(WriteError::Index(_)));
        assert!(!refused(Entry::plain(9, SIZE)));
        assert!(refused(Entry::plain(10, SIZE)), "behind the range");
        assert!(refused(Entry::plain(4, SIZE)), "before the range");
        assert!(refused(Entry::plain(5, 2 * SIZE)), "behind the blob");
        assert!(refused(Entry::compressed(5, 2 * SIZE - 9, 10)), "across the blob's end");
        assert!(refused(Entry::compressed(5, 0, 1 << 16)), "not shorter than a cluster");
        let twice = [Entry::plain(6, 0), Entry::plain(6, SIZE)];
        assert!(BlobIndex::new(16, 5..10, 2 * SIZE, &twice).is_err(), "twice");
        assert!(BlobIndex::new(16, 5..10, SIZE + 1, &[]).is_err(), "a blob that ends within a cluster");
    }

    /// Whatever comes: a refusal, or entries within range and blob.
    #[test]
    fn damage_is_refused_or_harmless() {
        let (_, index) = sample();
        let good = index.as_bytes().to_vec();
        for end in 0..good.len() {
            assert!(BlobIndex::decode(good[..end].to_vec()).is_err(), "cut at {end}");
        }
        assert!(BlobIndex::decode([&good[..], &[0]].concat()).is_err());
        let mut taken = 0;
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let Ok(index) = BlobIndex::decode(bytes) else { continue };
                taken += 1;
                for entry in entries(&index) {
                    let len = if entry.len == 0 { 1 << index.cluster_bits } else { u64::from(entry.len) };
                    assert!(index.range.contains(&entry.cluster) && entry.offset + len <= index.len);
                }
            }
        }
        assert!(taken > 0);
    }
}
