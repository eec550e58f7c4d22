//! An object of unknown length, written from a rope: in one request where it is shorter than a part, else in parts that follow
//! one another.

use std::sync::Arc;

use bytes::Bytes;
use disk_image::write::rope::Rope;

use crate::digests::combined;
use crate::error::{Flow, Stop};
use crate::ports::{Body, ObjectError, ObjectRef, Objects, StoredPart, UploadId};
use crate::retry::retry;
use crate::sink::upload::whole;
use crate::source::Pinned;

/// An object that is being written. Its key is one that nobody else writes to.
pub(crate) struct BlobUpload {
    objects: Arc<dyn Objects>,
    at: ObjectRef,
    part: usize,
    buffer: Rope,
    upload: Option<UploadId>,
    parts: Vec<StoredPart>,
}

impl BlobUpload {
    /// In parts of that many bytes.
    pub(crate) fn new(objects: &Arc<dyn Objects>, at: ObjectRef, part: u64) -> Self {
        Self {
            objects: Arc::clone(objects),
            at,
            part: usize::try_from(part).unwrap_or(usize::MAX),
            buffer: Rope::default(),
            upload: None,
            parts: Vec::new(),
        }
    }

    /// Of these bytes.
    pub(crate) fn whole(objects: &Arc<dyn Objects>, at: ObjectRef, bytes: Bytes) -> Self {
        Self { buffer: bytes.into(), ..Self::new(objects, at, u64::MAX) }
    }

    /// Where the next bytes are appended.
    pub(crate) fn buffer(&mut self) -> &mut Rope {
        &mut self.buffer
    }

    /// Uploads the parts that are whole.
    pub(crate) async fn send(&mut self) -> Flow<()> {
        while self.buffer.len() >= self.part {
            let part = self.buffer.split_to(self.part);
            self.send_part(part).await?;
        }
        Ok(())
    }

    /// The object, complete. Where that fails, nothing of it is left.
    pub(crate) async fn finish(mut self) -> Flow<Pinned> {
        let finished = async {
            self.send().await?;
            match &self.upload {
                None => self.put().await,
                Some(_) => {
                    let rest = std::mem::take(&mut self.buffer);
                    if !rest.is_empty() {
                        self.send_part(rest).await?;
                    }
                    self.complete().await
                }
            }
        };
        match finished.await {
            Ok(object) => Ok(object),
            Err(stop) => {
                self.give_up().await;
                Err(stop)
            }
        }
    }

    /// The object, in one request.
    pub(crate) async fn put(&mut self) -> Flow<Pinned> {
        let bytes = std::mem::take(&mut self.buffer);
        let len = bytes.len() as u64;
        let put = retry(async || Ok(self.objects.put_stream(&self.at, len, all(&bytes), false).await?));
        Ok(Pinned::new(self.at.clone(), put.await?))
    }

    /// Leaves no upload behind. Where that fails, the task's end makes it good.
    pub(crate) async fn give_up(self) {
        if let Some(upload) = &self.upload
            && let Err(error) = self.objects.abort(&self.at, upload).await
        {
            tracing::warn!(%error, "an upload could not be given up");
        }
    }

    async fn send_part(&mut self, part: Rope) -> Flow<()> {
        let (objects, at) = (&self.objects, &self.at);
        let upload = match &self.upload {
            Some(upload) => upload,
            None => self.upload.insert(retry(async || Ok(objects.create_upload(at).await?)).await?),
        };
        let number = u32::try_from(self.parts.len() + 1).map_err(Stop::internal)?;
        let len = part.len() as u64;
        let put = retry(async || Ok(objects.upload_part(at, upload, number, len, all(&part)).await?));
        let stored = put.await?;
        whole(&stored, len)?;
        self.parts.push(stored);
        Ok(())
    }

    async fn complete(&self) -> Flow<Pinned> {
        let upload = self.upload.as_ref().ok_or(Stop::Ended)?;
        let (crc, size) = (combined(&self.parts), self.parts.iter().map(|part| part.size).sum::<u64>());
        let completed = retry(async || {
            match self.objects.complete(&self.at, upload, &self.parts, crc, false).await {
                // The answer of an earlier try was lost, or the task has ended.
                Err(ObjectError::NotFound(_)) => self.objects.head(&self.at).await?.ok_or(Stop::Ended),
                completed => Ok(completed?),
            }
        });
        let object = completed.await?;
        if object.size != size {
            return Err(Stop::internal("the store holds a blob of another size than it was given"));
        }
        Ok(Pinned::new(self.at.clone(), object))
    }
}

/// A rope as a body.
pub(crate) fn all(rope: &Rope) -> Body {
    Box::pin(futures::stream::iter(rope.clone().into_iter().map(Ok)))
}
