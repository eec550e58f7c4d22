//! Phase `finish`: part 1 where the form has one, the object from its parts, and the task's end.

use std::sync::Arc;

use disk_image::write::qcow2::Place;
use image_tasks_domain::{Failure, FailureCode, TaskId};
use serde_json::{Value, json};

use super::form::unwritable;
use super::reduce::{self, Blobs};
use super::saved::{Form, Planned};
use super::transfer::{blobs, denied_or_gone, upload_to};
use super::{Exporter, Job};
use crate::digests::{Digests, base64, combined};
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::ports::{Metadata, ObjectError, ObjectInfo, Objects, StoredPart};

/// The parts that an upload must hold.
struct Expected {
    /// Numbers and the bytes that they have together.
    spans: Vec<(std::ops::Range<u32>, u64)>,
}

impl Exporter {
    /// Completes the object and ends the task.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn finish(&self, id: TaskId) -> Result<Next, Failure> {
        match self.try_finish(id).await {
            Ok(next) => Ok(next),
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Done),
        }
    }

    async fn try_finish(&self, id: TaskId) -> Step<Next> {
        let job = self.at_work(id).await?;
        let planned = self.planned(id).await?;
        let store = self.receiver(&job, &Metadata::new())?;
        let object = match self.made(&job, &*store).await? {
            Some(object) => object,
            None => {
                let expected = self.first_part(&job, &planned, &*store).await?;
                self.complete(&job, &planned, &*store, &expected).await?
            }
        };
        let digests = match &planned.form {
            Form::Copy(_) => {
                if object.crc64nvme.map(base64).as_ref() != Some(&planned.image.crc64nvme) {
                    let message = "the copy has another checksum than the stored image";
                    return Err(Failure::new(FailureCode::ChecksumMismatch, message).into());
                }
                planned.image.digests
            }
            Form::CopyQcow2 { .. } | Form::Raw(_) | Form::Qcow2(_) => None,
        };
        self.conclude(&job, object, digests).await
    }

    /// Uploads part 1 of a qcow2; what parts there must be then.
    async fn first_part(&self, job: &Job, planned: &Planned, store: &dyn Objects) -> Step<Expected> {
        let (geometry, blobs, summaries, mut spans) = match &planned.form {
            Form::Copy(transfer) | Form::Raw(transfer) => {
                let parts = (1..=transfer.parts()).filter_map(|number| transfer.part(number));
                let spans = parts.map(|part| (part.number..part.number + 1, part.len)).collect();
                return Ok(Expected { spans });
            }
            Form::CopyQcow2 { max_part } => {
                let plan = self.copy_plan(&planned.image, *max_part).await?;
                let spans = plan.copies().map(|(n, range)| (n..n + 1, range.end - range.start)).collect();
                let (geometry, summaries) = (plan.geometry(), plan.summaries().map_err(unwritable)?);
                let blobs = Blobs::Raw(Arc::new(plan), Arc::new(self.source(&planned.image)));
                (geometry, blobs, summaries, spans)
            }
            Form::Qcow2(codec) => {
                let (geometry, ranges) = blobs(planned, *codec)?;
                let blobs = self.worked(job.task.id);
                let summaries = blobs.summaries(ranges.len()).await?;
                let own = ranges.iter().zip(&summaries).filter(|(_, summary)| summary.place == Place::Own);
                let spans: Vec<_> =
                    own.map(|(range, summary)| (range.first_part..range.end_part, summary.len)).collect();
                (geometry, blobs, summaries, spans)
            }
        };
        let (len, body) = reduce::bodies(geometry, summaries, blobs)?;
        upload_to(store, job, &planned.upload, 1, len.first_part, body).await?;
        spans.push((1..2, len.first_part));
        Ok(Expected { spans })
    }

    /// Makes the parts an object.
    async fn complete(
        &self,
        job: &Job,
        planned: &Planned,
        store: &dyn Objects,
        expected: &Expected,
    ) -> Step<ObjectInfo> {
        let parts = store.parts(&job.to, &planned.upload).await.map_err(|e| denied_or_gone(job, e))?;
        expected.check(&parts)?;
        match store.complete(&job.to, &planned.upload, &parts, combined(&parts), true).await {
            Ok(object) => Ok(object),
            // An earlier call's answer was lost, or somebody else's object is there by now.
            Err(e @ (ObjectError::Precondition(_) | ObjectError::NotFound(_))) => {
                self.made(job, store).await?.ok_or_else(|| denied_or_gone(job, e))
            }
            Err(e) => Err(denied_or_gone(job, e)),
        }
    }

    /// The task a success.
    pub(super) async fn conclude(
        &self,
        job: &Job,
        object: ObjectInfo,
        digests: Option<Digests>,
    ) -> Step<Next> {
        let crc = object.crc64nvme.ok_or_else(|| {
            Failure::new(FailureCode::ChecksumMismatch, "the store has no checksum of the exported object")
        })?;
        let mut result = json!({
            "export_location": job.input.location(),
            "disk_format": job.input.format.name(),
            "size": object.size,
            "crc64nvme": base64(crc),
        });
        // Known only where the bytes passed one worker, or are those of the image.
        if let (Some(digests), Value::Object(result)) = (digests, &mut result) {
            result.insert("checksum".to_owned(), digests.md5.into());
            result.insert("os_hash_algo".to_owned(), "sha512".into());
            result.insert("os_hash_value".to_owned(), digests.sha512.into());
        }
        let (ttl, now) = (self.settings.task_ttl, self.clock.now());
        self.life.succeed_alone(job.task.id, &result, ttl, now).await?;
        self.cleaner().release(&job.task).await?;
        Ok(Next::Done)
    }
}

impl Expected {
    fn check(&self, parts: &[StoredPart]) -> Step<()> {
        let mut counted = 0;
        for (numbers, bytes) in &self.spans {
            let of_span: Vec<u64> =
                parts.iter().filter(|part| numbers.contains(&part.number)).map(|part| part.size).collect();
            if of_span.iter().sum::<u64>() != *bytes {
                return Err(Stop::internal(format!("parts {numbers:?} are not {bytes} bytes")));
            }
            counted += of_span.len();
        }
        if counted != parts.len() {
            return Err(Stop::internal("there are parts that nobody planned"));
        }
        Ok(())
    }
}
