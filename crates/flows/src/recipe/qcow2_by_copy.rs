//! A raw image as a qcow2 that isn't compressed: S3 copies what the allocation map calls data. What passes a worker are the
//! tables, and the islands of data too small for a part.

use std::sync::Arc;

use disk_image::write::parts::BlobCut;
use disk_image::write::qcow2::CopyPlan;

use super::Site;
use super::file::{Assembled, BlobStore};
use super::maps::allocation;
use super::qcow2::unwritable;
use crate::error::Flow;
use crate::ports::Source;
use crate::source::{Pinned, StoredSource};
use crate::stores::Stores;

/// The file, and its parts.
pub(crate) async fn assembled(
    site: &Site<'_>,
    size: u64,
    max_part: u64,
    allocation: Option<&Pinned>,
) -> Flow<Assembled> {
    of(site.stores, Arc::from(site.source().await?), size, max_part, allocation).await
}

/// Whether there is nothing to copy, so that one call makes the file.
pub(crate) async fn copies_nothing(
    stores: &Stores,
    image: &Pinned,
    size: u64,
    max_part: u64,
    allocation: Option<&Pinned>,
) -> Flow<bool> {
    let source = Arc::new(StoredSource::of_image(&stores.objects, image));
    Ok(!of(stores, source, size, max_part, allocation).await?.copies())
}

async fn of(
    stores: &Stores,
    source: Arc<dyn Source>,
    size: u64,
    max_part: u64,
    map: Option<&Pinned>,
) -> Flow<Assembled> {
    let data = match map {
        Some(map) => allocation(&stores.objects, map).await?.data().to_vec(),
        None if size == 0 => Vec::new(),
        None => std::iter::once(0..size).collect(),
    };
    let plan = CopyPlan::new(size, &data, max_part).map_err(unwritable)?;
    let (geometry, summaries) = (plan.geometry(), plan.summaries().map_err(unwritable)?);
    Assembled::new(geometry, summaries, &BlobCut::S3, BlobStore::Raw(Arc::new(plan), source))
}
