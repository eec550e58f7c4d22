//! S3's rules for the parts of a multipart upload, as pure functions.
//!
//! Limits: AWS documentation, "Amazon S3 multipart upload limits": parts of 5 MiB to 5 GiB, the last of any size, numbers 1 to
//! 10,000 (gaps are allowed), objects up to 48.8 TiB.
//!
//! Part 1 is the image's metadata ([`Assembly`](super::qcow2::Assembly)). Each worker owns a span of the numbers after it, cuts its
//! blob into parts as the bytes come ([`PartCutter`]) and so holds little more than one part, whatever the blob's length.

use serde::{Deserialize, Serialize};

use super::rope::Rope;

/// Smallest part but the last, bytes.
pub const MIN_PART: u64 = 5 << 20;
/// Largest part, bytes.
pub const MAX_PART: u64 = 5 << 30;
/// Largest part number.
pub const MAX_PARTS: u64 = 10_000;
/// Largest object: 10,000 parts of 5 GiB.
pub const MAX_OBJECT: u64 = MAX_PARTS * MAX_PART;

/// Bytes of the virtual disk that one worker takes where [`MAX_RANGES`] of them are enough.
const RANGE: u64 = 64 << 20;
/// Most ranges: their list fits in a Step Functions state, their short blobs in one invocation of the reduce.
const MAX_RANGES: u64 = 256;
/// Ranges begin at multiples of this: the largest cluster.
const RANGE_ALIGN: u64 = 2 << 20;
/// Bytes of a part where the numbers are enough.
const PART: u64 = 16 << 20;
/// Times that a worker may end its blob early (short of time) and a new one go on with the rest of the range.
const RESUMPTIONS: u64 = 4;

/// A range of the virtual disk for one worker, and its span of part numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRange {
    /// First byte on the virtual disk.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// First part number, at least 2.
    pub first_part: u32,
    /// One past the last part number.
    pub end_part: u32,
    /// Bytes at which [`PartCutter`] cuts.
    pub part_size: u64,
}

impl BlobRange {
    /// The same range where at most `data` bytes of it, in whole clusters, aren't zeros: its parts need not be larger than that asks for.
    #[must_use]
    pub fn holding(self, data: u64) -> Self {
        let numbers = u64::from(self.end_part - self.first_part).saturating_sub(RESUMPTIONS + 1);
        Self { part_size: part_size(longest(data), numbers).min(self.part_size), ..self }
    }
}

/// An image too large for the parts of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a disk of {size} bytes may not fit in one S3 object")]
pub struct TooLarge {
    /// Bytes of the virtual disk.
    pub size: u64,
}

/// Cuts a disk of `size` bytes into ranges for workers. They cover it in order; an empty disk has none.
///
/// The numbers are enough however badly the bytes compress, and for a few resumptions of each range.
///
/// # Errors
/// [`TooLarge`] where 10,000 parts might not be enough.
pub fn blob_ranges(size: u64) -> Result<Vec<BlobRange>, TooLarge> {
    let len = size.div_ceil(MAX_RANGES).next_multiple_of(RANGE_ALIGN).max(RANGE);
    let count = size.div_ceil(len);
    let longest = longest(len);
    let spare = RESUMPTIONS + 1;
    let numbers = ((MAX_PARTS - 1) / count.max(1)).saturating_sub(spare);
    let part_size = part_size(longest, numbers);
    if part_size + MIN_PART > MAX_PART || size > MAX_OBJECT {
        return Err(TooLarge { size });
    }
    let span = longest.div_ceil(part_size) + spare;
    let number = |i: u64| u32::try_from(2 + i * span).map_err(|_| TooLarge { size });
    (0..count)
        .map(|i| {
            Ok(BlobRange {
                start: i * len,
                end: size.min((i + 1) * len),
                first_part: number(i)?,
                end_part: number(i + 1)?,
                part_size,
            })
        })
        .collect()
}

/// A blob of so many bytes of data is at most 1/32 longer, and one cluster (see `packer`); a resumption adds a part and a cluster.
const fn longest(data: u64) -> u64 {
    data + data / 32 + (RESUMPTIONS + 1) * RANGE_ALIGN
}

/// Bytes of a part of a blob of `len` bytes that has so many part numbers.
fn part_size(len: u64, numbers: u64) -> u64 {
    len.div_ceil(numbers.max(1)).next_multiple_of(1 << 20).max(PART)
}

/// Cuts a stream of unknown length into parts that S3 takes, no matter what follows: all but a stream's only part have at least
/// [`MIN_PART`]. Holds at most `part_size` + [`MIN_PART`] bytes and what is written between two calls of [`next_part`](Self::next_part);
/// where these are slices of larger buffers, at most twice that.
#[derive(Debug)]
pub struct PartCutter {
    part_size: usize,
    buffer: Rope,
}

impl PartCutter {
    /// Cuts at `part_size` bytes, at least [`MIN_PART`].
    pub fn new(part_size: u64) -> Self {
        let part_size = usize::try_from(part_size.max(MIN_PART)).unwrap_or(usize::MAX);
        Self { part_size, buffer: Rope::default() }
    }

    /// Where the stream's next bytes are appended.
    pub const fn buffer(&mut self) -> &mut Rope {
        &mut self.buffer
    }

    /// The next part, once enough has come to leave a whole part behind it.
    pub fn next_part(&mut self) -> Option<Rope> {
        let keep = usize::try_from(MIN_PART).unwrap_or(usize::MAX);
        let enough = self.buffer.len() >= self.part_size.saturating_add(keep);
        enough.then(|| self.buffer.split_to(self.part_size))
    }

    /// What is left at the stream's end: its last part, or all of it if that was too little to cut.
    pub fn finish(self) -> Rope {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_disk_once_and_numbers_never_meet() {
        let tib = 1 << 40;
        for size in [0, 1, RANGE - 1, RANGE, RANGE + 1, RANGE * 256, RANGE * 256 + 1, 8 << 30, tib, 30 * tib]
        {
            let ranges = blob_ranges(size).unwrap();
            let (mut at, mut number) = (0, 2);
            for r in &ranges {
                assert_eq!(r.start, at);
                assert!(r.end > r.start && r.start % RANGE_ALIGN == 0, "{r:?}");
                assert!(r.first_part >= number && r.end_part > r.first_part, "{r:?}");
                let longest = (r.end - r.start) / 32 * 33 + RANGE_ALIGN;
                assert!(u64::from(r.end_part - r.first_part) * r.part_size >= longest, "{r:?}");
                assert!((MIN_PART..MAX_PART).contains(&r.part_size));
                for data in [0, 1, (r.end - r.start) / 9, r.end - r.start] {
                    let held = r.holding(data);
                    assert!(
                        u64::from(held.end_part - held.first_part) * held.part_size
                            >= data / 32 * 33 + RANGE_ALIGN
                    );
                    assert!(held.part_size >= PART && held.part_size <= r.part_size, "{held:?}");
                }
                assert_eq!(r.holding(r.end - r.start), *r);
                assert_eq!(r.holding(256 << 20).part_size, PART, "{r:?}");
                (at, number) = (r.end, r.end_part);
            }
            assert_eq!(at, size);
            assert!(u64::from(number) <= MAX_PARTS + 1, "{size}: {number}");
            assert!(ranges.len() as u64 <= MAX_RANGES);
        }
        assert_eq!(blob_ranges(MAX_OBJECT * 2), Err(TooLarge { size: MAX_OBJECT * 2 }));
    }

    #[test]
    fn parts_are_never_too_small_and_lose_nothing() {
        for total in [0, 1, MIN_PART - 1, MIN_PART, 2 * MIN_PART - 1, 2 * MIN_PART, 7 * MIN_PART + 3] {
            let mut cutter = PartCutter::new(MIN_PART);
            let (mut parts, mut sent) = (Vec::new(), 0u64);
            while sent < total {
                let n = (total - sent).min(700_001);
                let bytes: Vec<u8> = (sent..sent + n).map(|i| u8::try_from(i % 251).unwrap()).collect();
                cutter.buffer().copy(&bytes);
                sent += n;
                parts.extend(std::iter::from_fn(|| cutter.next_part()));
            }
            parts.push(cutter.finish());
            assert!(parts.len() == 1 || parts.iter().all(|p| p.len() as u64 >= MIN_PART), "{total}");
            let all: Vec<u8> = parts.into_iter().flatten().flatten().collect();
            assert_eq!(all.len() as u64, total);
            assert!(all.iter().enumerate().all(|(i, b)| usize::from(*b) == i % 251));
        }
    }
}
