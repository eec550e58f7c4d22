//! Removing the bytes of images.

use async_trait::async_trait;
use image_tasks_domain::Image;
use image_tasks_domain::ports::{ImageBytes, StoreError, StoreResult};
use image_tasks_flows::ports::{ObjectError, ObjectRef, Objects as _};

use super::S3Objects;

#[async_trait]
impl ImageBytes for S3Objects {
    async fn remove_bytes(&self, image: &Image) -> StoreResult<()> {
        let Some(stored) = &image.stored else { return Ok(()) };
        for key in [stored.key.clone(), stored.allocation_key()] {
            self.delete(&ObjectRef { bucket: stored.bucket.clone(), key }).await.map_err(|e| match e {
                ObjectError::Transient(_) => StoreError::Unavailable(Box::new(e)),
                _ => StoreError::Fault(Box::new(e)),
            })?;
        }
        Ok(())
    }
}
