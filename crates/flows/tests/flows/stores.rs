//! The stores and the orchestrator in memory, with faults, and broken where a simulation wants them so.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::image::ImageHashes;
use image_tasks_domain::memory::{MemoryExecutions, MemoryStore};
use image_tasks_domain::ports::*;
use image_tasks_domain::{
    Failure, Image, ImageId, Progress, Publication, Report, Secret, StagedBytes, Task, TaskId, TaskStatus,
    Timestamp,
};
use serde_json::Value;

use crate::faults::Faults;
use crate::simulation::{Mutation, Order};

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
        let write = async {
            let written = write.await;
            if let Some(chaos) = self.faults.chaos.get()
                && let Ok(Some(task)) = TaskStore::get(&self.inner, id).await
            {
                chaos.sees(task);
            }
            written
        };
        self.faults.around(write).await
    }

    /// Before a write that is to be broken: the task, as the write should not find it.
    async fn bend(&self, id: TaskId, broken: Mutation, bend: impl FnOnce(&mut Task)) {
        if self.faults.broken(broken)
            && let Ok(Some(mut task)) = TaskStore::get(&self.inner, id).await
        {
            bend(&mut task);
            self.inner.put_task(task);
        }
    }

    /// A failure, and what is broken behind it.
    async fn fails(&self, id: TaskId, write: impl Future<Output = StoreResult<()>>) -> StoreResult<()> {
        if let Some(chaos) = self.faults.chaos.get() {
            chaos.fails().await;
        }
        self.transacts(id, async {
            let reopen = |task: &mut Task| task.status = TaskStatus::Processing;
            self.bend(id, Mutation::FailsEnded, reopen).await;
            let task = TaskStore::get(&self.inner, id).await?;
            let image = task.as_ref().and_then(|task| task.image_id);
            let record = match image {
                Some(image) => ImageStore::get(&self.inner, image).await?,
                None => None,
            };
            let token = self.token_to_keep(id, task.as_ref()).await;
            write.await?;
            if let Some(record) = record.filter(|_| self.faults.broken(Mutation::KeepsRecords)) {
                self.inner.put_image(record);
            }
            if let Some((token, until)) = token {
                self.inner.put_token(id, token, until);
            }
            self.bend(id, Mutation::SettlesAtOnce, |task| task.unsettled = None).await;
            Ok(())
        })
        .await
    }

    async fn token_to_keep(&self, id: TaskId, task: Option<&Task>) -> Option<(Secret, Timestamp)> {
        let made = task.filter(|_| self.faults.broken(Mutation::KeepsTokens))?.created_at;
        let token = self.inner.token(id, made).await.ok()??;
        Some((token, made.plus(TOKEN_LIFE)))
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
        let mut found = self.faults.around(self.inner.unsettled(created_before, after, limit)).await?;
        if self.faults.broken(Mutation::OverlooksPending) {
            let mut begun = Vec::new();
            for open in found {
                let task = TaskStore::get(&self.inner, open.id).await?;
                begun.extend(task.filter(|task| task.status != TaskStatus::Pending).map(|_| open));
            }
            found = begun;
        }
        Ok(found)
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
        let again = |task: &mut Task| {
            if !task.status.is_end() {
                (task.status, task.cancelled_by) = (TaskStatus::Pending, None);
            }
        };
        self.bend(id, Mutation::BeginsAgain, again).await;
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
        self.bend(id, Mutation::PublishesCancelled, |task| task.cancelled_by = None).await;
        self.transacts(id, async {
            self.inner.succeed_alone(id, result, ttl, now).await?;
            self.bend(id, Mutation::SettlesSuccessAtOnce, |task| task.unsettled = None).await;
            Ok(())
        })
        .await
    }
    async fn publish(
        &self,
        id: TaskId,
        publication: &Publication,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut publication = publication.clone();
        if self.faults.broken(Mutation::PublishesUnjudged) {
            publication.stored.etag = "\"unjudged\"".into();
        }
        let task = TaskStore::get(&self.inner, id).await?;
        let token = self.token_to_keep(id, task.as_ref()).await;
        self.transacts(id, async {
            self.bend(id, Mutation::PublishesCancelled, |task| task.cancelled_by = None).await;
            self.inner.publish(id, &publication, result, ttl, now).await?;
            if !publication.hashes_follow {
                self.bend(id, Mutation::SettlesSuccessAtOnce, |task| task.unsettled = None).await;
            }
            if let Some((token, until)) = token {
                self.inner.put_token(id, token, until);
            }
            if let Some(chaos) = self.faults.chaos.get() {
                chaos.publishes(&publication.stored);
            }
            Ok(())
        })
        .await
    }
    async fn fail_unbegun(
        &self,
        id: TaskId,
        failure: &Failure,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.fails(id, self.inner.fail_unbegun(id, failure, ttl, now)).await
    }
    async fn mark_cancelled(&self, id: TaskId, by: &str) -> StoreResult<()> {
        if self.faults.broken(Mutation::ForgetsMarks) {
            return Ok(());
        }
        self.transacts(id, self.inner.mark_cancelled(id, by)).await
    }
    async fn count_hashing(&self, id: TaskId, begun: u32) -> StoreResult<u32> {
        self.transacts(id, self.inner.count_hashing(id, begun)).await
    }
    async fn end_hashing(&self, id: TaskId, now: Timestamp) -> StoreResult<()> {
        self.transacts(id, self.inner.end_hashing(id, now)).await
    }
    async fn settle(&self, id: TaskId) -> StoreResult<()> {
        self.transacts(id, self.inner.settle(id)).await
    }
    async fn fail(&self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()> {
        self.fails(id, self.inner.fail(id, failure, ttl, now)).await
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

impl Machines {
    /// A call that changes what is to run.
    async fn watched<T>(&self, call: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        let call = async {
            let answer = call.await;
            if let Some(chaos) = self.faults.chaos.get() {
                chaos.order(Order::Look);
            }
            answer
        };
        self.faults.around(call).await
    }
}

#[async_trait]
impl Executions for Machines {
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()> {
        self.watched(self.inner.start(task, run)).await
    }
    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        self.watched(self.inner.stop(task, why)).await
    }
    async fn status(&self, task: &Task, run: u32) -> StoreResult<ExecutionStatus> {
        self.faults.around(self.inner.status(task, run)).await
    }
}
