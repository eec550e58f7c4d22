//! An S3-shaped store in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use disk_image::ByteRange;
use futures::StreamExt as _;
use image_tasks_flows::ports::*;

use crate::faults::Faults;
use crate::simulation::Mutation;

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    metadata: Metadata,
}

#[derive(Debug)]
struct Upload {
    at: ObjectRef,
    parts: BTreeMap<u32, Stored>,
    metadata: Metadata,
}

/// What S3 refuses. Of tests that cut objects smaller, less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct S3Limits {
    /// Bytes of a part but the last.
    pub least_part: u64,
    /// Ranges of objects of at most so many bytes aren't copied.
    pub copied_whole: u64,
}

impl Default for S3Limits {
    fn default() -> Self {
        Self { least_part: 5 << 20, copied_whole: 5 << 20 }
    }
}

impl S3Limits {
    /// As if S3's least part were the least of these.
    pub(crate) fn scaled(parts: &[u64]) -> Self {
        let least = parts.iter().fold(Self::default().least_part, |least, part| least.min(*part));
        Self { least_part: least, copied_whole: least.min(Self::default().copied_whole) }
    }
}

#[derive(Debug, Default)]
struct State {
    limits: S3Limits,
    objects: BTreeMap<(String, String), Stored>,
    uploads: BTreeMap<String, Upload>,
    made: u64,
    /// Bytes that came through `read`, by bucket and key.
    reads: BTreeMap<(String, String), u64>,
    largest_upload: usize,
    /// Bytes of parts that were copied.
    copied: u64,
    /// Numbers of parts of the objects that were completed.
    completed: BTreeMap<(String, String), usize>,
}

pub(crate) struct MemoryObjects {
    pub faults: Arc<Faults>,
    state: Arc<Mutex<State>>,
    /// Of what is made.
    metadata: Metadata,
    /// That a read takes, milliseconds.
    pub read_time: AtomicU64,
}

impl Receivers for MemoryObjects {
    fn objects(&self, _: Option<&str>, metadata: &Metadata) -> Arc<dyn Objects> {
        let (faults, state) = (Arc::clone(&self.faults), Arc::clone(&self.state));
        Arc::new(Self { faults, state, metadata: metadata.clone(), read_time: AtomicU64::new(0) })
    }
}

fn place(at: &ObjectRef) -> (String, String) {
    (at.bucket.clone(), at.key.clone())
}

fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Nvme, bytes)
}

fn slice(bytes: &Bytes, range: ByteRange) -> ObjectResult<Bytes> {
    assert!(!range.is_empty(), "S3 has no empty ranges");
    let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
    if end > bytes.len() {
        return Err(ObjectError::Fault(format!("{range:?} of {} bytes", bytes.len()).into()));
    }
    Ok(bytes.slice(start..end))
}

async fn gather(body: Body, len: u64) -> ObjectResult<Bytes> {
    let mut bytes = Vec::new();
    let mut body = body;
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(ObjectError::Body)?);
    }
    if bytes.len() as u64 != len {
        return Err(ObjectError::Fault(format!("{len} bytes were announced, {} came", bytes.len()).into()));
    }
    Ok(bytes.into())
}

impl State {
    fn etag(&mut self) -> String {
        self.made += 1;
        format!("\"{}\"", self.made)
    }

    fn store(
        &mut self,
        at: &ObjectRef,
        bytes: Bytes,
        metadata: &Metadata,
        new: bool,
    ) -> ObjectResult<ObjectInfo> {
        if new && self.objects.contains_key(&place(at)) {
            return Err(ObjectError::Precondition(at.key.clone().into()));
        }
        let stored = Stored { bytes, etag: self.etag(), metadata: metadata.clone() };
        let info = info(&stored);
        self.objects.insert(place(at), stored);
        Ok(info)
    }

    fn version(&self, at: &ObjectRef, etag: Option<&str>) -> ObjectResult<&Stored> {
        let stored =
            self.objects.get(&place(at)).ok_or_else(|| ObjectError::NotFound(at.key.clone().into()))?;
        if etag.is_some_and(|etag| etag != stored.etag) {
            return Err(ObjectError::Precondition(at.key.clone().into()));
        }
        Ok(stored)
    }

    fn upload(&mut self, at: &ObjectRef, id: &UploadId) -> ObjectResult<&mut Upload> {
        let upload = self.uploads.get_mut(&id.0).filter(|u| u.at == *at);
        upload.ok_or_else(|| ObjectError::NotFound(id.0.clone().into()))
    }

    fn part(&mut self, at: &ObjectRef, id: &UploadId, number: u32, bytes: Bytes) -> ObjectResult<StoredPart> {
        assert!((1..=10_000).contains(&number));
        let stored = Stored { bytes, etag: self.etag(), metadata: Metadata::new() };
        let part = stored_part(number, &stored);
        self.upload(at, id)?.parts.insert(number, stored);
        Ok(part)
    }
}

fn info(stored: &Stored) -> ObjectInfo {
    ObjectInfo {
        size: stored.bytes.len() as u64,
        etag: stored.etag.clone(),
        crc64nvme: Some(crc(&stored.bytes)),
    }
}

fn stored_part(number: u32, stored: &Stored) -> StoredPart {
    StoredPart {
        number,
        size: stored.bytes.len() as u64,
        etag: stored.etag.clone(),
        crc64nvme: crc(&stored.bytes),
    }
}

impl MemoryObjects {
    pub(crate) fn new(faults: Arc<Faults>) -> Self {
        Self { faults, state: Arc::default(), metadata: Metadata::new(), read_time: AtomicU64::new(0) }
    }

    /// Keys of all objects and unfinished uploads.
    pub(crate) fn everything(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let objects = state.objects.keys().map(|(bucket, key)| format!("{bucket}/{key}"));
        let uploads = state.uploads.values().map(|u| format!("upload of {}/{}", u.at.bucket, u.at.key));
        objects.chain(uploads).collect()
    }

    /// Somebody else writes an object, unless there is one.
    pub(crate) fn somebody_puts(&self, at: &ObjectRef, bytes: &'static [u8]) -> bool {
        let mut state = self.state.lock().unwrap();
        state.store(at, Bytes::from_static(bytes), &Metadata::new(), true).is_ok()
    }

    /// Takes an object away.
    pub(crate) fn remove(&self, at: &ObjectRef) {
        self.state.lock().unwrap().objects.remove(&place(at));
    }

    pub(crate) fn bytes(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let state = self.state.lock().unwrap();
        state.objects.get(&(bucket.to_owned(), key.to_owned())).map(|s| s.bytes.clone())
    }

    pub(crate) fn etag(&self, bucket: &str, key: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.objects.get(&(bucket.to_owned(), key.to_owned())).map(|s| s.etag.clone())
    }

    /// Bytes read from an object, and the most bytes that one upload call gave.
    pub(crate) fn read_from(&self, bucket: &str, key: &str) -> u64 {
        let state = self.state.lock().unwrap();
        state.reads.get(&(bucket.to_owned(), key.to_owned())).copied().unwrap_or(0)
    }

    pub(crate) fn largest_upload(&self) -> usize {
        self.state.lock().unwrap().largest_upload
    }

    /// Bytes that were copied from object to object, as parts.
    pub(crate) fn copied(&self) -> u64 {
        self.state.lock().unwrap().copied
    }

    /// Parts of the objects that were made of parts, with their keys.
    pub(crate) fn completed(&self) -> BTreeMap<(String, String), usize> {
        self.state.lock().unwrap().completed.clone()
    }

    pub(crate) fn set_limits(&self, limits: S3Limits) {
        self.state.lock().unwrap().limits = limits;
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn head(&self, at: &ObjectRef) -> ObjectResult<Option<ObjectInfo>> {
        self.faults.around(async { Ok(self.state.lock().unwrap().objects.get(&place(at)).map(info)) }).await
    }

    async fn metadata(&self, at: &ObjectRef) -> ObjectResult<Option<Metadata>> {
        self.faults
            .around(async {
                Ok(self.state.lock().unwrap().objects.get(&place(at)).map(|s| s.metadata.clone()))
            })
            .await
    }

    async fn read(&self, at: &ObjectRef, etag: Option<&str>, range: ByteRange) -> ObjectResult<Body> {
        self.faults
            .around(async {
                let time = Duration::from_millis(self.read_time.load(Ordering::SeqCst));
                if !time.is_zero() {
                    tokio::time::sleep(time).await;
                }
                let mut state = self.state.lock().unwrap();
                let version = state.version(at, etag)?;
                if let Some(chaos) = self.faults.chaos.get() {
                    let (first, last) = (range.start == 0, range.end == version.bytes.len() as u64);
                    chaos.reads(&at.bucket, &at.key, &version.etag, first, last);
                }
                let bytes = slice(&version.bytes, range)?;
                *state.reads.entry(place(at)).or_default() += range.len();
                let body: Body = Box::pin(futures::stream::iter([Ok(bytes)]));
                Ok(body)
            })
            .await
    }

    async fn get(&self, at: &ObjectRef) -> ObjectResult<Option<Bytes>> {
        self.faults
            .around(async {
                let state = self.state.lock().unwrap();
                let bytes = state.objects.get(&place(at)).map(|s| s.bytes.clone());
                assert!(bytes.as_ref().is_none_or(|b| b.len() <= 1 << 20), "not a small object");
                Ok(bytes)
            })
            .await
    }

    async fn put(&self, at: &ObjectRef, bytes: Bytes) -> ObjectResult<ObjectInfo> {
        assert!(bytes.len() <= 1 << 20, "not a small object");
        self.faults
            .around(async { self.state.lock().unwrap().store(at, bytes, &Metadata::new(), false) })
            .await
    }

    async fn put_stream(&self, at: &ObjectRef, len: u64, body: Body, new: bool) -> ObjectResult<ObjectInfo> {
        let new = new && !self.faults.broken(Mutation::OverwritesByPut);
        self.faults
            .around(async {
                let bytes = gather(body, len).await?;
                self.state.lock().unwrap().store(at, bytes, &self.metadata, new)
            })
            .await
    }

    async fn create_upload(&self, at: &ObjectRef) -> ObjectResult<UploadId> {
        self.faults
            .around(async {
                let mut state = self.state.lock().unwrap();
                let id = format!("upload-{}", state.etag());
                state.uploads.insert(
                    id.clone(),
                    Upload { at: at.clone(), parts: BTreeMap::new(), metadata: self.metadata.clone() },
                );
                Ok(UploadId(id))
            })
            .await
    }

    async fn upload_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        len: u64,
        body: Body,
    ) -> ObjectResult<StoredPart> {
        self.faults
            .around(async {
                self.state.lock().unwrap().upload(at, upload)?;
                let bytes = gather(body, len).await?;
                let mut state = self.state.lock().unwrap();
                state.largest_upload = state.largest_upload.max(bytes.len());
                state.part(at, upload, number, bytes)
            })
            .await
    }

    async fn copy_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        copied: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart> {
        self.faults
            .around(async {
                let mut state = self.state.lock().unwrap();
                let stored = &state.version(copied.from, Some(copied.etag))?.bytes;
                let size = stored.len() as u64;
                assert_eq!(copied.size, size, "whether all of it is copied has to be known");
                if copied.range.len() < size && size <= state.limits.copied_whole {
                    let what = format!("a range of {}, which has only {size} bytes", copied.from.key);
                    return Err(ObjectError::Fault(what.into()));
                }
                let bytes = slice(stored, copied.range)?;
                state.copied += bytes.len() as u64;
                state.part(at, upload, number, bytes)
            })
            .await
    }

    async fn copy(
        &self,
        at: &ObjectRef,
        from: &ObjectRef,
        etag: &str,
        new: bool,
    ) -> ObjectResult<ObjectInfo> {
        self.faults
            .around(async {
                let mut state = self.state.lock().unwrap();
                let bytes = state.version(from, Some(etag))?.bytes.clone();
                state.store(at, bytes, &self.metadata, new)
            })
            .await
    }

    async fn parts(&self, at: &ObjectRef, upload: &UploadId) -> ObjectResult<Vec<StoredPart>> {
        self.faults
            .around(async {
                let mut state = self.state.lock().unwrap();
                let upload = state.upload(at, upload)?;
                Ok(upload.parts.iter().map(|(number, stored)| stored_part(*number, stored)).collect())
            })
            .await
    }

    async fn complete(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        parts: &[StoredPart],
        crc64nvme: u64,
        new: bool,
    ) -> ObjectResult<ObjectInfo> {
        let new = new && !self.faults.broken(Mutation::OverwritesByCompletion);
        self.faults
            .around(async {
                let mut state = self.state.lock().unwrap();
                let least = state.limits.least_part;
                let held = &state.upload(at, upload)?.parts;
                let mut bytes = Vec::new();
                for (n, part) in (1..).zip(parts) {
                    assert_eq!(part.number, n, "parts of {} are in ascending order, without gaps", at.key);
                    let stored = held.get(&part.number).filter(|stored| stored.etag == part.etag);
                    let stored = stored.ok_or_else(|| ObjectError::Fault("InvalidPart".into()))?;
                    let is_last = n as usize == parts.len();
                    assert!(is_last || part.size >= least, "part {n} of {}: {}", at.key, part.size);
                    bytes.extend_from_slice(&stored.bytes);
                }
                if crc(&bytes) != crc64nvme {
                    return Err(ObjectError::Checksum("of the whole".into()));
                }
                let metadata = state.upload(at, upload)?.metadata.clone();
                let info = state.store(at, bytes.into(), &metadata, new)?;
                state.completed.insert(place(at), parts.len());
                state.uploads.remove(&upload.0);
                Ok(info)
            })
            .await
    }

    async fn abort(&self, _: &ObjectRef, upload: &UploadId) -> ObjectResult<()> {
        self.faults
            .around(async {
                if !self.faults.broken(Mutation::KeepsUploads) {
                    self.state.lock().unwrap().uploads.remove(&upload.0);
                }
                Ok(())
            })
            .await
    }

    async fn uploads(&self, bucket: &str, prefix: &str) -> ObjectResult<Vec<(ObjectRef, UploadId)>> {
        self.faults
            .around(async {
                let state = self.state.lock().unwrap();
                let blind = self.faults.broken(Mutation::FindsNoUploads);
                let under = |u: &Upload| !blind && u.at.bucket == bucket && u.at.key.starts_with(prefix);
                let found = state.uploads.iter().filter(|(_, upload)| under(upload));
                Ok(found.map(|(id, upload)| (upload.at.clone(), UploadId(id.clone()))).collect())
            })
            .await
    }

    async fn delete(&self, at: &ObjectRef) -> ObjectResult<()> {
        self.faults
            .around(async {
                let kept = match at.key.contains("claims/") {
                    true => self.faults.broken(Mutation::KeepsClaims),
                    false => self.faults.broken(Mutation::KeepsObjects),
                };
                if !kept {
                    self.state.lock().unwrap().objects.remove(&place(at));
                }
                Ok(())
            })
            .await
    }

    async fn delete_prefix(&self, bucket: &str, prefix: &str) -> ObjectResult<()> {
        self.faults
            .around(async {
                let kept = self.faults.broken(Mutation::KeepsWork);
                let mut state = self.state.lock().unwrap();
                state.objects.retain(|(b, key), _| kept || b != bucket || !key.starts_with(prefix));
                Ok(())
            })
            .await
    }
}
