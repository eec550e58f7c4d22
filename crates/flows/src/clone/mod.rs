//! Clone: from an active image of a region of this cloud to an image here.
//!
//! Goal: as with imports, phases that may each be repeated, run twice at once, or die at any point, and still end in one of two
//! ways: the image is active and equal to its source, or the task is a failure and nothing is left.
//!
//! Invariants:
//! - No byte of an image passes a worker: S3 copies them, from the version that the source's record names.
//! - The source is only ever read.
//! - The image becomes active only once S3's own checksum of it equals the source's; hashes are the source's and not made again.
//! - An image that the task's owner may not see there is told apart from none by nobody.

mod dispatch;
mod finish;
mod plan;
mod saved;
mod transfer;

pub use dispatch::Clones;
pub(crate) use plan::new_image;

use std::sync::Arc;

use image_tasks_domain::copying::CopyRules;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::ports::{Clock, ImageStore, TaskLife, TaskStore};
use image_tasks_domain::regions::Regions;
use image_tasks_domain::{
    CloneInput, CloneSource, Failure, FailureCode, GlanceEndpoints, ImageId, Task, TaskId,
};

use crate::cleanup::Cleaner;
use crate::deadline::Deadline;
use crate::error::{Step, Stop, internal};
use crate::events::{CloneEvent, Transferred};
use crate::ports::{ObjectError, ObjectRef, Objects, RegionStore, RegionStores};
use crate::settings::Settings;

/// Runs the phases of clones.
pub struct Cloner {
    /// Tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Both together.
    pub life: Arc<dyn TaskLife>,
    /// Image bytes and work objects.
    pub objects: Arc<dyn Objects>,
    /// What regions have.
    pub stores: Arc<dyn RegionStores>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where things are kept.
    pub settings: Settings,
    /// The regions that are known.
    pub regions: Regions,
    /// How objects are cut.
    pub rules: CopyRules,
}

/// A task at work, and what it was asked.
struct Job {
    task: Task,
    image_id: ImageId,
    input: Asked,
}

/// An image of a region, and what differs in its copy.
struct Asked {
    region: String,
    source: ImageId,
    copy: CloneInput,
}

impl Cloner {
    /// Runs the phase that an event asks for; the answer as the state machine expects it.
    ///
    /// # Errors
    /// A failure whose code the state machine acts on.
    pub async fn handle(&self, event: CloneEvent, deadline: Deadline) -> Result<serde_json::Value, Failure> {
        let answer = match event {
            CloneEvent::Stage { .. } => return Err(internal("a region's image needs no spool")),
            CloneEvent::Plan { task_id } => serde_json::to_value(self.plan(task_id, deadline).await?),
            CloneEvent::Transfer { task_id, batch } => {
                let remaining = self.transfer(task_id, batch, deadline).await?;
                serde_json::to_value(Transferred { remaining })
            }
            CloneEvent::Finish { task_id } => serde_json::to_value(self.finish(task_id).await?),
        };
        answer.map_err(internal)
    }

    async fn stopped(&self, id: TaskId, stop: Stop) -> Result<(), Failure> {
        stop.end(id, self.cleaner().settle(&*self.tasks, id)).await
    }

    fn cleaner(&self) -> Cleaner<'_> {
        Cleaner { objects: &*self.objects, images: &*self.images, settings: &self.settings }
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

    /// What was asked. It was checked at the POST; since then the operator may have taken a region out.
    fn input(&self, task: &Task) -> Step<Asked> {
        let copy = CloneInput::parse(&task.input, &self.regions, &GlanceEndpoints::default())
            .map_err(|e| Failure::new(FailureCode::SourceForbidden, e.to_string()))?;
        match copy.source.clone() {
            CloneSource::Region { region, image } => Ok(Asked { region, source: image, copy }),
            CloneSource::Glance(_) => Err(Stop::internal("no endpoint elsewhere was allowed here")),
        }
    }

    fn store(&self, region: &str) -> Step<RegionStore> {
        self.stores.store(region).ok_or_else(|| Stop::internal(format!("region {region} has no stores")))
    }

    /// Why a copy from the source's region did not come about.
    async fn not_copied(&self, region: &str, from: &StoredObject, error: ObjectError) -> Stop {
        match error {
            ObjectError::Precondition(_) => changed(),
            ObjectError::Denied(what) => {
                tracing::warn!(%what, "a copy is denied");
                denied(region)
            }
            ObjectError::Elsewhere(what) => {
                tracing::error!(%what, "a listed bucket is in another region");
                wrong_region(region)
            }
            // The source, or the upload? S3 takes the range of a part that a shorter source lacks for a faulty call.
            unclear @ (ObjectError::NotFound(_) | ObjectError::Fault(_)) => {
                match self.found(region, from).await {
                    Ok(()) => unclear.into(),
                    Err(stop) => stop,
                }
            }
            other => other.into(),
        }
    }

    /// Whether the source's object is the one that its record names.
    async fn found(&self, region: &str, from: &StoredObject) -> Step<()> {
        let head = self.store(region)?.objects.head(&object(from)).await;
        match head {
            Ok(Some(found)) if found.etag == from.etag => Ok(()),
            Ok(Some(_)) => Err(changed()),
            Ok(None) => Err(Failure::new(
                FailureCode::SourceNotFound,
                format!("the image's bytes are gone from region {region}: it was deleted"),
            )
            .into()),
            Err(ObjectError::Denied(what)) => {
                tracing::warn!(%what, "a source can't be looked at");
                Err(denied(region))
            }
            Err(ObjectError::Elsewhere(what)) => {
                tracing::error!(%what, "a listed bucket is in another region");
                Err(wrong_region(region))
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn object(stored: &StoredObject) -> ObjectRef {
    ObjectRef { bucket: stored.bucket.clone(), key: stored.key.clone() }
}

fn changed() -> Stop {
    let message = "the image's bytes were replaced while they were copied; ask again";
    Failure::new(FailureCode::SourceChanged, message).into()
}

fn denied(region: &str) -> Stop {
    let message = format!("region {region} does not let this one read its images; tell the operator");
    Failure::new(FailureCode::SourceDenied, message).into()
}

fn wrong_region(region: &str) -> Stop {
    let message = format!("the images of region {region} are not in that region; tell the operator");
    Failure::new(FailureCode::WrongRegion, message).into()
}
