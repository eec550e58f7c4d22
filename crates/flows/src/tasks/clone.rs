//! Clones: from an image of a region of this cloud, or of a Glance elsewhere, to an image of this region.

use async_trait::async_trait;
use image_tasks_domain::{
    CloneInput, CloneSource, FailureCode, GlanceEndpoints, Image, ImageId, ImageStatus, Task,
};
use uuid::Uuid;

use super::{TaskKind, bound, forbidden};
use crate::error::{Flow, Stop};
use crate::job::{Ask, Draft, Job, Spooled};
use crate::ports::ObjectError;
use crate::sink::image::ImageSink;
use crate::sink::{CopyInto, Sink};
use crate::source::Origin;
use crate::source::glance::GlanceImages;
use crate::source::region::RegionImages;
use crate::source::remote::Remote;
use crate::stores::Stores;

/// Clones, and where they come from.
pub struct Clones {
    /// From regions of this cloud: S3 copies the bytes.
    pub regions: RegionImages,
    /// From Glances elsewhere: the bytes come as an import's do.
    pub elsewhere: Option<GlanceImages>,
}

impl Clones {
    fn input(&self, task: &Task) -> Flow<CloneInput> {
        let none = GlanceEndpoints::default();
        let endpoints = self.elsewhere.as_ref().map_or(&none, |elsewhere| &elsewhere.endpoints);
        CloneInput::parse(&task.input, &self.regions.regions, endpoints).map_err(forbidden)
    }

    fn elsewhere(&self) -> Flow<&GlanceImages> {
        self.elsewhere.as_ref().ok_or_else(|| Stop::internal("no endpoint elsewhere was allowed here"))
    }
}

#[async_trait]
impl TaskKind for Clones {
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
        let input = self.input(task)?;
        let source = match &input.source {
            CloneSource::Region { region, image } => {
                let source = self.regions.source(region, *image, task).await?;
                if let Some(same) = self.regions.same(stores, region, &input, (task, &source)).await? {
                    stores.life.begin_on(task.id, same, stores.clock.now()).await?;
                    return Ok(same);
                }
                source
            }
            CloneSource::Glance(image) => self.elsewhere()?.fetch(stores, task.id, image).await?,
        };
        let now = stores.clock.now();
        let id = input.image.id.unwrap_or_else(|| ImageId(Uuid::new_v4()));
        let mut image = Image::importing(id, &task.owner, now);
        let described = input.describe(&mut image, &source);
        described.map_err(|refused| Stop::failed(FailureCode::SourceInvalid, refused.to_string()))?;
        stores.life.begin(task.id, &image, now).await?;
        Ok(id)
    }

    async fn job(&self, stores: &Stores, task: Task) -> Flow<Job> {
        let sink = ImageSink::new(bound(&task)?, task.id, &stores.objects, &stores.settings);
        let ask = match self.input(&task)?.source {
            CloneSource::Region { region, image } => Ask::Region { region, image },
            CloneSource::Glance(image) => {
                Ask::Remote(Box::new(self.elsewhere()?.ask(stores, task.id, &image).await?))
            }
        };
        Ok(Job { task, ask, sink: Sink::Image(sink) })
    }

    async fn draft(&self, stores: &Stores, job: &Job, spooled: Option<Spooled>) -> Flow<Draft> {
        let Ask::Region { region, image } = &job.ask else {
            return self.elsewhere()?.remote.look(stores, job.id(), job.remote()?, spooled).await;
        };
        let bound = bound(&job.task)?;
        if stores.images.get(bound).await?.is_some_and(|image| image.status == ImageStatus::Active) {
            // Not made by this task: one with the same bits that was found.
            return Ok(Draft::Same(bound));
        }
        let source = self.regions.source(region, *image, &job.task).await?;
        Ok(Draft::Plan(Box::new(self.regions.plan(region, &source).await?)))
    }

    fn remote(&self) -> Option<&Remote> {
        self.elsewhere.as_ref().map(|elsewhere| &elsewhere.remote)
    }

    async fn not_copied(
        &self,
        _: &Stores,
        job: &Job,
        origin: &Origin,
        (error, into): (ObjectError, CopyInto),
    ) -> Stop {
        match origin {
            Origin::Region { region, object } => self.regions.not_copied(region, object, error).await,
            Origin::Spool(_) | Origin::Remote { .. } | Origin::Image(_) => job.sink.refused_copy(error, into),
        }
    }
}
