//! Export: from an active image to an object in a bucket that a user names.
//!
//! Goal: as with imports, phases that may each be repeated, run twice at once, or die at any point, and still end in one of two
//! ways: the object is whole and the task a success, or the task is a failure and nothing of it is in the user's bucket.
//!
//! Invariants:
//! - Nothing is ever overwritten: the object is made by one request that refuses to.
//! - While a task is at work it alone may make an object of that name (its claim, [`Settings::claim`]), so every unfinished
//!   upload to that name is its own, also one whose id got lost.
//! - An object in the user's bucket is the task's own only if its metadata say so; no other is ever deleted.
//! - Bytes that need no change don't pass a worker: S3 copies them.

mod cleanup;
mod commit;
mod form;
mod metadata;
mod plan;
mod saved;
mod transfer;

use std::sync::Arc;

use image_tasks_domain::ports::{Clock, ImageStore, StoreError, TaskLife, TaskStore};
use image_tasks_domain::{
    ExportInput, Failure, FailureCode, Image, ImageStatus, Task, TaskId, TaskStatus, Visibility,
};

pub(crate) use self::cleanup::ExportCleaner;
use crate::deadline::Deadline;
use crate::error::{Step, Stop, internal};
use crate::events::{ExportEvent, Transferred};
use crate::ports::{Metadata, ObjectError, ObjectRef, Objects, Receivers};
use crate::settings::{ExportRules, Settings};

/// Runs the phases of exports.
pub struct Exporter {
    /// Tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Both together.
    pub life: Arc<dyn TaskLife>,
    /// Image bytes and work objects.
    pub objects: Arc<dyn Objects>,
    /// Receiving buckets.
    pub receivers: Arc<dyn Receivers>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where things are kept.
    pub settings: Settings,
    /// Where exports may go.
    pub rules: ExportRules,
}

/// A task at work, and what it was asked.
struct Job {
    task: Task,
    input: ExportInput,
    /// The object to make.
    to: ObjectRef,
}

impl Exporter {
    /// Runs the phase that an event asks for; the answer as the state machine expects it.
    ///
    /// # Errors
    /// A failure whose code the state machine acts on.
    pub async fn handle(&self, event: ExportEvent, deadline: Deadline) -> Result<serde_json::Value, Failure> {
        let answer = match event {
            ExportEvent::Plan { task_id } => serde_json::to_value(self.plan(task_id, deadline).await?),
            ExportEvent::Transfer { task_id, batch } => {
                let remaining = self.transfer(task_id, batch, deadline).await?;
                serde_json::to_value(Transferred { remaining })
            }
            ExportEvent::Finish { task_id } => serde_json::to_value(self.finish(task_id).await?),
        };
        answer.map_err(internal)
    }

    async fn stopped(&self, id: TaskId, stop: Stop) -> Result<(), Failure> {
        stop.end(id, self.settle(id)).await.map_err(|failure| match failure.code {
            // The source is a store of ours: the state machine waits longer for it than one call can.
            FailureCode::SourceUnreachable => Failure::transient(failure.message),
            _ => failure,
        })
    }

    async fn settle(&self, id: TaskId) -> Step<()> {
        let Some(task) = self.tasks.get(id).await? else { return Ok(()) };
        match task.status {
            TaskStatus::Success => self.cleaner().release(&task).await,
            TaskStatus::Failure => self.cleaner().remove(&task).await,
            TaskStatus::Pending | TaskStatus::Processing => {
                let image = self.images.get(self.job(task)?.input.image).await?;
                let stored = image.and_then(|image| image.stored);
                let there = match &stored {
                    Some(s) => self.objects.head(&object(&s.bucket, &s.key)).await?.is_some(),
                    None => false,
                };
                if there {
                    return Err(Stop::internal("what a task in work was making is gone"));
                }
                Err(not_found("the image was deleted while it was exported").into())
            }
        }
    }

    fn cleaner(&self) -> ExportCleaner<'_> {
        ExportCleaner {
            objects: &*self.objects,
            receivers: &*self.receivers,
            rules: &self.rules.receivers,
            settings: &self.settings,
        }
    }

    /// The task, moved to `processing` if it is pending, and its image.
    async fn begun(&self, id: TaskId) -> Step<(Job, Image)> {
        // Twice: the first write may be lost to a call that runs at the same time.
        for _ in 0..2 {
            let task = self.tasks.get(id).await?.ok_or(Stop::Ended)?;
            if task.status.is_end() {
                return Err(Stop::Ended);
            }
            let pending = task.status == TaskStatus::Pending;
            let job = self.job(task)?;
            self.region(&job)?;
            let image = self.exportable(&job).await?;
            if !pending {
                return Ok((job, image));
            }
            match self.life.begin_on(id, image.id, self.clock.now()).await {
                Ok(()) => return Ok((job, image)),
                Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Stop::internal("a task that neither begins nor has begun"))
    }

    /// The image, if the task's owner may export it now.
    async fn exportable(&self, job: &Job) -> Step<Image> {
        let id = job.input.image;
        let visible = |image: &Image| {
            image.owner == job.task.owner
                || matches!(image.visibility, Visibility::Public | Visibility::Community)
        };
        let Some(image) = self.images.get(id).await?.filter(visible) else {
            return Err(not_found(format!("there is no image {id}")).into());
        };
        if image.owner != job.task.owner {
            let message = format!("image {id} belongs to another project; only its owner may export it");
            return Err(Failure::new(FailureCode::NotOwner, message).into());
        }
        if image.status != ImageStatus::Active {
            let message =
                format!("image {id} is {}; only an active image can be exported", image.status.name());
            return Err(Failure::new(FailureCode::ImageNotActive, message).into());
        }
        Ok(image)
    }

    /// The task, if it is at work.
    async fn at_work(&self, id: TaskId) -> Step<Job> {
        let task = self.tasks.get(id).await?.ok_or(Stop::Ended)?;
        if task.status.is_end() { Err(Stop::Ended) } else { self.job(task) }
    }

    fn job(&self, task: Task) -> Step<Job> {
        let input = ExportInput::parse(&task.input).map_err(Stop::internal)?;
        let to = object(&input.bucket, &input.key);
        Ok(Job { task, input, to })
    }

    /// Region of the receiving bucket. It was allowed at the POST; since then the operator may have changed that.
    fn region(&self, job: &Job) -> Step<Option<&str>> {
        let region = self.rules.receivers.region(&job.input.bucket);
        region.map_err(|message| Failure::new(FailureCode::BucketNotAllowed, message).into())
    }

    /// The receiving store; what is made through it carries `metadata`.
    fn receiver(&self, job: &Job, metadata: &Metadata) -> Step<Arc<dyn Objects>> {
        Ok(self.receivers.objects(self.region(job)?, metadata))
    }
}

fn object(bucket: &str, key: &str) -> ObjectRef {
    ObjectRef { bucket: bucket.to_owned(), key: key.to_owned() }
}

fn not_found(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::ImageNotFound, message)
}

fn exists(job: &Job) -> Failure {
    let message = format!(
        "{} exists already and is never overwritten; remove it or name another",
        job.input.location()
    );
    Failure::new(FailureCode::ObjectExists, message)
}

/// What a call that makes something in the receiving bucket says.
fn refused_by(job: &Job, error: ObjectError) -> Stop {
    let bucket = &job.input.bucket;
    match error {
        ObjectError::NotFound(what) => {
            tracing::warn!(%what, "the receiving bucket is not there");
            Failure::new(FailureCode::BucketNotFound, format!("there is no bucket '{bucket}'")).into()
        }
        ObjectError::Denied(what) => {
            tracing::warn!(%what, "the receiving bucket refuses us");
            let message = format!("bucket '{bucket}' refuses this service; its policy must let exports in");
            Failure::new(FailureCode::BucketNotAllowed, message).into()
        }
        ObjectError::Elsewhere(what) => {
            tracing::error!(%what, "EXPORT_BUCKETS names a bucket with the wrong region");
            let message =
                format!("bucket '{bucket}' is not in the region that the operator named; tell the operator");
            Failure::new(FailureCode::BucketNotFound, message).into()
        }
        other => other.into(),
    }
}
