//! The allocation map: which parts of a disk hold data, kept beside a raw image.
//!
//! Goal: whoever copies, hashes or exports the raw image later skips its zeros without reading them.
//!
//! It says "zero" only where that is certain; a run of zeros shorter than the granule counts as data. The granule is
//! 64 KiB and grows with the disk, so that no disk has more than 2^20 runs (16 MiB of memory).
//!
//! Bytes: `"IT-ALC-1"`, then LEB128 integers: the disk's size, then for each run of data the zeros before it and its length.
//! What follows the last run is zeros.

use std::ops::Range;

use crate::{
    error::{Code, Error, Result},
    extent::{Extent, Stored},
    varint,
};

const MAGIC: &[u8; 8] = b"IT-ALC-1";
const MIN_GRANULE: u64 = 64 << 10;
const MAX_RUNS: u64 = 1 << 20;

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
}

impl AllocationWriter {
    /// For a disk of `virtual_size` bytes.
    pub fn new(virtual_size: u64) -> Self {
        let granule = virtual_size.div_ceil(MAX_RUNS).max(MIN_GRANULE);
        Self { map: AllocationMap { virtual_size, data: Vec::new() }, granule }
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
    }

    /// The map.
    pub fn finish(self) -> AllocationMap {
        self.map
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
}
