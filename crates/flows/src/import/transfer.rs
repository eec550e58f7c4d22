//! Phase `transfer`: move the parts of one batch.
//!
//! Invariant: no part is held in memory; its bytes pass from the source's stream to the upload's.

use disk_image::ByteRange;
use image_tasks_domain::progress::Step as Meter;
use image_tasks_domain::transfer::{Batch, PartRange};
use image_tasks_domain::{Failure, TaskId};

use super::Importer;
use super::inspection::too_slow;
use super::plan::Bytes;
use super::saved::Form;
use crate::bounds::PARTS_AT_ONCE;
use crate::deadline::Deadline;
use crate::error::{Step, Stop};
use crate::origin::{Origin, Patience, Staged};
use crate::parts::{Upload, make};
use crate::ports::{ObjectRef, UploadId};

/// What all parts of a batch have in common.
struct Work<'a> {
    id: TaskId,
    origin: &'a Origin,
    zeros: Option<&'a Staged>,
    bytes: &'a Bytes,
    at: &'a ObjectRef,
    upload: &'a UploadId,
}

impl Importer {
    /// Moves parts; what is left when the time is up.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn transfer(
        &self,
        id: TaskId,
        batch: Batch,
        deadline: Deadline,
    ) -> Result<Option<Batch>, Failure> {
        match self.try_transfer(id, batch, deadline).await {
            Ok(remaining) => Ok(remaining),
            Err(stop) => self.stopped(id, stop).await.map(|()| None),
        }
    }

    async fn try_transfer(&self, id: TaskId, batch: Batch, deadline: Deadline) -> Step<Option<Batch>> {
        let job = self.at_work(id).await?;
        let planned = self.planned(id).await?;
        let upload = planned.upload.as_ref().ok_or_else(|| Stop::internal("a transfer without an upload"))?;
        let (transfer, zeros) = match &planned.form {
            Form::AsIs { transfer } => (transfer, None),
            Form::Raw { transfer, zeros, .. } => (transfer, zeros.as_ref()),
            Form::Qcow2 { size, ranges, map, allocation } => {
                let pieces = self.pieces(id, *size, ranges)?;
                let left = pieces.left(batch).await?;
                if left.is_empty() {
                    return Ok(None);
                }
                let disk = self.disk(id, &planned.origin, map.as_ref(), allocation.as_ref()).await?;
                return self.make_blobs(&job, (&pieces, left), &disk, upload, deadline).await;
            }
        };
        let at = self.settings.image(job.image_id);
        let parts = Upload { objects: &*self.objects, at: &at, id: upload, plan: transfer };
        let left = parts.missing(batch).await?;
        if left.is_empty() {
            return Ok(None);
        }
        let bytes = self.bytes(id, &planned).await?;
        let work = &Work { id, origin: &planned.origin, zeros, bytes: &bytes, at: &at, upload };
        let move_part = |number| {
            let part = left.get(&number).copied();
            async move { self.move_part(work, part.ok_or_else(|| Stop::internal("a part of no batch"))?).await }
        };
        make(left.keys().copied().collect(), PARTS_AT_ONCE, deadline, move_part, || {
            too_slow("the source did not deliver a single part in the time of one call")
        })
        .await
    }

    async fn move_part(&self, work: &Work<'_>, part: PartRange) -> Step<()> {
        let mut patience = Patience::default();
        loop {
            match self.try_part(work, part).await {
                Ok(()) => break,
                Err(stop) => patience.after_stop(stop).await?,
            }
        }
        Ok(self.tasks.advance(work.id, Meter::Copied, part.len).await?)
    }

    async fn try_part(&self, work: &Work<'_>, part: PartRange) -> Step<()> {
        let Work { id, origin, zeros, bytes, at, upload } = work;
        let (number, range) = (part.number, part.offset..part.offset + part.len);
        let stored = match (bytes, origin, zeros) {
            (Bytes::AsIs(_), Origin::Staged(object), _) => {
                let range = ByteRange { start: range.start, end: range.end };
                let from = self.settings.staged(*id);
                self.objects.copy_part(at, upload, number, &from, &object.etag, range).await?
            }
            (Bytes::Disk(disk), _, Some(zeros)) if disk.is_zero(range.clone()).await? => {
                let (from, range) = (self.settings.zeros(*id), ByteRange { start: 0, end: part.len });
                self.objects.copy_part(at, upload, number, &from, &zeros.etag, range).await?
            }
            _ => {
                let body = bytes.body(range).await?;
                self.objects.upload_part(at, upload, number, part.len, body).await?
            }
        };
        if stored.size != part.len {
            return Err(Stop::internal("the store holds a part of another size than it was given"));
        }
        Ok(())
    }
}
