//! Bytes in and out: what the flows need from sources and object stores.
//!
//! Goal: the same flow over S3, HTTP and memory, with bounded memory: bodies are
//! streams of small chunks, never whole parts.
//!
//! Invariants every adapter keeps:
//! - A read gives exactly the bytes asked for, of the pinned version, or an error. A short read is an error, never zeros.
//! - An adapter tries a call again only before it has handed out or taken in the first byte of a body;
//!   after that the flow decides.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk_image::ByteRange;
use futures::Stream;
use image_tasks_domain::ports::ImageStore;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, GlanceImage, Login, Secret};
use serde::{Deserialize, Serialize};

/// A body on its way.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// What a source said of itself when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Bytes, where the server says so.
    pub size: Option<u64>,
    /// Whether ranges can be read. Only with a known size.
    pub ranges: bool,
    /// What identifies this version; every later read demands it.
    pub pin: SourcePin,
}

/// What identifies one version of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePin {
    /// Strong or weak ETag, as sent.
    pub etag: Option<String>,
    /// `Last-Modified`, as sent.
    pub last_modified: Option<String>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Where redirects led, if that is away from the location's own origin: this mirror's version is the one that is
    /// meant, and it alone is asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<SourceLocation>,
}

/// A source that has been opened: its address checked, its version pinned.
#[async_trait]
pub trait Source: Send + Sync {
    /// What it said of itself.
    fn info(&self) -> &SourceInfo;
    /// Exactly the bytes of `range`.
    async fn read(&self, range: ByteRange) -> Result<Body, Failure>;
    /// Everything from the first byte.
    async fn stream(&self) -> Result<Body, Failure>;
    /// Whether it is a store of this cloud that is read: its silence is no fault of the user's source.
    fn is_ours(&self) -> bool {
        false
    }
}

/// Opens sources.
#[async_trait]
pub trait Sources: Send + Sync {
    /// Opens `location`; with a pin, `SourceChanged` where it isn't that version any more. A login goes to the location's
    /// own origin and to no other, wherever that redirects.
    async fn open(
        &self,
        location: &SourceLocation,
        login: Option<&Login>,
        pin: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure>;
}

/// Glances elsewhere, as far as they aren't sources of bytes.
#[async_trait]
pub trait Glances: Send + Sync {
    /// An image's record as it is sent to the token's owner, at most
    /// [`MAX_RECORD`](image_tasks_domain::glance::MAX_RECORD) bytes.
    async fn record(&self, image: &GlanceImage, token: &Secret) -> Result<Bytes, Failure>;
}

/// A place in an object store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
}

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// ETag, as sent (with its quotes).
    pub etag: String,
    /// CRC64NVME of the whole object, where the store keeps it.
    pub crc64nvme: Option<u64>,
}

/// User metadata of an object: S3's `x-amz-meta-*`, names in lower case, values in US-ASCII.
pub type Metadata = BTreeMap<String, String>;

/// An unfinished multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadId(pub String);

/// A part that the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPart {
    /// Number, from 1.
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// ETag, as sent.
    pub etag: String,
    /// CRC64NVME of the part's bytes.
    pub crc64nvme: u64,
}

/// What a part is copied from: a range of one version of an object.
#[derive(Debug, Clone, Copy)]
pub struct CopiedRange<'a> {
    /// The object.
    pub from: &'a ObjectRef,
    /// The version.
    pub etag: &'a str,
    /// Its bytes in all.
    pub size: u64,
    /// Those that are copied; not empty.
    pub range: ByteRange,
}

impl CopiedRange<'_> {
    /// Whether that is all of it. S3 takes a range only of what has more than 5 MiB (S3 API reference, `UploadPartCopy`).
    pub fn is_whole(&self) -> bool {
        self.range == (ByteRange { start: 0, end: self.size })
    }
}

/// What a store said: which call it was about, and its error as it came.
#[derive(Debug)]
pub struct Said {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Said {
    /// An error that a call of that name gave.
    pub fn of(what: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.to_owned(), source: Some(source.into()) }
    }
}

impl From<String> for Said {
    fn from(what: String) -> Self {
        Self { what, source: None }
    }
}

impl From<&str> for Said {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

/// With all causes: it is for logs.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Said {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What went wrong at an object store.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such object or upload.
    #[error("no such object or upload: {0}")]
    NotFound(#[source] Said),
    /// `If-Match` / `If-None-Match` did not hold.
    #[error("the object is not the one expected: {0}")]
    Precondition(#[source] Said),
    /// Access denied.
    #[error("access denied: {0}")]
    Denied(#[source] Said),
    /// The store says the bytes don't have the checksum announced.
    #[error("checksum mismatch: {0}")]
    Checksum(#[source] Said),
    /// Throttled, a broken connection, a 5xx: may pass.
    #[error("the store can't be reached now: {0}")]
    Transient(#[source] Said),
    /// Another write to that name was under way. A put or copy is tried again; an upload whose completion meets this can't
    /// be completed any more (S3 API reference, `CompleteMultipartUpload`: begin a new one).
    #[error("another write was under way: {0}")]
    Conflict(#[source] Said),
    /// The body that was to be stored failed first.
    #[error(transparent)]
    Body(Failure),
    /// The bucket is in another region than the one that was asked.
    #[error("the bucket is in another region: {0}")]
    Elsewhere(#[source] Said),
    /// Anything else: a fault of ours.
    #[error("the store rejects the call: {0}")]
    Fault(#[source] Said),
}

/// Result of a store's call.
pub type ObjectResult<T> = Result<T, ObjectError>;

/// An S3-shaped object store.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Size, ETag and checksum; `None` where there is no object.
    async fn head(&self, at: &ObjectRef) -> ObjectResult<Option<ObjectInfo>>;
    /// The object's user metadata; `None` where there is no object.
    async fn metadata(&self, at: &ObjectRef) -> ObjectResult<Option<Metadata>>;
    /// Exactly the bytes of `range` (not empty) of the version with that ETag.
    async fn read(&self, at: &ObjectRef, etag: Option<&str>, range: ByteRange) -> ObjectResult<Body>;
    /// A small object whole: plans and states, at most 1 MiB. `None` where there is none.
    async fn get(&self, at: &ObjectRef) -> ObjectResult<Option<Bytes>>;
    /// Stores a small object whole, over what was there.
    async fn put(&self, at: &ObjectRef, bytes: Bytes) -> ObjectResult<ObjectInfo>;
    /// Stores `len` bytes from a stream under a CRC64NVME that the store verifies; `new` refuses to overwrite.
    async fn put_stream(&self, at: &ObjectRef, len: u64, body: Body, new: bool) -> ObjectResult<ObjectInfo>;
    /// Begins a multipart upload with a full-object CRC64NVME.
    async fn create_upload(&self, at: &ObjectRef) -> ObjectResult<UploadId>;
    /// Stores a part from a stream under a CRC64NVME that the store verifies. Again is the same as once.
    async fn upload_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        len: u64,
        body: Body,
    ) -> ObjectResult<StoredPart>;
    /// Stores a part as a copy of a range of another object's version, inside the store.
    async fn copy_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        from: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart>;
    /// Copies a whole object of at most 5 GiB, pinned by its ETag; `new` refuses to overwrite.
    async fn copy(&self, at: &ObjectRef, from: &ObjectRef, etag: &str, new: bool)
    -> ObjectResult<ObjectInfo>;
    /// The parts held of an upload, by number, from `from_number` on, all pages.
    async fn parts(&self, at: &ObjectRef, upload: &UploadId) -> ObjectResult<Vec<StoredPart>>;
    /// Makes the parts an object whose CRC64NVME must be that one; `new` refuses to overwrite.
    async fn complete(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        parts: &[StoredPart],
        crc64nvme: u64,
        new: bool,
    ) -> ObjectResult<ObjectInfo>;
    /// Gives an upload up; gone already is fine.
    async fn abort(&self, at: &ObjectRef, upload: &UploadId) -> ObjectResult<()>;
    /// Unfinished uploads under a key prefix.
    async fn uploads(&self, bucket: &str, prefix: &str) -> ObjectResult<Vec<(ObjectRef, UploadId)>>;
    /// Deletes an object; gone already is fine.
    async fn delete(&self, at: &ObjectRef) -> ObjectResult<()>;
    /// Deletes all objects under a key prefix.
    async fn delete_prefix(&self, bucket: &str, prefix: &str) -> ObjectResult<()>;
}

/// What a region has, to be read.
#[derive(Clone)]
pub struct RegionStore {
    /// Its images.
    pub images: Arc<dyn ImageStore>,
    /// Their bytes.
    pub objects: Arc<dyn Objects>,
}

/// The stores of all regions that are known, this one included.
pub trait RegionStores: Send + Sync {
    /// A region's, by its name.
    fn store(&self, region: &str) -> Option<RegionStore>;
}

/// The stores of buckets that receive exports.
pub trait Receivers: Send + Sync {
    /// The store of a region, ours if none is named. What is made through it carries this metadata.
    fn objects(&self, region: Option<&str>, metadata: &Metadata) -> Arc<dyn Objects>;
}
