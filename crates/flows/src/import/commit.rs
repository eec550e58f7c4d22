//! Phase `finish`: complete the upload, hash what is stored, and make image and task final together.
//!
//! MD5 and SHA-512 are serial, hours for what was moved in minutes. So only an image of moderate size waits for them. A larger one
//! becomes active first, held against the CRC64NVME of its parts, and its hashes follow, as with Glance's `do_secure_hash`; unless they are to be
//! held against those that the user gave: then nothing is active before they are known.

use bytes::Bytes;
use disk_image::AllocationMap;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::ports::StoreError;
use image_tasks_domain::{Failure, FailureCode, ImageId, ImageStatus, Task, TaskId, TaskStatus};
use serde_json::json;

use super::hash::Seen;
use super::saved::{Form, Planned, Saved};
use super::{Importer, Job};
use crate::deadline::Deadline;
use crate::digests::{Digests, base64};
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::origin::Origin;
use crate::parts::Upload;
use crate::ports::{ObjectInfo, ObjectRef};

impl Importer {
    /// Completes and hashes; `Next::Finish` where the time was too short.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn finish(&self, id: TaskId, deadline: Deadline) -> Result<Next, Failure> {
        match self.try_finish(id, deadline).await {
            Ok(next) => Ok(next),
            Err(stop) => {
                self.stopped(id, stop).await?;
                // A call that ran beside this one may have ended the task, and left the hashes to be made.
                match self.hashes_due(id).await {
                    Ok(Some(_)) => Ok(Next::Finish),
                    Ok(None) => Ok(Next::Done),
                    Err(stop) => Err(stop.into_failure()),
                }
            }
        }
    }

    async fn try_finish(&self, id: TaskId, deadline: Deadline) -> Step<Next> {
        let job = match self.at_work(id).await {
            Err(Stop::Ended) => {
                let (task, image, planned) = self.hashes_due(id).await?.ok_or(Stop::Ended)?;
                return self.add_hashes(&task, image, &planned, deadline).await;
            }
            job => job?,
        };
        let planned = self.planned(id).await?;
        let upload = planned.upload.as_ref().ok_or_else(|| Stop::internal("a finish without an upload"))?;
        match &planned.form {
            Form::AsIs { transfer } | Form::Raw { transfer, .. } => {
                let at = self.settings.image(job.image_id);
                let parts = Upload { objects: &*self.objects, at: &at, id: upload, plan: transfer };
                parts.complete(|_| Ok(())).await?;
            }
            Form::Qcow2 { size, ranges, .. } => self.assemble(&job, upload, *size, ranges).await?,
        }
        self.conclude(&job, &planned, None, deadline).await
    }

    /// Hashes the stored object where that isn't done yet, and ends the task.
    pub(super) async fn conclude(
        &self,
        job: &Job,
        planned: &Planned,
        seen: Option<Seen>,
        deadline: Deadline,
    ) -> Step<Next> {
        let at = self.settings.image(job.image_id);
        let object = self.objects.head(&at).await?.ok_or(Stop::Ended)?;
        if planned.form.object_size().is_some_and(|planned| planned != object.size) {
            return Err(Stop::internal("the stored object has another size than planned"));
        }
        if planned.hashes_follow {
            return match self.commit(job, planned, at, object, None).await {
                // Ended: by a call that ran beside this one, or against us. The next one sees which.
                Ok(()) | Err(Stop::Ended) => Ok(Next::Finish),
                Err(stop) => Err(stop),
            };
        }
        let known = || planned.digests.clone().map(|digests| Seen { digests, allocation: None });
        let Seen { digests, allocation } = match seen.or_else(known) {
            Some(seen) => seen,
            None => match self.hash(&job.task, job.image_id, planned, &object, deadline).await? {
                Some(seen) => seen,
                None => return Ok(Next::Finish),
            },
        };
        // What was spooled was checked on its way; what isn't is stored as it is where hashes were given.
        if matches!((&planned.origin, &planned.form), (Origin::Source { .. }, Form::AsIs { .. })) {
            digests.check(&job.asked.input)?;
        }
        self.keep_allocation(job.task.id, job.image_id, planned, allocation).await?;
        self.commit(job, planned, at, object, Some(digests)).await?;
        self.cleaner().work(job.task.id).await?;
        Ok(Next::Done)
    }

    /// A task that has made its image active and left the hashes to be made.
    pub(super) async fn hashes_due(&self, id: TaskId) -> Step<Option<(Task, ImageId, Planned)>> {
        let Some(task) = self.tasks.get(id).await? else { return Ok(None) };
        if task.status != TaskStatus::Success {
            return Ok(None);
        }
        let Some(Saved::Planned(planned)) = self.saved(id).await? else { return Ok(None) };
        let image = task.image_id.ok_or_else(|| Stop::internal("an import that made no image"))?;
        Ok(planned.hashes_follow.then_some((task, image, *planned)))
    }

    /// Hashes an image that is active.
    async fn add_hashes(
        &self,
        task: &Task,
        image: ImageId,
        planned: &Planned,
        deadline: Deadline,
    ) -> Step<Next> {
        if let Some(object) = self.objects.head(&self.settings.image(image)).await? {
            let Some(seen) = self.hash(task, image, planned, &object, deadline).await? else {
                return Ok(Next::Finish);
            };
            self.keep_allocation(task.id, image, planned, seen.allocation).await?;
            let hashes = seen.digests.into();
            match self.images.set_hashes(image, &object.etag, &hashes, self.clock.now()).await {
                Ok(()) => {}
                // Deleted meanwhile, perhaps before the map was put beside it.
                Err(StoreError::Conflict) => {
                    self.objects.delete(&self.settings.allocation(image)).await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.cleaner().work(task.id).await?;
        Ok(Next::Done)
    }

    /// Puts beside an image that is stored as it is where it holds data. A conversion's map has been there since its plan.
    async fn keep_allocation(
        &self,
        task: TaskId,
        image: ImageId,
        planned: &Planned,
        seen: Option<AllocationMap>,
    ) -> Step<()> {
        if !planned.is_verbatim() {
            return Ok(());
        }
        let at = self.settings.allocation(image);
        match (seen, &planned.allocation) {
            (Some(map), _) => self.put_whole(&at, Bytes::from(map.encode())).await.map(drop),
            (None, Some(staged)) => {
                let from = self.settings.staged_allocation(task);
                Ok(self.objects.copy(&at, &from, &staged.etag, false).await.map(drop)?)
            }
            (None, None) => Err(Stop::internal("nobody has seen where the image holds data")),
        }
    }

    /// Image active and task a success, in one transaction.
    async fn commit(
        &self,
        job: &Job,
        planned: &Planned,
        at: ObjectRef,
        object: ObjectInfo,
        digests: Option<Digests>,
    ) -> Step<()> {
        let mut image = self.images.get(job.image_id).await?.ok_or(Stop::Ended)?;
        let crc = object.crc64nvme.ok_or_else(|| {
            Failure::new(FailureCode::ChecksumMismatch, "the store has no checksum of the stored image")
        })?;
        let now = self.clock.now();
        image.status = ImageStatus::Active;
        image.disk_format = Some(planned.disk_format.clone());
        image.container_format = Some(planned.container_format.clone());
        image.size = Some(object.size);
        image.virtual_size = Some(planned.virtual_size);
        if let Some(digests) = digests {
            image.set_hashes(digests.into());
        }
        image.raise_min_disk(planned.virtual_size);
        image.updated_at = now.max(image.updated_at);
        image.stored =
            Some(StoredObject { bucket: at.bucket, key: at.key, etag: object.etag, crc64nvme: base64(crc) });
        let result = json!({"image_id": image.id});
        Ok(self.life.succeed(job.task.id, &image, &result, self.settings.task_ttl, now).await?)
    }
}
