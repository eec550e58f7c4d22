//! Phase `plan`: claim the object's name, see what the image is, decide how it is exported; what is small or needs no worker
//! from start to end.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use image_tasks_domain::progress::{Meter, Progress};
use image_tasks_domain::transfer::batches;
use image_tasks_domain::{Failure, FailureCode, TaskId};

use super::cleanup::{abort_all, is_own};
use super::form::too_slow;
use super::saved::{Form, Planned, Stored};
use super::{Exporter, Job, exists, metadata::metadata, not_found, refused_by};
use crate::deadline::Deadline;
use crate::digests::{Digests, hashed};
use crate::disk;
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::origin::Patience;
use crate::ports::{Body, ObjectError, ObjectInfo, Objects};
use crate::qcow2::assembly::Blobs;
use crate::qcow2::{self, one, unwritable};

impl Exporter {
    /// Plans an export.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn plan(&self, id: TaskId, deadline: Deadline) -> Result<Next, Failure> {
        match self.try_plan(id, deadline).await {
            Ok(next) => Ok(next),
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Done),
        }
    }

    async fn try_plan(&self, id: TaskId, deadline: Deadline) -> Step<Next> {
        let (job, image) = self.begun(id).await?;
        if let Some(planned) = self.saved(id).await? {
            return self.hand_out(&job, &planned).await;
        }
        let store = self.receiver(&job, &metadata(id, &image, job.input.format))?;
        self.claim(&job).await?;
        if let Some(object) = self.made(&job, &*store).await? {
            // An earlier call made it and died before it could say so.
            return self.conclude(&job, object, None).await;
        }
        let stored = tokio::select! {
            stored = self.stored(&job, &image) => stored?,
            () = deadline.reached() => return Err(too_slow("the image's tables could not be read")),
        };
        let form = self.form(&job, &image, &stored)?;
        tokio::select! {
            done = self.at_once(&job, &stored, &form, &store) => {
                if let Some((object, digests)) = done? {
                    return self.conclude(&job, object, digests).await;
                }
            }
            () = deadline.reached() => return Err(too_slow("a small image could not be exported")),
        }
        // Of an earlier call that died before it could save the plan.
        abort_all(&*store, &job.to).await?;
        let upload = store.create_upload(&job.to).await.map_err(|e| refused_by(&job, e))?;
        let planned = Planned { image: stored, form, upload };
        self.save(id, &planned).await?;
        self.hand_out(&job, &planned).await
    }

    /// Makes this task the only one that may make an object of that name.
    async fn claim(&self, job: &Job) -> Step<()> {
        let (at, by) = (self.settings.claim(&job.to), job.task.id.to_string());
        let body = |by: &str| one(Bytes::from(by.to_owned()));
        match self.objects.put_stream(&at, by.len() as u64, body(&by), true).await {
            Ok(_) => Ok(()),
            Err(ObjectError::Precondition(_)) => match self.objects.get(&at).await? {
                Some(holder) if holder == by => Ok(()),
                _ => {
                    let message = format!("another export to {} is under way", job.input.location());
                    Err(Failure::new(FailureCode::ObjectExists, message).into())
                }
            },
            Err(e) => Err(e.into()),
        }
    }

    /// The object, if this task has made it; a failure if anybody else has.
    pub(super) async fn made(&self, job: &Job, store: &dyn Objects) -> Step<Option<ObjectInfo>> {
        let Some(object) = store.head(&job.to).await.map_err(|e| refused_by(job, e))? else {
            return Ok(None);
        };
        if is_own(store, &job.to, &job.task).await.map_err(|e| refused_by(job, e))? {
            Ok(Some(object))
        } else {
            Err(exists(job).into())
        }
    }

    /// What a plan leaves to workers.
    async fn hand_out(&self, job: &Job, planned: &Planned) -> Step<Next> {
        let (pieces, bytes) = match &planned.form {
            Form::Copy(transfer) | Form::Raw(transfer) => (u64::from(transfer.parts()), transfer.size),
            Form::CopyQcow2 { max_part } => {
                let copies: Vec<_> = self.copy_plan(&planned.image, *max_part).await?.copies().collect();
                (copies.len() as u64, copies.iter().map(|(_, range)| range.end - range.start).sum())
            }
            Form::Qcow2(_) => {
                let size = planned.image.virtual_size;
                (qcow2::ranges(size)?.len() as u64, size)
            }
        };
        let copied = Meter { done: 0, total: bytes };
        self.tasks.set_work(job.task.id, &Progress { copied, ..job.task.progress }).await?;
        Ok(Next::Transfer { batches: batches(u32::try_from(pieces).map_err(Stop::internal)?) })
    }

    /// Makes the object where one request will do; with its hashes, if they are known.
    async fn at_once(
        &self,
        job: &Job,
        stored: &Stored,
        form: &Form,
        store: &Arc<dyn Objects>,
    ) -> Step<Option<(ObjectInfo, Option<Digests>)>> {
        let cut = &self.rules.cut;
        match form {
            Form::Copy(transfer) if transfer.size <= cut.copy_whole => {
                let object = self.copy_whole(job, stored, &**store).await?;
                Ok(Some((object, stored.digests.clone())))
            }
            Form::Raw(transfer) if transfer.size <= cut.tiny => {
                let disk = self.disk(job.task.id, stored).await?;
                let size = transfer.size;
                self.put(job, &**store, size, || disk::body(Arc::clone(&disk), 0..size)).await.map(Some)
            }
            Form::Qcow2(codec) if stored.virtual_size <= cut.tiny => {
                let disk = self.disk(job.task.id, stored).await?;
                let (size, body) = qcow2::small(disk, stored.virtual_size, *codec).await?;
                self.put(job, &**store, size, body).await.map(Some)
            }
            Form::CopyQcow2 { max_part } => {
                let plan = Arc::new(self.copy_plan(stored, *max_part).await?);
                if plan.copies().next().is_some() {
                    return Ok(None);
                }
                let (geometry, summaries) = (plan.geometry(), plan.summaries().map_err(unwritable)?);
                let blobs = Blobs::Raw(plan, Arc::new(self.source(stored)));
                let (size, body) = qcow2::whole(geometry, summaries, blobs)?;
                self.put(job, &**store, size, body).await.map(Some)
            }
            Form::Copy(_) | Form::Raw(_) | Form::Qcow2(_) => Ok(None),
        }
    }

    async fn copy_whole(&self, job: &Job, stored: &Stored, store: &dyn Objects) -> Step<ObjectInfo> {
        match store.copy(&job.to, &stored.at, &stored.etag, true).await {
            Ok(object) => Ok(object),
            // Of the object or of the image's version.
            Err(ObjectError::Precondition(what)) => match self.made(job, store).await? {
                Some(object) => Ok(object),
                None => Err(Stop::internal(what)),
            },
            Err(ObjectError::NotFound(_)) if self.objects.head(&stored.at).await?.is_none() => {
                Err(not_found("the image was deleted while it was exported").into())
            }
            Err(e) => Err(refused_by(job, e)),
        }
    }

    /// Stores the object in one request, and its hashes as the bytes pass.
    async fn put(
        &self,
        job: &Job,
        store: &dyn Objects,
        len: u64,
        body: impl Fn() -> Body,
    ) -> Step<(ObjectInfo, Option<Digests>)> {
        let mut patience = Patience::default();
        loop {
            let (body, hasher) = hashed(body());
            let stop = match store.put_stream(&job.to, len, body, true).await {
                Ok(object) => {
                    let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    return Ok((object, Some(hasher.digests())));
                }
                Err(ObjectError::Precondition(_)) => match self.made(job, store).await? {
                    Some(object) => return Ok((object, None)),
                    None => Stop::Store(Failure::transient("another write to that name was under way")),
                },
                Err(e) => refused_by(job, e),
            };
            patience.after_stop(stop).await?;
        }
    }
}
