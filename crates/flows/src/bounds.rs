//! What one invocation holds and does at once: every constant that bounds memory, requests and patience.
//!
//! Memory of a worker, independent of the image's size:
//!
//! | phase | holds at most |
//! |---|---|
//! | plan | [`PROBE_BYTES`] of the image's headers or tables |
//! | stage | a decoder's window ([`DECODER_MEMORY`]), [`STAGE_UPLOADS`] + 1 parts of [`STAGE_PART`], [`QUEUE`] chunks of [`CHUNK`] on each side of the decoder |
//! | transfer, as is | [`PARTS_AT_ONCE`] streams of network chunks |
//! | transfer, converting | for each of [`PARTS_AT_ONCE`] parts a [`WINDOW`], [`READS_AT_ONCE`] reads of at most 8 MiB, the extents of a [`STRIDE`] |
//! | transfer, to qcow2 | for each of [`PARTS_AT_ONCE`] ranges a [`WINDOW`], the reads that fill it, and twice a part of the blob: 16 MiB, more where a range may hold more data than 34 of them (what no map tells about may be data), never more than [`BLOB_PART`] |
//! | plan, to qcow2 | of a disk of at most [`TINY`] twice the blob, a [`WINDOW`], the reads that fill it |
//! | finish | [`HASH_AHEAD`] + [`HASH_QUEUE`] + 2 chunks of [`HASH_CHUNK`] |
//!
//! Stage and finish hold besides, of a disk, where its data is: 65,536 runs, 1 MiB.

use std::time::Duration;

use image_tasks_domain::transfer::{PART, SINGLE, TooLarge, TransferPlan};

/// Bytes of headers and tables held at once while an image is inspected.
pub const PROBE_BYTES: usize = disk_image::drive::MAX_OPEN_BYTES;
/// Parts that a transfer worker moves at once: one waits for its source while the other is stored.
pub const PARTS_AT_ONCE: usize = 2;
/// Part size of a staged object. 10,000 of them are 156 GiB, more than one invocation of 15 minutes can fetch.
pub const STAGE_PART: usize = 16 << 20;
/// Parts of a staged object that are on their way while the next one fills.
pub const STAGE_UPLOADS: usize = 2;
/// Memory that a decoder of a compressed stream may take: zstd's and xz's highest levels need 128 and 65 MiB.
pub const DECODER_MEMORY: u64 = 128 << 20;
/// zstd's window of that size, as a power of two.
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// Decoded bytes handed on at once.
pub const CHUNK: usize = 256 << 10;
/// Chunks that wait on each side of a decoder.
pub const QUEUE: usize = 16;
/// Bytes of one read while a stored object is hashed.
pub const HASH_CHUNK: u64 = 8 << 20;
/// Reads on their way while an object is hashed.
pub const HASH_AHEAD: usize = 4;
/// Chunks read and not yet hashed by the slower of the two hashes.
pub const HASH_QUEUE: usize = 2;
/// Bytes of a disk that are read and decoded at once.
pub const WINDOW: usize = 8 << 20;
/// Bytes of a disk whose extents are held at once: 131,072 of them for the smallest clusters.
pub const STRIDE: u64 = 64 << 20;
/// Reads on their way while a window is filled.
pub const READS_AT_ONCE: usize = 4;
/// Parts that S3 copies at once for one worker; no byte of them passes it.
pub const COPIES_AT_ONCE: usize = 8;
/// Images of one page while one with the same bits is looked for.
pub const SAME_IMAGE_PAGE: usize = 100;
/// Pages that are looked at for it.
pub const SAME_IMAGE_PAGES: usize = 10;
/// A disk of at most this many bytes becomes a qcow2 in memory, in one call, and is stored in one request.
pub const TINY: u64 = 64 << 20;
/// Bytes of a blob's part at most: a raw disk of 2 TiB whose zeros nobody knows needs that, to come out with 10,000 parts.
pub const BLOB_PART: u64 = 256 << 20;
/// Indexes of blobs read at once.
pub const INDEXES_AT_ONCE: usize = 8;
/// Bytes of a stream after which it is counted as done.
pub const REPORT_EVERY: u64 = 8 << 20;
/// Time between two writes of a task's progress by one worker.
pub const TELL_EVERY: Duration = Duration::from_secs(3);
/// Time that such a write may take; then it is given up, and its bytes are told with the next.
pub const TELL_WITHIN: Duration = Duration::from_secs(1);
/// Time after which a worker looks again whether its task has ended: a read of an item of up to 400 KB.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Tries of one read or one part before the source or store counts as out of reach.
pub const TRIES: u32 = 5;
/// Wait before the second try; it doubles from try to try.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Time kept at an invocation's end to save what was done and to answer.
pub const TIME_TO_ANSWER: Duration = Duration::from_secs(15);

/// How objects are cut. Other than the default only in tests, which need many parts of few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Images below this many bytes are made in one call.
    pub single_below: u64,
    /// Largest part where 10,000 of them are enough.
    pub part: u64,
    /// Part of a staged object.
    pub stage_part: usize,
}

/// How exports are cut. Other than the default only in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportCut {
    /// Disks of at most this many bytes that are rewritten are made in memory, in one call, and stored in one request.
    pub tiny: u64,
    /// Most bytes of a copy in one request (S3 API reference, `CopyObject`: 5 GiB).
    pub copy_whole: u64,
    /// Bytes of a copied part: one call stays short.
    pub copy_part: u64,
    /// Bytes of a part of a raw disk.
    pub part: u64,
}

impl Default for ExportCut {
    fn default() -> Self {
        Self { tiny: TINY, copy_whole: 5 << 30, copy_part: 512 << 20, part: PART }
    }
}

impl Default for Cut {
    fn default() -> Self {
        Self { single_below: SINGLE, part: PART, stage_part: STAGE_PART }
    }
}

impl Cut {
    /// How an object of that size is cut.
    pub(crate) fn plan(&self, size: u64) -> Result<TransferPlan, TooLarge> {
        let plan = TransferPlan::new(size)?;
        let part_size = if plan.part_size == PART { self.part } else { plan.part_size };
        Ok(TransferPlan { part_size, ..plan })
    }
}
