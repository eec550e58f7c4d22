//! Removing what a task made.
//!
//! Invariants:
//! - Each step may be repeated, and may run while a worker of the ended execution still lives: a worker without its upload or plan
//!   can't make anything, and one that could still complete an object is stopped by the task's end.
//! - An image that is active is never touched, nor is one that isn't the task's own: a record that is there after the
//!   task's failure belongs to a later task that was given the same id.

use image_tasks_domain::ports::{ImageStore, TaskStore};
use image_tasks_domain::{ImageId, TaskId, TaskStatus};

use crate::error::{Step, Stop};
use crate::ports::Objects;
use crate::settings::Settings;

/// Removes things.
pub(crate) struct Cleaner<'a> {
    pub(crate) objects: &'a dyn Objects,
    pub(crate) images: &'a dyn ImageStore,
    pub(crate) settings: &'a Settings,
}

impl Cleaner<'_> {
    /// What is left of a task that ended while a worker was at it.
    pub(crate) async fn settle(&self, tasks: &dyn TaskStore, id: TaskId) -> Step<()> {
        let task = tasks.get(id).await?;
        match task.as_ref().map(|task| task.status) {
            Some(TaskStatus::Success) => self.work(id).await,
            Some(TaskStatus::Failure) | None => self.remove(id, task.and_then(|task| task.image_id)).await,
            Some(TaskStatus::Pending | TaskStatus::Processing) => {
                Err(Stop::internal("what a task in work was making is gone"))
            }
        }
    }

    /// What a task in work has under way: uploads, plan, staged source. The task has to be ended next.
    pub(crate) async fn halt(&self, task: TaskId, image: Option<ImageId>) -> Step<()> {
        if let Some(image) = image {
            self.uploads(image).await?;
        }
        self.work(task).await
    }

    /// All that a failed task made.
    pub(crate) async fn remove(&self, task: TaskId, image: Option<ImageId>) -> Step<()> {
        self.work(task).await?;
        let Some(image) = image else { return Ok(()) };
        if self.images.get(image).await?.is_some() {
            return Ok(());
        }
        self.uploads(image).await?;
        self.objects.delete(&self.settings.image(image)).await?;
        Ok(self.objects.delete(&self.settings.allocation(image)).await?)
    }

    /// Plan, staged source, hash state.
    pub(crate) async fn work(&self, task: TaskId) -> Step<()> {
        self.staging(task).await?;
        Ok(self.objects.delete_prefix(&self.settings.work_bucket, &Settings::work_prefix(task)).await?)
    }

    /// Unfinished uploads of work objects.
    pub(crate) async fn staging(&self, task: TaskId) -> Step<()> {
        self.abort_all(&self.settings.work_bucket, &Settings::work_prefix(task)).await
    }

    /// Unfinished uploads of the image.
    pub(crate) async fn uploads(&self, image: ImageId) -> Step<()> {
        self.abort_all(&self.settings.images_bucket, &image.object_key()).await
    }

    async fn abort_all(&self, bucket: &str, prefix: &str) -> Step<()> {
        for (at, upload) in self.objects.uploads(bucket, prefix).await? {
            self.objects.abort(&at, &upload).await?;
        }
        Ok(())
    }
}
