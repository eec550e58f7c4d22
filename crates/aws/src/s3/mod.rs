//! Objects in S3.
//!
//! Invariants:
//! - Every byte stored is covered by a CRC64NVME that S3 verified: of a small object or stream as a whole,
//!   of a part, and of the object that parts make. Our own, taken as the bytes pass, must equal S3's answer.
//! - A streamed body is sent once. Everything else is repeated by the SDK's standard retry, and by nothing here.
//! - Reads are pinned by ETag and give exactly the bytes asked for.

mod checksum;
mod error;
mod image_bytes;
mod links;
mod multipart;
mod receivers;
mod staging;
mod upload;

pub use self::image_bytes::S3Images;
pub use self::receivers::S3Receivers;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Builder, StalledStreamProtectionConfig};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, Delete, MetadataDirective, ObjectIdentifier, TaggingDirective,
};
use bytes::Bytes;
use disk_image::ByteRange;
use futures::StreamExt;
use image_tasks_domain::Failure;
use image_tasks_flows::ports::{
    Body, CopiedRange, Metadata, ObjectError, ObjectInfo, ObjectRef, ObjectResult, Objects, Said, StoredPart,
    UploadId,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::error::object_error;
use crate::exact::exact;

/// What is escaped in a copy's source: all but RFC 3986's unreserved characters and the slashes between.
const NOT_IN_A_KEY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// Largest object that is read whole.
const SMALL: u64 = 1 << 20;

/// Objects, reached with one client.
#[derive(Debug, Clone)]
pub struct S3Objects {
    client: Client,
    /// What is made gets this user metadata.
    metadata: Option<HashMap<String, String>>,
}

impl S3Objects {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self { client, metadata: None }
    }

    /// The same, where whole objects that are made from streams, parts or other objects get this user metadata.
    pub fn with_metadata(self, metadata: &Metadata) -> Self {
        let metadata = metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { metadata: Some(metadata), ..self }
    }

    async fn delete_listed(&self, bucket: &str, objects: Vec<ObjectIdentifier>) -> ObjectResult<()> {
        let what = format!("delete objects of s3://{bucket}");
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(|e| ObjectError::Fault(Said::of(&what, e)))?;
        let deleted = self.client.delete_objects().bucket(bucket).delete(delete).send().await;
        let deleted = deleted.map_err(|e| object_error(e, &what))?;
        match deleted.errors().first() {
            None => Ok(()),
            Some(first) => {
                let said = format!("{what}: {}", first.message().unwrap_or_default()).into();
                Err(match first.code() {
                    Some("AccessDenied") => ObjectError::Denied(said),
                    // `InternalError`, `SlowDown`: what a single key meets in a call that went well.
                    _ => ObjectError::Transient(said),
                })
            }
        }
    }
}

/// For calls that are quiet while S3 works: the SDK would take that for a broken connection.
fn quiet() -> Builder {
    Builder::new().stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}

/// For streamed bodies: the SDK gives up after 5 s in which a body's source is quiet, and calls that a broken connection.
/// A body tells its source's silence itself, before this and before S3 gives up.
fn patient() -> Builder {
    let longer = StalledStreamProtectionConfig::enabled().grace_period(Duration::from_secs(20)).build();
    Builder::new().stalled_stream_protection(longer)
}

fn shown(at: &ObjectRef) -> String {
    format!("s3://{}/{}", at.bucket, at.key)
}

/// `bucket/key` for the copy-source header, percent-encoded.
fn copy_source(from: &ObjectRef) -> String {
    format!("{}/{}", from.bucket, utf8_percent_encode(&from.key, NOT_IN_A_KEY))
}

/// `bytes=first-last`, both inclusive (RFC 9110, section 14.1.2).
fn range_header(range: ByteRange) -> Option<String> {
    let last = range.end.checked_sub(1).filter(|last| *last >= range.start)?;
    Some(format!("bytes={}-{last}", range.start))
}

/// An S3 length; what is negative is nonsense.
fn unsigned(length: Option<i64>, what: &str) -> ObjectResult<u64> {
    length
        .and_then(|l| u64::try_from(l).ok())
        .ok_or_else(|| ObjectError::Fault(format!("{what}: S3 answered without a length").into()))
}

#[async_trait]
impl Objects for S3Objects {
    async fn head(&self, at: &ObjectRef) -> ObjectResult<Option<ObjectInfo>> {
        let what = format!("head of {}", shown(at));
        let head = self.client.head_object().bucket(&at.bucket).key(&at.key);
        match head.checksum_mode(ChecksumMode::Enabled).send().await.map_err(|e| object_error(e, &what)) {
            Ok(head) => Ok(Some(ObjectInfo {
                size: unsigned(head.content_length(), &what)?,
                etag: head.e_tag().unwrap_or_default().to_owned(),
                crc64nvme: head.checksum_crc64_nvme().and_then(checksum::decode),
            })),
            Err(ObjectError::NotFound(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn metadata(&self, at: &ObjectRef) -> ObjectResult<Option<Metadata>> {
        let what = format!("head of {}", shown(at));
        let head = self.client.head_object().bucket(&at.bucket).key(&at.key).send().await;
        match head.map_err(|e| object_error(e, &what)) {
            Ok(head) => Ok(Some(head.metadata.unwrap_or_default().into_iter().collect())),
            Err(ObjectError::NotFound(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    async fn read(&self, at: &ObjectRef, etag: Option<&str>, range: ByteRange) -> ObjectResult<Body> {
        let what = shown(at);
        let header =
            range_header(range).ok_or_else(|| ObjectError::Fault(format!("{what}: empty range").into()))?;
        let get = self.client.get_object().bucket(&at.bucket).key(&at.key).range(&header);
        let got =
            get.set_if_match(etag.map(str::to_owned)).send().await.map_err(|e| object_error(e, &what))?;
        let len = range.end - range.start;
        // A range that reaches beyond the object is cut by S3, not refused.
        if unsigned(got.content_length(), &what)? != len {
            let got = got.content_range().unwrap_or("no range").to_owned();
            return Err(ObjectError::Precondition(format!("{what}: asked for {header}, got {got}").into()));
        }
        Ok(exact(chunks(got.body, what.clone()), len, what))
    }

    async fn get(&self, at: &ObjectRef) -> ObjectResult<Option<Bytes>> {
        let what = shown(at);
        let got = match self.client.get_object().bucket(&at.bucket).key(&at.key).send().await {
            Ok(got) => got,
            Err(error) => {
                return match object_error(error, &what) {
                    ObjectError::NotFound(_) => Ok(None),
                    other => Err(other),
                };
            }
        };
        let len = unsigned(got.content_length(), &what)?;
        if len > SMALL {
            return Err(ObjectError::Fault(format!("{what}: {len} bytes are no small object").into()));
        }
        let whole = got.body.collect().await.map_err(|e| ObjectError::Transient(Said::of(&what, e)))?;
        Ok(Some(whole.into_bytes()))
    }

    async fn put(&self, at: &ObjectRef, bytes: Bytes) -> ObjectResult<ObjectInfo> {
        let what = format!("put of {}", shown(at));
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let put = self.client.put_object().bucket(&at.bucket).key(&at.key).body(ByteStream::from(bytes));
        let put = put.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).send().await;
        let put = put.map_err(|e| object_error(e, &what))?;
        Ok(ObjectInfo {
            size,
            etag: put.e_tag().unwrap_or_default().to_owned(),
            crc64nvme: put.checksum_crc64_nvme().and_then(checksum::decode),
        })
    }

    async fn put_stream(&self, at: &ObjectRef, len: u64, body: Body, new: bool) -> ObjectResult<ObjectInfo> {
        let what = format!("put of {}", shown(at));
        let (stream, passed) = upload::stream(body, len);
        let put = self.client.put_object().bucket(&at.bucket).key(&at.key).body(stream);
        let put = put
            .content_length(i64::try_from(len).unwrap_or(i64::MAX))
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .set_metadata(self.metadata.clone())
            .set_if_none_match(new.then(|| "*".to_owned()))
            .customize()
            .config_override(patient())
            .send()
            .await;
        let put = put.map_err(|e| multipart::sent(e, &passed, &what))?;
        let crc = multipart::agreed(put.checksum_crc64_nvme(), &passed, &what)?;
        let etag = put.e_tag().unwrap_or_default().to_owned();
        Ok(ObjectInfo { size: len, etag, crc64nvme: Some(crc) })
    }

    async fn create_upload(&self, at: &ObjectRef) -> ObjectResult<UploadId> {
        self.begin_upload(at).await
    }

    async fn upload_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        len: u64,
        body: Body,
    ) -> ObjectResult<StoredPart> {
        self.send_part(at, upload, number, len, body).await
    }

    async fn copy_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        from: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart> {
        self.part_from(at, upload, number, from).await
    }

    async fn copy(
        &self,
        at: &ObjectRef,
        from: &ObjectRef,
        etag: &str,
        new: bool,
    ) -> ObjectResult<ObjectInfo> {
        let what = format!("copy of {} to {}", shown(from), shown(at));
        let copy = self.client.copy_object().bucket(&at.bucket).key(&at.key).copy_source(copy_source(from));
        let copied = copy
            .copy_source_if_match(etag)
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            // Else S3 refuses to copy a tagged object for who may not read tags, though it may read the object
            // (S3 user guide, "Copying, moving, and renaming objects").
            .tagging_directive(TaggingDirective::Replace)
            // Else the copy has the source's.
            .set_metadata_directive(self.metadata.is_some().then_some(MetadataDirective::Replace))
            .set_metadata(self.metadata.clone())
            .set_if_none_match(new.then(|| "*".to_owned()))
            .customize()
            .config_override(quiet())
            .send()
            .await;
        copied.map_err(|e| object_error(e, &what))?;
        // The answer has no size.
        self.head(at).await?.ok_or_else(|| ObjectError::NotFound(format!("{what}: gone at once").into()))
    }

    async fn parts(&self, at: &ObjectRef, upload: &UploadId) -> ObjectResult<Vec<StoredPart>> {
        self.stored_parts(at, upload).await
    }

    async fn complete(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        parts: &[StoredPart],
        crc64nvme: u64,
        new: bool,
    ) -> ObjectResult<ObjectInfo> {
        self.join_parts(at, upload, parts, crc64nvme, new).await
    }

    async fn abort(&self, at: &ObjectRef, upload: &UploadId) -> ObjectResult<()> {
        self.drop_upload(at, upload).await
    }

    async fn uploads(&self, bucket: &str, prefix: &str) -> ObjectResult<Vec<(ObjectRef, UploadId)>> {
        self.open_uploads(bucket, prefix).await
    }

    async fn delete(&self, at: &ObjectRef) -> ObjectResult<()> {
        let what = format!("delete of {}", shown(at));
        let deleted = self.client.delete_object().bucket(&at.bucket).key(&at.key).send().await;
        deleted.map(drop).map_err(|e| object_error(e, &what))
    }

    async fn delete_prefix(&self, bucket: &str, prefix: &str) -> ObjectResult<()> {
        let what = format!("list of s3://{bucket}/{prefix}");
        loop {
            // At most 1000 keys a page, which is also the most that one delete takes. Always the first page:
            // what it showed is gone then.
            let page = self.client.list_objects_v2().bucket(bucket).prefix(prefix).send().await;
            let page = page.map_err(|e| object_error(e, &what))?;
            let keys = page.contents().iter().filter_map(|object| object.key());
            let keys =
                keys.map(|key| ObjectIdentifier::builder().key(key).build()).collect::<Result<Vec<_>, _>>();
            let keys = keys.map_err(|e| ObjectError::Fault(Said::of(&what, e)))?;
            if keys.is_empty() {
                return Ok(());
            }
            self.delete_listed(bucket, keys).await?;
        }
    }
}

/// The SDK's body as a stream; `what` names it in failures.
fn chunks(body: ByteStream, what: String) -> futures::stream::BoxStream<'static, Result<Bytes, Failure>> {
    futures::stream::unfold((body, what), |(mut body, what)| async move {
        let next = body.next().await?;
        let chunk = next.map_err(|e| Failure::transient(format!("{what} broke off: {e}")));
        Some((chunk, (body, what)))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_sources_are_percent_encoded_and_keep_their_slashes() {
        let from = ObjectRef { bucket: "images".into(), key: "a/b c+ü?%.img".into() };
        assert_eq!(copy_source(&from), "images/a/b%20c%2B%C3%BC%3F%25.img");
    }

    #[test]
    fn ranges_are_inclusive_and_never_empty() {
        assert_eq!(range_header(ByteRange { start: 0, end: 1 }).as_deref(), Some("bytes=0-0"));
        assert_eq!(range_header(ByteRange { start: 5, end: 10 }).as_deref(), Some("bytes=5-9"));
        for (start, end) in [(0, 0), (5, 5), (6, 5)] {
            assert_eq!(range_header(ByteRange { start, end }), None);
        }
    }
}
