//! The plan of an import, as it lies in the work bucket between the phases.

use bytes::Bytes;
use disk_image::Format;
use disk_image::write::parts::BlobRange;
use image_tasks_domain::TaskId;
use image_tasks_domain::transfer::TransferPlan;
use serde::{Deserialize, Serialize};

use super::Importer;
use crate::digests::Digests;
use crate::disk::Mapped;
use crate::error::{Step, Stop};
use crate::origin::{Origin, Staged};
use crate::ports::{SourceInfo, UploadId};

/// How far planning is. Each state is only ever replaced by one below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Saved {
    /// The source has to be spooled.
    Stage(SourceInfo),
    /// It has been.
    Staged {
        /// The object.
        object: Staged,
        /// Its hashes.
        digests: Digests,
        /// The map of where it holds data.
        allocation: Staged,
    },
    /// What will be stored, and how.
    Planned(Box<Planned>),
}

/// What will be stored, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// Where the bytes come from.
    pub(super) origin: Origin,
    /// Format of the stored bytes.
    pub(super) disk_format: String,
    /// Their envelope.
    pub(super) container_format: String,
    /// Bytes of the virtual disk.
    pub(super) virtual_size: u64,
    /// How the source becomes the object.
    pub(super) form: Form,
    /// The upload that takes the parts; none for an image that is made in one call.
    pub(super) upload: Option<UploadId>,
    /// Hashes of the object, where they are known before it is stored.
    pub(super) digests: Option<Digests>,
    /// Whether the image becomes active before it is hashed.
    pub(super) hashes_follow: bool,
    /// The map of where it holds data, in the work bucket, where that is known.
    pub(super) allocation: Option<Staged>,
}

impl Planned {
    /// Whether the source's own bytes are stored, and are a disk.
    pub(super) fn is_verbatim(&self) -> bool {
        matches!(self.form, Form::AsIs { .. })
            && Format::from_name(&self.disk_format).is_some_and(Format::is_verbatim)
    }
}

/// How a source becomes the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// Its bytes are the object's, by parts.
    AsIs {
        /// How the object is cut.
        transfer: TransferPlan,
    },
    /// The disk inside it, by parts.
    Raw {
        /// How the object is cut.
        transfer: TransferPlan,
        /// Where the disk is in the source.
        map: Mapped,
        /// The allocation map beside the image.
        allocation: Staged,
        /// An object of as many zeros as a part has bytes, where whole parts are zeros: they are copied from it inside the store.
        zeros: Option<Staged>,
    },
    /// The disk inside it as a qcow2, by ranges that become blobs.
    Qcow2 {
        /// Bytes of the disk.
        size: u64,
        /// The ranges.
        ranges: Vec<BlobRange>,
        /// Where the disk is in the source; none where the source is the disk.
        map: Option<Mapped>,
        /// The map of where a spooled disk holds data, in the work bucket.
        allocation: Option<Staged>,
    },
}

impl Form {
    /// Bytes of the object, where they are known before it is made.
    pub(super) fn object_size(&self) -> Option<u64> {
        match self {
            Self::AsIs { transfer } | Self::Raw { transfer, .. } => Some(transfer.size),
            Self::Qcow2 { .. } => None,
        }
    }

    /// Bytes that the object has about at most.
    pub(super) fn most_bytes(&self) -> u64 {
        match self {
            Self::AsIs { transfer } | Self::Raw { transfer, .. } => transfer.size,
            Self::Qcow2 { size, .. } => *size,
        }
    }
}

impl Importer {
    pub(super) async fn saved(&self, id: TaskId) -> Step<Option<Saved>> {
        let Some(bytes) = self.objects.get(&self.settings.plan(id)).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(Stop::internal)
    }

    pub(super) async fn save(&self, id: TaskId, saved: &Saved) -> Step<()> {
        let bytes = serde_json::to_vec(saved).map_err(Stop::internal)?;
        self.objects.put(&self.settings.plan(id), Bytes::from(bytes)).await?;
        Ok(())
    }

    /// The finished plan. None while the task is at work: somebody has just ended it.
    pub(super) async fn planned(&self, id: TaskId) -> Step<Planned> {
        match self.saved(id).await? {
            Some(Saved::Planned(planned)) => Ok(*planned),
            _ => Err(Stop::Ended),
        }
    }
}
