//! Phase `finish`: part 1 where the form has one, the object from its parts, and the task's end.

use std::sync::Arc;

use image_tasks_domain::image::HASH_ALGORITHM;
use image_tasks_domain::{Failure, FailureCode, TaskId};
use serde_json::{Value, json};

use super::saved::{Form, Planned};
use super::transfer::denied_or_gone;
use super::{Exporter, Job};
use crate::digests::{Digests, base64, combined};
use crate::error::Step;
use crate::events::Next;
use crate::parts::{Destination, Expected};
use crate::ports::{Metadata, ObjectError, ObjectInfo, Objects};
use crate::qcow2::assembly::{self, Blobs};
use crate::qcow2::unwritable;

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
        let refused = |e| denied_or_gone(job, e);
        let to = Destination { store, at: &job.to, upload: &planned.upload, refused: &refused };
        match &planned.form {
            Form::Copy(transfer) | Form::Raw(transfer) => {
                let parts = (1..=transfer.parts()).filter_map(|number| transfer.part(number));
                let spans = parts.map(|part| (part.number..part.number + 1, part.len)).collect();
                Ok(Expected { spans })
            }
            Form::CopyQcow2 { max_part } => {
                let plan = self.copy_plan(&planned.image, *max_part).await?;
                let mut spans: Vec<_> =
                    plan.copies().map(|(n, range)| (n..n + 1, range.end - range.start)).collect();
                let (geometry, summaries) = (plan.geometry(), plan.summaries().map_err(unwritable)?);
                let blobs = Blobs::Raw(Arc::new(plan), Arc::new(self.source(&planned.image)));
                let (len, body) = assembly::bodies(geometry, summaries, blobs)?;
                to.put(1, len.first_part, body).await?;
                spans.push((1..2, len.first_part));
                Ok(Expected { spans })
            }
            Form::Qcow2(codec) => self.pieces_of(job.task.id, planned, *codec)?.first_part(&to).await,
        }
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
            result.insert("os_hash_algo".to_owned(), HASH_ALGORITHM.into());
            result.insert("os_hash_value".to_owned(), digests.sha512.into());
        }
        let (ttl, now) = (self.settings.task_ttl, self.clock.now());
        self.life.succeed_alone(job.task.id, &result, ttl, now).await?;
        self.cleaner().release(&job.task).await?;
        Ok(Next::Done)
    }
}
