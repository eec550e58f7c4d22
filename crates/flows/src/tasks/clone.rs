//! Clones: from an image of a region of this cloud, or of a Glance elsewhere, to an image of this region. That is made by
//! the clone, or it is a record that is there (`glance-download`).

use std::collections::BTreeMap;

use async_trait::async_trait;
use image_tasks_domain::image_import::{self, ImageImport, ImportedFrom, Known};
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::{
    CloneInput, CloneSource, FailureCode, GlanceEndpoints, Image, ImageId, ImageStatus, Task,
};
use uuid::Uuid;

use super::{TaskKind, bound, forbidden, image_exists, not_queued};
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
        CloneInput::parse(&task.input, &self.regions.regions, &self.endpoints()).map_err(forbidden)
    }

    /// Which record is filled, and with which image's bytes.
    fn filling(&self, task: &Task) -> Flow<(ImageId, CloneSource)> {
        let (sources, glances) = (&SourcePolicy::default(), &self.endpoints());
        let known = Known { sources, regions: &self.regions.regions, glances };
        match ImageImport::parse(&task.input, known).map_err(forbidden)? {
            ImageImport { image, from: ImportedFrom::Image(source) } => Ok((image, source)),
            _ => Err(Stop::internal("these bytes are no image's")),
        }
    }

    fn source(&self, task: &Task) -> Flow<CloneSource> {
        if task.task_type.fills_image() {
            return self.filling(task).map(|(_, source)| source);
        }
        self.input(task).map(|input| input.source)
    }

    fn endpoints(&self) -> GlanceEndpoints {
        self.elsewhere.as_ref().map(|elsewhere| elsewhere.endpoints.clone()).unwrap_or_default()
    }

    fn elsewhere(&self) -> Flow<&GlanceImages> {
        self.elsewhere.as_ref().ok_or_else(|| Stop::internal("no endpoint elsewhere was allowed here"))
    }
}

#[async_trait]
impl TaskKind for Clones {
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
        if task.task_type.fills_image() {
            let (image, _) = self.filling(task)?;
            stores.life.begin_filling(task.id, image, None, stores.clock.now()).await?;
            return Ok(image);
        }
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

    fn not_begun(&self, task: &Task) -> Stop {
        if !task.task_type.fills_image() {
            return image_exists();
        }
        self.filling(task).map_or_else(|stop| stop, |(image, _)| not_queued(image))
    }

    async fn job(&self, stores: &Stores, task: Task) -> Flow<Job> {
        let sink = ImageSink::new(bound(&task)?, task.id, &stores.objects, &stores.settings);
        let ask = match self.source(&task)? {
            CloneSource::Region { region, image } => Ask::Region { region, image },
            CloneSource::Glance(image) => {
                Ask::Remote(Box::new(self.elsewhere()?.ask(stores, task.id, &image).await?))
            }
        };
        Ok(Job { task, ask, sink: Sink::Image(sink) })
    }

    async fn draft(&self, stores: &Stores, job: &Job, spooled: Option<Spooled>) -> Flow<Draft> {
        let bound = bound(&job.task)?;
        let Ask::Region { region, image } = &job.ask else {
            let ask = job.remote()?;
            let mut draft = self.elsewhere()?.remote.look(stores, job.id(), ask, spooled).await?;
            if let (Draft::Plan(plan), Some(source)) = (&mut draft, &ask.record) {
                plan.properties = taken_over(stores, &job.task, source).await?;
            }
            return Ok(draft);
        };
        if stores.images.get(bound).await?.is_some_and(|image| image.status == ImageStatus::Active) {
            // Not made by this task: one with the same bits that was found.
            return Ok(Draft::Same(bound));
        }
        let source = self.regions.source(region, *image, &job.task).await?;
        let mut plan = self.regions.plan(region, &source).await?;
        plan.properties = taken_over(stores, &job.task, &source).await?;
        Ok(Draft::Plan(Box::new(plan)))
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

/// What the record that a task fills takes over of the source's properties. A clone's own has all of them from its
/// beginning.
async fn taken_over(stores: &Stores, task: &Task, source: &Image) -> Flow<BTreeMap<String, String>> {
    if !task.task_type.fills_image() {
        return Ok(BTreeMap::new());
    }
    let image = bound(task)?;
    let record = stores.images.get(image).await?.ok_or_else(|| not_queued(image))?;
    let taken = image_import::taken_over(source);
    let checked = image_import::check_taken_over(&record, &taken);
    checked.map_err(|refused| Stop::failed(FailureCode::SourceInvalid, refused.to_string()))?;
    Ok(taken)
}
