//! The bytes of images as the API handles them: staged, and removed.

use async_trait::async_trait;
use image_tasks_domain::ports::{ImageBytes, MultipartUploads as _, Staging, StoreError, StoreResult};
use image_tasks_domain::{Image, ImageId, StagedBytes};
use image_tasks_flows::ports::{ObjectError, ObjectRef, Objects as _};

use super::S3Objects;

/// Objects of images, and uploads in the work bucket.
#[derive(Debug, Clone)]
pub struct S3Images {
    pub(super) objects: S3Objects,
    work_bucket: String,
}

impl S3Images {
    /// With staging in that bucket.
    pub fn new(objects: S3Objects, work_bucket: impl Into<String>) -> Self {
        Self { objects, work_bucket: work_bucket.into() }
    }

    pub(super) fn staged(&self, image: ImageId, staged: StagedBytes) -> ObjectRef {
        ObjectRef { bucket: self.work_bucket.clone(), key: staged.object_key(image) }
    }

    pub(super) async fn delete(&self, at: &ObjectRef) -> StoreResult<()> {
        self.objects.delete(at).await.map_err(failed)
    }
}

#[async_trait]
impl ImageBytes for S3Images {
    async fn remove_bytes(&self, image: &Image) -> StoreResult<()> {
        if let Some(staged) = image.staged {
            self.delete(&self.staged(image.id, staged)).await?;
        }
        if let Some(upload) = &image.upload {
            self.abort(image.id, upload).await?;
        }
        let Some(stored) = &image.stored else { return Ok(()) };
        for key in [stored.key.clone(), stored.allocation_key()] {
            self.delete(&ObjectRef { bucket: stored.bucket.clone(), key }).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Staging for S3Images {
    async fn put(&self, image: ImageId, staged: StagedBytes, bytes: Vec<u8>) -> StoreResult<()> {
        self.objects.put(&self.staged(image, staged), bytes.into()).await.map(drop).map_err(failed)
    }

    async fn remove(&self, image: ImageId, staged: StagedBytes) -> StoreResult<()> {
        self.delete(&self.staged(image, staged)).await
    }
}

pub(super) fn failed(error: ObjectError) -> StoreError {
    match error {
        ObjectError::Transient(_) => StoreError::Unavailable(Box::new(error)),
        _ => StoreError::Fault(Box::new(error)),
    }
}
