//! The allocation map: which parts of a disk hold data, kept beside a raw image.
//!
//! Goal: whoever copies, hashes or exports the raw image later skips its zeros without reading them.
//!
//! It says "zero" only where that is certain; a run of zeros shorter than the granule counts as data. The granule is
//! 64 KiB and grows with the disk, so that no disk has more than 2^20 runs (16 MiB of memory).
//!
//! It is made from an image's tables ([`AllocationWriter`]) or, where there are none, from all of its bytes ([`AllocationScanner`]).
//!
//! Bytes: `"IT-ALC-1"`, then LEB128 integers: the disk's size, then for each run of data the zeros before it and its length.
//! What follows the last run is zeros.

use std::ops::Range;

use crate::{
    error::{Code, Error, Result},
    extent::{Extent, Stored},
    varint,
    zero::is_zero,
};

const MAGIC: &[u8; 8] = b"IT-ALC-1";
const MIN_GRANULE: u64 = 64 << 10;
const MAX_RUNS: u64 = 1 << 20;
/// Most runs of a scan. With at most 10 bytes for each (two numbers, 5 bytes up to 32 GiB) what was found so far can be
/// kept in a small object between two workers.
const MAX_SCANNED_RUNS: usize = 1 << 16;

/// Where a disk has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationMap {
    virtual_size: u64,
    data: Vec<Range<u64>>,
}

/// Makes an [`AllocationMap`] while a layout is walked.
#[derive(Debug)]
pub struct AllocationWriter {
    map: AllocationMap,
    granule: u64,
    most_runs: usize,
}

/// Makes an [`AllocationMap`] from a disk's bytes, in order, any number at a time.
///
/// It tells clusters of 64 KiB that are all zeros from others, of which it looks at nothing behind the first byte that isn't
/// zero: nearly free for data, and for zeros as fast as memory.
#[derive(Debug)]
pub struct AllocationScanner {
    writer: AllocationWriter,
    /// Bytes seen.
    at: u64,
    /// Whether the open cluster has data.
    data: bool,
}

impl AllocationWriter {
    /// For a disk of `virtual_size` bytes.
    pub fn new(virtual_size: u64) -> Self {
        let granule = virtual_size.div_ceil(MAX_RUNS).max(MIN_GRANULE);
        let most_runs = usize::try_from(MAX_RUNS).unwrap_or(usize::MAX);
        Self { map: AllocationMap { virtual_size, data: Vec::new() }, granule, most_runs }
    }

    /// Adds the next extent of the walk.
    pub fn push(&mut self, extent: &Extent) {
        if extent.stored != Stored::Zero {
            self.data(extent.start..extent.end());
        }
    }

    /// Says that a stretch behind all others has data.
    pub fn data(&mut self, run: Range<u64>) {
        match self.map.data.last_mut() {
            Some(last) if run.start < last.end.saturating_add(self.granule) => {
                last.end = last.end.max(run.end)
            }
            _ => self.map.data.push(run),
        }
        if self.map.data.len() > self.most_runs {
            self.coarsen();
        }
    }

    /// Joins runs over the shortest zeros between them until there is room for as many again.
    fn coarsen(&mut self) {
        while self.map.data.len() > self.most_runs / 2 {
            self.granule = self.granule.saturating_mul(2);
            let granule = self.granule;
            self.map.data.dedup_by(|next, last| {
                let near = next.start < last.end.saturating_add(granule);
                if near {
                    last.end = next.end;
                }
                near
            });
        }
    }

    /// The map.
    pub fn finish(self) -> AllocationMap {
        self.map
    }
}

impl Default for AllocationScanner {
    fn default() -> Self {
        Self::resume(AllocationMap { virtual_size: 0, data: Vec::new() })
    }
}

impl AllocationScanner {
    /// Goes on behind the bytes that a map covers.
    pub fn resume(map: AllocationMap) -> Self {
        let at = map.virtual_size;
        // What was open then is open again.
        let data = !at.is_multiple_of(MIN_GRANULE) && map.data.last().is_some_and(|last| last.end == at);
        let writer = AllocationWriter { map, granule: MIN_GRANULE, most_runs: MAX_SCANNED_RUNS };
        Self { writer, at, data }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(MIN_GRANULE - self.at % MIN_GRANULE).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.data = self.data || !is_zero(now);
            self.at += now.len() as u64;
            if now.len() == room {
                self.close();
            }
            bytes = rest;
        }
    }

    /// The map of all bytes seen.
    pub fn finish(mut self) -> AllocationMap {
        self.close();
        AllocationMap { virtual_size: self.at, ..self.writer.map }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.data) {
            let start = (self.at - 1) / MIN_GRANULE * MIN_GRANULE;
            self.writer.data(start..self.at);
        }
    }
}

impl AllocationMap {
    /// Bytes of the disk.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// The runs of data, in order, never touching.
    pub fn data(&self) -> &[Range<u64>] {
        &self.data
    }

    /// Bytes in runs of data.
    pub fn data_bytes(&self) -> u64 {
        self.data.iter().map(|r| r.end - r.start).sum()
    }

    /// The runs of data within `range`, cut to it.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.data.partition_point(|run| run.end <= range.start);
        let end = range.end;
        self.data[first..]
            .iter()
            .take_while(move |run| run.start < end)
            .map(move |run| run.start.max(range.start)..run.end.min(range.end))
    }

    /// Whether `range` holds no data.
    pub fn is_zero(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_none()
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        varint::put(&mut out, self.virtual_size);
        let mut at = 0;
        for run in &self.data {
            varint::put(&mut out, run.start - at);
            varint::put(&mut out, run.end - run.start);
            at = run.end;
        }
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Code::BadMap`] where they are not what [`encode`](Self::encode) writes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let broken = |what: &str| Error::refused(Code::BadMap, format!("allocation map: {what}"));
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| broken("it has no mark"))?;
        let virtual_size = varint::take(&mut rest).ok_or_else(|| broken("it is cut off"))?;
        let mut map = Self { virtual_size, data: Vec::new() };
        let mut at = 0u64;
        while !rest.is_empty() {
            let (zeros, len) = varint::take(&mut rest)
                .zip(varint::take(&mut rest))
                .ok_or_else(|| broken("it is cut off"))?;
            let start = at.checked_add(zeros).filter(|_| zeros > 0 || at == 0);
            let run = start.and_then(|start| Some(start..start.checked_add(len)?));
            let run = run.filter(|run| !run.is_empty() && run.end <= virtual_size);
            let run = run.ok_or_else(|| broken("a run is empty or past the end"))?;
            at = run.end;
            map.data.push(run);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn map(runs: &[Range<u64>]) -> AllocationMap {
        let mut writer = AllocationWriter::new(1000 * KIB);
        for run in runs {
            writer.data(run.clone());
        }
        writer.finish()
    }

    #[test]
    fn short_zeros_count_as_data_and_long_ones_do_not() {
        let map = map(&[0..KIB, 10 * KIB..20 * KIB, 84 * KIB..90 * KIB]);
        assert_eq!(map.data(), [0..20 * KIB, 84 * KIB..90 * KIB]);
        assert_eq!(map.data_bytes(), 26 * KIB);
        assert!(map.is_zero(20 * KIB..84 * KIB));
        assert!(!map.is_zero(20 * KIB..85 * KIB));
        assert_eq!(
            map.within(5 * KIB..85 * KIB).collect::<Vec<_>>(),
            [5 * KIB..20 * KIB, 84 * KIB..85 * KIB]
        );
    }

    #[test]
    fn it_survives_encoding_and_damage_is_seen() {
        for map in
            [map(&[]), map(&[0..KIB, 200 * KIB..201 * KIB]), map(&[5 * KIB..6 * KIB, 100 * KIB..1000 * KIB])]
        {
            let bytes = map.encode();
            assert_eq!(AllocationMap::decode(&bytes).unwrap(), map);
            assert!(AllocationMap::decode(&bytes[1..]).is_err());
            assert!(AllocationMap::decode(&[&bytes[..], &[0, 0]].concat()).is_err());
            assert!(AllocationMap::decode(&[&bytes[..], &[1]].concat()).is_err());
        }
    }

    #[test]
    fn a_large_disk_has_a_coarser_granule() {
        let mut writer = AllocationWriter::new(1 << 40);
        writer.data(0..1);
        writer.data((1 << 20) - 1..1 << 20);
        writer.data(1 << 22..(1 << 22) + 1);
        assert_eq!(writer.finish().data().len(), 2);
    }

    #[test]
    fn a_scan_finds_clusters_of_zeros_however_the_bytes_are_cut() {
        const CLUSTER: usize = 64 << 10;
        let mut bytes = vec![0; 10 * CLUSTER + 100];
        for at in [0, 3 * CLUSTER - 1, 5 * CLUSTER, 7 * CLUSTER + 9, 10 * CLUSTER + 99] {
            bytes[at] = 1;
        }
        let cluster = CLUSTER as u64;
        let end = bytes.len() as u64;
        let data = [0, 2, 5, 7, 10].map(|n| n * cluster..((n + 1) * cluster).min(end));
        for cut in [1, 700, CLUSTER - 1, CLUSTER, CLUSTER + 1, 3 * CLUSTER, bytes.len()] {
            let mut scanner = AllocationScanner::default();
            for chunk in bytes.chunks(cut) {
                scanner.update(chunk);
            }
            let map = scanner.finish();
            assert_eq!((map.virtual_size(), map.data()), (end, &data[..]), "{cut}");
            // The same with the work handed on in the middle, as bytes.
            let mut first = AllocationScanner::default();
            first.update(&bytes[..cut]);
            let map = AllocationMap::decode(&first.finish().encode()).unwrap();
            let mut second = AllocationScanner::resume(map);
            second.update(&bytes[cut..]);
            assert_eq!(second.finish().data(), data, "handed on at {cut}");
        }
        assert_eq!(AllocationScanner::default().finish().encode(), [&MAGIC[..], &[0]].concat());
    }

    /// Every other cluster, for 16 GiB of a disk: too many runs for a small object.
    #[test]
    fn a_scan_of_crumbs_stays_small_and_forgets_no_data() {
        let runs = 2 * MAX_SCANNED_RUNS as u64;
        let mut scanner = AllocationScanner::default();
        for n in 0..runs {
            scanner.writer.data(2 * n * MIN_GRANULE..(2 * n + 1) * MIN_GRANULE);
        }
        scanner.at = 2 * runs * MIN_GRANULE + (4 << 30);
        let map = scanner.finish();
        assert!(map.data().len() <= MAX_SCANNED_RUNS);
        assert!((0..runs).all(|n| !map.is_zero(2 * n * MIN_GRANULE..(2 * n + 1) * MIN_GRANULE)));
        assert!(map.is_zero(2 * runs * MIN_GRANULE..map.virtual_size()), "a long run of zeros stays one");
        let mut most = AllocationScanner { at: 48 << 40, ..AllocationScanner::default() };
        let apart = most.at / MAX_SCANNED_RUNS as u64;
        for n in 0..MAX_SCANNED_RUNS as u64 {
            most.writer.data(n * apart..n * apart + apart / 2);
        }
        let map = most.finish();
        assert_eq!(map.data().len(), MAX_SCANNED_RUNS);
        // As base64, beside the state of two hashes.
        assert!(map.encode().len().div_ceil(3) * 4 < (1 << 20) - 1000, "{}", map.encode().len());
    }
}
