//! From a task's stored input to a job: what differs between imports, exports and clones, and nothing else.

mod clone;
mod export;
mod import;

pub use clone::Clones;
pub use export::Exports;
pub use import::Imports;

use std::sync::Arc;

use async_trait::async_trait;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::{ImageId, Task};

use crate::error::{Flow, Stop};
use crate::job::{Draft, Job, Spooled};
use crate::ports::{ObjectError, Receivers, Source};
use crate::sink::CopyInto;
use crate::source::remote::Remote;
use crate::source::{Origin, StoredSource, image};
use crate::stores::Stores;

/// What a function's tasks are.
#[async_trait]
pub(crate) trait TaskKind: Send + Sync {
    /// Moves a pending task to `processing`; the image that it is bound to. [`Stop::Ended`] where another call was first.
    async fn begin(&self, stores: &Stores, task: &Task) -> Flow<ImageId>;

    /// Why a pending task can't begin, where no other call has begun it.
    fn not_begun(&self, _: &Task) -> Stop {
        image_exists()
    }

    /// What a task at work asks for. It was checked at the POST; since then the operator may have narrowed what is allowed.
    async fn job(&self, stores: &Stores, task: Task) -> Flow<Job>;

    /// Looks at the source and decides what is done. `spooled` is what the source was spooled to, if an earlier draft asked for that.
    async fn draft(&self, stores: &Stores, job: &Job, spooled: Option<Spooled>) -> Flow<Draft>;

    /// Sources outside of this cloud, where this kind of task has such.
    fn remote(&self) -> Option<&Remote>;

    /// Where exports go, where this kind of task is one.
    fn exports(&self) -> Option<(&Arc<dyn Receivers>, &ExportPolicy)> {
        None
    }

    /// Opens what a plan names, for reads by range.
    async fn open(&self, stores: &Stores, job: &Job, origin: &Origin) -> Flow<Box<dyn Source>> {
        match origin {
            Origin::Remote { location, pin } => {
                let remote =
                    self.remote().ok_or_else(|| Stop::internal("no source outside is known here"))?;
                remote.open_planned(stores, job.id(), job.remote()?, (location, pin)).await
            }
            Origin::Spool(object) => Ok(Box::new(StoredSource::new(&stores.objects, object))),
            Origin::Image(object) => Ok(Box::new(StoredSource::of_image(&stores.objects, object))),
            Origin::Region { .. } => Err(Stop::internal("a region's image is copied, not read")),
        }
    }

    /// Why a copy of what a plan names did not come about.
    async fn not_copied(
        &self,
        stores: &Stores,
        job: &Job,
        origin: &Origin,
        (error, into): (ObjectError, CopyInto),
    ) -> Stop {
        if let Origin::Image(object) = origin
            && let Err(stop) = image::blamed(&stores.objects, object, &error).await
        {
            return stop;
        }
        job.sink.refused_copy(error, into)
    }
}

fn image_exists() -> Stop {
    let message = "the id given in image_properties is used by another image; name another, or none";
    Stop::failed(image_tasks_domain::FailureCode::ImageExists, message)
}

fn not_queued(image: ImageId) -> Stop {
    let why = "another task fills it, or it has its bytes, or it is gone";
    let message = format!("image {image} doesn't wait for these bytes: {why}");
    Stop::failed(image_tasks_domain::FailureCode::ImageNotQueued, message)
}

/// What an input that was good at the POST isn't any more.
fn forbidden(refused: image_tasks_domain::InvalidInput) -> Stop {
    Stop::failed(image_tasks_domain::FailureCode::SourceForbidden, refused.to_string())
}

/// The image that a task at work is bound to.
fn bound(task: &Task) -> Flow<ImageId> {
    task.image_id.ok_or_else(|| Stop::internal("a task at work without an image"))
}
