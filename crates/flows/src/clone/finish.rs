//! Phase `finish`: complete the upload, hold it against the source, and make image and task final together.

use image_tasks_domain::image::StoredObject;
use image_tasks_domain::{Failure, FailureCode, ImageStatus, TaskId};
use serde_json::json;

use super::saved::Planned;
use super::{Cloner, Job};
use crate::digests::base64;
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::parts::Upload;
use crate::ports::{ObjectInfo, ObjectRef};

impl Cloner {
    /// Completes the image.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn finish(&self, id: TaskId) -> Result<Next, Failure> {
        match self.try_finish(id).await {
            Ok(()) => Ok(Next::Done),
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Done),
        }
    }

    async fn try_finish(&self, id: TaskId) -> Step<()> {
        let job = self.at_work(id).await?;
        let planned = self.planned(id).await?;
        let at = self.settings.image(job.image_id);
        let (plan, id) = planned.in_parts()?;
        let equal = |crc| if base64(crc) == planned.from.crc64nvme { Ok(()) } else { Err(unequal()) };
        Upload { objects: &*self.objects, at: &at, id, plan: &plan }.complete(equal).await?;
        self.conclude(&job, &planned).await
    }

    /// Holds the stored object against the source, brings its allocation map along, and ends the task.
    pub(super) async fn conclude(&self, job: &Job, planned: &Planned) -> Step<()> {
        let at = self.settings.image(job.image_id);
        let object = self.objects.head(&at).await?.ok_or(Stop::Ended)?;
        if object.size != planned.size
            || object.crc64nvme.map(base64).as_ref() != Some(&planned.from.crc64nvme)
        {
            return Err(unequal());
        }
        self.copy_allocation(job, planned).await?;
        self.commit(job, planned, at, object).await?;
        self.cleaner().work(job.task.id).await
    }

    /// Where the source holds data lies beside it, where that is known.
    async fn copy_allocation(&self, job: &Job, planned: &Planned) -> Step<()> {
        let key = format!("{}.allocation", planned.from.key);
        let (region, from) = (&job.input.region, ObjectRef { bucket: planned.from.bucket.clone(), key });
        let etag = match self.store(region)?.objects.head(&from).await {
            Ok(Some(found)) => found.etag,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.not_copied(region, &planned.from, error).await),
        };
        let from = StoredObject { bucket: from.bucket, key: from.key, etag, crc64nvme: String::new() };
        self.copy_object(&self.settings.allocation(job.image_id), &from, region).await
    }

    /// Image active and task a success, in one transaction.
    async fn commit(&self, job: &Job, planned: &Planned, at: ObjectRef, object: ObjectInfo) -> Step<()> {
        let mut image = self.images.get(job.image_id).await?.ok_or(Stop::Ended)?;
        let source = &planned.source;
        let now = self.clock.now();
        image.status = ImageStatus::Active;
        image.disk_format = source.disk_format.clone();
        image.container_format = source.container_format.clone();
        image.size = Some(object.size);
        image.virtual_size = source.virtual_size;
        image.checksum = source.checksum.clone();
        image.os_hash_algo = source.os_hash_algo.clone();
        image.os_hash_value = source.os_hash_value.clone();
        image.raise_min_disk(source.virtual_size.unwrap_or(object.size));
        image.updated_at = now.max(image.updated_at);
        let crc64nvme = planned.from.crc64nvme.clone();
        image.stored = Some(StoredObject { bucket: at.bucket, key: at.key, etag: object.etag, crc64nvme });
        let result = json!({"image_id": image.id});
        Ok(self.life.succeed(job.task.id, &image, &result, self.settings.task_ttl, now).await?)
    }
}

fn unequal() -> Stop {
    let message = "S3's checksum of the copy is not the source's: the source's record or bytes are damaged";
    Failure::new(FailureCode::ChecksumMismatch, message).into()
}
