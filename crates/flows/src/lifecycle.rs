//! Ending tasks that did not end themselves, and finding those that nobody works at.
//!
//! Invariants:
//! - Each step may be repeated by any of the three callers: the state machine's Catch, EventBridge's event, the sweep.
//! - The order is: stop what is under way, end the task, remove what is stored. A worker that still lives could otherwise
//!   make the image active between the removal of its bytes and the task's end. If the last step is lost, the next caller
//!   does it: a failed execution always brings EventBridge's event after the Catch.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::ports::{
    Clock, ExecutionStatus, Executions, ImageStore, StoreError, TaskLife, TaskStore,
};
use image_tasks_domain::{Failure, FailureCode, Task, TaskId, TaskStatus, TaskType, Timestamp};

use crate::cleanup::Cleaner;
use crate::error::{Step, Stop, internal};
use crate::events::{Caught, ExecutionEnd, LifecycleEvent, Swept};
use crate::export::ExportCleaner;
use crate::ports::{Objects, Receivers};
use crate::settings::Settings;
use crate::verdict::verdict;

/// Tasks younger than this are left alone by the sweep: their POST may not have returned yet.
const YOUNG: Duration = Duration::from_secs(5 * 60);
/// A task that could not be started within this time is failed.
const STALE: Duration = Duration::from_secs(60 * 60);
/// Tasks that one sweep looks at, oldest first.
const SWEEP: usize = 1000;
/// Tasks that a sweep looks at side by side.
const SWEEP_AT_ONCE: usize = 8;

/// Ends tasks.
pub struct Lifecycle {
    /// Tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// Images.
    pub images: Arc<dyn ImageStore>,
    /// Both together.
    pub life: Arc<dyn TaskLife>,
    /// Image bytes and work objects.
    pub objects: Arc<dyn Objects>,
    /// Receiving buckets of exports.
    pub receivers: Arc<dyn Receivers>,
    /// Which buckets may receive.
    pub exports: ExportPolicy,
    /// The orchestrator.
    pub executions: Arc<dyn Executions>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where things are kept.
    pub settings: Settings,
}

/// What a look at one task led to.
enum Looked {
    Nothing,
    Started,
    Failed,
}

impl Lifecycle {
    /// Does what an event asks for; the answer is for logs.
    ///
    /// # Errors
    /// A failure that the caller tries again.
    pub async fn handle(&self, event: LifecycleEvent) -> Result<serde_json::Value, Failure> {
        match event {
            LifecycleEvent::Fail { task_id, error } => {
                self.end(task_id, &ExecutionEnd::Failed(error)).await?;
                Ok(serde_json::json!({}))
            }
            LifecycleEvent::Execution { task_id, end } => {
                self.end(task_id, &end).await?;
                Ok(serde_json::json!({}))
            }
            LifecycleEvent::Sweep => serde_json::to_value(self.sweep().await?).map_err(internal),
        }
    }

    /// Ends a task whose execution has ended or is about to; removes what it made.
    ///
    /// # Errors
    /// A failure that the caller tries again.
    pub async fn end(&self, id: TaskId, end: &ExecutionEnd) -> Result<(), Failure> {
        self.try_end(id, end).await.map_err(told)
    }

    async fn try_end(&self, id: TaskId, end: &ExecutionEnd) -> Step<()> {
        // Twice: the task may end by itself in between.
        for _ in 0..2 {
            let Some(task) = self.tasks.get(id).await? else { return self.cleaner().work(id).await };
            match task.status {
                TaskStatus::Success => return self.release(&task).await,
                TaskStatus::Failure => return self.remove(&task).await,
                TaskStatus::Pending | TaskStatus::Processing => {}
            }
            self.halt(&task).await?;
            let failure = self.reason(&task, end).await?;
            tracing::info!(task_id = %id, code = %failure.code, reason = failure.message, "task failed");
            match self.life.fail(id, &failure, self.settings.task_ttl, self.clock.now()).await {
                Ok(()) => return self.remove(&task).await,
                Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Stop::internal("a task that is neither ended nor can be"))
    }

    /// EventBridge may leave out what an execution ended with: then it is asked for.
    async fn reason(&self, task: &Task, end: &ExecutionEnd) -> Step<Failure> {
        let (ExecutionEnd::Failed(caught) | ExecutionEnd::Aborted(caught)) = end else {
            return Ok(verdict(end, task));
        };
        if *caught != Caught::default() {
            return Ok(verdict(end, task));
        }
        Ok(match self.executions.status(task).await? {
            ExecutionStatus::Failed { error, cause } => {
                verdict(&ExecutionEnd::Failed(Caught { error, cause }), task)
            }
            ExecutionStatus::Aborted { error, cause } => {
                verdict(&ExecutionEnd::Aborted(Caught { error, cause }), task)
            }
            _ => verdict(end, task),
        })
    }

    /// Starts tasks whose start got lost, and ends those whose execution is over.
    ///
    /// # Errors
    /// Where unfinished tasks can't be listed at all.
    pub async fn sweep(&self) -> Result<Swept, Failure> {
        let now = self.clock.now();
        let before = minus(now, YOUNG);
        let ids = self.tasks.unfinished(before, SWEEP).await.map_err(|e| told(e.into()))?;
        let mut looks = futures::stream::iter(ids)
            .map(|id| async move { (id, self.look(id, now).await) })
            .buffer_unordered(SWEEP_AT_ONCE);
        let mut swept = Swept::default();
        while let Some((id, looked)) = looks.next().await {
            swept.checked += 1;
            match looked {
                Ok(Looked::Nothing) => {}
                Ok(Looked::Started) => swept.started += 1,
                Ok(Looked::Failed) => swept.failed += 1,
                // One task's trouble must not keep the others waiting; the next sweep comes soon.
                Err(stop) => {
                    let failure = told(stop);
                    tracing::warn!(task_id = %id, %failure, "a task could not be swept");
                    swept.errors += 1;
                }
            }
        }
        let Swept { checked, started, failed, errors } = swept;
        tracing::info!(checked, started, failed, errors, "swept");
        Ok(swept)
    }

    async fn look(&self, id: TaskId, now: Timestamp) -> Step<Looked> {
        let Some(task) = self.tasks.get(id).await? else { return Ok(Looked::Nothing) };
        if task.status.is_end() {
            return Ok(Looked::Nothing);
        }
        let end = match self.executions.status(&task).await? {
            ExecutionStatus::Running => return Ok(Looked::Nothing),
            ExecutionStatus::NotFound
                if task.status == TaskStatus::Pending && task.created_at.plus(STALE) > now =>
            {
                self.executions.start(&task).await?;
                return Ok(Looked::Started);
            }
            ExecutionStatus::NotFound => caught(FailureCode::StartFailed, "the task could not be started"),
            // The status may be newer than the task that was read: `end` reads it again.
            ExecutionStatus::Succeeded => {
                caught(FailureCode::Internal, "the task's execution ended without ending the task")
            }
            ExecutionStatus::Failed { error, cause } => ExecutionEnd::Failed(Caught { error, cause }),
            ExecutionStatus::TimedOut => ExecutionEnd::TimedOut,
            ExecutionStatus::Aborted { error, cause } => ExecutionEnd::Aborted(Caught { error, cause }),
        };
        self.try_end(id, &end).await.map(|()| Looked::Failed)
    }

    /// What a task in work has under way.
    async fn halt(&self, task: &Task) -> Step<()> {
        match task.task_type {
            TaskType::Import | TaskType::Clone => self.cleaner().halt(task.id, task.image_id).await,
            TaskType::Export => self.export_cleaner().halt(task).await,
        }
    }

    /// All that a failed task made.
    async fn remove(&self, task: &Task) -> Step<()> {
        match task.task_type {
            TaskType::Import | TaskType::Clone => self.cleaner().remove(task.id, task.image_id).await,
            TaskType::Export => self.export_cleaner().remove(task).await,
        }
    }

    /// What a task that went well may have left beside its product.
    async fn release(&self, task: &Task) -> Step<()> {
        match task.task_type {
            TaskType::Import | TaskType::Clone => self.cleaner().work(task.id).await,
            TaskType::Export => self.export_cleaner().release(task).await,
        }
    }

    fn export_cleaner(&self) -> ExportCleaner<'_> {
        ExportCleaner {
            objects: &*self.objects,
            receivers: &*self.receivers,
            rules: &self.exports,
            settings: &self.settings,
        }
    }

    fn cleaner(&self) -> Cleaner<'_> {
        Cleaner { objects: &*self.objects, images: &*self.images, settings: &self.settings }
    }
}

fn caught(code: FailureCode, cause: &str) -> ExecutionEnd {
    ExecutionEnd::Failed(Caught { error: code.name().to_owned(), cause: cause.to_owned() })
}

fn told(stop: Stop) -> Failure {
    match stop {
        Stop::Failed(failure) | Stop::Store(failure) => failure,
        Stop::Ended => internal("a task's end was asked for what is gone"),
    }
}

fn minus(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_epoch(now.epoch().saturating_sub(i64::try_from(by.as_secs()).unwrap_or(i64::MAX)))
}
