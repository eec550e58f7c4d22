//! Which way a clone goes: S3 copies an image of a region, one of a Glance elsewhere comes as an import does.

use image_tasks_domain::{CloneInput, CloneSource, Failure, Task};

use super::Cloner;
use crate::deadline::Deadline;
use crate::error::{Stop, internal};
use crate::events::CloneEvent;
use crate::import::{Asks, Importer};

/// Runs the phases of clones, wherever their images are.
pub struct Clones {
    /// From regions of this cloud.
    pub cloner: Cloner,
    /// From Glances elsewhere: it asks for [`Asks::Clones`].
    pub importer: Importer,
}

impl Clones {
    /// Runs the phase that an event asks for; the answer as the state machine expects it.
    ///
    /// # Errors
    /// A failure whose code the state machine acts on.
    pub async fn handle(&self, event: CloneEvent, deadline: Deadline) -> Result<serde_json::Value, Failure> {
        let task = match self.cloner.tasks.get(event.task_id()).await.map_err(Stop::from) {
            Ok(task) => task,
            Err(Stop::Failed(failure) | Stop::Store(failure)) => return Err(failure),
            Err(Stop::Ended) => return Err(internal("a read of a task in conflict")),
        };
        // What can't be read, and what is gone, is the cloner's to tell.
        if task.is_some_and(|task| self.is_elsewhere(&task)) {
            self.importer.handle(event.into(), deadline).await
        } else {
            self.cloner.handle(event, deadline).await
        }
    }

    fn is_elsewhere(&self, task: &Task) -> bool {
        let Asks::Clones(remote) = &self.importer.asks else { return false };
        CloneInput::parse(&task.input, &remote.regions, &remote.endpoints)
            .is_ok_and(|input| matches!(input.source, CloneSource::Glance(_)))
    }
}
