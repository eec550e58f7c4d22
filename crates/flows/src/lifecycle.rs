//! Ending tasks that did not end themselves, and finding those that nobody works at.
//!
//! Invariants:
//! - Each step may be repeated by any of the three callers: the state machine's Catch, EventBridge's event, the sweep.
//! - First the task ends, then what it made is removed: a worker that still lives can't publish any more. What it may make
//!   after that is removed once more by the sweep, when it can't live any longer; only then the task may expire.
//! - Whoever ends a task that is marked as cancelled says so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::ports::{ExecutionStatus, Executions, OpenTask, StoreError};
use image_tasks_domain::{Failure, FailureCode, Task, TaskId, TaskStatus, Timestamp, Unsettled};

use crate::deadline::Deadline;
use crate::error::{Flow, Stop, internal};
use crate::events::{Caught, ExecutionEnd, LifecycleEvent, Swept};
use crate::ports::Receivers;
use crate::stores::Stores;
use crate::undo::Undo;
use crate::verdict::verdict;

/// Tasks younger than this are left alone by the sweep: their POST may not have returned yet.
const YOUNG: Duration = Duration::from_secs(5 * 60);
/// A task that could not be started within this time is failed.
const STALE: Duration = Duration::from_secs(60 * 60);
/// Tasks of one page of a sweep.
const SWEEP_PAGE: usize = 500;
/// Tasks that a sweep looks at side by side.
const SWEEP_AT_ONCE: usize = 8;
/// Executions that are begun for an image's hashes before that is given up: a day each.
const HASHING_AT_MOST: u32 = 10;

/// Ends tasks.
pub struct Lifecycle {
    /// What tasks run on.
    pub stores: Stores,
    /// Receiving buckets of exports.
    pub receivers: Arc<dyn Receivers>,
    /// Which buckets may receive.
    pub exports: ExportPolicy,
    /// The orchestrator.
    pub executions: Arc<dyn Executions>,
    /// Where the last sweep stopped for want of time.
    pub swept_to: Mutex<Option<OpenTask>>,
}

/// What a look at one task led to.
enum Looked {
    Nothing,
    Started,
    Failed,
    Waits,
    Cleaned,
    Hashing,
}

impl Lifecycle {
    /// Does what an event asks for; the answer is for logs.
    ///
    /// # Errors
    /// A failure that the caller tries again.
    pub async fn handle(
        &self,
        event: LifecycleEvent,
        deadline: Deadline,
    ) -> Result<serde_json::Value, Failure> {
        match event {
            LifecycleEvent::Fail { task_id, error } => {
                self.end(task_id, &ExecutionEnd::Failed(error)).await?
            }
            // Of a task that has ended: the sweep sees whether its hashes are there.
            LifecycleEvent::Execution { name, .. } if name.run > 0 => {}
            LifecycleEvent::Execution { name, end } => self.end(name.task, &end).await?,
            LifecycleEvent::Sweep => {
                return serde_json::to_value(self.sweep(deadline).await?).map_err(internal);
            }
        }
        Ok(serde_json::json!({}))
    }

    /// Ends a task whose execution has ended or is about to; removes what it made.
    ///
    /// # Errors
    /// A failure that the caller tries again.
    pub async fn end(&self, id: TaskId, end: &ExecutionEnd) -> Result<(), Failure> {
        self.try_end(id, end).await.map_err(told)
    }

    async fn try_end(&self, id: TaskId, end: &ExecutionEnd) -> Flow<()> {
        // Twice: the task may end by itself in between.
        for _ in 0..2 {
            let Some(task) = self.stores.tasks.get(id).await? else { return self.undo().work(id).await };
            match (task.status, task.unsettled) {
                (TaskStatus::Success, Some(Unsettled::Hashing { .. })) => return Ok(()),
                (TaskStatus::Success, _) => return self.undo().succeeded(&task).await,
                (TaskStatus::Failure, _) => return self.undo().failed(&task).await,
                (TaskStatus::Pending | TaskStatus::Processing, _) => {}
            }
            let failure = match task.cancellation() {
                Some(failure) => failure,
                None => self.reason(&task, end).await?,
            };
            let (request_id, code, reason) = (&task.request_id, failure.code, &failure.message);
            tracing::info!(task_id = %id, request_id, %code, reason, "task failed");
            let (ttl, now) = (self.stores.settings.task_ttl, self.stores.clock.now());
            match self.stores.life.fail(id, &failure, ttl, now).await {
                // Read again: the task may have begun since, and made its image.
                Ok(()) | Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match self.stores.tasks.get(id).await? {
            Some(task) if task.status == TaskStatus::Failure => self.undo().failed(&task).await,
            Some(task) if !task.status.is_end() => {
                Err(Stop::internal("a task that is neither ended nor can be"))
            }
            _ => Ok(()),
        }
    }

    /// EventBridge may leave out what an execution ended with: then it is asked for.
    async fn reason(&self, task: &Task, end: &ExecutionEnd) -> Flow<Failure> {
        let (ExecutionEnd::Failed(caught) | ExecutionEnd::Aborted(caught)) = end else {
            return Ok(verdict(end, task));
        };
        if *caught != Caught::default() {
            return Ok(verdict(end, task));
        }
        Ok(match self.executions.status(task, 0).await? {
            ExecutionStatus::Failed { error, cause } => {
                verdict(&ExecutionEnd::Failed(Caught { error, cause }), task)
            }
            ExecutionStatus::Aborted { error, cause } => {
                verdict(&ExecutionEnd::Aborted(Caught { error, cause }), task)
            }
            _ => verdict(end, task),
        })
    }

    /// Starts tasks whose start got lost, ends those whose execution is over, and settles what ended tasks left.
    ///
    /// # Errors
    /// Where the tasks can't be listed at all.
    pub async fn sweep(&self, deadline: Deadline) -> Result<Swept, Failure> {
        let now = self.stores.clock.now();
        let mut swept = Swept::default();
        // From where the last one stopped, so that none is left out however many there are.
        let mut reached = self.position().take();
        tokio::select! {
            biased;
            () = deadline.reached() => {
                tracing::warn!(checked = swept.checked, "a sweep ran out of time; the next goes on from here");
                // Behind what is done, not before what isn't: a task that can't be looked at keeps none behind it waiting.
                *self.position() = reached;
            }
            all = self.look_at_all(now, &mut swept, &mut reached) => all.map_err(told)?,
        }
        let Swept { checked, started, failed, waiting, cleaned, hashing, errors } = swept;
        tracing::info!(checked, started, failed, waiting, cleaned, hashing, errors, "swept");
        Ok(swept)
    }

    /// Looks at all tasks behind the one that was reached.
    async fn look_at_all(
        &self,
        now: Timestamp,
        swept: &mut Swept,
        reached: &mut Option<OpenTask>,
    ) -> Flow<()> {
        let mut after = *reached;
        loop {
            let page = self.stores.tasks.unsettled(minus(now, YOUNG), after.as_ref(), SWEEP_PAGE).await?;
            let (last, is_full) = (page.last().copied(), page.len() == SWEEP_PAGE);
            let mut looks = futures::stream::iter(page)
                .map(|task| async move { (task, self.look(task.id, now).await) })
                .buffer_unordered(SWEEP_AT_ONCE);
            while let Some((task, looked)) = looks.next().await {
                swept.count(task.id, looked);
                *reached = reached.filter(|reached| place(reached) > place(&task)).or(Some(task));
            }
            if !is_full {
                return Ok(());
            }
            after = last;
        }
    }

    fn position(&self) -> std::sync::MutexGuard<'_, Option<OpenTask>> {
        self.swept_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, id: TaskId, now: Timestamp) -> Flow<Looked> {
        let Some(task) = self.stores.tasks.get(id).await? else { return Ok(Looked::Nothing) };
        match task.unsettled {
            Some(Unsettled::Cleaning { after }) if after <= now => {
                match task.status {
                    TaskStatus::Success => self.undo().succeeded(&task).await?,
                    _ => self.undo().failed(&task).await?,
                }
                self.stores.life.settle(id).await?;
                return Ok(Looked::Cleaned);
            }
            Some(Unsettled::Hashing { executions }) => return self.look_at_hashing(&task, executions).await,
            _ if task.status.is_end() => return Ok(Looked::Waits),
            _ => {}
        }
        let status = self.executions.status(&task, 0).await?;
        if let (Some(failure), ExecutionStatus::Running) = (task.cancellation(), &status) {
            // Marked, and not stopped: whoever asked for it died in between.
            self.executions.stop(&task, &failure).await?;
        }
        let end = match status {
            ExecutionStatus::Running if task.cancelled_by.is_none() => return Ok(Looked::Nothing),
            ExecutionStatus::NotFound
                if task.status == TaskStatus::Pending
                    && task.cancelled_by.is_none()
                    && task.created_at.plus(STALE) > now =>
            {
                self.executions.start(&task, 0).await?;
                return Ok(Looked::Started);
            }
            ExecutionStatus::Running => ExecutionEnd::Aborted(Caught::default()),
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

    /// An image that is active, and whose hashes are still to be made. An execution that was lost is followed by another.
    async fn look_at_hashing(&self, task: &Task, executions: u32) -> Flow<Looked> {
        let run = match self.executions.status(task, executions).await? {
            ExecutionStatus::Running => return Ok(Looked::Nothing),
            // Counted, and not started: whoever counted it died in between.
            ExecutionStatus::NotFound if executions > 0 => executions,
            _ if executions >= HASHING_AT_MOST => {
                tracing::error!(task_id = %task.id, executions, "an image stays without hashes");
                self.stores.end_hashing(task.id).await?;
                self.undo().succeeded(task).await?;
                return Ok(Looked::Cleaned);
            }
            _ => self.stores.life.count_hashing(task.id, executions).await?,
        };
        self.executions.start(task, run).await?;
        Ok(Looked::Hashing)
    }

    fn undo(&self) -> Undo<'_> {
        Undo { stores: &self.stores, exports: Some((&self.receivers, &self.exports)) }
    }
}

impl Swept {
    fn count(&mut self, id: TaskId, looked: Flow<Looked>) {
        self.checked += 1;
        match looked {
            Ok(Looked::Nothing) => {}
            Ok(Looked::Started) => self.started += 1,
            Ok(Looked::Failed) => self.failed += 1,
            Ok(Looked::Waits) => self.waiting += 1,
            Ok(Looked::Cleaned) => self.cleaned += 1,
            Ok(Looked::Hashing) => self.hashing += 1,
            // One task's trouble must not keep the others waiting; the next sweep comes soon.
            Err(stop) => {
                let failure = told(stop);
                tracing::warn!(task_id = %id, %failure, "a task could not be swept");
                self.errors += 1;
            }
        }
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

/// In the order of sweeps.
fn place(task: &OpenTask) -> (Timestamp, TaskId) {
    (task.created_at, task.id)
}

fn minus(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_epoch(now.epoch().saturating_sub(i64::try_from(by.as_secs()).unwrap_or(i64::MAX)))
}
