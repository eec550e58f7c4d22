//! The plan of an export, as it lies in the work bucket between the phases.

use bytes::Bytes;
use disk_image::write::qcow2::Codec;
use image_tasks_domain::TaskId;
use image_tasks_domain::transfer::TransferPlan;
use serde::{Deserialize, Serialize};

use super::Exporter;
use crate::digests::Digests;
use crate::disk::Mapped;
use crate::error::{Step, Stop};
use crate::origin::Staged;
use crate::ports::{ObjectRef, Objects, UploadId};
use crate::settings::Settings;

/// What is made, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// The stored image.
    pub(super) image: Stored,
    /// How its bytes become the object's.
    pub(super) form: Form,
    /// The upload that takes the parts.
    pub(super) upload: UploadId,
}

/// A stored image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) at: ObjectRef,
    pub(super) etag: String,
    pub(super) size: u64,
    /// CRC64NVME of its bytes, as S3 writes it.
    pub(super) crc64nvme: String,
    /// Their hashes.
    pub(super) digests: Option<Digests>,
    /// Bytes of its disk.
    pub(super) virtual_size: u64,
    /// Where in it the disk is; none where it is the disk.
    pub(super) map: Option<Mapped>,
    /// The map of where it holds data, if there is one.
    pub(super) allocation: Option<Staged>,
}

/// How an image's bytes become the object's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// They are the object's: S3 copies them.
    Copy(TransferPlan),
    /// A raw image as an uncompressed qcow2: S3 copies its data, the metadata go before it.
    CopyQcow2 {
        /// Bytes of a part at most.
        max_part: u64,
    },
    /// The disk's bytes, by parts.
    Raw(TransferPlan),
    /// The disk by ranges, each a blob.
    Qcow2(Codec),
}

impl Exporter {
    pub(super) async fn saved(&self, id: TaskId) -> Step<Option<Planned>> {
        saved(&*self.objects, &self.settings, id).await
    }

    pub(super) async fn save(&self, id: TaskId, planned: &Planned) -> Step<()> {
        let bytes = serde_json::to_vec(planned).map_err(Stop::internal)?;
        self.objects.put(&self.settings.plan(id), Bytes::from(bytes)).await?;
        Ok(())
    }

    /// The plan. None while the task is at work: somebody has just ended it.
    pub(super) async fn planned(&self, id: TaskId) -> Step<Planned> {
        self.saved(id).await?.ok_or(Stop::Ended)
    }
}

pub(super) async fn saved(objects: &dyn Objects, settings: &Settings, id: TaskId) -> Step<Option<Planned>> {
    let Some(bytes) = objects.get(&settings.plan(id)).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(Stop::internal)
}
