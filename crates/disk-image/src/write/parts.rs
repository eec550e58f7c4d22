//! S3's rules for the parts of a multipart upload, and how a disk is cut by them.
//!
//! Limits: AWS documentation, "Amazon S3 multipart upload limits": parts of 5 MiB to 5 GiB, the last of any size, at most 10,000
//! of them, objects up to 48.8 TiB. Numbers begin at 1 and have no gaps: S3 demands that of uploads with checksums. A range is
//! copied only from an object of more than 5 MiB (S3 API reference, `UploadPartCopy`).

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Smallest part but the last, bytes.
pub const MIN_PART: u64 = 5 << 20;
/// Largest part, bytes.
pub const MAX_PART: u64 = 5 << 30;
/// Most parts of one upload.
pub const MAX_PARTS: u64 = 10_000;
/// Largest object: 10,000 parts of 5 GiB.
pub const MAX_OBJECT: u64 = MAX_PARTS * MAX_PART;
/// Largest disk that is written as qcow2: with its metadata and whatever is lost to alignment it fits in one object.
pub const MAX_DISK: u64 = 40 << 40;

/// Most ranges of a disk: few enough that each is mostly full blobs.
const MAX_RANGES: u64 = 256;
/// Ranges begin at multiples of this: the largest cluster.
const RANGE_ALIGN: u64 = 2 << 20;

/// How a disk becomes blobs, and a file of blobs parts. Other than [`S3`](Self::S3) only in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobCut {
    /// Bytes of a range of the disk, where 256 of them are enough.
    pub range: u64,
    /// Bytes of each part of a blob but its last.
    pub part: u64,
    /// Bytes of a blob at most.
    pub most: u64,
    /// Clusters of the disk that a blob holds at most: what is known of each is in memory until the blob ends.
    pub most_clusters: u64,
    /// A blob is copied into the file only if it is longer; those that aren't are joined. No part but the last is shorter.
    pub least: u64,
    /// Bytes of a part that passes a worker when the file is put together.
    pub made: u64,
}

/// A disk too large for one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a disk of {size} bytes can't be written as qcow2, the limit is {MAX_DISK}")]
pub struct TooLarge {
    /// Bytes of the virtual disk.
    pub size: u64,
}

impl BlobCut {
    /// By S3's limits.
    pub const S3: Self = Self {
        range: 64 << 20,
        part: 16 << 20,
        most: MAX_PART,
        most_clusters: 128 << 10,
        least: MIN_PART,
        made: 64 << 20,
    };

    /// The ranges of a disk of `size` bytes: they cover it in order. Each is one worker's at a time.
    ///
    /// # Errors
    /// [`TooLarge`] beyond [`MAX_DISK`].
    pub fn ranges(&self, size: u64) -> Result<u32, TooLarge> {
        let count = size.div_ceil(self.range_len(size));
        u32::try_from(count).ok().filter(|_| size <= MAX_DISK).ok_or(TooLarge { size })
    }

    /// The range of that number, from 1.
    pub fn range(&self, size: u64, number: u32) -> Option<Range<u64>> {
        let len = self.range_len(size);
        let start = len.checked_mul(u64::from(number.checked_sub(1)?)).filter(|start| *start < size)?;
        Some(start..size.min(start.saturating_add(len)))
    }

    const fn range_len(&self, size: u64) -> u64 {
        let align = if self.range < RANGE_ALIGN { self.range } else { RANGE_ALIGN };
        let even = size.div_ceil(MAX_RANGES).next_multiple_of(align);
        if even > self.range { even } else { self.range }
    }

    /// The same where fewer, larger parts are joined of short blobs: `times` times doubled.
    #[must_use]
    pub fn joining(self, times: u32) -> Self {
        let least = self.least << times;
        Self { least, made: self.made.max(4 * least), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_disk_once() {
        let (tib, range) = (1 << 40, BlobCut::S3.range);
        for size in [0, 1, range - 1, range, range + 1, range * 256, range * 256 + 1, tib, 30 * tib, MAX_DISK]
        {
            let count = BlobCut::S3.ranges(size).unwrap();
            let mut at = 0;
            for number in 1..=count {
                let range = BlobCut::S3.range(size, number).unwrap();
                assert_eq!(range.start, at);
                assert!(range.end > at && at % RANGE_ALIGN == 0, "{range:?}");
                at = range.end;
            }
            assert_eq!(at, size);
            assert!(u64::from(count) <= MAX_RANGES);
            assert_eq!((BlobCut::S3.range(size, 0), BlobCut::S3.range(size, count + 1)), (None, None));
        }
        assert_eq!(BlobCut::S3.ranges(MAX_DISK + 1), Err(TooLarge { size: MAX_DISK + 1 }));
    }
}
