//! An image of this region, to be written out.
//!
//! The bytes were judged when they came in, and are pinned: they can be deleted, but not changed.

use std::sync::Arc;

use disk_image::write::qcow2::Codec;
use disk_image::{Format, Layout, Limits, Regions};
use image_tasks_domain::copying::CopyCut;
use image_tasks_domain::export_input::{ExportCompression, ExportFormat};
use image_tasks_domain::{ExportInput, Failure, FailureCode, Image, Task, policy};

use super::read::drive;
use super::{Origin, Pinned, StoredSource};
use crate::bounds::{ExportCut, STAGE_PART};
use crate::error::{Flow, Stop};
use crate::job::{Hashing, Plan};
use crate::ports::{ObjectError, ObjectRef, Objects};
use crate::recipe::choice::by_parts;
use crate::recipe::maps::{Attempt, DiskMap};
use crate::recipe::qcow2_by_copy::copies_nothing;
use crate::recipe::{Recipe, qcow2};
use crate::settings::allocation_of;
use crate::sink::metadata::metadata;
use crate::stores::Stores;

/// The image, if the task's owner may export it now.
pub(crate) async fn exportable(stores: &Stores, input: &ExportInput, task: &Task) -> Flow<Image> {
    let id = input.image;
    let image = stores.images.get(id).await?.filter(|image| policy::sees(&task.owner, image));
    let image = image.ok_or_else(|| not_found(format!("there is no image {id}")))?;
    policy::check_export(&task.owner, &image)?;
    Ok(image)
}

/// The least work that makes the object asked for. An image that is rewritten is walked to its end.
pub(crate) async fn plan(
    stores: &Stores,
    task: &Task,
    input: &ExportInput,
    image: &Image,
    cut: &ExportCut,
) -> Flow<Plan> {
    let gone = || not_found(format!("image {} has no bytes", image.id));
    let place = image.stored.as_ref().ok_or_else(gone)?;
    let at = ObjectRef { bucket: place.bucket.clone(), key: place.key.clone() };
    let head = stores.objects.head(&at).await?.ok_or_else(gone)?;
    let object = Pinned { at, etag: place.etag.clone(), size: head.size };
    let format = stored_format(image)?;
    let wanted = match input.format {
        ExportFormat::Raw => Format::Raw,
        ExportFormat::Qcow2 => Format::Qcow2,
    };
    let mut plan = Plan {
        origin: Origin::Image(object.clone()),
        recipe: Recipe::ServerCopy {
            size: object.size,
            cut: copy_cut(object.size, cut)?,
            crc64nvme: Some(place.crc64nvme.clone()),
        },
        one_call: object.size <= cut.copy_whole,
        format: wanted,
        inside: None,
        container: "bare".to_owned(),
        virtual_size: image.virtual_size,
        // Of the bytes that are copied; those of others are known where they pass one call.
        hashing: Hashing::Known(image.hashes()),
        allocation: None,
        sha256: false,
        metadata: metadata(task.id, image, input.format),
        properties: Default::default(),
        upload: None,
        remark: None,
    };
    let is_as_asked = match input.format {
        ExportFormat::Raw => format.is_verbatim(),
        ExportFormat::Qcow2 => format == Format::Qcow2 && input.compression.is_none(),
    };
    if is_as_asked {
        return Ok(plan);
    }
    plan.hashing = Hashing::Known(None);
    let (size, disk) = if format.is_verbatim() {
        let map_at = allocation_of(&object.at);
        let map = stores.objects.head(&map_at).await?;
        (object.size, DiskMap::Verbatim(map.map(|map| Pinned::new(map_at, map))))
    } else {
        let source = StoredSource::of_image(&stores.objects, &object);
        let limits = Limits { max_virtual_size: image.virtual_size.unwrap_or(u64::MAX) };
        let mut regions = Regions::new(object.size);
        let open = |regions: &Regions| Layout::open(regions, format, &limits);
        let layout = drive(&source, &mut regions, open).await?;
        if layout.disks().len() > 1 {
            let message = format!(
                "the image is an ova of {} disks, which can't become one {wanted}; download it whole, or import it again \
                 with one disk in import_from_member",
                layout.disks().len()
            );
            return Err(Stop::failed(FailureCode::UnsupportedFormat, message));
        }
        let attempt = Attempt::new(stores, task.id, STAGE_PART);
        (layout.virtual_size(), attempt.map_disk(&source, &layout).await?.0)
    };
    let codec = match input.compression {
        Some(ExportCompression::None) => Codec::None,
        Some(ExportCompression::Zstd) => Codec::Zstd,
        Some(ExportCompression::Zlib) | None => Codec::Zlib,
    };
    plan.one_call = size <= cut.tiny;
    plan.recipe = match (input.format, disk) {
        (ExportFormat::Raw, disk) => Recipe::Raw { cut: by_parts(size, cut.part)?, disk, zeros: None },
        (ExportFormat::Qcow2, DiskMap::Verbatim(allocation)) if codec == Codec::None => {
            let max_part = cut.copy_part;
            plan.one_call = copies_nothing(stores, &object, size, max_part, allocation.as_ref()).await?;
            Recipe::Qcow2ByCopy { size, max_part, allocation }
        }
        (ExportFormat::Qcow2, disk) => {
            qcow2::ranges(size, &cut.blobs)?;
            Recipe::Qcow2 { size, codec, cut: cut.blobs, disk }
        }
    };
    Ok(plan)
}

fn copy_cut(size: u64, cut: &ExportCut) -> Flow<CopyCut> {
    Ok(if size <= cut.copy_whole { CopyCut::Whole } else { CopyCut::Parts(by_parts(size, cut.copy_part)?) })
}

/// What the stored bytes are.
fn stored_format(image: &Image) -> Flow<Format> {
    let (disk, container) = (image.disk_format.as_deref(), image.container_format.as_deref());
    Format::of_image(disk, container).ok_or_else(|| {
        let message = format!("an image of format {} can't be exported", disk.unwrap_or("unknown"));
        Stop::failed(FailureCode::UnsupportedFormat, message)
    })
}

/// Whether a copy of an image failed since the image is gone. Only a look at it tells: the answer may speak of the object
/// that is made.
pub(crate) async fn blamed(objects: &Arc<dyn Objects>, object: &Pinned, error: &ObjectError) -> Flow<()> {
    if !matches!(error, ObjectError::NotFound(_) | ObjectError::Precondition(_) | ObjectError::Fault(_)) {
        return Ok(());
    }
    match objects.head(&object.at).await? {
        Some(found) if found.etag == object.etag => Ok(()),
        _ => Err(deleted().into()),
    }
}

pub(crate) fn deleted() -> Failure {
    not_found("the image was deleted while it was exported".to_owned())
}

fn not_found(message: String) -> Failure {
    Failure::new(FailureCode::ImageNotFound, message)
}
