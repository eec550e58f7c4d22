//! Phase `finish`: complete the upload, hash what is stored, and make image and task final together.

use bytes::Bytes;
use disk_image::AllocationMap;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::{Failure, FailureCode, ImageStatus, TaskId};
use serde_json::json;

use super::hash::Seen;
use super::saved::{Form, Planned};
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
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Done),
        }
    }

    async fn try_finish(&self, id: TaskId, deadline: Deadline) -> Step<Next> {
        let job = self.at_work(id).await?;
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
        let known = || planned.digests.clone().map(|digests| Seen { digests, allocation: None });
        let Seen { digests, allocation } = match seen.or_else(known) {
            Some(seen) => seen,
            None => match self.hash(job, planned, &object, deadline).await? {
                Some(seen) => seen,
                None => return Ok(Next::Finish),
            },
        };
        // What was spooled was checked on its way; what isn't is stored as it is where hashes were given.
        if matches!((&planned.origin, &planned.form), (Origin::Source { .. }, Form::AsIs { .. })) {
            digests.check(&job.asked.input)?;
        }
        self.keep_allocation(job, planned, allocation).await?;
        self.commit(job, planned, at, object, digests).await?;
        self.cleaner().work(job.task.id).await?;
        Ok(Next::Done)
    }

    /// Puts beside an image that is stored as it is where it holds data. A conversion's map has been there since its plan.
    async fn keep_allocation(&self, job: &Job, planned: &Planned, seen: Option<AllocationMap>) -> Step<()> {
        if !planned.is_verbatim() {
            return Ok(());
        }
        let at = self.settings.allocation(job.image_id);
        match (seen, &planned.allocation) {
            (Some(map), _) => self.put_whole(&at, Bytes::from(map.encode())).await.map(drop),
            (None, Some(staged)) => {
                let from = self.settings.staged_allocation(job.task.id);
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
        digests: Digests,
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
        image.checksum = Some(digests.md5);
        image.os_hash_algo = Some("sha512".to_owned());
        image.os_hash_value = Some(digests.sha512);
        image.raise_min_disk(planned.virtual_size);
        image.updated_at = now.max(image.updated_at);
        image.stored =
            Some(StoredObject { bucket: at.bucket, key: at.key, etag: object.etag, crc64nvme: base64(crc) });
        let result = json!({"image_id": image.id});
        Ok(self.life.succeed(job.task.id, &image, &result, self.settings.task_ttl, now).await?)
    }
}
