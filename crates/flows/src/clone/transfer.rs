//! Phase `transfer`: have S3 copy the parts of one batch.

use disk_image::ByteRange;
use image_tasks_domain::copying::CopyPlan;
use image_tasks_domain::progress::Step as Meter;
use image_tasks_domain::transfer::{Batch, PartRange, TransferPlan};
use image_tasks_domain::{Failure, FailureCode, TaskId};

use super::saved::Planned;
use super::{Cloner, Job, object};
use crate::bounds::COPIES_AT_ONCE;
use crate::deadline::Deadline;
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::parts::{Upload, make};
use crate::ports::{ObjectRef, UploadId};

impl Cloner {
    /// Copies parts; what is left when the time is up.
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
        let (parts, upload) = planned.in_parts()?;
        let at = self.settings.image(job.image_id);
        let left =
            Upload { objects: &*self.objects, at: &at, id: upload, plan: &parts }.missing(batch).await?;
        let (job, planned, at) = (&job, &planned, &at);
        let copy = |number| {
            let part = left.get(&number).copied();
            async move {
                let part = part.ok_or_else(|| Stop::internal("a part of no batch"))?;
                self.copy_part(job, planned, at, upload, part).await
            }
        };
        make(left.keys().copied().collect(), COPIES_AT_ONCE, deadline, copy, || {
            let message = "S3 did not copy a single part in the time of one call";
            Failure::new(FailureCode::SourceTooSlow, message).into()
        })
        .await
    }

    async fn copy_part(
        &self,
        job: &Job,
        planned: &Planned,
        at: &ObjectRef,
        upload: &UploadId,
        part: PartRange,
    ) -> Step<()> {
        let range = ByteRange { start: part.offset, end: part.offset + part.len };
        let from = object(&planned.from);
        let mut patience = Patience::default();
        loop {
            let etag = &planned.from.etag;
            let stop = match self.objects.copy_part(at, upload, part.number, &from, etag, range).await {
                Ok(_) => break,
                Err(error) => self.not_copied(&job.input.region, &planned.from, error).await,
            };
            patience.after_stop(stop).await?;
        }
        Ok(self.tasks.advance(job.task.id, Meter::Copied, part.len).await?)
    }
}

impl Planned {
    /// Parts and upload of a copy that has them.
    pub(super) fn in_parts(&self) -> Step<(TransferPlan, &UploadId)> {
        match (self.copy, &self.upload) {
            (CopyPlan::Parts(parts), Some(upload)) => Ok((parts, upload)),
            _ => Err(Stop::internal("a copy in parts without parts")),
        }
    }
}
