//! What a worker tells of its task's progress, and how it learns that the task has ended.
//!
//! Invariants:
//! - No task fails or waits for its progress: what can't be told is told with the next bytes, or never.
//! - Writes follow time, not parts: one in [`TELL_EVERY`], and one at the end of a call.
//! - A worker whose task has ended stops within [`LOOK_EVERY`], by a read of the task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use image_tasks_domain::TaskId;
use image_tasks_domain::ports::{ProgressStore, TOKEN_LIFE};
use image_tasks_domain::progress::{Report, Step};
use tokio::time::{Instant, timeout};

use crate::bounds::{LOOK_EVERY, TELL_EVERY, TELL_WITHIN};
use crate::error::{Flow, Stop};
use crate::stores::Stores;

/// Progress that this process has not told yet.
#[derive(Clone)]
pub struct Reporter {
    store: Arc<dyn ProgressStore>,
    untold: Arc<Mutex<BTreeMap<TaskId, Untold>>>,
}

struct Untold {
    report: Report,
    told: Instant,
    looked: Instant,
    /// Bytes that the whole task had moved when this call began to wait for its source.
    before: Option<u64>,
}

impl Untold {
    fn fresh() -> Self {
        let now = Instant::now();
        Self { report: Report::default(), told: now, looked: now, before: None }
    }
}

impl Reporter {
    /// Tells it there.
    pub fn new(store: Arc<dyn ProgressStore>) -> Self {
        Self { store, untold: Arc::default() }
    }

    fn untold(&self) -> MutexGuard<'_, BTreeMap<TaskId, Untold>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what is to be told. What is due now: to be told, and whether the task is to be looked at.
    fn add(&self, id: TaskId, more: &Report) -> (Option<Report>, bool) {
        let now = Instant::now();
        let mut tasks = self.untold();
        let untold = tasks.entry(id).or_insert_with(Untold::fresh);
        untold.report.add(more);
        let look = now - untold.looked >= LOOK_EVERY;
        if look {
            untold.looked = now;
        }
        if now - untold.told < TELL_EVERY {
            return (None, look);
        }
        untold.told = now;
        (Some(std::mem::take(&mut untold.report)), look)
    }

    /// Takes back what could not be told.
    fn keep(&self, id: TaskId, mut report: Report) {
        if let Some(untold) = self.untold().get_mut(&id) {
            // What came since is the later word.
            report.add(&untold.report);
            untold.report = report;
        }
    }
}

impl Stores {
    /// Tells totals, with the next bytes that are told or at the end of the call.
    pub(crate) async fn expect(&self, id: TaskId, totals: &Report) {
        self.note(id, totals).await;
    }

    /// Counts bytes that were done. [`Stop::Ended`] where the task was seen to have ended.
    pub(crate) async fn advance(&self, id: TaskId, step: Step, bytes: u64) -> Flow<()> {
        let look = self.note(id, &Report::default().with_done(step, bytes)).await;
        if !look {
            return Ok(());
        }
        match self.tasks.get(id).await {
            Ok(task) if task.as_ref().is_none_or(|task| task.status.is_end()) => Err(Stop::Ended),
            // A table that can't be read now is no reason to stop.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Tells that the task waits for its source, or not any longer.
    pub(crate) async fn tell_waits(&self, id: TaskId, waits: bool) {
        if waits {
            let moved = self.moved(id).await;
            self.progress.untold().entry(id).or_insert_with(Untold::fresh).before = moved;
        }
        self.tell(id, &Report::default().with_waits(waits)).await;
    }

    /// Whether a task that waited for its source in this call has moved bytes since, whoever moved them.
    pub(crate) async fn has_moved(&self, id: TaskId) -> bool {
        let before = self.progress.untold().get(&id).and_then(|untold| untold.before);
        let (Some(before), Some(now)) = (before, self.moved(id).await) else { return false };
        if let Some(untold) = self.progress.untold().get_mut(&id) {
            untold.before = Some(now);
        }
        now > before
    }

    /// Bytes that were told of a task.
    async fn moved(&self, id: TaskId) -> Option<u64> {
        match timeout(TELL_WITHIN, self.progress.store.told(id)).await {
            Ok(Ok(progress)) => Some(progress.staged.done.saturating_add(progress.copied.done)),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Notes what is to be told, and tells what is due; whether the task is to be looked at.
    async fn note(&self, id: TaskId, more: &Report) -> bool {
        let (due, look) = self.progress.add(id, more);
        if let Some(report) = due
            && !self.tell(id, &report).await
        {
            self.progress.keep(id, report);
        }
        look
    }

    /// Tells what is left to tell, at the end of a call.
    pub(crate) async fn tell_rest(&self, id: TaskId) {
        let rest = self.progress.untold().remove(&id);
        if let Some(Untold { report, .. }) = rest
            && !report.is_empty()
        {
            self.tell(id, &report).await;
        }
    }

    async fn tell(&self, id: TaskId, report: &Report) -> bool {
        // An execution may take as long as a token is kept; what is told of a task stays as long as the task, at least.
        let until = self.clock.now().plus(TOKEN_LIFE).plus(self.settings.task_ttl);
        match timeout(TELL_WITHIN, self.progress.store.tell(id, report, until)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(task_id = %id, error = &error as &dyn std::error::Error, "progress not told");
                false
            }
            Err(_) => {
                tracing::warn!(task_id = %id, "progress could not be told in time");
                false
            }
        }
    }
}
