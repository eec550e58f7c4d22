//! Removing what a task made and doesn't need any more.
//!
//! Invariants:
//! - Each step may be repeated, by anybody, at any time after the task's end. A worker that outlives its task can make
//!   something again; so each task is cleaned up once more when no worker can live any longer.
//! - Everything that is removed carries the task's id, in its key or in its metadata.

use std::sync::Arc;

use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::image_import::ImageImport;
use image_tasks_domain::{ExportInput, Task, TaskId, TaskType};

use crate::error::{Flow, Stop};
use crate::ports::{ObjectRef, Receivers};
use crate::settings::Settings;
use crate::sink::abort_uploads;
use crate::sink::bucket::BucketSink;
use crate::sink::image::ImageSink;
use crate::stores::Stores;

/// Removes things.
pub(crate) struct Undo<'a> {
    pub(crate) stores: &'a Stores,
    /// Where exports go, in a function that knows of them.
    pub(crate) exports: Option<(&'a Arc<dyn Receivers>, &'a ExportPolicy)>,
}

impl Undo<'_> {
    /// All that a failed task made.
    pub(crate) async fn failed(&self, task: &Task) -> Flow<()> {
        match task.task_type {
            TaskType::Import | TaskType::Clone | TaskType::ApiImageImport => {
                if let Some(sink) = self.image(task) {
                    sink.undo().await?;
                }
                self.staged(task).await?;
            }
            TaskType::Export => {
                if let Some(sink) = self.bucket(task)? {
                    sink.undo().await?;
                }
            }
        }
        self.work(task.id).await
    }

    /// What a task that went well may have left beside its product.
    pub(crate) async fn succeeded(&self, task: &Task) -> Flow<()> {
        match task.task_type {
            TaskType::Import | TaskType::Clone | TaskType::ApiImageImport => {
                if let Some(sink) = self.image(task) {
                    sink.abort_uploads().await?;
                }
                self.staged(task).await?;
            }
            TaskType::Export => {
                if let Some(sink) = self.bucket(task)? {
                    sink.release().await?;
                }
            }
        }
        self.work(task.id).await
    }

    /// Plan, spooled source, sidecars, the hashes' state.
    pub(crate) async fn work(&self, id: TaskId) -> Flow<()> {
        let (objects, bucket) = (&*self.stores.objects, &self.stores.settings.work_bucket);
        let prefix = Settings::work_prefix(id);
        abort_uploads(objects, bucket, &prefix).await?;
        Ok(objects.delete_prefix(bucket, &prefix).await?)
    }

    /// The upload that was brought in. One whose task never began to fill the image may be another task's.
    async fn staged(&self, task: &Task) -> Flow<()> {
        let filled = task.image_id.filter(|_| task.task_type.fills_image());
        let Some((image, staged)) = filled.zip(ImageImport::staged_by(&task.input)) else { return Ok(()) };
        let key = staged.object_key(image);
        let at = ObjectRef { bucket: self.stores.settings.work_bucket.clone(), key };
        Ok(self.stores.objects.delete(&at).await?)
    }

    fn image(&self, task: &Task) -> Option<ImageSink> {
        let Stores { objects, settings, .. } = self.stores;
        task.image_id.map(|image| ImageSink::new(image, task.id, objects, settings))
    }

    /// None for an input that was never good for anything.
    fn bucket(&self, task: &Task) -> Flow<Option<BucketSink>> {
        let (receivers, policy) =
            self.exports.ok_or_else(|| Stop::internal("a function that knows of no exports"))?;
        let Ok(input) = ExportInput::parse(&task.input, &task.owner) else { return Ok(None) };
        Ok(Some(BucketSink::ended(&input, task.id, self.stores, receivers, policy)))
    }
}
