//! The orchestrator in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::failure::Failure;
use crate::ports::{ExecutionStatus, Executions, StoreError, StoreResult};
use crate::task::{Task, TaskId};

/// Executions that are started and do nothing; calls can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryExecutions {
    state: Mutex<Started>,
}

#[derive(Debug, Default)]
struct Started {
    statuses: BTreeMap<(TaskId, u32), ExecutionStatus>,
    unreachable: bool,
    refusing: bool,
    answers_lost: bool,
}

impl MemoryExecutions {
    /// From now on, whether calls fail.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// From now on, whether starts fail and have no effect.
    pub fn set_refusing(&self, refusing: bool) {
        self.state().refusing = refusing;
    }

    /// From now on, whether starts take effect and say that they failed.
    pub fn set_answers_lost(&self, lost: bool) {
        self.state().answers_lost = lost;
    }

    /// What the task's own execution answers from now on.
    pub fn set_status(&self, id: TaskId, status: ExecutionStatus) {
        self.state().statuses.insert((id, 0), status);
    }

    /// Tasks that have an execution of their own.
    pub fn started(&self) -> Vec<TaskId> {
        self.state().statuses.keys().filter(|(_, run)| *run == 0).map(|(id, _)| *id).collect()
    }

    /// What one of the runs that make a task's hashes answers from now on.
    pub fn set_run_status(&self, id: TaskId, run: u32, status: ExecutionStatus) {
        self.state().statuses.insert((id, run), status);
    }

    /// The newest run of a task.
    pub fn last_run(&self, id: TaskId) -> Option<u32> {
        self.state().statuses.keys().filter(|(of, _)| *of == id).map(|(_, run)| *run).max()
    }

    fn reached(&self) -> StoreResult<MutexGuard<'_, Started>> {
        let state = self.state();
        if state.unreachable { Err(StoreError::Unavailable("made unreachable".into())) } else { Ok(state) }
    }

    fn state(&self) -> MutexGuard<'_, Started> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Executions for MemoryExecutions {
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()> {
        let mut state = self.reached()?;
        if state.refusing {
            return Err(StoreError::Unavailable("made to refuse".into()));
        }
        state.statuses.entry((task.id, run)).or_insert(ExecutionStatus::Running);
        if state.answers_lost { Err(StoreError::Unavailable("the answer was lost".into())) } else { Ok(()) }
    }

    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        let mut state = self.reached()?;
        let Some(status) = state.statuses.get_mut(&(task.id, 0)) else { return Ok(false) };
        if *status == ExecutionStatus::Running {
            let (error, cause) = (why.code.name().to_owned(), why.message.clone());
            *status = ExecutionStatus::Aborted { error, cause };
        }
        Ok(true)
    }

    async fn status(&self, task: &Task, run: u32) -> StoreResult<ExecutionStatus> {
        let state = self.reached()?;
        Ok(state.statuses.get(&(task.id, run)).cloned().unwrap_or(ExecutionStatus::NotFound))
    }
}
