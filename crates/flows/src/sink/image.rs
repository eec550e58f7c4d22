//! An image of this region: bytes under a key that carries the task's id, and the record that one transaction points to them.
//!
//! Invariants:
//! - Nobody else writes under the key. Until the record names it, nothing but its task knows of it.
//! - An image that is active has the key of a task that succeeded: what is undone here is never in use.

use std::sync::Arc;

use image_tasks_domain::{ImageId, TaskId};

use crate::error::Flow;
use crate::ports::{ObjectRef, Objects};
use crate::settings::{Settings, allocation_of};
use crate::sink::abort_uploads;

/// The object of an image that a task makes.
pub(crate) struct ImageSink {
    pub(crate) image: ImageId,
    pub(crate) at: ObjectRef,
    pub(crate) store: Arc<dyn Objects>,
}

impl ImageSink {
    pub(crate) fn new(image: ImageId, task: TaskId, store: &Arc<dyn Objects>, settings: &Settings) -> Self {
        Self { image, at: settings.image(image, task), store: Arc::clone(store) }
    }

    /// Where the map of its zeros lies.
    pub(crate) fn allocation(&self) -> ObjectRef {
        allocation_of(&self.at)
    }

    /// Removes all that the task may have made here.
    pub(crate) async fn undo(&self) -> Flow<()> {
        self.abort_uploads().await?;
        self.store.delete(&self.at).await?;
        Ok(self.store.delete(&self.allocation()).await?)
    }

    /// Gives up uploads that are under way.
    pub(crate) async fn abort_uploads(&self) -> Flow<()> {
        Ok(abort_uploads(&*self.store, &self.at.bucket, &self.at.key).await?)
    }
}
