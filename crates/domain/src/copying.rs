//! How an object is copied inside S3.
//!
//! Goal: the copy's ETag equals the source's wherever it can: an object stored by one request is copied by one, an object of
//! parts is copied in the same parts.
//!
//! Limits (S3 API reference, `CopyObject` and `UploadPartCopy`): at most 5 GiB in one request, whole or part.

use serde::{Deserialize, Serialize};

use crate::transfer::{MAX_PART, MAX_PARTS, MIN_PART, PART, TooLarge, TransferPlan};

/// How an object is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyCut {
    /// By one request.
    Whole,
    /// In parts.
    Parts(TransferPlan),
}

/// Sizes of copies. Other than the default only in tests, which need many parts of few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRules {
    /// Most bytes of one request.
    pub whole: u64,
    /// Part size where the source's parts aren't known.
    pub part: u64,
}

impl Default for CopyRules {
    fn default() -> Self {
        Self { whole: MAX_PART, part: PART }
    }
}

impl CopyRules {
    /// How an object of that size and ETag is copied.
    ///
    /// # Errors
    /// [`TooLarge`] beyond 10,000 parts of 5 GiB.
    pub fn plan(&self, size: u64, etag: &str) -> Result<CopyCut, TooLarge> {
        let parts = parts_of(etag);
        if size == 0 || (parts.is_none() && size <= self.whole) {
            return Ok(CopyCut::Whole);
        }
        let ours = TransferPlan::new(size)?;
        let part_size = if ours.part_size == PART { self.part } else { ours.part_size };
        let ours = TransferPlan { part_size, ..ours };
        let theirs = parts.filter(|n| *n != ours.parts()).and_then(|n| guess(size, n));
        Ok(CopyCut::Parts(theirs.unwrap_or(ours)))
    }
}

/// Number of parts that an ETag tells: S3 ends that of a multipart object with `-N` (S3 API reference, `Object`).
fn parts_of(etag: &str) -> Option<u32> {
    let (_, count) = etag.trim_matches('"').rsplit_once('-')?;
    count.parse().ok().filter(|n| (1..=MAX_PARTS).contains(&u64::from(*n)))
}

/// The smallest part of whole MiB that makes so many: what most writers use. Wrong, it costs nothing but an equal ETag.
fn guess(size: u64, parts: u32) -> Option<TransferPlan> {
    const MIB: u64 = 1 << 20;
    let part_size = size.div_ceil(u64::from(parts)).div_ceil(MIB).saturating_mul(MIB).max(MIN_PART);
    let plan = TransferPlan { size, part_size };
    (part_size <= MAX_PART && plan.parts() == parts).then_some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    fn parts(size: u64, etag: &str) -> Option<(u32, u64)> {
        match CopyRules::default().plan(size, etag).unwrap() {
            CopyCut::Whole => None,
            CopyCut::Parts(plan) => {
                let sum: u64 = (1..=plan.parts()).map(|n| plan.part(n).unwrap().len).sum();
                assert_eq!(sum, size);
                assert!(plan.part_size <= MAX_PART && u64::from(plan.parts()) <= MAX_PARTS);
                Some((plan.parts(), plan.part_size))
            }
        }
    }

    #[test]
    fn one_request_where_the_source_was_one_and_it_fits() {
        for size in [0, 1, 100 * MIB, 5 * GIB - 1, 5 * GIB] {
            for etag in ["\"0123\"", "\"0123-0\"", "\"0123-x\""] {
                assert_eq!(parts(size, etag), None, "{size} {etag}");
            }
        }
        assert_eq!(parts(5 * GIB + 1, "\"0123\""), Some((81, 64 * MIB)));
    }

    #[test]
    fn parts_are_the_sources() {
        for (size, etag, expected) in [
            (5 * GIB - 1, "\"ab-80\"", (80, 64 * MIB)),
            (5 * GIB, "\"ab-80\"", (80, 64 * MIB)),
            (5 * GIB + 1, "\"ab-81\"", (81, 64 * MIB)),
            (100 * MIB + 1, "\"ab-13\"", (13, 8 * MIB)),
            (100 * MIB, "\"ab-1\"", (1, 100 * MIB)),
            (1, "\"ab-1\"", (1, 64 * MIB)),
            // 525 MiB: the smallest whole number of MiB of which 10,000 hold 5 TiB.
            (5 * TIB, "\"ab-9987\"", (9987, 525 * MIB)),
            (MAX_PART * MAX_PARTS, "\"ab-10000\"", (10_000, 5 * GIB)),
            // Nobody can cut 1 GiB so: the bytes come over all the same, in parts of ours.
            (GIB, "\"ab-9999\"", (16, 64 * MIB)),
        ] {
            assert_eq!(parts(size, etag), Some(expected), "{size} {etag}");
        }
        assert!(CopyRules::default().plan(MAX_PART * MAX_PARTS + 1, "\"ab-10000\"").is_err());
    }
}
