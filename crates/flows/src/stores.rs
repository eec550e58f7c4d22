//! What every phase of every task runs on.

use std::sync::Arc;

use image_tasks_domain::ports::{Clock, ImageStore, StoreError, StoreResult, TaskLife, TaskStore};
use image_tasks_domain::{Task, TaskId, Unsettled};

use crate::error::{Flow, Stop};
use crate::ports::Objects;
use crate::reporter::Reporter;
use crate::settings::Settings;

/// The stores of this region, the time, and where things are kept.
#[derive(Clone)]
pub struct Stores {
    /// Tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// How far they are.
    pub progress: Reporter,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// How tasks end.
    pub life: Arc<dyn TaskLife>,
    /// Image bytes and work objects.
    pub objects: Arc<dyn Objects>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where things are kept.
    pub settings: Settings,
}

impl Stores {
    /// The task, unless it has ended or is to end. To be asked after a save too: what is saved for a task that has ended
    /// meanwhile has to be removed by who saved it.
    pub(crate) async fn unended(&self, id: TaskId) -> Flow<Task> {
        unended(self.tasks.get(id).await?)
    }

    /// The same where hashes are made: a task that has made its image active may have left them to be made.
    pub(crate) async fn hashes_wanted(&self, id: TaskId) -> Flow<Task> {
        match self.tasks.get(id).await? {
            Some(task @ Task { unsettled: Some(Unsettled::Hashing { .. }), .. }) => Ok(task),
            task => unended(task),
        }
    }

    /// A task's hashes are made, or given up; a call beside this one may have found so before.
    pub(crate) async fn end_hashing(&self, id: TaskId) -> StoreResult<()> {
        match self.life.end_hashing(id, self.clock.now()).await {
            Err(StoreError::Conflict) => Ok(()),
            done => done,
        }
    }
}

fn unended(task: Option<Task>) -> Flow<Task> {
    let task = task.filter(|task| !task.status.is_end()).ok_or(Stop::Ended)?;
    match task.cancellation() {
        Some(failure) => Err(failure.into()),
        None => Ok(task),
    }
}
