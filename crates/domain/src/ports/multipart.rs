//! Uploads in parts, which clients put into staging themselves.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreResult;
use crate::image::{ImageId, MultipartUpload, StagedBytes};
use crate::transfer::PartRange;

/// A part that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedPart {
    /// From 1.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Its ETag, without quotes.
    pub etag: String,
}

/// What came of joining parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// They are one staged object.
    Whole,
    /// Their bytes have another CRC64NVME than was said. The upload is as it was.
    OtherChecksum,
    /// A part was put once more meanwhile. The upload is as it was.
    OtherParts,
    /// There is no such upload any more.
    Gone,
}

/// What parts became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedObject {
    /// Bytes.
    pub size: u64,
    /// CRC64NVME of all of them, base64 as S3 writes it.
    pub crc64nvme: String,
}

/// Multipart uploads into staging.
///
/// Invariant: a URL takes a part of exactly the length that it was made for.
#[async_trait]
pub trait MultipartUploads: Send + Sync {
    /// Begins one; the store's own id of it.
    async fn begin_upload(&self, image: ImageId, staged: StagedBytes) -> StoreResult<String>;
    /// A URL that takes a part's bytes by PUT, from whoever has it, for a limited time. The answer's `ETag` names the
    /// part as it was put.
    async fn part_url(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        part: PartRange,
        valid_for: Duration,
    ) -> StoreResult<String>;
    /// The parts that are there, by number; `None` where there is no such upload any more.
    async fn parts(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<Vec<StagedPart>>>;
    /// Makes all parts one staged object, which has to have that CRC64NVME (base64) where one is said. It may take
    /// longer than a caller waits: then it goes on, and [`joined`](Self::joined) tells what came of it.
    async fn join(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        parts: &[StagedPart],
        crc64nvme: Option<&str>,
    ) -> StoreResult<Joined>;
    /// What the parts became, if they were joined.
    async fn joined(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<StagedObject>>;
    /// Gives an upload up, and removes what became of it. Again is the same as once.
    async fn abort(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<()>;
}
