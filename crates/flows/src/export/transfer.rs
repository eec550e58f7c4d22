//! Phase `transfer`: make the parts of one batch.
//!
//! Invariants:
//! - A piece of work that is done is not done again; done again it makes the same bytes.
//! - Memory is bounded by a window of the disk and a part of a blob.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use disk_image::ByteRange;
use disk_image::write::parts::{BlobRange, MIN_PART, PartCutter, blob_ranges};
use disk_image::write::qcow2::{BlobWriter, Codec, Geometry};
use image_tasks_domain::progress::Step as Meter;
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{Failure, TaskId};

use super::form::{too_large, too_slow, unwritable};
use super::plan::one;
use super::saved::{Form, Planned};
use super::{Exporter, Job, refused_by};
use crate::bounds::{COPIES_AT_ONCE, PARTS_AT_ONCE};
use crate::deadline::Deadline;
use crate::disk::{self, Disk, DiskReader, Window};
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::parts::make;
use crate::ports::{Metadata, ObjectRef, Objects};

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
    Blobs(Arc<Disk>, Geometry, Vec<BlobRange>),
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
                let (geometry, ranges) = blobs(planned, *codec)?;
                Pieces::Blobs(self.disk(id, &planned.image).await?, geometry, ranges)
            }
        })
    }

    /// The pieces of a batch that are still to be made.
    async fn left(&self, work: &Work<'_>, batch: Batch) -> Step<BTreeSet<u32>> {
        let mut left: BTreeSet<u32> = (batch.first..=batch.last).collect();
        match &work.pieces {
            Pieces::Blobs(..) => {
                for number in batch.first..=batch.last {
                    let at = self.settings.blob_index(work.job.task.id, number.saturating_sub(1) as usize);
                    if self.objects.head(&at).await?.is_some() {
                        left.remove(&number);
                    }
                }
            }
            Pieces::Copies(parts) | Pieces::Disk(_, parts) => {
                let held = work.store.parts(&work.job.to, &work.planned.upload).await?;
                left.retain(|number| {
                    let part = parts.get(number.saturating_sub(1) as usize);
                    !part.is_some_and(|(part, range)| {
                        held.iter().any(|held| held.number == *part && held.size == range.end - range.start)
                    })
                });
            }
        }
        Ok(left)
    }

    async fn piece(&self, work: &Work<'_>, number: u32) -> Step<()> {
        let unknown = || Stop::internal(format!("piece {number} is not in the plan"));
        let at = number.checked_sub(1).ok_or_else(unknown)? as usize;
        let bytes = match &work.pieces {
            Pieces::Copies(parts) => {
                let (part, range) = parts.get(at).ok_or_else(unknown)?;
                copy_part(work, *part, range.clone()).await?
            }
            Pieces::Disk(disk, parts) => {
                let (part, range) = parts.get(at).ok_or_else(unknown)?;
                let len = range.end - range.start;
                let body = || disk::body(Arc::clone(disk), range.clone());
                upload_part(work, *part, len, body).await?;
                len
            }
            Pieces::Blobs(disk, geometry, ranges) => {
                let range = ranges.get(at).ok_or_else(unknown)?;
                self.blob(work, disk, *geometry, range, at).await?;
                range.end - range.start
            }
        };
        Ok(self.tasks.advance(work.job.task.id, Meter::Copied, bytes).await?)
    }

    /// Turns a range of the disk into a blob: its parts uploaded, its index kept.
    async fn blob(
        &self,
        work: &Work<'_>,
        disk: &Arc<Disk>,
        geometry: Geometry,
        range: &BlobRange,
        blob: usize,
    ) -> Step<()> {
        let id = work.job.task.id;
        let mut reader = DiskReader::new(Arc::clone(disk), range.start..range.end);
        let mut writer = BlobWriter::new(geometry, range.start).map_err(unwritable)?;
        let mut cutter = PartCutter::new(range.part_size);
        let mut number = range.first_part;
        while let Some(window) = reader.next().await? {
            match window {
                Window::Zeros(len) => writer.zeros(len, cutter.buffer()),
                Window::Data(bytes) => writer.write(&bytes, cutter.buffer()),
            }
            .map_err(unwritable)?;
            while let Some(part) = cutter.next_part() {
                number = self.next_part(work, range, number, part).await?;
            }
        }
        let index = writer.finish(cutter.buffer()).map_err(unwritable)?;
        while let Some(part) = cutter.next_part() {
            number = self.next_part(work, range, number, part).await?;
        }
        let rest = cutter.finish();
        if number == range.first_part && (rest.len() as u64) < MIN_PART {
            if !rest.is_empty() {
                self.keep(self.settings.blob(id, blob), rest).await?;
            }
        } else {
            self.next_part(work, range, number, rest).await?;
        }
        self.keep(self.settings.blob_index(id, blob), index.as_bytes().to_vec()).await
    }

    async fn next_part(&self, work: &Work<'_>, range: &BlobRange, number: u32, part: Vec<u8>) -> Step<u32> {
        if number >= range.end_part {
            return Err(Stop::internal("a blob has more parts than were set aside for it"));
        }
        let (len, part) = (part.len() as u64, Bytes::from(part));
        upload_part(work, number, len, || one(part.clone())).await?;
        Ok(number + 1)
    }

    /// Stores what `finish` needs of a blob.
    async fn keep(&self, at: ObjectRef, bytes: Vec<u8>) -> Step<()> {
        let (len, bytes) = (bytes.len() as u64, Bytes::from(bytes));
        let mut patience = Patience::default();
        loop {
            match self.objects.put_stream(&at, len, one(bytes.clone()), false).await {
                Ok(_) => return Ok(()),
                Err(e) => patience.after_stop(e.into()).await?,
            }
        }
    }
}

/// The ranges that become blobs, and what their writers share.
pub(super) fn blobs(planned: &Planned, codec: Codec) -> Step<(Geometry, Vec<BlobRange>)> {
    let size = planned.image.virtual_size;
    Ok((Geometry::new(size, codec).map_err(unwritable)?, blob_ranges(size).map_err(too_large)?))
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

pub(super) async fn upload_to(
    store: &dyn Objects,
    job: &Job,
    upload: &crate::ports::UploadId,
    number: u32,
    len: u64,
    body: impl Fn() -> crate::ports::Body,
) -> Step<()> {
    let mut patience = Patience::default();
    loop {
        match store.upload_part(&job.to, upload, number, len, body()).await {
            Ok(part) if part.size == len => return Ok(()),
            Ok(_) => return Err(Stop::internal("the store holds a part of another size than it was given")),
            Err(e) => patience.after_stop(denied_or_gone(job, e)).await?,
        }
    }
}

async fn upload_part(
    work: &Work<'_>,
    number: u32,
    len: u64,
    body: impl Fn() -> crate::ports::Body,
) -> Step<()> {
    upload_to(work.store, work.job, &work.planned.upload, number, len, body).await
}

/// With an upload under way, what isn't found is the upload.
pub(super) fn denied_or_gone(job: &Job, error: crate::ports::ObjectError) -> Stop {
    match error {
        crate::ports::ObjectError::NotFound(_) => Stop::Ended,
        other => refused_by(job, other),
    }
}
