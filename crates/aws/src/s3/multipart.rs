//! Multipart uploads with a full-object CRC64NVME (S3 user guide, "Checking object integrity").

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use image_tasks_flows::ports::{
    Body, CopiedRange, ObjectError, ObjectInfo, ObjectRef, ObjectResult, Objects, StoredPart, UploadId,
};

use super::error::object_error;
use super::upload::Passed;
use super::{S3Objects, checksum, copy_source, patient, quiet, range_header, shown, unsigned, upload};

impl S3Objects {
    pub(super) async fn begin_upload(&self, at: &ObjectRef) -> ObjectResult<UploadId> {
        let what = format!("upload to {}", shown(at));
        let created = self
            .client
            .create_multipart_upload()
            .bucket(&at.bucket)
            .key(&at.key)
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject)
            .set_metadata(self.metadata.clone())
            .send()
            .await
            .map_err(|e| object_error(e, &what))?;
        let id =
            created.upload_id().ok_or_else(|| ObjectError::Fault(format!("{what}: no upload id").into()))?;
        Ok(UploadId(id.to_owned()))
    }

    pub(super) async fn send_part(
        &self,
        at: &ObjectRef,
        id: &UploadId,
        number: u32,
        len: u64,
        body: Body,
    ) -> ObjectResult<StoredPart> {
        let what = format!("part {number} of {}", shown(at));
        let (stream, passed) = upload::stream(body, len);
        let sent = self
            .client
            .upload_part()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(&id.0)
            .part_number(part_number(number, &what)?)
            .content_length(i64::try_from(len).unwrap_or(i64::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .body(stream)
            .customize()
            .config_override(patient())
            .send()
            .await
            .map_err(|e| sent(e, &passed, &what))?;
        let crc64nvme = agreed(sent.checksum_crc64_nvme(), &passed, &what)?;
        Ok(StoredPart { number, size: len, etag: sent.e_tag().unwrap_or_default().to_owned(), crc64nvme })
    }

    pub(super) async fn part_from(
        &self,
        at: &ObjectRef,
        id: &UploadId,
        number: u32,
        copied: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart> {
        let CopiedRange { from, etag, range, .. } = copied;
        let what = format!("part {number} of {} from {}", shown(at), shown(from));
        let header =
            range_header(range).ok_or_else(|| ObjectError::Fault(format!("{what}: empty range").into()))?;
        let header = (!copied.is_whole()).then_some(header);
        let copied = self
            .client
            .upload_part_copy()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(&id.0)
            .part_number(part_number(number, &what)?)
            .copy_source(copy_source(from))
            .copy_source_if_match(etag)
            .set_copy_source_range(header)
            .customize()
            .config_override(quiet())
            .send()
            .await
            .map_err(|e| object_error(e, &what))?;
        let part = copied.copy_part_result();
        let crc64nvme = checksum::required(part.and_then(|p| p.checksum_crc64_nvme()), &what)?;
        let etag = part.and_then(|p| p.e_tag()).unwrap_or_default().to_owned();
        Ok(StoredPart { number, size: range.end - range.start, etag, crc64nvme })
    }

    pub(super) async fn stored_parts(&self, at: &ObjectRef, id: &UploadId) -> ObjectResult<Vec<StoredPart>> {
        let what = format!("parts of {}", shown(at));
        let list = self.client.list_parts().bucket(&at.bucket).key(&at.key).upload_id(&id.0);
        let mut listed = list.into_paginator().items().send();
        let mut parts = Vec::new();
        while let Some(part) = listed.next().await {
            let part = part.map_err(|e| object_error(e, &what))?;
            parts.push(StoredPart {
                number: part.part_number().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
                size: unsigned(part.size(), &what)?,
                etag: part.e_tag().unwrap_or_default().to_owned(),
                crc64nvme: checksum::required(part.checksum_crc64_nvme(), &what)?,
            });
        }
        Ok(parts)
    }

    pub(super) async fn join_parts(
        &self,
        at: &ObjectRef,
        id: &UploadId,
        parts: &[StoredPart],
        crc64nvme: u64,
        new: bool,
    ) -> ObjectResult<ObjectInfo> {
        let what = format!("completion of {}", shown(at));
        let size: u64 = parts.iter().map(|part| part.size).sum();
        let completed = parts.iter().map(|part| {
            Ok(CompletedPart::builder()
                .part_number(part_number(part.number, &what)?)
                .e_tag(&part.etag)
                .checksum_crc64_nvme(checksum::encode(part.crc64nvme))
                .build())
        });
        let completed = completed.collect::<ObjectResult<Vec<_>>>()?;
        let joined = self
            .client
            .complete_multipart_upload()
            .bucket(&at.bucket)
            .key(&at.key)
            .upload_id(&id.0)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(completed)).build())
            .checksum_crc64_nvme(checksum::encode(crc64nvme))
            .checksum_type(ChecksumType::FullObject)
            .mpu_object_size(i64::try_from(size).unwrap_or(i64::MAX))
            .set_if_none_match(new.then(|| "*".to_owned()))
            .customize()
            .config_override(quiet())
            .send()
            .await;
        let joined = match joined.map_err(|e| object_error(e, &what)) {
            Ok(joined) => joined,
            // The SDK repeats a call whose answer was lost; the upload is an object by then.
            Err(gone @ ObjectError::NotFound(_)) => {
                let object = self.head(at).await?;
                let ours = object.filter(|o| o.size == size && o.crc64nvme == Some(crc64nvme));
                return ours.ok_or(gone);
            }
            Err(other) => return Err(other),
        };
        let stored = checksum::required(joined.checksum_crc64_nvme(), &what)?;
        if stored != crc64nvme {
            return Err(mismatch(&what, crc64nvme, stored));
        }
        Ok(ObjectInfo { size, etag: joined.e_tag().unwrap_or_default().to_owned(), crc64nvme: Some(stored) })
    }

    pub(super) async fn drop_upload(&self, at: &ObjectRef, id: &UploadId) -> ObjectResult<()> {
        let what = format!("abort of {}", shown(at));
        let abort = self.client.abort_multipart_upload().bucket(&at.bucket).key(&at.key).upload_id(&id.0);
        match abort.send().await.map_err(|e| object_error(e, &what)) {
            Ok(_) | Err(ObjectError::NotFound(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    pub(super) async fn open_uploads(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> ObjectResult<Vec<(ObjectRef, UploadId)>> {
        let what = format!("uploads of s3://{bucket}/{prefix}");
        let (mut key_marker, mut id_marker) = (None, None);
        let mut uploads = Vec::new();
        loop {
            let list = self.client.list_multipart_uploads().bucket(bucket).prefix(prefix);
            let list = list.set_key_marker(key_marker).set_upload_id_marker(id_marker);
            let page = list.send().await.map_err(|e| object_error(e, &what))?;
            for upload in page.uploads() {
                if let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) {
                    let at = ObjectRef { bucket: bucket.to_owned(), key: key.to_owned() };
                    uploads.push((at, UploadId(id.to_owned())));
                }
            }
            if !page.is_truncated().unwrap_or_default() {
                return Ok(uploads);
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            id_marker = page.next_upload_id_marker().map(str::to_owned);
        }
    }
}

/// Why a streamed body was not stored: its own failure first, for the SDK shows that as a broken connection.
pub(super) fn sent<E>(error: SdkError<E, HttpResponse>, passed: &Passed, what: &str) -> ObjectError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    passed.failure().map_or_else(|| object_error(error, what), ObjectError::Body)
}

/// The checksum on which S3 and we agree.
pub(super) fn agreed(stored: Option<&str>, passed: &Passed, what: &str) -> ObjectResult<u64> {
    let stored = checksum::required(stored, what)?;
    match passed.crc64nvme() {
        Some(sent) if sent == stored => Ok(stored),
        Some(sent) => Err(mismatch(what, sent, stored)),
        None => Err(ObjectError::Fault(format!("{what}: S3 answered before all bytes were sent").into())),
    }
}

fn mismatch(what: &str, sent: u64, stored: u64) -> ObjectError {
    ObjectError::Checksum(format!("{what}: sent CRC64NVME {sent:016x}, stored {stored:016x}").into())
}

pub(super) fn part_number(number: u32, what: &str) -> ObjectResult<i32> {
    i32::try_from(number).map_err(|_| ObjectError::Fault(format!("{what}: no such part number").into()))
}
