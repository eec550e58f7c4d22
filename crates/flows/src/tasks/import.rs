//! Imports: from a source that a user names to an image of this region.

use async_trait::async_trait;
use image_tasks_domain::{Image, ImageId, ImportInput, Task};
use uuid::Uuid;

use super::{TaskKind, bound, forbidden};
use crate::error::Flow;
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
}

#[async_trait]
impl TaskKind for Imports {
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
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
        let ask = Ask::Remote(Box::new(RemoteAsk { input: self.input(&task)?, record: None }));
        Ok(Job { task, ask, sink: Sink::Image(sink) })
    }

    async fn draft(&self, stores: &Stores, job: &Job, spooled: Option<Spooled>) -> Flow<Draft> {
        self.remote.look(stores, job.id(), job.remote()?, spooled).await
    }

    fn remote(&self) -> Option<&Remote> {
        Some(&self.remote)
    }
}
