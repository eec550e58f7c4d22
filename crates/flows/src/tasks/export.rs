//! Exports: from an image of this region to an object in a bucket that a user names.

use std::sync::Arc;

use async_trait::async_trait;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::{ExportInput, ImageId, Task};

use super::TaskKind;
use crate::error::{Flow, Stop};
use crate::job::{Ask, Draft, Job, Spooled};
use crate::ports::Receivers;
use crate::settings::ExportRules;
use crate::sink::Sink;
use crate::sink::bucket::BucketSink;
use crate::source::image;
use crate::source::remote::Remote;
use crate::stores::Stores;

/// Exports, and where they go.
pub struct Exports {
    /// Receiving buckets.
    pub receivers: Arc<dyn Receivers>,
    /// Which of them may receive, and how objects are cut.
    pub rules: ExportRules,
}

impl Exports {
    fn sink(&self, stores: &Stores, task: &Task, input: &ExportInput) -> Flow<BucketSink> {
        BucketSink::allowed(input, task.id, stores, &self.receivers, &self.rules.receivers)
    }
}

#[async_trait]
impl TaskKind for Exports {
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId> {
        let input = parse(task)?;
        self.sink(stores, task, &input)?;
        let image = image::exportable(stores, &input, task).await?;
        stores.life.begin_on(task.id, image.id, stores.clock.now()).await?;
        Ok(image.id)
    }

    async fn job(&self, stores: &Stores, task: Task) -> Flow<Job> {
        let input = parse(&task)?;
        let sink = Sink::Bucket(self.sink(stores, &task, &input)?);
        Ok(Job { task, ask: Ask::Image(input), sink })
    }

    async fn draft(&self, stores: &Stores, job: &Job, _: Option<Spooled>) -> Flow<Draft> {
        let (Ask::Image(input), Sink::Bucket(sink)) = (&job.ask, &job.sink) else {
            return Err(Stop::internal("an export that isn't from an image into a bucket"));
        };
        let image = image::exportable(stores, input, &job.task).await?;
        sink.claim().await?;
        sink.made().await?;
        let plan = image::plan(stores, &job.task, input, &image, &self.rules.cut).await?;
        Ok(Draft::Plan(Box::new(plan)))
    }

    fn remote(&self) -> Option<&Remote> {
        None
    }

    fn exports(&self) -> Option<(&Arc<dyn Receivers>, &ExportPolicy)> {
        Some((&self.receivers, &self.rules.receivers))
    }
}

fn parse(task: &Task) -> Flow<ExportInput> {
    ExportInput::parse(&task.input, &task.owner).map_err(Stop::internal)
}
