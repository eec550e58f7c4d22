//! A disk as a qcow2, made by many workers.
//!
//! Goal: each worker turns ranges of the disk into blobs, uploaded as parts, and leaves an index of each; from the indexes alone
//! the last call makes part 1 ([`assembly`](super::assembly)). A small disk is one blob in memory.
//!
//! Invariants:
//! - A range that has an index is done; done again it makes the same bytes.
//! - Memory is bounded by a window of the disk and a part of a blob.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use disk_image::AllocationMap;
use disk_image::write::parts::{BlobRange, MIN_PART, PartCutter, blob_ranges};
use disk_image::write::qcow2::{BlobSummary, BlobWriter, Codec, Geometry, Place, WriteError};
use disk_image::write::rope::Rope;
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{FailureCode, TaskId};

use super::Site;
use super::assembly::{self, BlobStore};
use crate::bounds::BLOB_PART;
use crate::disk::{Disk, DiskReader, Window};
use crate::error::{Flow, Stop};
use crate::ports::{Body, ObjectRef, Objects};
use crate::retry::retry;
use crate::settings::Settings;
use crate::sink::upload::{Expected, Upload};

/// Where workers leave what the last call needs of their blobs.
#[derive(Clone)]
pub(crate) struct WorkedBlobs {
    pub(crate) objects: Arc<dyn Objects>,
    settings: Settings,
    id: TaskId,
}

impl WorkedBlobs {
    pub(crate) fn index(&self, blob: usize) -> ObjectRef {
        self.settings.blob_index(self.id, blob)
    }

    pub(crate) fn blob(&self, blob: usize) -> ObjectRef {
        self.settings.blob(self.id, blob)
    }

    async fn keep(&self, at: ObjectRef, bytes: Rope) -> Flow<()> {
        let len = bytes.len() as u64;
        retry(async || Ok(self.objects.put_stream(&at, len, all(&bytes), false).await?)).await.map(drop)
    }
}

/// A qcow2 by ranges of its disk, numbered from 1.
pub(crate) struct Blobs {
    geometry: Geometry,
    ranges: Vec<BlobRange>,
    worked: WorkedBlobs,
}

impl Blobs {
    /// # Errors
    /// `TooLarge` also where a worker would have to hold too much.
    pub(crate) fn new(site: &Site<'_>, size: u64, codec: Codec, ranges: &[BlobRange]) -> Flow<Self> {
        check_parts(ranges)?;
        let stores = site.stores;
        let worked = WorkedBlobs {
            objects: Arc::clone(&stores.objects),
            settings: stores.settings.clone(),
            id: site.id(),
        };
        let geometry = Geometry::new(size, codec).map_err(unwritable)?;
        Ok(Self { geometry, ranges: ranges.to_vec(), worked })
    }

    /// Those of a batch that are still to be made.
    pub(crate) async fn left(&self, batch: Batch) -> Flow<BTreeSet<u32>> {
        let mut left: BTreeSet<u32> = (batch.first..=batch.last).collect();
        for number in batch.first..=batch.last {
            let at = self.worked.index(number.saturating_sub(1) as usize);
            if self.worked.objects.head(&at).await?.is_some() {
                left.remove(&number);
            }
        }
        Ok(left)
    }

    /// Turns a range of the disk into a blob, its parts uploaded, its index kept; how many bytes of the disk that was.
    pub(crate) async fn make(&self, to: Upload<'_>, disk: &Arc<Disk>, number: u32) -> Flow<u64> {
        let blob = number.saturating_sub(1) as usize;
        let range = self.ranges.get(blob).filter(|_| number > 0);
        let range = range.ok_or_else(|| Stop::internal(format!("piece {number} is not in the plan")))?;
        let mut reader = DiskReader::new(Arc::clone(disk), range.start..range.end);
        let mut writer = BlobWriter::new(self.geometry, range.start).map_err(unwritable)?;
        let mut cutter = PartCutter::new(range.part_size);
        let mut number = range.first_part;
        while let Some(window) = reader.next().await? {
            take(&mut writer, &window, cutter.buffer())?;
            drop(window);
            while let Some(part) = cutter.next_part() {
                number = next_part(to, range, number, part).await?;
            }
        }
        let index = writer.finish(cutter.buffer()).map_err(unwritable)?;
        while let Some(part) = cutter.next_part() {
            number = next_part(to, range, number, part).await?;
        }
        let rest = cutter.finish();
        if number == range.first_part && (rest.len() as u64) < MIN_PART {
            if !rest.is_empty() {
                self.worked.keep(self.worked.blob(blob), rest).await?;
            }
        } else {
            next_part(to, range, number, rest).await?;
        }
        let bytes = Bytes::copy_from_slice(index.as_bytes());
        self.worked.keep(self.worked.index(blob), bytes.into()).await?;
        Ok(range.end - range.start)
    }

    /// Uploads part 1; what parts there must be then.
    pub(crate) async fn first_part(&self, to: Upload<'_>) -> Flow<Expected> {
        let blobs = BlobStore::Worked(self.worked.clone());
        let summaries = blobs.summaries(self.ranges.len()).await?;
        let own = self.ranges.iter().zip(&summaries).filter(|(_, summary)| summary.place == Place::Own);
        let mut spans: Vec<_> =
            own.map(|(range, summary)| (range.first_part..range.end_part, summary.len)).collect();
        let (len, body) = assembly::bodies(self.geometry, summaries, blobs)?;
        to.put(1, len.first_part, body).await?;
        spans.push((1..2, len.first_part));
        Ok(Expected { spans })
    }
}

/// A small disk as one blob, and the file's bytes as a body, as often as they are asked for.
pub(crate) async fn small(disk: Arc<Disk>, size: u64, codec: Codec) -> Flow<(u64, impl Fn() -> Body)> {
    let geometry = Geometry::new(size, codec).map_err(unwritable)?;
    let mut reader = DiskReader::new(disk, 0..size);
    let mut writer = BlobWriter::new(geometry, 0).map_err(unwritable)?;
    let mut blob = Rope::default();
    while let Some(window) = reader.next().await? {
        take(&mut writer, &window, &mut blob)?;
    }
    let index = writer.finish(&mut blob).map_err(unwritable)?;
    let blobs = BlobStore::Held(index, blob);
    whole(geometry, blobs.summaries(1).await?, blobs)
}

/// The bytes of a file that is its part 1.
pub(crate) fn whole(
    geometry: Geometry,
    summaries: Vec<BlobSummary>,
    blobs: BlobStore,
) -> Flow<(u64, impl Fn() -> Body)> {
    let (len, body) = assembly::bodies(geometry, summaries, blobs)?;
    if len.first_part != len.file {
        return Err(Stop::internal("a small image that is more than its part 1"));
    }
    Ok((len.file, body))
}

/// Bytes of the virtual disk of a qcow2 that holds so many.
pub(crate) fn virtual_size(size: u64) -> Flow<u64> {
    Ok(Geometry::new(size, Codec::None).map_err(unwritable)?.virtual_size())
}

/// The ranges of a disk that become blobs.
pub(crate) fn ranges(size: u64) -> Flow<Vec<BlobRange>> {
    blob_ranges(size).map_err(too_large)
}

/// The same ranges, with parts no larger than what they hold asks for.
pub(crate) fn holding(ranges: Vec<BlobRange>, data: &AllocationMap) -> Vec<BlobRange> {
    const CLUSTER: u64 = Geometry::DEFAULT_CLUSTER;
    let of = |range: &BlobRange| {
        let clusters = |run: std::ops::Range<u64>| run.end.div_ceil(CLUSTER) - run.start / CLUSTER;
        data.within(range.start..range.end).map(clusters).sum::<u64>() * CLUSTER
    };
    ranges.into_iter().map(|range| range.holding(of(&range))).collect()
}

/// Whether a worker can hold the parts.
pub(crate) fn check_parts(ranges: &[BlobRange]) -> Flow<()> {
    match ranges.iter().find(|range| range.part_size > BLOB_PART) {
        None => Ok(()),
        Some(range) => {
            let len = range.end - range.start;
            Err(too_large(format!(
                "{len} bytes of the disk may hold more data than a worker can write as qcow2"
            )))
        }
    }
}

fn take(writer: &mut BlobWriter, window: &Window, out: &mut Rope) -> Flow<()> {
    match window {
        Window::Zeros(len) => writer.zeros(*len, out),
        Window::Data(bytes) => writer.write(bytes, out),
    }
    .map_err(unwritable)
}

async fn next_part(to: Upload<'_>, range: &BlobRange, number: u32, part: Rope) -> Flow<u32> {
    if number >= range.end_part {
        return Err(Stop::internal("a blob has more parts than were set aside for it"));
    }
    to.put(number, part.len() as u64, || all(&part)).await?;
    Ok(number + 1)
}

/// A rope as a body.
fn all(rope: &Rope) -> Body {
    Box::pin(futures::stream::iter(rope.clone().into_iter().map(Ok)))
}

pub(crate) fn too_large(why: impl std::fmt::Display) -> Stop {
    Stop::failed(FailureCode::TooLarge, why.to_string())
}

pub(crate) fn unwritable(error: WriteError) -> Stop {
    match error {
        WriteError::TooLarge(_) => too_large(error),
        WriteError::Range(_) | WriteError::Index(_) => Stop::internal(error),
    }
}
