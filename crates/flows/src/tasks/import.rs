//! Imports: from a source that a user names, or an upload, to an image of this region.

use async_trait::async_trait;
use image_tasks_domain::image_import::ImageImport;
use image_tasks_domain::ports::StoreError;
use image_tasks_domain::{FailureCode, Image, ImageId, ImportInput, Task, TaskStatus};
use uuid::Uuid;

use super::{TaskKind, bound, forbidden};
use crate::error::{Flow, Stop};
use crate::job::{Ask, Draft, Job, RemoteAsk, Spooled};
use crate::sink::Sink;
use crate::sink::image::ImageSink;
use crate::source::remote::Remote;
use crate::stores::Stores;

/// Imports, and where they come from.
pub struct Imports {
    /// Sources that users name.
    pub remote: Remote,
}

impl Imports {
    fn input(&self, task: &Task) -> Flow<ImportInput> {
        ImportInput::parse(&task.input, &self.remote.policy.sources).map_err(forbidden)
    }

    fn filling(&self, task: &Task) -> Flow<ImageImport> {
        ImageImport::parse(&task.input, &self.remote.policy.sources).map_err(forbidden)
    }

    /// Begins to fill a record that is there.
    async fn fill(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
        let ImageImport { image, .. } = self.filling(task)?;
        let staged = self.filling(task)?.staged();
        match stores.life.begin_filling(task.id, image, staged, stores.clock.now()).await {
            Ok(()) => Ok(image),
            Err(StoreError::Conflict) => {
                // Another call of this task may have been first.
                stores.unended(task.id).await.and_then(|task| match task.status {
                    TaskStatus::Pending => Err(Stop::failed(FailureCode::ImageNotQueued, not_queued(image))),
                    _ => Err(Stop::Ended),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is asked for of a record: what it says decides what its bytes must be.
    async fn filled(&self, stores: &Stores, task: &Task) -> Flow<ImportInput> {
        let filling = self.filling(task)?;
        let record = stores.images.get(filling.image).await?;
        let record =
            record.ok_or_else(|| Stop::failed(FailureCode::ImageNotQueued, not_queued(filling.image)))?;
        filling.of_record(&record, &stores.settings.work_bucket).map_err(forbidden)
    }
}

fn not_queued(image: ImageId) -> String {
    format!(
        "image {image} doesn't wait for these bytes: another task fills it, or it has its bytes, or it is gone"
    )
}

#[async_trait]
impl TaskKind for Imports {
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
        if task.task_type.fills_image() {
            return self.fill(stores, task).await;
        }
        let said = self.input(task)?.image;
        let now = stores.clock.now();
        let id = said.id.unwrap_or_else(|| ImageId(Uuid::new_v4()));
        let nothing_said = Image::importing(id, &task.owner, now);
        let image = Image {
            name: said.name,
            visibility: said.visibility.unwrap_or(nothing_said.visibility),
            container_format: said.container_format.map(str::to_owned),
            min_disk: said.min_disk,
            min_ram: said.min_ram,
            protected: said.protected,
            os_hidden: said.os_hidden,
            tags: said.tags.into_iter().collect(),
            properties: said.extra,
            ..nothing_said
        };
        stores.life.begin(task.id, &image, now).await?;
        Ok(id)
    }

    async fn job(&self, stores: &Stores, task: Task) -> Flow<Job> {
        let sink = ImageSink::new(bound(&task)?, task.id, &stores.objects, &stores.settings);
        let input = match task.task_type.fills_image() {
            true => self.filled(stores, &task).await?,
            false => self.input(&task)?,
        };
        let ask = Ask::Remote(Box::new(RemoteAsk { input, record: None }));
        Ok(Job { task, ask, sink: Sink::Image(sink) })
    }

    async fn draft(&self, stores: &Stores, job: &Job, spooled: Option<Spooled>) -> Flow<Draft> {
        self.remote.look(stores, job.id(), job.remote()?, spooled).await
    }

    fn remote(&self) -> Option<&Remote> {
        Some(&self.remote)
    }
}
