//! A source in a bucket, pinned by its ETag.

use std::sync::Arc;

use async_trait::async_trait;
use disk_image::ByteRange;
use futures::StreamExt;
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::{Body, ObjectError, ObjectRef, Objects, Source, SourceInfo, SourcePin};

use super::changed;

pub(super) struct ObjectSource {
    objects: Arc<dyn Objects>,
    at: ObjectRef,
    /// What users know it as.
    what: String,
    size: u64,
    etag: String,
    info: SourceInfo,
}

impl ObjectSource {
    pub(super) async fn open(
        objects: Arc<dyn Objects>,
        at: ObjectRef,
        what: String,
    ) -> Result<Self, Failure> {
        let found = objects.head(&at).await.map_err(|e| failure(e, &what))?;
        let object = found.ok_or_else(|| not_found(&what))?;
        let (etag, size) = (Some(object.etag.clone()), Some(object.size));
        let pin = SourcePin { etag, size, ..SourcePin::default() };
        let info = SourceInfo { size: Some(object.size), ranges: true, pin };
        Ok(Self { objects, at, what, size: object.size, etag: object.etag, info })
    }
}

#[async_trait]
impl Source for ObjectSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        self.objects.read(&self.at, Some(&self.etag), range).await.map_err(|e| failure(e, &self.what))
    }

    async fn stream(&self) -> Result<Body, Failure> {
        if self.size == 0 {
            return Ok(futures::stream::empty().boxed());
        }
        self.read(ByteRange { start: 0, end: self.size }).await
    }
}

fn failure(error: ObjectError, what: &str) -> Failure {
    // S3's own words are for operators.
    tracing::warn!(%error, source = what, "a source object can't be read");
    match error {
        ObjectError::NotFound(_) => not_found(what),
        ObjectError::Precondition(_) => changed(what),
        ObjectError::Denied(_) => {
            let message = format!("{what} may not be read: access denied, or the bucket can't be listed");
            Failure::new(FailureCode::SourceDenied, message)
        }
        ObjectError::Transient(_) | ObjectError::Conflict(_) => {
            Failure::transient(format!("{what} can't be read now"))
        }
        ObjectError::Checksum(_) => {
            Failure::new(FailureCode::ChecksumMismatch, format!("{what} arrives damaged"))
        }
        ObjectError::Body(failure) => failure,
        ObjectError::Elsewhere(_) => {
            let message = format!("{what} can't be read: its bucket is in another region");
            Failure::new(FailureCode::SourceInvalid, message)
        }
        ObjectError::Fault(_) => Failure::new(FailureCode::SourceInvalid, format!("{what} can't be read")),
    }
}

fn not_found(what: &str) -> Failure {
    Failure::new(FailureCode::SourceNotFound, format!("{what} does not exist"))
}
