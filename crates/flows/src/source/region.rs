//! An image of a region of this cloud, to be copied into this one.
//!
//! Invariants:
//! - No byte of an image passes a worker: S3 copies them, from the version that the source's record names.
//! - The source is only ever read.
//! - An image that a project may not see there looks to it like one that doesn't exist.

use std::sync::Arc;

use disk_image::Format;
use image_tasks_domain::copying::{CopyCut, CopyRules};
use image_tasks_domain::ports::ImageQuery;
use image_tasks_domain::regions::Regions;
use image_tasks_domain::{CloneInput, FailureCode, Image, ImageId, ImageStatus, StoredObject, Task, policy};

use super::{Origin, Pinned};
use crate::bounds::{SAME_IMAGE_PAGE, SAME_IMAGE_PAGES};
use crate::error::{Flow, Stop};
use crate::job::{Hashing, Plan};
use crate::ports::{ObjectError, ObjectRef, RegionStore, RegionStores};
use crate::recipe::Recipe;
use crate::settings::allocation_of;
use crate::stores::Stores;

/// What regions have.
pub struct RegionImages {
    /// Their stores.
    pub stores: Arc<dyn RegionStores>,
    /// The regions that are known.
    pub regions: Regions,
    /// How objects are cut.
    pub rules: CopyRules,
}

impl RegionImages {
    fn store(&self, region: &str) -> Flow<RegionStore> {
        self.stores.store(region).ok_or_else(|| Stop::internal(format!("region {region} has no stores")))
    }

    /// The image that is asked for, if the task's owner may see it there and it can be copied.
    pub(crate) async fn source(&self, region: &str, id: ImageId, task: &Task) -> Flow<Image> {
        let image = self.store(region)?.images.get(id).await?;
        let image = image.filter(|image| policy::sees(&task.owner, image)).ok_or_else(|| {
            Stop::failed(FailureCode::ImageNotFound, format!("there is no image {id} in region {region}"))
        })?;
        if image.status != ImageStatus::Active {
            let status = image.status.name();
            let message =
                format!("image {id} in region {region} is {status}; only an active image can be cloned");
            return Err(Stop::failed(FailureCode::ImageNotActive, message));
        }
        Ok(image)
    }

    /// An image of the owner's here that has the source's bits and of which nothing else is asked.
    /// Looked for among the newest alone: no index holds hashes.
    pub(crate) async fn same(
        &self,
        stores: &Stores,
        region: &str,
        input: &CloneInput,
        (task, source): (&Task, &Image),
    ) -> Flow<Option<ImageId>> {
        if input.allow_duplicate || !input.said.is_empty() || region == self.regions.here() {
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
            let query = ImageQuery { visible_to: Some(task.owner.clone()), limit: SAME_IMAGE_PAGE, after };
            let page = stores.images.list(&query).await?;
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

    /// How it is copied.
    pub(crate) async fn plan(&self, region: &str, source: &Image) -> Flow<Plan> {
        let unusable = || Stop::internal("an active image without bytes, size or format");
        let StoredObject { bucket, key, etag, crc64nvme } = source.stored.clone().ok_or_else(unusable)?;
        let size = source.size.ok_or_else(unusable)?;
        let (disk, container) = (source.disk_format.as_deref(), source.container_format.as_deref());
        let format = Format::of_image(disk, container).ok_or_else(unusable)?;
        let object = Pinned { at: ObjectRef { bucket, key }, etag, size };
        self.check_unchanged(region, &object).await?;
        let cut = self.rules.plan(size, &object.etag).map_err(Stop::internal)?;
        let allocation = self.allocation(region, &object).await?;
        Ok(Plan {
            origin: Origin::Region { region: region.to_owned(), object },
            one_call: cut == CopyCut::Whole,
            recipe: Recipe::ServerCopy { size, cut, crc64nvme: Some(crc64nvme) },
            format,
            inside: disk.and_then(Format::from_name),
            container: container.unwrap_or("bare").to_owned(),
            virtual_size: source.virtual_size,
            hashing: Hashing::Known(source.hashes()),
            allocation,
            sha256: false,
            metadata: Default::default(),
            properties: Default::default(),
            upload: None,
            remark: None,
        })
    }

    /// The map of where the image holds data, where there is one.
    async fn allocation(&self, region: &str, object: &Pinned) -> Flow<Option<Pinned>> {
        let at = allocation_of(&object.at);
        match self.store(region)?.objects.head(&at).await {
            Ok(found) => Ok(found.map(|found| Pinned::new(at, found))),
            Err(error) => Err(self.not_copied(region, object, error).await),
        }
    }

    /// Why a copy from a region did not come about.
    pub(crate) async fn not_copied(&self, region: &str, object: &Pinned, error: ObjectError) -> Stop {
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
                match self.check_unchanged(region, object).await {
                    Ok(()) => unclear.into(),
                    Err(stop) => stop,
                }
            }
            other => other.into(),
        }
    }

    /// Whether the source's object is the one that its record names.
    async fn check_unchanged(&self, region: &str, object: &Pinned) -> Flow<()> {
        match self.store(region)?.objects.head(&object.at).await {
            Ok(Some(found)) if found.etag == object.etag => Ok(()),
            Ok(Some(_)) => Err(changed()),
            Ok(None) => Err(Stop::failed(
                FailureCode::SourceNotFound,
                format!("the image's bytes are gone from region {region}: it was deleted"),
            )),
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

fn changed() -> Stop {
    let message = "the image's bytes were replaced while they were copied; ask again";
    Stop::failed(FailureCode::SourceChanged, message)
}

fn denied(region: &str) -> Stop {
    let message = format!("region {region} does not let this one read its images; tell the operator");
    Stop::failed(FailureCode::SourceDenied, message)
}

fn wrong_region(region: &str) -> Stop {
    let message = format!("the images of region {region} are not in that region; tell the operator");
    Stop::failed(FailureCode::WrongRegion, message)
}
