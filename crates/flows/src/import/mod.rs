//! Import: from a source that a user names to an active image; also from a Glance elsewhere, of which a clone takes the image.
//!
//! Goal: phases that may each be repeated, run twice at once, or die at any point, and still end in one of two ways: the
//! image is active and the task a success, or the task is a failure and nothing is left.
//!
//! Invariants:
//! - The plan, once saved, names all that later phases need; it is only ever replaced by its own next state.
//! - Bytes get to the image's key only by a write that refuses to overwrite, from the version of the source that was inspected.
//! - Whoever finds the task ended removes what it can have made itself.

mod asked;
mod commit;
mod convert;
mod hash;
mod inspection;
mod plan;
mod press;
mod qcow2;
mod saved;
pub(crate) mod spool;
mod stage;
mod transfer;

use std::sync::Arc;

use image_tasks_domain::ports::{Clock, ImageStore, StoreError, TaskLife, TaskStore};
use image_tasks_domain::{Failure, FailureCode, ImageId, Task, TaskId, TaskStatus};

use self::asked::Asked;
pub use self::asked::{Asks, RemoteClones};
use crate::cleanup::Cleaner;
use crate::deadline::Deadline;
use crate::error::{Step, Stop, internal};
use crate::events::{ImportEvent, Transferred};
use crate::ports::{Objects, Sources};
use crate::settings::{ImportPolicy, Settings};

/// Runs the phases of imports.
pub struct Importer {
    /// Tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Both together.
    pub life: Arc<dyn TaskLife>,
    /// Image bytes and work objects.
    pub objects: Arc<dyn Objects>,
    /// Users' sources.
    pub sources: Arc<dyn Sources>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where things are kept.
    pub settings: Settings,
    /// What may come in.
    pub policy: ImportPolicy,
    /// What its tasks ask for.
    pub asks: Asks,
}

/// A task at work, and what it was asked.
struct Job {
    task: Task,
    image_id: ImageId,
    asked: Asked,
}

impl Importer {
    /// Runs the phase that an event asks for; the answer as the state machine expects it.
    ///
    /// # Errors
    /// A failure whose code the state machine acts on.
    pub async fn handle(&self, event: ImportEvent, deadline: Deadline) -> Result<serde_json::Value, Failure> {
        let answer = match event {
            ImportEvent::Plan { task_id } => serde_json::to_value(self.plan(task_id, deadline).await?),
            ImportEvent::Stage { task_id } => serde_json::to_value(self.stage(task_id, deadline).await?),
            ImportEvent::Transfer { task_id, batch } => {
                let remaining = self.transfer(task_id, batch, deadline).await?;
                serde_json::to_value(Transferred { remaining })
            }
            ImportEvent::Finish { task_id } => serde_json::to_value(self.finish(task_id, deadline).await?),
        };
        answer.map_err(internal)
    }

    async fn stopped(&self, id: TaskId, stop: Stop) -> Result<(), Failure> {
        stop.end(id, self.settle(id)).await
    }

    async fn settle(&self, id: TaskId) -> Step<()> {
        // What is still to be hashed needs its plan; whoever has hashed it cleans up.
        if self.hashes_due(id).await?.is_some() {
            return Ok(());
        }
        self.cleaner().settle(&*self.tasks, id).await
    }

    fn cleaner(&self) -> Cleaner<'_> {
        Cleaner { objects: &*self.objects, images: &*self.images, settings: &self.settings }
    }

    /// The task, moved to `processing` with an image record if it is pending.
    async fn begun(&self, id: TaskId) -> Step<Job> {
        // Twice: the first write may be lost to a call that runs at the same time.
        for _ in 0..2 {
            let task = self.tasks.get(id).await?.ok_or(Stop::Ended)?;
            match task.status {
                TaskStatus::Success | TaskStatus::Failure => return Err(Stop::Ended),
                TaskStatus::Processing => return self.job(task).await,
                TaskStatus::Pending => {}
            }
            let asked = self.asked_first(&task).await?;
            let now = self.clock.now();
            let image = asked.new_image(&task, now);
            match self.life.begin(id, &image, now).await {
                Ok(()) => return Ok(Job { task, image_id: image.id, asked }),
                Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Failure::new(
            FailureCode::StartFailed,
            "the id given in image_properties is used by another image",
        )
        .into())
    }

    /// The task, if it is at work.
    async fn at_work(&self, id: TaskId) -> Step<Job> {
        let task = self.tasks.get(id).await?.ok_or(Stop::Ended)?;
        if task.status.is_end() { Err(Stop::Ended) } else { self.job(task).await }
    }

    async fn job(&self, task: Task) -> Step<Job> {
        let image_id = task.image_id.ok_or_else(|| Stop::internal("a task at work without an image"))?;
        let asked = self.asked(&task).await?;
        Ok(Job { task, image_id, asked })
    }
}
