//! Imports: from a source that a user names, or an upload, to an image of this region.

use async_trait::async_trait;
use image_tasks_domain::image_import::{ImageImport, Known};
use image_tasks_domain::regions::Regions;
use image_tasks_domain::{GlanceEndpoints, Image, ImageId, ImportInput, Task};
use uuid::Uuid;

use super::{TaskKind, bound, forbidden, image_exists, not_queued};
use crate::error::{Flow, Stop};
use crate::job::{Ask, Draft, Job, RemoteAsk, Spooled};
use crate::sink::Sink;
use crate::sink::image::ImageSink;
use crate::source::remote::Remote;
use crate::source::{oci, sums};
use crate::stores::Stores;

/// Imports, and where they come from.
pub struct Imports {
    /// Sources that users name.
    pub remote: Remote,
}

impl Imports {
    fn filling(&self, task: &Task) -> Flow<ImageImport> {
        // Another image's bytes are the work of clones: no region and no Glance is known here.
        let (regions, glances) = (&Regions::default(), &GlanceEndpoints::default());
        let known = Known { sources: &self.remote.policy.sources, regions, glances };
        ImageImport::parse(&task.input, known).map_err(forbidden)
    }

    async fn input(&self, stores: &Stores, task: &Task) -> Flow<ImportInput> {
        if !task.task_type.fills_image() {
            return ImportInput::parse(&task.input, &self.remote.policy.sources).map_err(forbidden);
        }
        let filling = self.filling(task)?;
        // What the record says decides what its bytes must be.
        let record = stores.images.get(filling.image).await?.ok_or_else(|| not_queued(filling.image))?;
        filling.of_record(&record, &stores.settings.work_bucket).map_err(forbidden)
    }
}

#[async_trait]
impl TaskKind for Imports {
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
        let now = stores.clock.now();
        if task.task_type.fills_image() {
            let filling = self.filling(task)?;
            stores.life.begin_filling(task.id, filling.image, filling.staged(), now).await?;
            return Ok(filling.image);
        }
        let input = self.input(stores, task).await?;
        self.remote.keep_sums(stores, task.id, &input).await?;
        self.remote.keep_layer(stores, task.id, &input).await?;
        let said = input.image;
        let id = said.id.unwrap_or_else(|| ImageId(Uuid::new_v4()));
        let image = said.describe(Image::importing(id, &task.owner, now));
        stores.life.begin(task.id, &image, now).await?;
        Ok(id)
    }

    fn not_begun(&self, task: &Task) -> Stop {
        if !task.task_type.fills_image() {
            return image_exists();
        }
        self.filling(task).map_or_else(|stop| stop, |filling| not_queued(filling.image))
    }

    async fn job(&self, stores: &Stores, task: Task) -> Flow<Job> {
        let sink = ImageSink::new(bound(&task)?, task.id, &stores.objects, &stores.settings);
        let mut input = self.input(stores, &task).await?;
        let layer = oci::kept(stores, task.id, &input).await?;
        let told = match &layer {
            Some(layer) => {
                input.source = layer.location();
                Some(layer.digest.clone())
            }
            None => sums::kept(stores, task.id, &input).await?,
        };
        let ask = Ask::Remote(Box::new(RemoteAsk { input, record: None, told, layer }));
        Ok(Job { task, ask, sink: Sink::Image(sink) })
    }

    async fn draft(&self, stores: &Stores, job: &Job, spooled: Option<Spooled>) -> Flow<Draft> {
        self.remote.look(stores, job.id(), job.remote()?, spooled).await
    }

    fn remote(&self) -> Option<&Remote> {
        Some(&self.remote)
    }
}
