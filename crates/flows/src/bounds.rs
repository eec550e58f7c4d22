//! What one invocation holds and does at once: every constant that bounds memory, requests and patience.
//!
//! Memory of a worker, independent of the image's size:
//!
//! | phase | holds at most |
//! |---|---|
//! | plan, judge | [`PROBE_BYTES`] of the image's headers or tables |
//! | finish: what the disk starts on | [`PROBE_BYTES`] twice, and [`BOOT_EXTENTS`] |
//! | stage | a decoder's window ([`DECODER_MEMORY`]), [`STAGE_UPLOADS`] + 1 parts of [`STAGE_PART`], [`QUEUE`] chunks of [`CHUNK`] on each side of the decoder |
//! | transfer, as is | [`PARTS_AT_ONCE`] streams of network chunks |
//! | transfer, converting | for each of [`PARTS_AT_ONCE`] parts a [`WINDOW`], [`READS_AT_ONCE`] reads of at most 8 MiB, the extents of a [`STRIDE`] |
//! | transfer, to qcow2 | for each of [`PARTS_AT_ONCE`] ranges a [`WINDOW`], the reads that fill it, twice a part of a blob (16 MiB), and 32 bytes for each of its clusters: at most 4 MiB ([`BlobCut`]) |
//! | seal, of a qcow2 | the list of its blobs (about 1 KiB each, 10,000 at most); for each of [`COPIES_AT_ONCE`] parts a read of 8 MiB or an index, 0.5 MiB, and what is being written |
//! | plan, to qcow2 | of a disk of at most [`TINY`] twice the blob, a [`WINDOW`], the reads that fill it |
//! | finish; hash of at most [`HASH_INLINE`] | [`HASH_AHEAD`] + [`HASH_QUEUE`] + 2 reads of [`HASH_READ`] |
//! | hash, in a relay | a chunk of [`HASH_CHUNK`] and a read of [`HASH_READ`] |
//!
//! Stage and hash hold besides, of a disk, where its data is: 65,536 runs, 1 MiB.

use std::time::Duration;

pub use disk_image::write::parts::BlobCut;
use image_tasks_domain::transfer::{PART, SINGLE, TooLarge, TransferPlan};
use serde::{Deserialize, Serialize};

/// Bytes of headers and tables held at once while an image is inspected.
pub const PROBE_BYTES: usize = disk_image::drive::MAX_OPEN_BYTES;
/// Reads of headers and tables on their way at once. A full disk of 1 TiB has some thousand tables, all over its file.
pub const TABLES_AT_ONCE: usize = 32;
/// Bytes of a disk behind tables within which its boot structures are looked for: installers put them first.
pub const BOOT_REACH: u64 = 2 << 30;
/// Extents of them that are held meanwhile: 2.5 MiB. Smaller clusters shorten the reach.
pub const BOOT_EXTENTS: usize = 1 << 16;
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
pub const HASH_READ: u64 = 8 << 20;
/// Reads on their way while an object is hashed.
pub const HASH_AHEAD: usize = 4;
/// Reads that came and are not yet hashed by the slower of the two hashes.
pub const HASH_QUEUE: usize = 2;
/// Most bytes that are hashed where they are read: two milliseconds of work are not worth two threads.
pub const HASH_HERE: u64 = 512 << 10;
/// Objects of at most this many bytes are hashed by one call: a minute at 75 MB/s.
pub const HASH_INLINE: u64 = 4 << 30;
/// Bytes that a worker of a relay holds, and hashes in its turn. Simulated with half of this, 64 GiB take 4% longer on one
/// vCPU, and 28% on two.
pub const HASH_CHUNK: u64 = 256 << 20;
/// Workers of a relay: while one hashes, the others read. With one vCPU each, four read as fast as one hashes.
pub const HASH_WORKERS: u32 = 4;
/// How long a worker of a relay holds its chunk while no turn comes. It then drops it and gives up its place.
pub const HASH_PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks at whether a worker's turn is near.
pub const TURN_FAR: Duration = Duration::from_millis(500);
/// Time between two looks at whether a turn that is near has come.
pub const TURN_NEAR: Duration = Duration::from_millis(100);
/// How long a turn can be near: a few times what hashing a chunk takes.
pub const NEAR_FOR: Duration = Duration::from_secs(5);
/// Of the states in a relay, one in so many is kept to the end: by these a call finds out how far the relay is.
pub const HASH_KEPT: u32 = 64;
/// States that are looked for at once.
pub const STATES_AT_ONCE: usize = 16;
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
/// Ranges of a disk whose blobs are looked up at once.
pub const RECORDS_AT_ONCE: usize = 16;
/// Time kept at the end of a call's work to end a blob: its last part, its index and its record.
pub const TIME_TO_END_A_BLOB: Duration = Duration::from_secs(30);
/// Wait before a server that was busy is asked again, beside what it asks for; it doubles from answer to answer.
pub const BUSY_WAIT: Duration = Duration::from_secs(1);
/// The longest of these waits: a server with one connection serves whoever asks next.
pub const BUSY_WAIT_MOST: Duration = Duration::from_secs(8);
/// Mirrors of a place that are looked at before it counts as out of reach.
pub const MIRRORS: u32 = 3;
/// A source that has neither ETag nor `Last-Modified` is spooled up to this many bytes: at 1.2 MB/s one call suffices.
pub const SPOOL_UNPINNED: u64 = 1 << 30;
/// An OVA is checked against its manifest up to this many bytes, which one call reads in a minute at 75 MB/s.
pub const MANIFEST_MOST: u64 = 4 << 30;
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
/// How long [`LEAST_AT_ONCE`] bytes may keep a store waiting that they are streamed into: S3 gives up after about 20 s.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of a stream that its store sees at once: what S3's SDK gathers before it sends.
pub const LEAST_AT_ONCE: u64 = 64 << 10;
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
    /// Most bytes of a source without any validator that is spooled for that.
    pub spool_unpinned: u64,
    /// Most bytes of an OVA that is checked against its manifest.
    pub manifest_most: u64,
    /// How a qcow2 is made.
    pub blobs: BlobCut,
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
    /// How a qcow2 is made.
    pub blobs: BlobCut,
}

/// How stored objects are hashed. Other than the default only in tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Objects of at most this many bytes are hashed by one call.
    pub inline: u64,
    /// Bytes that a worker hashes in its turn.
    pub chunk: u64,
    /// Workers that take turns.
    pub workers: u32,
}

impl Default for Relay {
    fn default() -> Self {
        Self { inline: HASH_INLINE, chunk: HASH_CHUNK, workers: HASH_WORKERS }
    }
}

impl Default for ExportCut {
    fn default() -> Self {
        Self { tiny: TINY, copy_whole: 5 << 30, copy_part: 512 << 20, part: PART, blobs: BlobCut::S3 }
    }
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            single_below: SINGLE,
            part: PART,
            stage_part: STAGE_PART,
            spool_unpinned: SPOOL_UNPINNED,
            manifest_most: MANIFEST_MOST,
            blobs: BlobCut::S3,
        }
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
