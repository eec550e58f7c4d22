//! Phase `transfer`: make the parts of one batch.
//!
//! Invariant: a piece of work that is done is not done again; done again it makes the same bytes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use disk_image::ByteRange;
use disk_image::write::qcow2::Codec;
use image_tasks_domain::progress::Step as Meter;
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{Failure, TaskId};

use super::form::too_slow;
use super::saved::{Form, Planned};
use super::{Exporter, Job, refused_by};
use crate::bounds::{COPIES_AT_ONCE, PARTS_AT_ONCE};
use crate::deadline::Deadline;
use crate::disk::{self, Disk};
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::parts::{Destination, make};
use crate::ports::{Metadata, Objects};
use crate::qcow2;

/// What all pieces of a batch have in common.
struct Work<'a> {
    job: &'a Job,
    planned: &'a Planned,
    store: &'a dyn Objects,
    pieces: Pieces,
}

/// Pieces of work; the first has number 1.
enum Pieces {
    /// Parts that S3 copies from the image.
    Copies(Vec<(u32, Range<u64>)>),
    /// Parts that are ranges of the disk.
    Disk(Arc<Disk>, Vec<(u32, Range<u64>)>),
    /// Ranges of the disk that become blobs.
    Blobs(Arc<Disk>, qcow2::Pieces),
}

impl Exporter {
    /// Makes parts; what is left when the time is up.
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
        let store = self.receiver(&job, &Metadata::new())?;
        let pieces = self.pieces(id, &planned).await?;
        let work = Work { job: &job, planned: &planned, store: &*store, pieces };
        let left = self.left(&work, batch).await?;
        let at_once = match work.pieces {
            Pieces::Copies(_) => COPIES_AT_ONCE,
            Pieces::Disk(..) | Pieces::Blobs(..) => PARTS_AT_ONCE,
        };
        let (work, none) = (&work, "not a single part of the export could be made");
        make(left, at_once, deadline, |number| self.piece(work, number), || too_slow(none)).await
    }

    async fn pieces(&self, id: TaskId, planned: &Planned) -> Step<Pieces> {
        let by_parts = |transfer: &image_tasks_domain::transfer::TransferPlan| {
            let parts = (1..=transfer.parts()).filter_map(|number| transfer.part(number));
            parts.map(|part| (part.number, part.offset..part.offset + part.len)).collect()
        };
        Ok(match &planned.form {
            Form::Copy(transfer) => Pieces::Copies(by_parts(transfer)),
            Form::CopyQcow2 { max_part } => {
                Pieces::Copies(self.copy_plan(&planned.image, *max_part).await?.copies().collect())
            }
            Form::Raw(transfer) => Pieces::Disk(self.disk(id, &planned.image).await?, by_parts(transfer)),
            Form::Qcow2(codec) => {
                Pieces::Blobs(self.disk(id, &planned.image).await?, self.pieces_of(id, planned, *codec)?)
            }
        })
    }

    /// The pieces of a batch that are still to be made.
    async fn left(&self, work: &Work<'_>, batch: Batch) -> Step<BTreeSet<u32>> {
        match &work.pieces {
            Pieces::Blobs(_, pieces) => pieces.left(batch).await,
            Pieces::Copies(parts) | Pieces::Disk(_, parts) => {
                let held = work.store.parts(&work.job.to, &work.planned.upload).await?;
                let is_left = |number: &u32| {
                    let part = parts.get(number.saturating_sub(1) as usize);
                    !part.is_some_and(|(part, range)| {
                        held.iter().any(|held| held.number == *part && held.size == range.end - range.start)
                    })
                };
                Ok((batch.first..=batch.last).filter(is_left).collect())
            }
        }
    }

    async fn piece(&self, work: &Work<'_>, number: u32) -> Step<()> {
        let unknown = || Stop::internal(format!("piece {number} is not in the plan"));
        let at = number.checked_sub(1).ok_or_else(unknown)? as usize;
        let refused = |e| denied_or_gone(work.job, e);
        let upload = &work.planned.upload;
        let to = Destination { store: work.store, at: &work.job.to, upload, refused: &refused };
        let bytes = match &work.pieces {
            Pieces::Copies(parts) => {
                let (part, range) = parts.get(at).ok_or_else(unknown)?;
                copy_part(work, *part, range.clone()).await?
            }
            Pieces::Disk(disk, parts) => {
                let (part, range) = parts.get(at).ok_or_else(unknown)?;
                let len = range.end - range.start;
                to.put(*part, len, || disk::body(Arc::clone(disk), range.clone())).await?;
                len
            }
            Pieces::Blobs(disk, pieces) => pieces.make(&to, disk, number).await?,
        };
        Ok(self.tasks.advance(work.job.task.id, Meter::Copied, bytes).await?)
    }

    /// The disk by ranges that become blobs.
    pub(super) fn pieces_of(&self, id: TaskId, planned: &Planned, codec: Codec) -> Step<qcow2::Pieces> {
        let size = planned.image.virtual_size;
        let (objects, settings) = (Arc::clone(&self.objects), self.settings.clone());
        qcow2::Pieces::new(size, codec, qcow2::ranges(size)?, qcow2::Bench { objects, settings, id })
    }
}

async fn copy_part(work: &Work<'_>, number: u32, range: Range<u64>) -> Step<u64> {
    let Work { job, planned, store, .. } = work;
    let (image, len) = (&planned.image, range.end - range.start);
    let mut patience = Patience::default();
    loop {
        let range = ByteRange { start: range.start, end: range.end };
        match store.copy_part(&job.to, &planned.upload, number, &image.at, &image.etag, range).await {
            Ok(_) => return Ok(len),
            // The upload or the image: `settle` sees which.
            Err(e) => patience.after_stop(denied_or_gone(job, e)).await?,
        }
    }
}

/// With an upload under way, what isn't found is the upload.
pub(super) fn denied_or_gone(job: &Job, error: crate::ports::ObjectError) -> Stop {
    match error {
        crate::ports::ObjectError::NotFound(_) => Stop::Ended,
        other => refused_by(job, other),
    }
}
