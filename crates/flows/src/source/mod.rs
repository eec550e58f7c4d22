//! Where a job's bytes come from.
//!
//! Invariant: every read is of the version that the plan names.

pub(crate) mod glance;
pub(crate) mod image;
pub(crate) mod layer;
pub(crate) mod manifest;
pub(crate) mod mirrors;
pub(crate) mod oci;
pub(crate) mod patient;
pub(crate) mod press;
pub(crate) mod read;
pub(crate) mod region;
pub(crate) mod remote;
pub(crate) mod spool;
pub(crate) mod sums;
pub(crate) mod unpack;
pub(crate) mod writer;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use disk_image::ByteRange;
use image_tasks_domain::Failure;
use image_tasks_domain::source::SourceLocation;
use serde::{Deserialize, Serialize};

use crate::ports::{
    Body, CopiedRange, ObjectError, ObjectInfo, ObjectRef, Objects, Source, SourceInfo, SourcePin,
};

/// Where bytes come from, as a plan keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// What a user names, by range.
    Remote {
        /// Where.
        location: SourceLocation,
        /// Which version.
        pin: SourcePin,
    },
    /// What a remote source was spooled to.
    Spool(Pinned),
    /// An image of this region.
    Image(Pinned),
    /// An image of a region.
    Region {
        /// Its name.
        region: String,
        /// The image's object there.
        object: Pinned,
    },
}

impl Origin {
    /// The object that S3 can copy.
    pub(crate) fn object(&self) -> Option<&Pinned> {
        match self {
            Self::Remote { .. } => None,
            Self::Spool(object) | Self::Image(object) | Self::Region { object, .. } => Some(object),
        }
    }
}

/// One version of an object in a store of this cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pinned {
    /// Where.
    pub(crate) at: ObjectRef,
    /// Which version.
    pub(crate) etag: String,
    /// Its bytes.
    pub(crate) size: u64,
}

impl Pinned {
    pub(crate) fn new(at: ObjectRef, object: ObjectInfo) -> Self {
        Self { at, etag: object.etag, size: object.size }
    }

    /// A range of it, to be copied.
    pub(crate) fn range(&self, range: &Range<u64>) -> CopiedRange<'_> {
        let range = ByteRange { start: range.start, end: range.end };
        CopiedRange { from: &self.at, etag: &self.etag, size: self.size, range }
    }
}

/// One version of an object of ours, to be read by range.
pub(crate) struct StoredSource {
    objects: Arc<dyn Objects>,
    at: ObjectRef,
    info: SourceInfo,
    is_image: bool,
}

impl StoredSource {
    /// Something that a task made for itself. Once it is gone the task has ended, which trying again finds out.
    pub(crate) fn new(objects: &Arc<dyn Objects>, object: &Pinned) -> Self {
        let pin = SourcePin { etag: Some(object.etag.clone()), ..SourcePin::default() };
        let info = SourceInfo { size: Some(object.size), ranges: true, pin };
        Self { objects: Arc::clone(objects), at: object.at.clone(), info, is_image: false }
    }

    /// An image, which its owner may delete at any time.
    pub(crate) fn of_image(objects: &Arc<dyn Objects>, object: &Pinned) -> Self {
        Self { is_image: true, ..Self::new(objects, object) }
    }
}

#[async_trait]
impl Source for StoredSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        self.objects.read(&self.at, self.info.pin.etag.as_deref(), range).await.map_err(|e| match e {
            ObjectError::Transient(what) | ObjectError::Conflict(what) => {
                Failure::transient(what.to_string())
            }
            ObjectError::Body(failure) => failure,
            ObjectError::NotFound(what) | ObjectError::Precondition(what) => {
                tracing::warn!(%what, "an object of ours is gone");
                if self.is_image {
                    image::deleted()
                } else {
                    Failure::transient("what the task was making is gone")
                }
            }
            other => crate::error::internal(other),
        })
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.read(ByteRange { start: 0, end: self.info.size.unwrap_or(0) }).await
    }

    fn is_ours(&self) -> bool {
        true
    }
}
