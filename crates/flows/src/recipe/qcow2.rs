//! A disk as a qcow2, made by many workers.
//!
//! Goal: each worker turns ranges of the disk into blobs, objects of their own in the work bucket. Once all are there the file
//! is known, and a round of its own puts it [together](super::file). A small disk is one blob in memory.
//!
//! Invariants:
//! - A blob's record is saved once, under the place on the disk where it begins, and says where the next one does. So a range is
//!   done as far as its records go, whoever made them, and what is handed on is the range.
//! - What a worker writes has a key of its own. Whoever finds that another's record was first removes what it wrote.
//! - Memory is bounded by a window of the disk, a part of a blob, and what is known of a blob's clusters.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use disk_image::write::parts::BlobCut;
use disk_image::write::qcow2::{BlobSummary, BlobWriter, Codec, Geometry, WriteError};
use disk_image::write::rope::Rope;
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{FailureCode, TaskId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::Site;
use super::blob::BlobUpload;
use super::file::{Assembled, BlobStore};
use crate::bounds::TIME_TO_END_A_BLOB;
use crate::deadline::Deadline;
use crate::disk::{Disk, DiskReader, Window};
use crate::error::{Flow, Stop};
use crate::ports::Body;
use crate::retry::retry;
use crate::rounds::Piece;
use crate::source::Pinned;
use crate::stores::Stores;

/// A blob that a worker has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    /// Its range of the disk, and its length.
    pub(crate) summary: BlobSummary,
    /// Where it is, unless the range is all zeros.
    pub(crate) stored: Option<StoredBlob>,
}

/// The objects of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredBlob {
    pub(crate) bytes: Pinned,
    pub(crate) index: Pinned,
}

/// A qcow2 by ranges of its disk, numbered from 1.
pub(crate) struct Blobs {
    geometry: Geometry,
    cut: BlobCut,
    stores: Stores,
    id: TaskId,
}

impl Blobs {
    /// # Errors
    /// `TooLarge`.
    pub(crate) fn new(site: &Site<'_>, size: u64, codec: Codec, cut: &BlobCut) -> Flow<Self> {
        let geometry = Geometry::new(size, codec).map_err(unwritable)?;
        Ok(Self { geometry, cut: *cut, stores: site.stores.clone(), id: site.id() })
    }

    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn range(&self, piece: u32) -> Flow<Range<u64>> {
        let range = self.cut.range(self.geometry.size(), piece);
        range.ok_or_else(|| Stop::internal(format!("piece {piece} is not in the plan")))
    }

    /// The blobs of a range, in order, as far as there are any; and where the first begins that is still to be made.
    pub(crate) async fn of(&self, piece: u32) -> Flow<(Vec<Blob>, u64)> {
        let range = self.range(piece)?;
        let (mut blobs, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let record = self.stores.settings.blob(self.id, at);
            let Some(blob) = self.stores.load::<Blob>(&record).await? else { break };
            at = self.end(&blob, at)?;
            blobs.push(blob);
        }
        Ok((blobs, at))
    }

    /// The ranges that aren't done.
    pub(crate) async fn left(&self, pieces: Batch) -> Flow<BTreeSet<u32>> {
        let mut left = BTreeSet::new();
        for piece in pieces.first..=pieces.last {
            if self.of(piece).await?.1 < self.range(piece)?.end {
                left.insert(piece);
            }
        }
        Ok(left)
    }

    /// Where on the disk a blob ends that begins there.
    fn end(&self, blob: &Blob, start: u64) -> Flow<u64> {
        let BlobSummary { first_cluster, clusters, .. } = blob.summary;
        let cluster = self.geometry.cluster();
        let end = first_cluster.saturating_add(clusters).saturating_mul(cluster).min(self.geometry.size());
        if first_cluster.checked_mul(cluster) != Some(start) || end <= start {
            return Err(Stop::internal("a blob that is somewhere else on the disk than its record"));
        }
        Ok(end)
    }

    /// Makes blobs of a range until it is done, or the time is up; how many bytes of the disk that was.
    pub(crate) async fn make(&self, disk: &Arc<Disk>, piece: u32, deadline: Deadline) -> Flow<(Piece, u64)> {
        let range = self.range(piece)?;
        let deadline = deadline.earlier(TIME_TO_END_A_BLOB);
        if deadline.left().is_zero() {
            return Ok((Piece::Untouched, 0));
        }
        let (_, mut at) = self.of(piece).await?;
        let mut windows = Windows::new(disk, at..range.end);
        let (mut moved, mut filled_in) = (0, Duration::ZERO);
        let stopped = |moved| if moved > 0 { Piece::Begun } else { Piece::Untouched };
        while at < range.end {
            // A blob that can't be filled would be one more of few that an object can be made of: the next call begins it.
            if deadline.left() <= filled_in {
                return Ok((stopped(moved), moved));
            }
            let begun = Instant::now();
            let Some((blob, is_full)) = self.blob(&mut windows, at, deadline).await? else {
                return Ok((stopped(moved), moved));
            };
            let record = self.stores.settings.blob(self.id, at);
            match retry(|| self.stores.save_once(&record, &blob)).await? {
                Some(first) if first != blob => {
                    self.remove(blob).await?;
                    (_, at) = self.of(piece).await?;
                    windows = Windows::new(disk, at..range.end);
                }
                _ => {
                    let end = self.end(&blob, at)?;
                    moved += end - at;
                    at = end;
                    filled_in = if is_full { begun.elapsed() } else { Duration::ZERO };
                }
            }
        }
        Ok((Piece::Made, moved))
    }

    /// Writes a blob that begins there, and its index; whether it is full. None if the time was up before anything was read.
    async fn blob(
        &self,
        windows: &mut Windows,
        start: u64,
        deadline: Deadline,
    ) -> Flow<Option<(Blob, bool)>> {
        let mut writer = BlobWriter::new(self.geometry, start).map_err(unwritable)?;
        let (settings, attempt) = (&self.stores.settings, Uuid::new_v4());
        let at = settings.blob_bytes(self.id, start, attempt);
        let mut upload = BlobUpload::new(&self.stores.objects, at, self.cut.part);
        let is_full = match self.fill(&mut writer, &mut upload, windows, deadline).await {
            Ok(is_full) => is_full,
            Err(stop) => {
                upload.give_up().await;
                return Err(stop);
            }
        };
        if writer.position() == start {
            return Ok(None);
        }
        let index = writer.finish(upload.buffer()).map_err(unwritable)?;
        let summary = index.summary();
        if summary.len == 0 {
            return Ok(Some((Blob { summary, stored: None }, is_full)));
        }
        let bytes = upload.finish().await?;
        let at = settings.blob_index(self.id, start, attempt);
        let mut index = BlobUpload::whole(&self.stores.objects, at, Bytes::copy_from_slice(index.as_bytes()));
        let index = index.put().await?;
        Ok(Some((Blob { summary, stored: Some(StoredBlob { bytes, index }) }, is_full)))
    }

    /// Takes windows of the disk until it is read, the blob full, or the time up; whether it is full.
    async fn fill(
        &self,
        writer: &mut BlobWriter,
        upload: &mut BlobUpload,
        windows: &mut Windows,
        deadline: Deadline,
    ) -> Flow<bool> {
        loop {
            let window = tokio::select! {
                biased;
                () = deadline.reached() => return Ok(false),
                window = windows.next() => window?,
            };
            match window {
                None => return Ok(false),
                Some(Window::Zeros(len)) => writer.zeros(len, upload.buffer()).map_err(unwritable)?,
                Some(Window::Data(mut bytes)) => {
                    let room = writer.room(self.cut.most, self.cut.most_clusters);
                    let now = bytes.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
                    writer.write(&now, upload.buffer()).map_err(unwritable)?;
                    if !bytes.is_empty() {
                        windows.rest = Some(bytes);
                    }
                    if now.is_empty() {
                        return Ok(true);
                    }
                }
            }
            upload.send().await?;
        }
    }

    /// Removes a blob that no record names.
    async fn remove(&self, blob: Blob) -> Flow<()> {
        let Some(StoredBlob { bytes, index }) = blob.stored else { return Ok(()) };
        for object in [bytes, index] {
            retry(async || Ok(self.stores.objects.delete(&object.at).await?)).await?;
        }
        Ok(())
    }
}

/// A range of a disk by windows, of which the last one may have been taken in part.
struct Windows {
    reader: DiskReader,
    rest: Option<Bytes>,
}

impl Windows {
    fn new(disk: &Arc<Disk>, range: Range<u64>) -> Self {
        Self { reader: DiskReader::new(Arc::clone(disk), range), rest: None }
    }

    async fn next(&mut self) -> Flow<Option<Window>> {
        match self.rest.take() {
            Some(rest) => Ok(Some(Window::Data(rest))),
            None => self.reader.next().await,
        }
    }
}

/// A small disk as a file's bytes, as often as they are asked for.
pub(crate) async fn small(disk: Arc<Disk>, size: u64, codec: Codec) -> Flow<(u64, impl Fn() -> Body)> {
    let geometry = Geometry::new(size, codec).map_err(unwritable)?;
    let mut reader = DiskReader::new(disk, 0..size);
    let mut writer = BlobWriter::new(geometry, 0).map_err(unwritable)?;
    let mut blob = Rope::default();
    while let Some(window) = reader.next().await? {
        match window {
            Window::Zeros(len) => writer.zeros(len, &mut blob),
            Window::Data(bytes) => writer.write(&bytes, &mut blob),
        }
        .map_err(unwritable)?;
    }
    let index = writer.finish(&mut blob).map_err(unwritable)?;
    let summaries = vec![index.summary()];
    Ok(Assembled::new(geometry, summaries, &BlobCut::S3, BlobStore::Held(index, blob))?.whole())
}

/// Bytes of the virtual disk of a qcow2 that holds so many.
pub(crate) fn virtual_size(size: u64) -> Flow<u64> {
    Ok(Geometry::new(size, Codec::None).map_err(unwritable)?.virtual_size())
}

/// How many ranges a disk is made by.
pub(crate) fn ranges(size: u64, cut: &BlobCut) -> Flow<u32> {
    cut.ranges(size).map_err(too_large)
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
