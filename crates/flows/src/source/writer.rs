//! Writing an object of unknown length from a stream of bytes.
//!
//! Goal: a size isn't needed before the last byte, and memory is bounded: S3 wants each part's length first, so one part is
//! gathered while at most [`STAGE_UPLOADS`] are on their way.
//!
//! Given up before its end it aborts its own upload and no other. An upload of a call that died goes with the task's end.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc64Nvme;
use image_tasks_domain::transfer::MAX_PARTS;
use image_tasks_domain::{Failure, FailureCode};
use tokio::task::JoinSet;

use crate::bounds::STAGE_UPLOADS;
use crate::error::{Flow, Stop};
use crate::ports::{ObjectRef, Objects, StoredPart, UploadId};
use crate::retry::retry;
use crate::sink::one;
use crate::source::Pinned;

/// An object that is being written.
pub(crate) struct ObjectWriter {
    objects: Arc<dyn Objects>,
    at: ObjectRef,
    part_size: usize,
    filling: BytesMut,
    upload: Option<UploadId>,
    next: u32,
    uploads: JoinSet<Flow<StoredPart>>,
    parts: Vec<StoredPart>,
    crc: crc_fast::Digest,
}

impl ObjectWriter {
    pub(crate) fn new(objects: &Arc<dyn Objects>, at: ObjectRef, part_size: usize) -> Self {
        Self {
            objects: Arc::clone(objects),
            at,
            part_size,
            filling: BytesMut::new(),
            upload: None,
            next: 1,
            uploads: JoinSet::new(),
            parts: Vec::new(),
            crc: crc_fast::Digest::new(Crc64Nvme),
        }
    }

    pub(crate) async fn write(&mut self, mut chunk: Bytes) -> Flow<()> {
        self.crc.update(&chunk);
        while !chunk.is_empty() {
            let room = self.part_size.saturating_sub(self.filling.len());
            let now = chunk.split_to(chunk.len().min(room));
            self.filling.extend_from_slice(&now);
            if self.filling.len() >= self.part_size {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// The object, complete.
    pub(crate) async fn finish(mut self) -> Flow<Pinned> {
        match self.try_finish().await {
            Ok(object) => Ok(object),
            Err(stop) => {
                self.give_up().await;
                Err(stop)
            }
        }
    }

    async fn try_finish(&mut self) -> Flow<Pinned> {
        if self.upload.is_none() {
            let bytes = self.filling.split().freeze();
            let len = bytes.len() as u64;
            let object =
                retry(async || Ok(self.objects.put_stream(&self.at, len, one(bytes.clone()), false).await?));
            return Ok(Pinned::new(self.at.clone(), object.await?));
        }
        if !self.filling.is_empty() {
            self.send().await?;
        }
        while !self.uploads.is_empty() {
            self.take_one().await?;
        }
        self.parts.sort_by_key(|part| part.number);
        let upload = self.upload.as_ref().ok_or(Stop::Ended)?;
        let object = self.objects.complete(&self.at, upload, &self.parts, self.crc.finalize(), false).await?;
        Ok(Pinned::new(self.at.clone(), object))
    }

    /// Leaves nothing behind. Where that fails, the task's end makes it good.
    pub(crate) async fn give_up(mut self) {
        self.uploads.shutdown().await;
        if let Some(upload) = &self.upload
            && let Err(error) = self.objects.abort(&self.at, upload).await
        {
            tracing::warn!(%error, "an upload could not be given up");
        }
    }

    async fn send(&mut self) -> Flow<()> {
        if self.uploads.len() >= STAGE_UPLOADS {
            self.take_one().await?;
        }
        if u64::from(self.next) > MAX_PARTS {
            let most = self.part_size as u64 * MAX_PARTS;
            let message = format!("a source that can't be read by range may have {most} bytes at most");
            return Err(Failure::new(FailureCode::SourceTooLarge, message).into());
        }
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => self.upload.insert(self.objects.create_upload(&self.at).await?).clone(),
        };
        let (objects, at, number) = (Arc::clone(&self.objects), self.at.clone(), self.next);
        let bytes = self.filling.split().freeze();
        self.next += 1;
        self.uploads.spawn(async move {
            let len = bytes.len() as u64;
            retry(async || Ok(objects.upload_part(&at, &upload, number, len, one(bytes.clone())).await?))
                .await
        });
        Ok(())
    }

    async fn take_one(&mut self) -> Flow<()> {
        if let Some(part) = self.uploads.join_next().await {
            self.parts.push(part.map_err(Stop::internal)??);
        }
        Ok(())
    }
}
