//! How many images a project has, and may have.

use super::Images;
use crate::caller::Caller;
use crate::ports::ImageRecords;
use crate::rejection::{Answer, Rejection};

/// What a project uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images, whatever their status.
    pub images: usize,
    /// Those that are being made.
    pub importing: usize,
    /// Bytes stored.
    pub bytes: u64,
}

impl Images {
    /// What the caller's project uses.
    ///
    /// # Errors
    /// [`Rejection::Store`].
    pub async fn usage(&self, caller: &Caller) -> Answer<Usage> {
        Ok(self.store.usage(&caller.project).await?)
    }
}

/// Whether a project may have one more image. Images that tasks have yet to begin don't count, and of those that are
/// made at the same time some may pass beyond it: the quota bounds what lists read, it isn't a bill.
///
/// # Errors
/// [`Rejection::TooLarge`].
pub(crate) async fn check_quota(records: &dyn ImageRecords, project: &str, most: usize) -> Answer<()> {
    if records.count(project, most).await? < most {
        return Ok(());
    }
    Err(Rejection::TooLarge(format!(
        "Project {project} has {most} images, which is its quota; delete some, or ask the operator for more"
    )))
}
