//! Calls of any port that go wrong, are held, or are answered late.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::image::ImageHashes;
use image_tasks_domain::memory::{MemoryExecutions, MemoryStore};
use image_tasks_domain::ports::*;
use image_tasks_domain::{
    Failure, FailureCode, Image, ImageId, Progress, Publication, Report, Secret, StagedBytes, Task, TaskId,
    Timestamp,
};
use image_tasks_flows::ports::ObjectError;
use serde_json::Value;
use tokio::sync::Notify;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The call says that it may be tried again.
    Transient,
    /// The call says that it never will work.
    Fatal,
    /// Another write to the name comes between; any other call says that it may be tried again.
    Conflict,
    /// A bucket is in another region; any other call never will work.
    Elsewhere,
    /// The invocation that made the call dies.
    Crash,
}

/// Which call goes wrong, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub call: u64,
    /// The call takes effect, and only its answer is lost.
    pub after: bool,
    pub kind: Kind,
}

/// Counts calls, breaks one, and holds others up.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    calls: AtomicU64,
    fault: Mutex<Option<Fault>>,
    /// For calls that an invocation makes from a task of their own.
    crash: Notify,
    gates: Mutex<Vec<(Hold, Arc<Gate>)>>,
}

/// Where a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Before it takes effect.
    Before(u64),
    /// With its answer: the effect is there.
    After(u64),
}

/// A call that waits.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    reached: Notify,
    open: Notify,
}

impl Gate {
    /// Returns once the call is there.
    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        self.open.notify_one();
    }
}

tokio::task_local! {
    /// Ends the invocation that makes the call, and none beside it.
    static DIES: Arc<Notify>;
}

/// Ends the invocation that waits for this.
pub(crate) async fn die() {
    DIES.with(|dies| dies.notify_one());
    pending::<()>().await;
}

/// How a port says what a fault is.
pub(crate) trait Told {
    fn told(kind: Kind) -> Self;
}

impl Told for StoreError {
    fn told(kind: Kind) -> Self {
        match kind {
            Kind::Transient | Kind::Conflict => Self::Unavailable("made unreachable".into()),
            Kind::Fatal | Kind::Elsewhere | Kind::Crash => Self::Fault("made faulty".into()),
        }
    }
}

impl Told for ObjectError {
    fn told(kind: Kind) -> Self {
        match kind {
            Kind::Transient => Self::Transient("made unreachable".into()),
            Kind::Conflict => Self::Conflict("made to meet another write".into()),
            Kind::Elsewhere => Self::Elsewhere("made to be elsewhere".into()),
            Kind::Fatal | Kind::Crash => Self::Denied("made forbidden".into()),
        }
    }
}

impl Told for Failure {
    fn told(kind: Kind) -> Self {
        match kind {
            Kind::Transient | Kind::Conflict => Self::transient("made unreachable"),
            Kind::Fatal | Kind::Elsewhere | Kind::Crash => {
                Self::new(FailureCode::SourceDenied, "made forbidden")
            }
        }
    }
}

impl Faults {
    pub(crate) fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Makes that call wait before it takes effect.
    pub(crate) fn stop_at(&self, call: u64) -> Arc<Gate> {
        self.hold(Hold::Before(call))
    }

    /// Makes a call wait; beside others that wait already.
    pub(crate) fn hold(&self, at: Hold) -> Arc<Gate> {
        let gate = Arc::new(Gate::default());
        self.gates.lock().unwrap().push((at, Arc::clone(&gate)));
        gate
    }

    async fn pass(&self, at: Hold) {
        let gate = {
            let mut gates = self.gates.lock().unwrap();
            gates.iter().position(|(held, _)| *held == at).map(|n| gates.swap_remove(n).1)
        };
        if let Some(gate) = gate {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
    }

    /// Runs two at once. The first stands at that one of its calls, counted from 0, until the second has ended.
    /// `None` if the first makes no such call: the second has not been begun then. For the reverse, swap them.
    pub(crate) async fn side_by_side<A, B>(
        &self,
        at: Hold,
        first: impl Future<Output = A>,
        second: impl Future<Output = B>,
    ) -> Option<(A, B)> {
        let gate = self.hold(match at {
            Hold::Before(call) => Hold::Before(self.calls() + call),
            Hold::After(call) => Hold::After(self.calls() + call),
        });
        let mut first = std::pin::pin!(first);
        tokio::select! {
            biased;
            _ = &mut first => {
                self.gates.lock().unwrap().retain(|(_, held)| !Arc::ptr_eq(held, &gate));
                return None;
            }
            () = gate.reached() => {}
        }
        let passing = async {
            let second = second.await;
            gate.open();
            second
        };
        Some(tokio::join!(first, passing))
    }

    /// Counts from here on.
    pub(crate) fn reset(&self) {
        self.calls.store(0, Ordering::SeqCst);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Whether the fault that was set is still to come.
    pub(crate) fn is_pending(&self) -> bool {
        self.fault.lock().unwrap().is_some()
    }

    pub(crate) async fn around<T, E: Told>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        self.pass(Hold::Before(number)).await;
        let hit = self.fault.lock().unwrap().take_if(|fault| fault.call == number);
        let Some(fault) = hit else {
            let answer = call.await;
            self.pass(Hold::After(number)).await;
            return answer;
        };
        if fault.after {
            let _ = call.await;
        }
        if fault.kind == Kind::Crash {
            if DIES.try_with(|dies| dies.notify_one()).is_err() {
                self.crash.notify_one();
            }
            pending::<()>().await;
        }
        Err(E::told(fault.kind))
    }

    /// Runs an invocation; `None` where it died.
    pub(crate) async fn invoke<T>(&self, invocation: impl Future<Output = T>) -> Option<T> {
        let dies = Arc::new(Notify::new());
        tokio::select! {
            biased;
            () = self.crash.notified() => None,
            () = dies.notified() => None,
            done = DIES.scope(Arc::clone(&dies), invocation) => Some(done),
        }
    }
}

/// The stores in memory, with faults.
pub(crate) struct Stores {
    pub faults: Arc<Faults>,
    pub inner: MemoryStore,
    pub telling: Mutex<Telling>,
    /// Writes of progress.
    pub tells: AtomicU64,
    /// Write units of tasks' own items (DynamoDB developer guide, "Write capacity units": 1 KB, twice that in a transaction).
    pub units: AtomicU64,
}

/// How writes of progress go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    Works,
    Fails,
    Hangs,
}

impl Stores {
    pub(crate) fn new(faults: Arc<Faults>) -> Self {
        Self {
            faults,
            inner: MemoryStore::default(),
            telling: Mutex::new(Telling::Works),
            tells: AtomicU64::new(0),
            units: AtomicU64::new(0),
        }
    }

    /// A transaction that writes the task.
    async fn transacts<T>(&self, id: TaskId, write: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        if let Ok(Some(task)) = TaskStore::get(&self.inner, id).await {
            let bytes = task.input.to_string().len() as u64;
            self.units.fetch_add(2 * bytes.div_ceil(1024), Ordering::SeqCst);
        }
        self.faults.around(write).await
    }
}

#[async_trait]
impl TaskStore for Stores {
    async fn create(
        &self,
        task: &Task,
        key: Option<&IdempotencyKey>,
        token: Option<&Secret>,
    ) -> StoreResult<Created> {
        self.inner.create(task, key, token).await
    }
    async fn get(&self, id: TaskId) -> StoreResult<Option<Task>> {
        self.faults.around(TaskStore::get(&self.inner, id)).await
    }
    async fn list(&self, query: &TaskQuery) -> StoreResult<TaskPage> {
        TaskStore::list(&self.inner, query).await
    }
    async fn remembered(&self, key: &IdempotencyKey, now: Timestamp) -> StoreResult<Option<Created>> {
        self.inner.remembered(key, now).await
    }
    async fn unsettled(
        &self,
        created_before: Timestamp,
        after: Option<&OpenTask>,
        limit: usize,
    ) -> StoreResult<Vec<OpenTask>> {
        self.faults.around(self.inner.unsettled(created_before, after, limit)).await
    }
}

#[async_trait]
impl ProgressStore for Stores {
    /// Not among the calls that go wrong one by one: nothing depends on it, and when it is made is a matter of time.
    async fn tell(&self, id: TaskId, report: &Report, until: Timestamp) -> StoreResult<()> {
        self.tells.fetch_add(1, Ordering::SeqCst);
        let ailing = *self.telling.lock().unwrap();
        match ailing {
            Telling::Works => self.inner.tell(id, report, until).await,
            Telling::Fails => Err(StoreError::Fault("made faulty".into())),
            Telling::Hangs => pending().await,
        }
    }
    async fn told(&self, id: TaskId) -> StoreResult<Progress> {
        self.inner.told(id).await
    }
    async fn shown(&self, id: TaskId) -> StoreResult<Option<Task>> {
        self.inner.shown(id).await
    }
}

#[async_trait]
impl Credentials for Stores {
    async fn token(&self, id: TaskId, now: Timestamp) -> StoreResult<Option<Secret>> {
        self.faults.around(self.inner.token(id, now)).await
    }
}

#[async_trait]
impl TaskLife for Stores {
    async fn begin(&self, id: TaskId, image: &Image, now: Timestamp) -> StoreResult<()> {
        self.transacts(id, self.inner.begin(id, image, now)).await
    }
    async fn begin_filling(
        &self,
        id: TaskId,
        image: ImageId,
        staged: Option<StagedBytes>,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.transacts(id, self.inner.begin_filling(id, image, staged, now)).await
    }
    async fn begin_on(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<()> {
        self.transacts(id, self.inner.begin_on(id, image, now)).await
    }
    async fn succeed_alone(
        &self,
        id: TaskId,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.transacts(id, self.inner.succeed_alone(id, result, ttl, now)).await
    }
    async fn publish(
        &self,
        id: TaskId,
        publication: &Publication,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.transacts(id, self.inner.publish(id, publication, result, ttl, now)).await
    }
    async fn fail_unbegun(
        &self,
        id: TaskId,
        failure: &Failure,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.transacts(id, self.inner.fail_unbegun(id, failure, ttl, now)).await
    }
    async fn mark_cancelled(&self, id: TaskId, by: &str) -> StoreResult<()> {
        self.transacts(id, self.inner.mark_cancelled(id, by)).await
    }
    async fn count_hashing(&self, id: TaskId, begun: u32) -> StoreResult<u32> {
        self.transacts(id, self.inner.count_hashing(id, begun)).await
    }
    async fn settle(&self, id: TaskId) -> StoreResult<()> {
        self.transacts(id, self.inner.settle(id)).await
    }
    async fn fail(&self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()> {
        self.transacts(id, self.inner.fail(id, failure, ttl, now)).await
    }
}

#[async_trait]
impl ImageStore for Stores {
    async fn get(&self, id: ImageId) -> StoreResult<Option<Image>> {
        self.faults.around(ImageStore::get(&self.inner, id)).await
    }
    async fn list(&self, query: &ImageQuery) -> StoreResult<ImagePage> {
        ImageStore::list(&self.inner, query).await
    }
    async fn set_hashes(
        &self,
        id: ImageId,
        etag: &str,
        hashes: &ImageHashes,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.faults.around(self.inner.set_hashes(id, etag, hashes, now)).await
    }
}

/// Executions in memory, with faults.
pub(crate) struct Machines {
    pub faults: Arc<Faults>,
    pub inner: MemoryExecutions,
}

#[async_trait]
impl Executions for Machines {
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()> {
        self.faults.around(self.inner.start(task, run)).await
    }
    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        self.faults.around(self.inner.stop(task, why)).await
    }
    async fn status(&self, task: &Task, run: u32) -> StoreResult<ExecutionStatus> {
        self.faults.around(self.inner.status(task, run)).await
    }
}
