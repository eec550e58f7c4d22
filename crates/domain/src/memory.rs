//! The ports in memory: the reference that every adapter's conformance suite is
//! held against, and what tests of flows and of the wire run on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::failure::Failure;
use crate::image::{Image, ImageHashes, ImageId, ImageStatus, Visibility};
use crate::ports::{
    Clock, Created, Credentials, ExecutionStatus, Executions, IdempotencyKey, ImageLinks, ImagePage,
    ImageQuery, ImageStore, StoreError, StoreResult, TOKEN_LIFE, TaskLife, TaskPage, TaskQuery, TaskSort,
    TaskStore,
};
use crate::progress::{Progress, Step};
use crate::secret::Secret;
use crate::task::{BadTransition, Task, TaskId, TaskStatus};
use crate::time::Timestamp;

/// How long an idempotency key is remembered.
const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Tasks, images and idempotency keys.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    tasks: BTreeMap<TaskId, Task>,
    images: BTreeMap<ImageId, Image>,
    keys: BTreeMap<(String, String), Remembered>,
    tokens: BTreeMap<TaskId, (Secret, Timestamp)>,
}

#[derive(Debug)]
struct Remembered {
    task: TaskId,
    body_sha256: String,
    until: Timestamp,
}

impl MemoryStore {
    /// Writes a task over what there was, past every rule: a test's way to any state.
    pub fn put_task(&self, task: Task) {
        self.tables().tasks.insert(task.id, task);
    }

    /// Takes an image away, as its deletion would.
    pub fn remove_image(&self, id: ImageId) {
        self.tables().images.remove(&id);
    }

    /// Writes an image over what there was.
    pub fn put_image(&self, image: Image) {
        self.tables().images.insert(image.id, image);
    }

    /// Keeps a token for a task that is there.
    pub fn put_token(&self, id: TaskId, token: Secret, until: Timestamp) {
        self.tables().tokens.insert(id, (token, until));
    }

    /// A test that panicked while it held the lock has failed already; others read on.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn task(&mut self, id: TaskId) -> StoreResult<&mut Task> {
        self.tasks.get_mut(&id).ok_or(StoreError::Conflict)
    }

    fn processing(&mut self, id: TaskId) -> StoreResult<&mut Task> {
        self.task(id).and_then(|task| match task.status {
            TaskStatus::Processing => Ok(task),
            TaskStatus::Pending | TaskStatus::Success | TaskStatus::Failure => Err(StoreError::Conflict),
        })
    }
}

impl From<BadTransition> for StoreError {
    fn from(_: BadTransition) -> Self {
        Self::Conflict
    }
}

#[async_trait]
impl TaskStore for MemoryStore {
    async fn create(
        &self,
        task: &Task,
        key: Option<&IdempotencyKey>,
        token: Option<&Secret>,
    ) -> StoreResult<Created> {
        let mut tables = self.tables();
        if let Some(key) = key {
            let place = (key.owner.clone(), key.key.clone());
            if let Some(first) = tables.keys.get(&place).filter(|first| task.created_at < first.until) {
                let same = first.body_sha256 == key.body_sha256;
                return Ok(if same { Created::Before(first.task) } else { Created::OtherBody });
            }
            if tables.tasks.contains_key(&task.id) {
                return Err(StoreError::Conflict);
            }
            let until = task.created_at.plus(KEY_LIFE);
            let remembered = Remembered { task: task.id, body_sha256: key.body_sha256.clone(), until };
            tables.keys.insert(place, remembered);
        } else if tables.tasks.contains_key(&task.id) {
            return Err(StoreError::Conflict);
        }
        tables.tasks.insert(task.id, task.clone());
        if let Some(token) = token {
            tables.tokens.insert(task.id, (token.clone(), task.created_at.plus(TOKEN_LIFE)));
        }
        Ok(Created::New)
    }

    async fn get(&self, id: TaskId) -> StoreResult<Option<Task>> {
        Ok(self.tables().tasks.get(&id).cloned())
    }

    async fn list(&self, query: &TaskQuery) -> StoreResult<TaskPage> {
        let tables = self.tables();
        let order = |a: &Task, b: &Task| {
            let ascending = query.sort.compare(a, b);
            if query.descending { ascending.reverse() } else { ascending }
        };
        let mut tasks: Vec<Task> = tables
            .tasks
            .values()
            .filter(|t| query.owner.as_ref().is_none_or(|owner| *owner == t.owner))
            .filter(|t| query.task_type.is_none_or(|task_type| task_type == t.task_type))
            .filter(|t| query.status.is_none_or(|status| status == t.status))
            .filter(|t| query.id.is_none_or(|id| id == t.id))
            .filter(|t| !t.is_expired(query.now))
            .filter(|t| query.after.as_ref().is_none_or(|after| order(t, after).is_gt()))
            .cloned()
            .collect();
        tasks.sort_by(order);
        let more = tasks.len() > query.limit;
        tasks.truncate(query.limit);
        for task in &mut tasks {
            (task.input, task.result, task.progress) = (Value::Null, None, Progress::default());
            task.message.clear();
        }
        Ok(TaskPage { items_read: tasks.len(), tasks, more })
    }

    async fn unfinished(&self, created_before: Timestamp, limit: usize) -> StoreResult<Vec<TaskId>> {
        let tables = self.tables();
        let mut open: Vec<&Task> =
            tables.tasks.values().filter(|t| !t.status.is_end() && t.created_at < created_before).collect();
        open.sort_by(|a, b| TaskSort::CreatedAt.compare(a, b));
        Ok(open.into_iter().take(limit).map(|t| t.id).collect())
    }

    async fn set_work(&self, id: TaskId, work: &Progress) -> StoreResult<()> {
        let mut tables = self.tables();
        let progress = &mut tables.processing(id)?.progress;
        progress.stages = work.stages;
        progress.staged.total = work.staged.total;
        progress.copied.total = work.copied.total;
        progress.hashed.total = work.hashed.total;
        Ok(())
    }

    async fn advance(&self, id: TaskId, step: Step, bytes: u64) -> StoreResult<()> {
        let mut tables = self.tables();
        let progress = &mut tables.processing(id)?.progress;
        let meter = match step {
            Step::Staged => &mut progress.staged,
            Step::Copied => &mut progress.copied,
            Step::Hashed => &mut progress.hashed,
        };
        meter.done = meter.done.saturating_add(bytes);
        Ok(())
    }
}

#[async_trait]
impl TaskLife for MemoryStore {
    async fn begin(&self, id: TaskId, image: &Image, now: Timestamp) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.images.contains_key(&image.id) {
            return Err(StoreError::Conflict);
        }
        tables.task(id)?.begin(Some(image.id), now)?;
        tables.images.insert(image.id, image.clone());
        Ok(())
    }

    async fn begin_on(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<()> {
        Ok(self.tables().task(id)?.begin(Some(image), now)?)
    }

    async fn succeed(
        &self,
        id: TaskId,
        image: &Image,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.images.get(&image.id).is_none_or(|stored| stored.status != ImageStatus::Importing) {
            return Err(StoreError::Conflict);
        }
        tables.task(id)?.succeed(result.clone(), ttl, now)?;
        tables.tokens.remove(&id);
        tables.images.insert(image.id, image.clone());
        Ok(())
    }

    async fn succeed_alone(
        &self,
        id: TaskId,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tables = self.tables();
        tables.task(id)?.succeed(result.clone(), ttl, now)?;
        tables.tokens.remove(&id);
        Ok(())
    }

    async fn fail(&self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()> {
        let mut tables = self.tables();
        let task = tables.task(id)?;
        task.fail(failure, ttl, now)?;
        let made = task.made_image();
        tables.tokens.remove(&id);
        if let Some(image) = made
            && tables.images.get(&image).is_some_and(|stored| stored.status == ImageStatus::Importing)
        {
            tables.images.remove(&image);
        }
        Ok(())
    }
}

#[async_trait]
impl Credentials for MemoryStore {
    async fn token(&self, id: TaskId, now: Timestamp) -> StoreResult<Option<Secret>> {
        let tables = self.tables();
        let kept = tables.tokens.get(&id).filter(|(_, until)| now < *until);
        Ok(kept.map(|(token, _)| token.clone()))
    }
}

#[async_trait]
impl ImageStore for MemoryStore {
    async fn get(&self, id: ImageId) -> StoreResult<Option<Image>> {
        Ok(self.tables().images.get(&id).cloned())
    }

    async fn list(&self, query: &ImageQuery) -> StoreResult<ImagePage> {
        let newest_first = |a: &Image, b: &Image| (b.created_at, b.id).cmp(&(a.created_at, a.id));
        let mut images: Vec<Image> = self
            .tables()
            .images
            .values()
            .filter(|i| match &query.visible_to {
                None => true,
                Some(project) => i.owner == *project || i.visibility == Visibility::Public,
            })
            .filter(|i| query.after.as_ref().is_none_or(|after| newest_first(i, after).is_gt()))
            .cloned()
            .collect();
        images.sort_by(newest_first);
        let more = images.len() > query.limit;
        images.truncate(query.limit);
        Ok(ImagePage { images, more })
    }

    async fn set_hashes(
        &self,
        id: ImageId,
        etag: &str,
        hashes: &ImageHashes,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tables = self.tables();
        let is_it = |image: &&mut Image| {
            let stored = image.stored.as_ref().is_some_and(|stored| stored.etag == etag);
            image.status == ImageStatus::Active && stored
        };
        let image = tables.images.get_mut(&id).filter(is_it).ok_or(StoreError::Conflict)?;
        image.set_hashes(hashes.clone());
        image.updated_at = now;
        Ok(())
    }
}

/// A clock that stands until it is set.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock at that instant.
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.plus(by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Executions that are started and do nothing; starts can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryExecutions {
    state: Mutex<Started>,
}

#[derive(Debug, Default)]
struct Started {
    statuses: BTreeMap<TaskId, ExecutionStatus>,
    unreachable: bool,
}

impl MemoryExecutions {
    /// From now on, whether starts fail.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.state().unreachable = unreachable;
    }

    /// What the task's execution answers from now on.
    pub fn set_status(&self, id: TaskId, status: ExecutionStatus) {
        self.state().statuses.insert(id, status);
    }

    /// Tasks that have an execution.
    pub fn started(&self) -> Vec<TaskId> {
        self.state().statuses.keys().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, Started> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Executions for MemoryExecutions {
    async fn start(&self, task: &Task) -> StoreResult<()> {
        let mut state = self.state();
        if state.unreachable {
            return Err(StoreError::Unavailable("made unreachable".into()));
        }
        state.statuses.entry(task.id).or_insert(ExecutionStatus::Running);
        Ok(())
    }

    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        let mut state = self.state();
        if state.unreachable {
            return Err(StoreError::Unavailable("made unreachable".into()));
        }
        let Some(status) = state.statuses.get_mut(&task.id) else { return Ok(false) };
        if *status == ExecutionStatus::Running {
            let (error, cause) = (why.code.name().to_owned(), why.message.clone());
            *status = ExecutionStatus::Aborted { error, cause };
        }
        Ok(true)
    }

    async fn status(&self, task: &Task) -> StoreResult<ExecutionStatus> {
        Ok(self.state().statuses.get(&task.id).cloned().unwrap_or(ExecutionStatus::NotFound))
    }
}

/// Links that name the object.
#[derive(Debug, Default)]
pub struct MemoryLinks;

#[async_trait]
impl ImageLinks for MemoryLinks {
    async fn download_url(&self, image: &Image, valid_for: Duration) -> StoreResult<String> {
        let stored = image.stored.as_ref().ok_or(StoreError::Conflict)?;
        Ok(format!("https://{}.example/{}?expires={}", stored.bucket, stored.key, valid_for.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn the_reference_keeps_what_it_demands() {
        let store = MemoryStore::default();
        conformance::task_store(&store, &store).await;
        let store = MemoryStore::default();
        conformance::task_life(&store, &store, &store).await;
        let store = MemoryStore::default();
        conformance::image_store(&store, &store, &store).await;
        let store = MemoryStore::default();
        conformance::credentials(&store, &store, &store).await;
    }
}
