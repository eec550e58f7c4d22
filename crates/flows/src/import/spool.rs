//! Writing an object of unknown length from a stream of bytes.
//!
//! Goal: a size isn't needed before the last byte, and memory is bounded: S3 wants each part's length first, so one part is
//! gathered while at most [`STAGE_UPLOADS`] are on their way.
//!
//! Dropped before its end it leaves an upload, which whoever repeats the step or ends the task aborts.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc64Nvme;
use image_tasks_domain::transfer::MAX_PARTS;
use image_tasks_domain::{Failure, FailureCode};
use tokio::task::JoinSet;

use crate::bounds::STAGE_UPLOADS;
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::ports::{Body, ObjectInfo, ObjectRef, Objects, StoredPart, UploadId};

/// An object that is being written.
pub(crate) struct Spool {
    objects: Arc<dyn Objects>,
    at: ObjectRef,
    part_size: usize,
    filling: BytesMut,
    upload: Option<UploadId>,
    next: u32,
    uploads: JoinSet<Step<StoredPart>>,
    parts: Vec<StoredPart>,
    crc: crc_fast::Digest,
}

impl Spool {
    pub(crate) fn new(objects: Arc<dyn Objects>, at: ObjectRef, part_size: usize) -> Self {
        Self {
            objects,
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

    pub(crate) async fn write(&mut self, mut chunk: Bytes) -> Step<()> {
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
    pub(crate) async fn finish(mut self) -> Step<ObjectInfo> {
        if self.upload.is_none() {
            let bytes = self.filling.split().freeze();
            let mut patience = Patience::default();
            loop {
                let len = bytes.len() as u64;
                match self.objects.put_stream(&self.at, len, body(bytes.clone()), false).await {
                    Ok(object) => return Ok(object),
                    Err(e) => patience.after_stop(e.into()).await?,
                }
            }
        }
        if !self.filling.is_empty() {
            self.send().await?;
        }
        while !self.uploads.is_empty() {
            self.take_one().await?;
        }
        self.parts.sort_by_key(|part| part.number);
        let upload = self.upload.as_ref().ok_or(Stop::Ended)?;
        Ok(self.objects.complete(&self.at, upload, &self.parts, self.crc.finalize(), false).await?)
    }

    async fn send(&mut self) -> Step<()> {
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
            let mut patience = Patience::default();
            loop {
                let len = bytes.len() as u64;
                match objects.upload_part(&at, &upload, number, len, body(bytes.clone())).await {
                    Ok(part) => return Ok(part),
                    Err(e) => patience.after_stop(e.into()).await?,
                }
            }
        });
        Ok(())
    }

    async fn take_one(&mut self) -> Step<()> {
        if let Some(part) = self.uploads.join_next().await {
            self.parts.push(part.map_err(Stop::internal)??);
        }
        Ok(())
    }
}

fn body(bytes: Bytes) -> Body {
    Box::pin(futures::stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
}
