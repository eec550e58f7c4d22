//! Import: from a source that a user names to an active image.
//!
//! Goal: phases that may each be repeated, run twice at once, or die at any point, and still end in one of two ways: the
//! image is active and the task a success, or the task is a failure and nothing is left.
//!
//! Invariants:
//! - The plan, once saved, names all that later phases need; it is only ever replaced by its own next state.
//! - Bytes get to the image's key only by a write that refuses to overwrite, from the version of the source that was inspected.
//! - Whoever finds the task ended removes what it can have made itself.

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
use image_tasks_domain::{
    Failure, FailureCode, Image, ImageId, ImageStatus, ImportInput, Task, TaskId, TaskStatus, Visibility,
};
use uuid::Uuid;

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
}

/// A task at work, and what it was asked.
struct Job {
    task: Task,
    image_id: ImageId,
    input: ImportInput,
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
        stop.end(id, self.cleaner().settle(&*self.tasks, id)).await
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
                TaskStatus::Processing => return self.job(task),
                TaskStatus::Pending => {}
            }
            let input = self.input(&task)?;
            let now = self.clock.now();
            let image = new_image(&task, &input, now);
            match self.life.begin(id, &image, now).await {
                Ok(()) => return Ok(Job { task, image_id: image.id, input }),
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
        if task.status.is_end() { Err(Stop::Ended) } else { self.job(task) }
    }

    fn job(&self, task: Task) -> Step<Job> {
        let image_id = task.image_id.ok_or_else(|| Stop::internal("a task at work without an image"))?;
        let input = self.input(&task)?;
        Ok(Job { task, image_id, input })
    }

    /// What was asked. It was checked at the POST; since then the operator may have narrowed what is allowed.
    fn input(&self, task: &Task) -> Step<ImportInput> {
        ImportInput::parse(&task.input, &self.policy.sources)
            .map_err(|e| Failure::new(FailureCode::SourceForbidden, e.to_string()).into())
    }
}

/// The record of the image that a task will make.
fn new_image(task: &Task, input: &ImportInput, now: image_tasks_domain::Timestamp) -> Image {
    let said = &input.image;
    Image {
        id: said.id.unwrap_or_else(|| ImageId(Uuid::new_v4())),
        owner: task.owner.clone(),
        name: said.name.clone(),
        status: ImageStatus::Importing,
        // What Glance gives an image of which nothing is said.
        visibility: said.visibility.unwrap_or(Visibility::Shared),
        disk_format: None,
        container_format: said.container_format.map(str::to_owned),
        size: None,
        virtual_size: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        min_disk: said.min_disk,
        min_ram: said.min_ram,
        protected: said.protected,
        os_hidden: said.os_hidden,
        tags: said.tags.iter().cloned().collect(),
        properties: said.extra.clone(),
        created_at: now,
        updated_at: now,
        stored: None,
    }
}
