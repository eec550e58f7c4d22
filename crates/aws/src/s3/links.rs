//! Presigned URLs of image objects.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::{Builder, ResponseChecksumValidation};
use aws_sdk_s3::presigning::PresigningConfig;
use image_tasks_domain::Image;
use image_tasks_domain::ports::{ImageLinks, StoreError, StoreResult};

use super::S3Objects;
use crate::failures::store_error;

#[async_trait]
impl ImageLinks for S3Objects {
    async fn download_url(&self, image: &Image, valid_for: Duration) -> StoreResult<String> {
        let stored = image.stored.as_ref().ok_or(StoreError::Conflict)?;
        let presigning = PresigningConfig::expires_in(valid_for).map_err(|e| StoreError::Fault(e.into()))?;
        // Else the SDK signs a header that asks for checksums, and the URL is worthless to who doesn't send it.
        let plain = Builder::new().response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let signed = self
            .client
            .get_object()
            .bucket(&stored.bucket)
            .key(&stored.key)
            .customize()
            .config_override(plain)
            .presigned(presigning)
            .await
            .map_err(store_error)?;
        only_signed(signed.uri(), "host")
    }
}

/// A URL that needs just these headers to be as they were signed. In a Lambda the SDK also hands out a trace header; what
/// a client must send are the signed ones.
pub(super) fn only_signed(url: &str, headers: &str) -> StoreResult<String> {
    let needed = url.split(['?', '&']).find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders="));
    if needed == Some(headers) {
        Ok(url.to_owned())
    } else {
        Err(StoreError::Fault(format!("the URL would need headers: {needed:?}").into()))
    }
}
