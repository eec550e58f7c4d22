//! Phase `plan`: find the image, decide how it is copied; what one request copies, from start to end.

use std::collections::BTreeMap;

use image_tasks_domain::copying::CopyPlan;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::ports::{ImageQuery, StoreError};
use image_tasks_domain::progress::{Meter, Progress};
use image_tasks_domain::{
    CloneInput, Failure, FailureCode, Image, ImageId, ImageStatus, Task, TaskId, TaskStatus, Visibility,
};
use serde_json::json;
use uuid::Uuid;

use super::saved::Planned;
use super::{Asked, Cloner, Job, object};
use crate::bounds::{SAME_IMAGE_PAGE, SAME_IMAGE_PAGES};
use crate::deadline::Deadline;
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::origin::Patience;
use crate::ports::{ObjectError, ObjectRef};

impl Cloner {
    /// Plans a clone.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn plan(&self, id: TaskId, deadline: Deadline) -> Result<Next, Failure> {
        match self.try_plan(id, deadline).await {
            Ok(next) => Ok(next),
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Done),
        }
    }

    async fn try_plan(&self, id: TaskId, deadline: Deadline) -> Step<Next> {
        let job = self.begun(id).await?;
        if let Some(planned) = self.saved(id).await? {
            return self.follow(&job, planned, deadline).await;
        }
        let image = self.images.get(job.image_id).await?.ok_or(Stop::Ended)?;
        if image.status == ImageStatus::Active {
            // Not made by this task: one with the same bits that was found.
            let result = json!({"image_id": image.id});
            self.life.succeed_alone(id, &result, self.settings.task_ttl, self.clock.now()).await?;
            return Ok(Next::Done);
        }
        let source = self.source(&job.input, &job.task).await?;
        let (Some(from), Some(size)) = (source.stored.clone(), source.size) else {
            return Err(Stop::internal("an active image without bytes"));
        };
        self.found(&job.input.region, &from).await?;
        let copy = self.rules.plan(size, &from.etag).map_err(Stop::internal)?;
        let upload = match copy {
            CopyPlan::Whole => None,
            CopyPlan::Parts(_) => {
                // Of an earlier call that died before it could save the plan.
                self.cleaner().uploads(job.image_id).await?;
                Some(self.objects.create_upload(&self.settings.image(job.image_id)).await?)
            }
        };
        let planned = Planned { source, from, size, copy, upload };
        self.save(id, &planned).await?;
        self.follow(&job, planned, deadline).await
    }

    /// The task, moved to `processing` if it is pending: with the record of a new image, or with one that has the same bits.
    async fn begun(&self, id: TaskId) -> Step<Job> {
        // Twice: the first write may be lost to a call that runs at the same time.
        for _ in 0..2 {
            let task = self.tasks.get(id).await?.ok_or(Stop::Ended)?;
            match task.status {
                TaskStatus::Success | TaskStatus::Failure => return Err(Stop::Ended),
                TaskStatus::Processing => return self.job(task),
                TaskStatus::Pending => {}
            }
            let input = self.input(&task)?;
            let source = self.source(&input, &task).await?;
            let now = self.clock.now();
            let (image_id, begun) = match self.same(&input, &task, &source).await? {
                Some(same) => (same, self.life.begin_on(id, same, now).await),
                None => {
                    let image = new_image(&task, &input.copy, &source, now);
                    (image.id, self.life.begin(id, &image, now).await)
                }
            };
            match begun {
                Ok(()) => return Ok(Job { task, image_id, input }),
                Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Failure::new(
            FailureCode::StartFailed,
            "the id given in image_properties is used by another image",
        )
        .into())
    }

    /// The image that is asked for, if the task's owner may see it there and it can be copied.
    async fn source(&self, input: &Asked, task: &Task) -> Step<Image> {
        let (id, region) = (input.source, &input.region);
        let visible = |image: &Image| {
            image.owner == task.owner
                || matches!(image.visibility, Visibility::Public | Visibility::Community)
        };
        let image = self.store(region)?.images.get(id).await?.filter(visible).ok_or_else(|| {
            Failure::new(FailureCode::ImageNotFound, format!("there is no image {id} in region {region}"))
        })?;
        if image.status != ImageStatus::Active {
            let message = format!(
                "image {id} in region {region} is {}; only an active image can be cloned",
                image.status.name()
            );
            return Err(Failure::new(FailureCode::ImageNotActive, message).into());
        }
        Ok(image)
    }

    /// An image of the owner's here that has the source's bits and of which nothing else is asked.
    /// Looked for among the newest alone: no index holds hashes.
    async fn same(&self, input: &Asked, task: &Task, source: &Image) -> Step<Option<ImageId>> {
        if input.copy.allow_duplicate || !input.copy.said.is_empty() || input.region == self.regions.here() {
            return Ok(None);
        }
        let same = |image: &&Image| {
            image.owner == task.owner
                && image.status == ImageStatus::Active
                && image.os_hash_value.is_some()
                && (&image.os_hash_algo, &image.os_hash_value)
                    == (&source.os_hash_algo, &source.os_hash_value)
                && (&image.size, &image.disk_format) == (&source.size, &source.disk_format)
        };
        let mut after = None;
        for _ in 0..SAME_IMAGE_PAGES {
            let visible_to = Some(task.owner.clone());
            let query = ImageQuery { visible_to, limit: SAME_IMAGE_PAGE, after };
            let page = self.images.list(&query).await?;
            if let Some(image) = page.images.iter().find(same) {
                return Ok(Some(image.id));
            }
            after = page.images.into_iter().next_back();
            if !page.more || after.is_none() {
                break;
            }
        }
        Ok(None)
    }

    /// Does what a plan says, as far as it is this phase's.
    async fn follow(&self, job: &Job, planned: Planned, deadline: Deadline) -> Step<Next> {
        let copied = Meter { done: 0, total: planned.size };
        self.tasks.set_work(job.task.id, &Progress { copied, ..job.task.progress }).await?;
        match planned.copy {
            CopyPlan::Parts(parts) => Ok(Next::Transfer { batches: parts.batches() }),
            CopyPlan::Whole => {
                tokio::select! {
                    copied = self.copy_whole(job, &planned) => copied?,
                    () = deadline.reached() => {
                        let message = "S3 did not copy the image in the time of one call";
                        return Err(Failure::new(FailureCode::SourceTooSlow, message).into());
                    }
                }
                self.conclude(job, &planned).await?;
                Ok(Next::Done)
            }
        }
    }

    async fn copy_whole(&self, job: &Job, planned: &Planned) -> Step<()> {
        let at = self.settings.image(job.image_id);
        let mut patience = Patience::default();
        loop {
            match self.copy_object(&at, &planned.from, &job.input.region).await {
                Ok(()) => return Ok(()),
                Err(stop) => patience.after_stop(stop).await?,
            }
        }
    }

    /// Copies an object of the source's region in one request, unless an earlier call did.
    pub(super) async fn copy_object(&self, at: &ObjectRef, from: &StoredObject, region: &str) -> Step<()> {
        match self.objects.copy(at, &object(from), &from.etag, true).await {
            Ok(_) => Ok(()),
            Err(error @ ObjectError::Precondition(_)) => match self.objects.head(at).await? {
                Some(_) => Ok(()),
                None => Err(self.not_copied(region, from, error).await),
            },
            Err(error) => Err(self.not_copied(region, from, error).await),
        }
    }
}

/// The record of the image that a clone will make.
pub(crate) fn new_image(
    task: &Task,
    input: &CloneInput,
    source: &Image,
    now: image_tasks_domain::Timestamp,
) -> Image {
    let mut image = Image {
        id: input.image.id.unwrap_or_else(|| ImageId(Uuid::new_v4())),
        owner: task.owner.clone(),
        name: None,
        status: ImageStatus::Importing,
        visibility: Visibility::Shared,
        disk_format: None,
        container_format: None,
        size: None,
        virtual_size: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        min_disk: 0,
        min_ram: 0,
        protected: false,
        os_hidden: false,
        tags: Vec::new(),
        properties: BTreeMap::new(),
        created_at: now,
        updated_at: now,
        stored: None,
    };
    input.describe(&mut image, source);
    image
}
