//! How an origin's bytes become the object's: numbered pieces of work, each of which may be repeated.
//!
//! Invariants:
//! - A piece that is done is not done again; done again it makes the same bytes of the same source.
//! - A recipe knows nothing of tasks. Where its bytes come from and go to it is told.

mod blob;
pub(crate) mod choice;
mod file;
pub(crate) mod maps;
pub(crate) mod parts;
pub(crate) mod qcow2;
pub(crate) mod qcow2_by_copy;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use disk_image::write::parts::BlobCut;
use disk_image::write::qcow2::Codec;
use image_tasks_domain::TaskId;
use image_tasks_domain::copying::CopyCut;
use image_tasks_domain::transfer::{Batch, TransferPlan};
use serde::{Deserialize, Serialize};

use self::file::Assembled;
use self::maps::DiskMap;
use self::parts::{Maker, Part, SourceBytes};
use crate::bounds::{COPIES_AT_ONCE, PARTS_AT_ONCE};
use crate::disk::Disk;
use crate::error::{Flow, Stop};
use crate::events::Round;
use crate::job::Job;
use crate::ports::{ObjectError, Source};
use crate::sink::CopyInto;
use crate::sink::upload::Upload;
use crate::source::{Origin, Pinned};
use crate::stores::Stores;
use crate::tasks::TaskKind;

/// How an origin's bytes become the object's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Recipe {
    /// They are the object's, by parts that pass a worker.
    Verbatim {
        /// How the object is cut.
        cut: TransferPlan,
    },
    /// They are the object's, and S3 copies them.
    ServerCopy {
        /// Bytes.
        size: u64,
        /// In one request or in parts.
        cut: CopyCut,
        /// What the copy's CRC64NVME must be, as S3 writes it, where that is known.
        crc64nvme: Option<String>,
    },
    /// The disk inside of them, by parts.
    Raw {
        /// How the object is cut.
        cut: TransferPlan,
        /// Where the disk is in the origin.
        disk: DiskMap,
        /// An object of as many zeros as a part has bytes, where whole parts are zeros: they are copied from it inside the store.
        zeros: Option<Pinned>,
    },
    /// The disk inside of them as a qcow2, by ranges that become blobs, of which the file is put together.
    Qcow2 {
        /// Bytes of the disk.
        size: u64,
        /// How clusters are compressed.
        codec: Codec,
        /// How the disk is cut into ranges, and the file into parts.
        cut: BlobCut,
        /// Where the disk is in the origin.
        disk: DiskMap,
    },
    /// They are a disk, as a qcow2 that isn't compressed: S3 copies its data, the metadata go before it.
    Qcow2ByCopy {
        /// Bytes of the disk.
        size: u64,
        /// Bytes of a part at most, where parts of that size are enough.
        max_part: u64,
        /// The map of where the disk holds data.
        allocation: Option<Pinned>,
    },
}

/// Where a recipe is followed.
pub(crate) struct Site<'a> {
    pub(crate) stores: &'a Stores,
    pub(crate) kind: &'a dyn TaskKind,
    pub(crate) job: &'a Job,
    pub(crate) origin: &'a Origin,
}

impl Site<'_> {
    pub(crate) fn id(&self) -> TaskId {
        self.job.id()
    }

    /// The origin's bytes.
    pub(crate) async fn source(&self) -> Flow<Box<dyn Source>> {
        self.kind.open(self.stores, self.job, self.origin).await
    }

    /// The disk inside of them.
    pub(crate) async fn disk(&self, map: &DiskMap) -> Flow<Arc<Disk>> {
        let places = map.places(&self.stores.objects).await?;
        Ok(Arc::new(Disk { source: self.source().await?, places }))
    }

    /// The object that S3 copies.
    fn copied(&self) -> Flow<&Pinned> {
        self.origin.object().ok_or_else(|| Stop::internal("a copy of what is no object"))
    }

    /// Why a copy of the origin did not come about.
    pub(crate) async fn not_copied(&self, error: ObjectError, into: CopyInto) -> Stop {
        self.kind.not_copied(self.stores, self.job, self.origin, (error, into)).await
    }
}

/// How a small object comes whole.
pub(crate) enum Whole {
    /// As a copy of that one.
    Copy(Pinned),
    /// As these bytes, so many.
    Bytes(SourceBytes, u64),
}

impl Recipe {
    /// Bytes of the object, where they are known before it is made.
    pub(crate) fn object_size(&self) -> Option<u64> {
        match self {
            Self::Verbatim { cut } | Self::Raw { cut, .. } => Some(cut.size),
            Self::ServerCopy { size, .. } => Some(*size),
            Self::Qcow2 { .. } | Self::Qcow2ByCopy { .. } => None,
        }
    }

    /// Bytes that the object has about at most.
    pub(crate) fn most_bytes(&self) -> u64 {
        match self {
            Self::Verbatim { cut } | Self::Raw { cut, .. } => cut.size,
            Self::ServerCopy { size, .. } | Self::Qcow2 { size, .. } | Self::Qcow2ByCopy { size, .. } => {
                *size
            }
        }
    }

    /// What the copy's CRC64NVME must be.
    pub(crate) fn crc64nvme(&self) -> Option<&String> {
        match self {
            Self::ServerCopy { crc64nvme, .. } => crc64nvme.as_ref(),
            Self::Verbatim { .. } | Self::Raw { .. } | Self::Qcow2 { .. } | Self::Qcow2ByCopy { .. } => None,
        }
    }

    /// The round whose pieces are the object's parts.
    pub(crate) const fn round_of_parts(&self) -> Round {
        match self {
            Self::Qcow2 { .. } => Round::Seal,
            Self::Verbatim { .. } | Self::Raw { .. } | Self::ServerCopy { .. } | Self::Qcow2ByCopy { .. } => {
                Round::Move
            }
        }
    }

    /// The object's parts, which pieces of work make, one each. Asked for when all rounds before theirs are done.
    pub(crate) async fn parts(&self, site: &Site<'_>) -> Flow<Vec<Part>> {
        Ok(match self {
            Self::Verbatim { cut } | Self::Raw { cut, .. } => parts::of(cut),
            Self::ServerCopy { cut: CopyCut::Parts(cut), .. } => parts::of(cut),
            Self::ServerCopy { cut: CopyCut::Whole, .. } => Vec::new(),
            Self::Qcow2 { .. } | Self::Qcow2ByCopy { .. } => self.file(site, true).await?.parts(),
        })
    }

    /// A qcow2 and its parts. `list` says to list its blobs, unless that is done.
    async fn file(&self, site: &Site<'_>, list: bool) -> Flow<Assembled> {
        match self {
            Self::Qcow2 { size, codec, cut, .. } => {
                let blobs = qcow2::Blobs::new(site, *size, *codec, cut)?;
                Assembled::of(site, &blobs, cut, list).await
            }
            Self::Qcow2ByCopy { size, max_part, allocation } => {
                qcow2_by_copy::assembled(site, *size, *max_part, allocation.as_ref()).await
            }
            Self::Verbatim { .. } | Self::ServerCopy { .. } | Self::Raw { .. } => {
                Err(Stop::internal("a recipe that makes no qcow2"))
            }
        }
    }

    /// How many pieces of work move bytes, and how many bytes.
    pub(crate) async fn pieces(&self, site: &Site<'_>) -> Flow<(u32, u64)> {
        if let Self::Qcow2 { size, cut, .. } = self {
            return Ok((qcow2::ranges(*size, cut)?, *size));
        }
        let parts = self.parts(site).await?;
        let bytes = parts.iter().map(|part| part.range.end - part.range.start).sum();
        Ok((u32::try_from(parts.len()).map_err(Stop::internal)?, bytes))
    }

    /// The pieces of a round, before anything is opened that makes them.
    pub(crate) async fn work(&self, site: &Site<'_>, round: Round) -> Flow<Work> {
        Ok(match self {
            Self::Qcow2 { size, codec, cut, .. } if round == Round::Move => {
                Work::Blobs(qcow2::Blobs::new(site, *size, *codec, cut)?)
            }
            Self::Qcow2 { .. } | Self::Qcow2ByCopy { .. } => Work::File(self.file(site, false).await?),
            Self::Verbatim { .. } | Self::Raw { .. } | Self::ServerCopy { .. } => {
                Work::Parts(self.parts(site).await?)
            }
        })
    }

    /// What makes the pieces of a round.
    pub(crate) async fn maker(&self, site: &Site<'_>, work: Work) -> Flow<Maker> {
        Ok(match (self, work) {
            (Self::Verbatim { .. }, Work::Parts(parts)) => {
                Maker::Bytes { parts, bytes: SourceBytes::AsIs(site.source().await?), zeros: None }
            }
            (Self::Raw { disk, zeros, .. }, Work::Parts(parts)) => {
                Maker::Bytes { parts, bytes: SourceBytes::Disk(site.disk(disk).await?), zeros: zeros.clone() }
            }
            (Self::ServerCopy { .. }, Work::Parts(parts)) => {
                Maker::Copies { parts, from: site.copied()?.clone() }
            }
            (Self::Qcow2 { disk, .. }, Work::Blobs(blobs)) => {
                Maker::Blobs { blobs, disk: site.disk(disk).await? }
            }
            (Self::Qcow2 { .. } | Self::Qcow2ByCopy { .. }, Work::File(file)) => Maker::File(file),
            _ => return Err(Stop::internal("a round of another recipe")),
        })
    }

    /// The object as one call makes it.
    pub(crate) async fn whole(&self, site: &Site<'_>) -> Flow<Whole> {
        Ok(match self {
            Self::Verbatim { cut } => Whole::Bytes(SourceBytes::AsIs(site.source().await?), cut.size),
            Self::ServerCopy { .. } => Whole::Copy(site.copied()?.clone()),
            Self::Raw { cut, disk, .. } => Whole::Bytes(SourceBytes::Disk(site.disk(disk).await?), cut.size),
            Self::Qcow2 { size, codec, disk, .. } => {
                let (len, body) = qcow2::small(site.disk(disk).await?, *size, *codec).await?;
                Whole::Bytes(SourceBytes::Made(Box::new(body)), len)
            }
            Self::Qcow2ByCopy { .. } => {
                let (len, body) = self.file(site, false).await?.whole();
                Whole::Bytes(SourceBytes::Made(Box::new(body)), len)
            }
        })
    }
}

/// The pieces of a round.
pub(crate) enum Work {
    /// Parts whose places are known.
    Parts(Vec<Part>),
    /// Ranges of a disk that become blobs.
    Blobs(qcow2::Blobs),
    /// Parts of a file of blobs.
    File(Assembled),
}

impl Work {
    /// Those of a batch that are still to be made, as far as that is seen before they are.
    pub(crate) async fn left(&self, upload: Upload<'_>, pieces: Batch) -> Flow<BTreeSet<u32>> {
        match self {
            Self::Parts(parts) => parts::left(parts, &upload.held().await?, pieces),
            Self::Blobs(blobs) => blobs.left(pieces).await,
            Self::File(file) => parts::left(&file.parts(), &upload.held().await?, pieces),
        }
    }
}

/// Pieces that one worker makes side by side.
pub(crate) fn at_once(maker: &Maker) -> usize {
    match maker {
        Maker::Copies { .. } | Maker::File(_) => COPIES_AT_ONCE,
        Maker::Bytes { .. } | Maker::Blobs { .. } => PARTS_AT_ONCE,
    }
}

/// A range of an object, as ranges of bytes are written here.
pub(crate) fn byte_range(range: &Range<u64>) -> disk_image::ByteRange {
    disk_image::ByteRange { start: range.start, end: range.end }
}
