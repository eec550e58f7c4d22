//! The local stack's S3 for tests, and bodies to put into it.

use bytes::Bytes;
use disk_image::ByteRange;
use futures::{StreamExt, stream};
use image_tasks_aws::S3Objects;
use image_tasks_flows::ports::{Body, ObjectRef, StoredPart};
use image_tasks_local::{Stack, pattern};

pub(crate) const MIB: u64 = 1 << 20;

/// The store, and a key prefix of the test's own in the work bucket.
pub(crate) fn store(test: &str) -> (S3Objects, impl Fn(&str) -> ObjectRef) {
    let stack = Stack::from_env().unwrap();
    let prefix = format!("work/{test}-{}", uuid::Uuid::new_v4());
    let bucket = stack.work_bucket().to_owned();
    let at = move |name: &str| ObjectRef { bucket: bucket.clone(), key: format!("{prefix}/{name}") };
    (S3Objects::new(stack.s3()), at)
}

/// `len` bytes of a pattern from an offset, in chunks as a network gives them.
pub(crate) fn body(seed: u64, offset: u64, len: u64) -> Body {
    const CHUNK: u64 = 60_000;
    let chunks = (0..len.div_ceil(CHUNK)).map(move |n| {
        let size = CHUNK.min(len - n * CHUNK);
        Ok(Bytes::from(pattern::bytes(seed, offset + n * CHUNK, usize::try_from(size).unwrap())))
    });
    stream::iter(chunks).boxed()
}

pub(crate) fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

pub(crate) fn combined(parts: &[StoredPart]) -> u64 {
    parts.iter().fold(crc(b""), |all, part| {
        crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64Nvme, all, part.crc64nvme, part.size)
    })
}

pub(crate) fn range(start: u64, end: u64) -> ByteRange {
    ByteRange { start, end }
}
