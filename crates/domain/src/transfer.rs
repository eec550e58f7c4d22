//! How an object is cut into parts, and parts into batches.
//!
//! Limits of S3 multipart upload (AWS documentation, "Amazon S3 multipart upload
//! limits"): parts of 5 MiB to 5 GiB (the last may be smaller), at most 10,000
//! of them, objects up to 48.8 TiB.

use serde::{Deserialize, Serialize};

/// Smallest part but the last, bytes.
pub const MIN_PART: u64 = 5 << 20;
/// Largest part, bytes.
pub const MAX_PART: u64 = 5 << 30;
/// Most parts of one upload.
pub const MAX_PARTS: u64 = 10_000;
/// Images below this go in one invocation and one part.
pub const SINGLE: u64 = 100 << 20;
/// Part size wherever 10,000 of them are enough.
pub const PART: u64 = 64 << 20;
/// Most batches of one transfer: keeps the list in a state far below 256 KiB and one history below 25,000 events.
pub const MAX_BATCHES: u64 = 256;
/// Workers at once: the limit of an inline Map.
pub const WORKERS: u64 = 40;

/// An object cut into parts of equal size, the last one shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferPlan {
    /// Bytes in all.
    pub size: u64,
    /// Bytes of each part but the last.
    pub part_size: u64,
}

/// Consecutive parts that one worker moves, numbered from 1, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// First part.
    pub first: u32,
    /// Last part.
    pub last: u32,
}

/// One part's place in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRange {
    /// From 1.
    pub number: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// An object that 10,000 parts of 5 GiB can't hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{size} bytes are more than one S3 object can hold")]
pub struct TooLarge {
    /// Bytes asked for.
    pub size: u64,
}

impl TransferPlan {
    /// Cuts `size` bytes into parts: [`PART`] where that is enough, else the smallest whole number of MiB that is.
    ///
    /// # Errors
    /// [`TooLarge`] beyond 10,000 parts of 5 GiB.
    pub fn new(size: u64) -> Result<Self, TooLarge> {
        const MIB: u64 = 1 << 20;
        let needed = size.div_ceil(MAX_PARTS).div_ceil(MIB).saturating_mul(MIB);
        let part_size = needed.max(PART);
        if part_size > MAX_PART { Err(TooLarge { size }) } else { Ok(Self { size, part_size }) }
    }

    /// Number of parts; an empty object has one empty part.
    pub fn parts(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.part_size)).unwrap_or(u32::MAX).max(1)
    }

    /// Where part `number` lies; `None` outside `1..=parts()`.
    pub fn part(&self, number: u32) -> Option<PartRange> {
        if number == 0 || number > self.parts() {
            return None;
        }
        let offset = u64::from(number - 1) * self.part_size;
        Some(PartRange { number, offset, len: self.part_size.min(self.size - offset) })
    }

    /// Batches of consecutive parts.
    pub fn batches(&self) -> Vec<Batch> {
        batches(self.parts())
    }
}

/// Batches of consecutive pieces of work, numbered from 1: one a worker while there are workers, then longer ones.
pub fn batches(pieces: u32) -> Vec<Batch> {
    let pieces = u64::from(pieces);
    let count = if pieces <= WORKERS { pieces } else { (pieces / 4).clamp(WORKERS, MAX_BATCHES) };
    let edge = |i: u64| u32::try_from(i * pieces / count).unwrap_or(u32::MAX);
    (0..count).map(|i| Batch { first: edge(i) + 1, last: edge(i + 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_exactly_one_part_and_every_part_in_one_batch() {
        let tib = 1u64 << 40;
        let sizes = [
            0,
            1,
            MIN_PART - 1,
            MIN_PART,
            MIN_PART + 1,
            SINGLE - 1,
            SINGLE,
            PART * 16,
            MAX_PART - 1,
            MAX_PART,
            MAX_PART + 1,
            PART * MAX_PARTS,
            PART * MAX_PARTS + 1,
            tib,
            5 * tib,
            MAX_PART * MAX_PARTS,
        ];
        for size in sizes {
            let plan = TransferPlan::new(size).unwrap();
            assert!(u64::from(plan.parts()) <= MAX_PARTS, "{size}");
            assert!((MIN_PART..=MAX_PART).contains(&plan.part_size), "{size}");
            let mut at = 0;
            for n in 1..=plan.parts() {
                let part = plan.part(n).unwrap();
                assert_eq!(part.offset, at, "{size}");
                at += part.len;
            }
            assert_eq!(at, size);
            assert_eq!((plan.part(0), plan.part(plan.parts() + 1)), (None, None));
            let batches = plan.batches();
            assert!(batches.len() as u64 <= MAX_BATCHES);
            let mut next = 1;
            for b in &batches {
                assert_eq!(b.first, next);
                assert!(b.last >= b.first);
                next = b.last + 1;
            }
            assert_eq!(next - 1, plan.parts());
        }
        assert_eq!(TransferPlan::new(1 << 30).unwrap().batches().len(), 16);
        assert!(TransferPlan::new(MAX_PART * MAX_PARTS + 1).is_err());
    }
}
