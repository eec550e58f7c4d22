//! Uploads in parts, which clients put into staging by presigned URLs.
//!
//! Invariants:
//! - A URL is worth something to who has nothing else: its signature covers the host, the part's length, and no other
//!   header. A checksum of the part would be one, which the client would have to send as it was signed.
//! - So S3 takes the parts' checksums itself, and joins them to the whole object's: one for the full object needs none
//!   with its parts (S3 user guide, "Checking object integrity", full object checksums).

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, RequestChecksumCalculation};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{ChecksumType, CompletedMultipartUpload, CompletedPart};
use image_tasks_domain::ports::{
    Joined, MultipartUploads, StagedObject, StagedPart, StoreError, StoreResult,
};
use image_tasks_domain::transfer::PartRange;
use image_tasks_domain::{ImageId, MultipartUpload, StagedBytes};
use image_tasks_flows::ports::{ObjectError, ObjectRef, ObjectResult, Objects as _, UploadId};

use super::error::object_error;
use super::image_bytes::{S3Images, failed};
use super::{S3Objects, checksum, links, multipart, quiet, shown, unsigned};
use crate::failures::store_error;

/// How long a completion is waited for: it may take "several minutes" (S3 API reference, `CompleteMultipartUpload`), and
/// API Gateway gives up after 30 s. S3 goes on.
const PATIENCE: Duration = Duration::from_secs(20);

#[async_trait]
impl MultipartUploads for S3Images {
    async fn begin_upload(&self, image: ImageId, staged: StagedBytes) -> StoreResult<String> {
        let UploadId(id) = self.objects.begin_upload(&self.staged(image, staged)).await.map_err(failed)?;
        Ok(id)
    }

    async fn part_url(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        part: PartRange,
        valid_for: Duration,
    ) -> StoreResult<String> {
        let at = self.staged(image, upload.staged);
        self.objects.signed_part(&at, upload, part, valid_for).await
    }

    async fn parts(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<Vec<StagedPart>>> {
        match self.objects.listed_parts(&self.staged(image, upload.staged), upload).await {
            Ok(parts) => Ok(Some(parts)),
            Err(ObjectError::NotFound(_)) => Ok(None),
            Err(other) => Err(failed(other)),
        }
    }

    async fn join(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        parts: &[StagedPart],
        crc64nvme: Option<&str>,
    ) -> StoreResult<Joined> {
        let at = self.staged(image, upload.staged);
        self.objects.joined_parts(&at, upload, parts, crc64nvme).await.map_err(failed)
    }

    async fn joined(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<StagedObject>> {
        let found = match self.objects.head(&self.staged(image, upload.staged)).await {
            // Without s3:ListBucket S3 answers 403 for an object that isn't there.
            Err(ObjectError::Denied(_)) => None,
            found => found.map_err(failed)?,
        };
        Ok(found.map(|object| StagedObject {
            size: object.size,
            crc64nvme: object.crc64nvme.map(checksum::encode).unwrap_or_default(),
        }))
    }

    async fn abort(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<()> {
        let at = self.staged(image, upload.staged);
        self.objects.drop_upload(&at, &UploadId(upload.store_id.clone())).await.map_err(failed)?;
        self.delete(&at).await
    }
}

impl S3Objects {
    async fn signed_part(
        &self,
        at: &ObjectRef,
        upload: &MultipartUpload,
        part: PartRange,
        valid_for: Duration,
    ) -> StoreResult<String> {
        let presigning = PresigningConfig::expires_in(valid_for).map_err(|e| StoreError::Fault(e.into()))?;
        // Else the SDK signs a header that announces a checksum of its own.
        let plain = Builder::new().request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        let signed = self
            .client
            .upload_part()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(&upload.store_id)
            .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
            .content_length(i64::try_from(part.len).unwrap_or(i64::MAX))
            .customize()
            .config_override(plain)
            .presigned(presigning)
            .await
            .map_err(store_error)?;
        links::only_signed(signed.uri(), "content-length%3Bhost")
    }

    /// Other than [`S3Objects::stored_parts`] it asks for no checksums: S3 need not list those that it takes itself.
    async fn listed_parts(&self, at: &ObjectRef, upload: &MultipartUpload) -> ObjectResult<Vec<StagedPart>> {
        let what = format!("parts of {}", shown(at));
        let list = self.client.list_parts().bucket(&at.bucket).key(&at.key).upload_id(&upload.store_id);
        let mut listed = list.into_paginator().items().send();
        let mut parts = Vec::new();
        while let Some(part) = listed.next().await {
            let part = part.map_err(|e| object_error(e, &what))?;
            parts.push(StagedPart {
                number: part.part_number().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
                size: unsigned(part.size(), &what)?,
                etag: part.e_tag().unwrap_or_default().trim_matches('"').to_owned(),
            });
        }
        Ok(parts)
    }

    async fn joined_parts(
        &self,
        at: &ObjectRef,
        upload: &MultipartUpload,
        parts: &[StagedPart],
        crc64nvme: Option<&str>,
    ) -> ObjectResult<Joined> {
        let what = format!("completion of {}", shown(at));
        let size: u64 = parts.iter().map(|part| part.size).sum();
        let parts = parts.iter().map(|part| {
            let number = multipart::part_number(part.number, &what)?;
            Ok(CompletedPart::builder().part_number(number).e_tag(format!("\"{}\"", part.etag)).build())
        });
        let parts = parts.collect::<ObjectResult<Vec<_>>>()?;
        let patience = TimeoutConfig::builder().operation_timeout(PATIENCE).build();
        let joined = self
            .client
            .complete_multipart_upload()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(&upload.store_id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .set_checksum_crc64_nvme(crc64nvme.map(str::to_owned))
            .checksum_type(ChecksumType::FullObject)
            .mpu_object_size(i64::try_from(size).unwrap_or(i64::MAX))
            .customize()
            .config_override(quiet().timeout_config(patience))
            .send()
            .await;
        let error = match joined {
            Ok(_) => return Ok(Joined::Whole),
            Err(error) => error,
        };
        if error.code() == Some("InvalidPart") {
            return Ok(Joined::OtherParts);
        }
        match object_error(error, &what) {
            ObjectError::Checksum(_) => Ok(Joined::OtherChecksum),
            ObjectError::NotFound(_) => Ok(Joined::Gone),
            other => Err(other),
        }
    }
}
