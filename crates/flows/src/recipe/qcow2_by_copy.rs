//! A raw image as a qcow2 that isn't compressed: S3 copies what the allocation map calls data. Part 1, with the tables and
//! the islands of data too small for a part, is all that passes a worker.

use std::sync::Arc;

use disk_image::write::qcow2::CopyPlan;

use super::assembly::{self, BlobStore};
use super::maps::allocation;
use super::parts::Part;
use super::qcow2::{self, unwritable};
use super::{Recipe, Site, parts};
use crate::error::{Flow, Stop};
use crate::ports::Body;
use crate::sink::upload::{Expected, Upload};
use crate::source::Pinned;
use crate::stores::Stores;

async fn plan(site: &Site<'_>, recipe: &Recipe) -> Flow<CopyPlan> {
    let Recipe::Qcow2ByCopy { size, max_part, allocation } = recipe else {
        return Err(Stop::internal("a recipe that copies nothing into a qcow2"));
    };
    plan_of(site.stores, *size, *max_part, allocation.as_ref()).await
}

async fn plan_of(stores: &Stores, size: u64, max_part: u64, map: Option<&Pinned>) -> Flow<CopyPlan> {
    let data = match map {
        Some(map) => allocation(&stores.objects, map).await?.data().to_vec(),
        None if size == 0 => Vec::new(),
        None => std::iter::once(0..size).collect(),
    };
    CopyPlan::new(size, &data, max_part).map_err(unwritable)
}

/// Whether there is nothing to copy, so that the file is its part 1.
pub(crate) async fn copies_nothing(
    stores: &Stores,
    size: u64,
    max_part: u64,
    map: Option<&Pinned>,
) -> Flow<bool> {
    Ok(plan_of(stores, size, max_part, map).await?.copies().next().is_none())
}

/// The parts that are copied.
pub(crate) async fn copies(site: &Site<'_>, recipe: &Recipe) -> Flow<Vec<Part>> {
    Ok(plan(site, recipe).await?.copies().map(|(number, range)| Part { number, range }).collect())
}

/// Uploads part 1; what parts there must be then.
pub(crate) async fn first_part(site: &Site<'_>, recipe: &Recipe, upload: Upload<'_>) -> Flow<Expected> {
    let plan = plan(site, recipe).await?;
    let copies: Vec<Part> = plan.copies().map(|(number, range)| Part { number, range }).collect();
    let (geometry, summaries) = (plan.geometry(), plan.summaries().map_err(unwritable)?);
    let blobs = BlobStore::Raw(Arc::new(plan), Arc::from(site.source().await?));
    let (len, body) = assembly::bodies(geometry, summaries, blobs)?;
    upload.put(1, len.first_part, body).await?;
    let mut expected = parts::expected(&copies);
    expected.spans.push((1..2, len.first_part));
    Ok(expected)
}

/// The bytes of a file in which nothing is copied.
pub(crate) async fn whole(
    site: &Site<'_>,
    recipe: &Recipe,
) -> Flow<(u64, Box<dyn Fn() -> Body + Send + Sync>)> {
    let plan = plan(site, recipe).await?;
    let (geometry, summaries) = (plan.geometry(), plan.summaries().map_err(unwritable)?);
    let blobs = BlobStore::Raw(Arc::new(plan), Arc::from(site.source().await?));
    let (len, body) = qcow2::whole(geometry, summaries, blobs)?;
    Ok((len, Box::new(body)))
}
