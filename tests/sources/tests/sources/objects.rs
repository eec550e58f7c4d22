//! Objects in memory, of sizes that are stored in one request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use disk_image::ByteRange;
use futures::TryStreamExt as _;
use image_tasks_flows::ports::*;

#[derive(Debug, Default, Clone)]
pub(crate) struct SmallObjects(Arc<Mutex<BTreeMap<String, Bytes>>>);

fn name(at: &ObjectRef) -> String {
    format!("{}/{}", at.bucket, at.key)
}

fn info(bytes: &Bytes) -> ObjectInfo {
    let crc = crc_fast::checksum(Crc64Nvme, bytes);
    ObjectInfo { size: bytes.len() as u64, etag: format!("\"{crc}\""), crc64nvme: Some(crc) }
}

fn in_parts<T>() -> ObjectResult<T> {
    Err(ObjectError::Fault("an object of so few bytes is made in one request".into()))
}

impl SmallObjects {
    /// All that is stored, by bucket and key.
    pub(crate) fn all(&self) -> BTreeMap<String, Bytes> {
        self.0.lock().unwrap().clone()
    }

    fn of(&self, at: &ObjectRef) -> Option<Bytes> {
        self.0.lock().unwrap().get(&name(at)).cloned()
    }

    fn store(&self, at: &ObjectRef, bytes: Bytes, new: bool) -> ObjectResult<ObjectInfo> {
        if new && self.of(at).is_some() {
            return Err(ObjectError::Precondition(name(at).into()));
        }
        let info = info(&bytes);
        self.0.lock().unwrap().insert(name(at), bytes);
        Ok(info)
    }

    fn found(&self, at: &ObjectRef) -> ObjectResult<Bytes> {
        self.of(at).ok_or_else(|| ObjectError::NotFound(name(at).into()))
    }
}

impl Receivers for SmallObjects {
    fn objects(&self, _: Option<&str>, _: &Metadata) -> Arc<dyn Objects> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl Objects for SmallObjects {
    async fn head(&self, at: &ObjectRef) -> ObjectResult<Option<ObjectInfo>> {
        Ok(self.of(at).as_ref().map(info))
    }
    async fn metadata(&self, at: &ObjectRef) -> ObjectResult<Option<Metadata>> {
        Ok(self.of(at).map(|_| Metadata::new()))
    }
    async fn read(&self, at: &ObjectRef, _: Option<&str>, range: ByteRange) -> ObjectResult<Body> {
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        let bytes = self.found(at)?.slice(start..end);
        Ok(Box::pin(futures::stream::iter([Ok(bytes)])))
    }
    async fn get(&self, at: &ObjectRef) -> ObjectResult<Option<Bytes>> {
        Ok(self.of(at))
    }
    async fn put(&self, at: &ObjectRef, bytes: Bytes) -> ObjectResult<ObjectInfo> {
        self.store(at, bytes, false)
    }
    async fn put_stream(&self, at: &ObjectRef, len: u64, body: Body, new: bool) -> ObjectResult<ObjectInfo> {
        let chunks: Vec<Bytes> = body.try_collect().await.map_err(ObjectError::Body)?;
        let bytes = Bytes::from(chunks.concat());
        assert_eq!(bytes.len() as u64, len, "S3 takes as many bytes as were announced");
        self.store(at, bytes, new)
    }
    async fn create_upload(&self, _: &ObjectRef) -> ObjectResult<UploadId> {
        in_parts()
    }
    async fn upload_part(
        &self,
        _: &ObjectRef,
        _: &UploadId,
        _: u32,
        _: u64,
        _: Body,
    ) -> ObjectResult<StoredPart> {
        in_parts()
    }
    async fn copy_part(
        &self,
        _: &ObjectRef,
        _: &UploadId,
        _: u32,
        _: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart> {
        in_parts()
    }
    async fn copy(&self, at: &ObjectRef, from: &ObjectRef, _: &str, new: bool) -> ObjectResult<ObjectInfo> {
        self.store(at, self.found(from)?, new)
    }
    async fn parts(&self, _: &ObjectRef, _: &UploadId) -> ObjectResult<Vec<StoredPart>> {
        in_parts()
    }
    async fn complete(
        &self,
        _: &ObjectRef,
        _: &UploadId,
        _: &[StoredPart],
        _: u64,
        _: bool,
    ) -> ObjectResult<ObjectInfo> {
        in_parts()
    }
    async fn abort(&self, _: &ObjectRef, _: &UploadId) -> ObjectResult<()> {
        in_parts()
    }
    async fn uploads(&self, _: &str, _: &str) -> ObjectResult<Vec<(ObjectRef, UploadId)>> {
        Ok(Vec::new())
    }
    async fn delete(&self, at: &ObjectRef) -> ObjectResult<()> {
        self.0.lock().unwrap().remove(&name(at));
        Ok(())
    }
    async fn delete_prefix(&self, bucket: &str, prefix: &str) -> ObjectResult<()> {
        let prefix = format!("{bucket}/{prefix}");
        self.0.lock().unwrap().retain(|name, _| !name.starts_with(&prefix));
        Ok(())
    }
}
