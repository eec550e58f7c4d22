//! Phase `transfer`: move the parts of one batch.
//!
//! Invariants:
//! - A part that the upload holds at its right size is not moved again: a repeated call does what is left.
//! - No part is held in memory; its bytes pass from the source's stream to the upload's.

use std::collections::BTreeMap;

use disk_image::ByteRange;
use futures::StreamExt as _;
use image_tasks_domain::progress::Step as Meter;
use image_tasks_domain::transfer::{Batch, PartRange};
use image_tasks_domain::{Failure, TaskId};

use super::Importer;
use super::inspection::too_slow;
use super::plan::Bytes;
use super::saved::Planned;
use crate::bounds::PARTS_AT_ONCE;
use crate::deadline::Deadline;
use crate::error::{Step, Stop};
use crate::origin::{Origin, Patience};
use crate::ports::{ObjectRef, UploadId};

/// What all parts of a batch have in common.
struct Work<'a> {
    id: TaskId,
    planned: &'a Planned,
    bytes: &'a Bytes,
    at: ObjectRef,
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
        let at = self.settings.image(job.image_id);
        let held: BTreeMap<u32, u64> =
            self.objects.parts(&at, upload).await?.into_iter().map(|p| (p.number, p.size)).collect();
        let mut left = Vec::new();
        for number in batch.first..=batch.last {
            let part = planned.transfer.part(number);
            let part = part.ok_or_else(|| Stop::internal(format!("part {number} is not in the plan")))?;
            if held.get(&number) != Some(&part.len) {
                left.push(part);
            }
        }
        if left.is_empty() {
            return Ok(None);
        }
        let bytes = self.bytes(id, &planned).await?;
        let work = Work { id, planned: &planned, bytes: &bytes, at, upload };
        let first_moves = left.len();
        let mut moves = futures::stream::iter(left.clone())
            .map(|part| {
                let work = &work;
                async move { self.move_part(work, part).await.map(|()| part.number) }
            })
            .buffer_unordered(PARTS_AT_ONCE);
        loop {
            // Checked first, so that a source which always has something ready can't carry us past the end.
            tokio::select! {
                biased;
                () = deadline.reached() => break,
                moved = moves.next() => match moved {
                    Some(number) => {
                        let number = number?;
                        left.retain(|part| part.number != number);
                    }
                    None => break,
                },
            }
        }
        match (left.first(), left.last()) {
            (Some(_), Some(_)) if left.len() == first_moves => {
                Err(too_slow("the source did not deliver a single part in the time of one call"))
            }
            (Some(first), Some(last)) => Ok(Some(Batch { first: first.number, last: last.number })),
            _ => Ok(None),
        }
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
        let Work { id, planned, bytes, at, upload } = work;
        let (number, range) = (part.number, part.offset..part.offset + part.len);
        let zeros = planned.convert.as_ref().and_then(|convert| convert.zeros.as_ref());
        let stored = match (bytes, &planned.origin, zeros) {
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
