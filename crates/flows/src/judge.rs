//! Whether bytes are what they are about to be published as.
//!
//! Goal: what is published was judged. A look at the source proves nothing, since the server behind it may answer the next
//! request differently. So an image's bytes are judged once more after the last of them was written, in our own store, pinned
//! by the ETag that the record will name.
//!
//! Threat model: a file that one program takes for what it was declared as, and another for something that names files of the
//! host. Nothing that is stored may begin or end like a format that it isn't, a disk that was taken out of another image included.

use disk_image::{Format, Layout, Limits, Regions};
use image_tasks_domain::FailureCode;

use crate::error::{Flow, Stop};
use crate::job::Plan;
use crate::ports::Source;
use crate::recipe::Recipe;
use crate::source::Origin;
use crate::source::read::{Unused, drive, walk};

/// Judges an object by its head and tail, and gives these.
pub(crate) async fn ends(object: &dyn Source, format: Format) -> Flow<Regions> {
    let size = object.info().size.ok_or_else(|| Stop::internal("an object without a size"))?;
    let mut regions = Regions::new(size);
    drive(object, &mut regions, |regions| disk_image::judge(regions, format)).await?;
    Ok(regions)
}

/// Judges the sealed object of an image.
///
/// Bytes that came from outside as they are pass their format's whole validator: nobody has checked these before. What a
/// recipe has made, or S3 has copied from an image of this cloud, shows by its ends that it isn't anything else.
///
/// Gives what was read of its ends and headers.
pub(crate) async fn sealed(object: &dyn Source, plan: &Plan, limits: &Limits) -> Flow<Regions> {
    let mut regions = ends(object, plan.format).await?;
    let came_as_they_are = match (&plan.recipe, &plan.origin) {
        (Recipe::Verbatim { .. }, _) | (Recipe::ServerCopy { .. }, Origin::Spool(_)) => true,
        (Recipe::ServerCopy { .. }, Origin::Region { .. } | Origin::Image(_) | Origin::Remote { .. })
        | (Recipe::Raw { .. } | Recipe::Qcow2 { .. } | Recipe::Qcow2ByCopy { .. }, _) => false,
    };
    if !came_as_they_are {
        return Ok(regions);
    }
    let layout = drive(object, &mut regions, |regions| Layout::open(regions, plan.format, limits)).await?;
    walk(object, &layout, &mut Unused).await?;
    if layout.is_mere_archive() {
        let message = "the source gave an archive without a descriptor when it was copied; ask again";
        return Err(Stop::failed(FailureCode::SourceChanged, message));
    }
    if plan.virtual_size == Some(layout.virtual_size()) {
        return Ok(regions);
    }
    let message = "the source gave another image when it was copied than when it was looked at; ask again";
    Err(Stop::failed(FailureCode::SourceChanged, message))
}
