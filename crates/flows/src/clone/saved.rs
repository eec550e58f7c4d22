//! The plan of a clone, as it lies in the work bucket between the phases.

use bytes::Bytes;
use image_tasks_domain::copying::CopyPlan;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::{Image, TaskId};
use serde::{Deserialize, Serialize};

use super::Cloner;
use crate::error::{Step, Stop};
use crate::ports::UploadId;

/// What is copied, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// The source's record, as it was when the clone was planned.
    pub(super) source: Image,
    /// Its object: what every copy is pinned to.
    pub(super) from: StoredObject,
    /// Its bytes.
    pub(super) size: u64,
    /// How they are copied.
    pub(super) copy: CopyPlan,
    /// The upload that takes the parts, if there are any.
    pub(super) upload: Option<UploadId>,
}

impl Cloner {
    pub(super) async fn saved(&self, id: TaskId) -> Step<Option<Planned>> {
        let Some(bytes) = self.objects.get(&self.settings.plan(id)).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(Stop::internal)
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
