//! Parts whose places in the object are known before it is made, and the making of any piece.
//!
//! Invariant: no part is held in memory; its bytes pass from the source's stream to the upload's, or from object to object
//! inside the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use image_tasks_domain::transfer::{Batch, TransferPlan};

use super::file::Assembled;
use super::{Site, byte_range, qcow2};
use crate::deadline::Deadline;
use crate::disk::{self, Disk};
use crate::error::{Flow, Stop};
use crate::pace::paced;
use crate::ports::{Body, Source};
use crate::rounds::Piece;
use crate::sink::CopyInto;
use crate::sink::upload::Upload;
use crate::source::Pinned;

/// A part of an upload: its number, and the bytes of the origin (or of the disk inside it) that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) number: u32,
    pub(crate) range: Range<u64>,
}

impl Part {
    pub(crate) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The parts of an object that is cut evenly.
pub(crate) fn of(cut: &TransferPlan) -> Vec<Part> {
    let parts = (1..=cut.parts()).filter_map(|number| cut.part(number));
    parts.map(|part| Part { number: part.number, range: part.offset..part.offset + part.len }).collect()
}

/// Pieces of a batch whose part isn't held at its planned size. Piece `n` makes the `n`th of `parts`.
pub(crate) fn left(parts: &[Part], held: &BTreeMap<u32, u64>, batch: Batch) -> Flow<BTreeSet<u32>> {
    let mut left = BTreeSet::new();
    for piece in batch.first..=batch.last {
        let part = at(parts, piece)?;
        if held.get(&part.number) != Some(&part.len()) {
            left.insert(piece);
        }
    }
    Ok(left)
}

fn at(parts: &[Part], piece: u32) -> Flow<&Part> {
    let part = usize::try_from(piece).ok().and_then(|n| parts.get(n.checked_sub(1)?));
    part.ok_or_else(|| Stop::internal(format!("piece {piece} is not in the plan")))
}

/// Bytes to be stored.
pub(crate) enum SourceBytes {
    /// The source's own.
    AsIs(Box<dyn Source>),
    /// The disk inside it.
    Disk(Arc<Disk>),
    /// What is in memory, whole.
    Made(Box<dyn Fn() -> Body + Send + Sync>),
}

impl SourceBytes {
    pub(crate) async fn body(&self, range: Range<u64>) -> Flow<Body> {
        Ok(match self {
            // No range of HTTP or S3 is empty.
            Self::AsIs(_) if range.is_empty() => Box::pin(futures::stream::empty()),
            Self::AsIs(source) => paced(source.read(byte_range(&range)).await?),
            Self::Disk(disk) => paced(disk::body(Arc::clone(disk), range)),
            Self::Made(body) => body(),
        })
    }
}

/// What makes the pieces of a recipe.
pub(crate) enum Maker {
    /// Parts of bytes that pass this worker.
    Bytes { parts: Vec<Part>, bytes: SourceBytes, zeros: Option<Pinned> },
    /// Parts that S3 copies from the origin.
    Copies { parts: Vec<Part>, from: Pinned },
    /// Ranges of a disk that become blobs.
    Blobs { blobs: qcow2::Blobs, disk: Arc<Disk> },
    /// Parts of a file of blobs.
    File(Assembled),
}

impl Maker {
    /// Makes a piece, as far as the time allows; how many bytes that moved.
    pub(crate) async fn make(
        &self,
        site: &Site<'_>,
        upload: Upload<'_>,
        piece: u32,
        deadline: Deadline,
    ) -> Flow<(Piece, u64)> {
        let moved = match self {
            Self::Blobs { blobs, disk } => return blobs.make(disk, piece, deadline).await,
            Self::File(file) => file.make(site, upload, piece).await?,
            Self::Bytes { parts, bytes, zeros } => {
                let part = at(parts, piece)?;
                match (bytes, zeros) {
                    (SourceBytes::Disk(disk), Some(zeros)) if disk.is_zero(part.range.clone()).await? => {
                        let from = zeros.range(&(0..part.len()));
                        upload.copy(part.number, from, async |e| upload.sink.refused_part(e)).await?;
                    }
                    _ => upload.put(part.number, part.len(), || bytes.body(part.range.clone())).await?,
                }
                part.len()
            }
            Self::Copies { parts, from } => {
                let part = at(parts, piece)?;
                let refused = |e| site.not_copied(e, CopyInto::Part);
                upload.copy(part.number, from.range(&part.range), refused).await?;
                part.len()
            }
        };
        Ok((Piece::Made, moved))
    }
}
