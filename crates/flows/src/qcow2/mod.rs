//! A disk as a qcow2, made by many workers: what imports and exports share.
//!
//! Goal: each worker turns ranges of the disk into blobs, uploaded as parts, and leaves an index of each; from the indexes alone
//! the last call makes part 1 ([`assembly`]). A small disk is one blob in memory.
//!
//! Invariants:
//! - A range that has an index is done; done again it makes the same bytes.
//! - Memory is bounded by a window of the disk and a part of a blob.

pub(crate) mod assembly;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use disk_image::AllocationMap;
use disk_image::write::parts::{BlobRange, MIN_PART, PartCutter, blob_ranges};
use disk_image::write::qcow2::{BlobWriter, Codec, Geometry, Place, WriteError};
use disk_image::write::rope::Rope;
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{Failure, FailureCode, TaskId};

use self::assembly::Blobs;
use crate::bounds::BLOB_PART;
use crate::disk::{Disk, DiskReader, Window};
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::parts::{Destination, Expected};
use crate::ports::{Body, ObjectRef, Objects};
use crate::settings::Settings;

/// Where workers leave what `finish` needs of their blobs.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) settings: Settings,
    pub(crate) id: TaskId,
}

impl Bench {
    fn index(&self, blob: usize) -> ObjectRef {
        self.settings.blob_index(self.id, blob)
    }

    fn blob(&self, blob: usize) -> ObjectRef {
        self.settings.blob(self.id, blob)
    }

    async fn keep(&self, at: ObjectRef, bytes: Rope) -> Step<()> {
        let mut patience = Patience::default();
        loop {
            match self.objects.put_stream(&at, bytes.len() as u64, all(&bytes), false).await {
                Ok(_) => return Ok(()),
                Err(e) => patience.after_stop(e.into()).await?,
            }
        }
    }
}

/// A qcow2 by ranges of its disk, numbered from 1.
pub(crate) struct Pieces {
    geometry: Geometry,
    ranges: Vec<BlobRange>,
    bench: Bench,
}

impl Pieces {
    /// # Errors
    /// `TooLarge` also where a worker would have to hold too much.
    pub(crate) fn new(size: u64, codec: Codec, ranges: Vec<BlobRange>, bench: Bench) -> Step<Self> {
        check_parts(&ranges)?;
        Ok(Self { geometry: Geometry::new(size, codec).map_err(unwritable)?, ranges, bench })
    }

    /// Those of a batch that are still to be made.
    pub(crate) async fn left(&self, batch: Batch) -> Step<BTreeSet<u32>> {
        let mut left: BTreeSet<u32> = (batch.first..=batch.last).collect();
        for number in batch.first..=batch.last {
            let at = self.bench.index(number.saturating_sub(1) as usize);
            if self.bench.objects.head(&at).await?.is_some() {
                left.remove(&number);
            }
        }
        Ok(left)
    }

    /// Turns a range of the disk into a blob, its parts uploaded, its index kept; how many bytes of the disk that was.
    pub(crate) async fn make(&self, to: &Destination<'_>, disk: &Arc<Disk>, number: u32) -> Step<u64> {
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
                self.bench.keep(self.bench.blob(blob), rest).await?;
            }
        } else {
            next_part(to, range, number, rest).await?;
        }
        let bytes = Bytes::copy_from_slice(index.as_bytes());
        self.bench.keep(self.bench.index(blob), bytes.into()).await?;
        Ok(range.end - range.start)
    }

    /// Uploads part 1; what parts there must be then.
    pub(crate) async fn first_part(&self, to: &Destination<'_>) -> Step<Expected> {
        let blobs = Blobs::Worked(self.bench.clone());
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
pub(crate) async fn small(disk: Arc<Disk>, size: u64, codec: Codec) -> Step<(u64, impl Fn() -> Body)> {
    let geometry = Geometry::new(size, codec).map_err(unwritable)?;
    let mut reader = DiskReader::new(disk, 0..size);
    let mut writer = BlobWriter::new(geometry, 0).map_err(unwritable)?;
    let mut blob = Rope::default();
    while let Some(window) = reader.next().await? {
        take(&mut writer, &window, &mut blob)?;
    }
    let index = writer.finish(&mut blob).map_err(unwritable)?;
    let blobs = Blobs::Held(index, blob);
    whole(geometry, blobs.summaries(1).await?, blobs)
}

/// The bytes of a file that is its part 1.
pub(crate) fn whole(
    geometry: Geometry,
    summaries: Vec<disk_image::write::qcow2::BlobSummary>,
    blobs: Blobs,
) -> Step<(u64, impl Fn() -> Body)> {
    let (len, body) = assembly::bodies(geometry, summaries, blobs)?;
    if len.first_part != len.file {
        return Err(Stop::internal("a small image that is more than its part 1"));
    }
    Ok((len.file, body))
}

/// Bytes of the virtual disk of a qcow2 that holds so many.
pub(crate) fn virtual_size(size: u64) -> Step<u64> {
    Ok(Geometry::new(size, Codec::None).map_err(unwritable)?.virtual_size())
}

/// The ranges of a disk that become blobs.
pub(crate) fn ranges(size: u64) -> Step<Vec<BlobRange>> {
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
pub(crate) fn check_parts(ranges: &[BlobRange]) -> Step<()> {
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

fn take(writer: &mut BlobWriter, window: &Window, out: &mut Rope) -> Step<()> {
    match window {
        Window::Zeros(len) => writer.zeros(*len, out),
        Window::Data(bytes) => writer.write(bytes, out),
    }
    .map_err(unwritable)
}

async fn next_part(to: &Destination<'_>, range: &BlobRange, number: u32, part: Rope) -> Step<u32> {
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

/// Bytes as a body.
pub(crate) fn one(bytes: Bytes) -> Body {
    Box::pin(futures::stream::iter((!bytes.is_empty()).then_some(Ok(bytes))))
}

pub(crate) fn too_large(why: impl std::fmt::Display) -> Stop {
    Failure::new(FailureCode::TooLarge, why.to_string()).into()
}

pub(crate) fn unwritable(error: WriteError) -> Stop {
    match error {
        WriteError::TooLarge(_) => too_large(error),
        WriteError::Range(_) | WriteError::Index(_) => Stop::internal(error),
    }
}
