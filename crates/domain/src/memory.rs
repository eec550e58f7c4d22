//! The ports in memory: the reference that every adapter's conformance suite is
//! held against, and what tests of flows and of the wire run on.

mod clock;
mod executions;
mod identity;
mod images;
mod multipart;

pub use clock::ManualClock;
pub use executions::MemoryExecutions;
pub use identity::{Fault, MemoryIdentity};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::failure::Failure;
use crate::image::{Image, ImageHashes, ImageId, ImageStatus, Publication, StagedBytes};
use crate::policy;
use crate::ports::{
    Created, Credentials, IdempotencyKey, ImageLinks, ImagePage, ImageQuery, ImageStore, OpenTask,
    ProgressStore, StoreError, StoreResult, TOKEN_LIFE, TaskLife, TaskPage, TaskQuery, TaskStore,
};
use crate::progress::{Progress, Report};
use crate::secret::Secret;
use crate::task::{Task, TaskId, TaskStatus, Unsettled};
use crate::time::Timestamp;

/// How long an idempotency key is remembered.
const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Most bytes of a task's input as it is stored.
const MOST_INPUT: usize = 380_000;

/// Tasks, images and idempotency keys.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    tasks: BTreeMap<TaskId, Task>,
    images: BTreeMap<ImageId, Image>,
    /// Ids of images that were.
    removed: BTreeSet<ImageId>,
    /// Objects that were removed with them.
    removed_bytes: Vec<String>,
    unremovable: bool,
    staged: BTreeMap<String, Vec<u8>>,
    /// Uploads in parts that are under way, by the store's ids of them.
    uploads: BTreeMap<String, multipart::Parts>,
    keys: BTreeMap<(String, String), Remembered>,
    tokens: BTreeMap<TaskId, (Secret, Timestamp)>,
    progress: BTreeMap<TaskId, Progress>,
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

    /// Takes a task away with all that is kept for it, as its expiry would.
    pub fn remove_task(&self, id: TaskId) {
        let mut tables = self.tables();
        tables.tasks.remove(&id);
        tables.tokens.remove(&id);
        tables.progress.remove(&id);
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
    fn is_taken(&self, id: ImageId) -> bool {
        self.images.contains_key(&id) || self.removed.contains(&id)
    }

    fn task(&mut self, id: TaskId) -> StoreResult<&mut Task> {
        self.tasks.get_mut(&id).ok_or(StoreError::Conflict)
    }

    /// Ends a task otherwise than well, and takes away the record of the image that it was making.
    fn fail(&mut self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()> {
        let task = self.task(id)?;
        task.fail(failure, ttl, now)?;
        let (made, fills) = (task.made_image(), task.task_type.fills_image());
        self.tokens.remove(&id);
        let record = made.and_then(|image| self.images.get_mut(&image));
        if let Some(record) = record.filter(|record| record.status == ImageStatus::Importing) {
            if fills {
                record.give_up_filling(now);
            } else {
                let image = record.id;
                self.images.remove(&image);
            }
        }
        Ok(())
    }

    fn remembered(&self, key: &IdempotencyKey, now: Timestamp) -> Option<Created> {
        let place = (key.owner.clone(), key.key.clone());
        let first = self.keys.get(&place).filter(|first| now < first.until)?;
        let same = first.body_sha256 == key.body_sha256;
        Some(if same { Created::Before(first.task) } else { Created::OtherBody })
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
        let bytes = task.input.to_string().len();
        if bytes > MOST_INPUT {
            return Ok(Created::TooLarge { bytes, most: MOST_INPUT });
        }
        if let Some(key) = key {
            let place = (key.owner.clone(), key.key.clone());
            if let Some(before) = tables.remembered(key, task.created_at) {
                return Ok(before);
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
            (task.cancelled_by, task.unsettled) = (None, None);
            task.message.clear();
        }
        Ok(TaskPage { items_read: tasks.len(), tasks, more, last_read: None })
    }

    async fn remembered(&self, key: &IdempotencyKey, now: Timestamp) -> StoreResult<Option<Created>> {
        Ok(self.tables().remembered(key, now))
    }

    async fn unsettled(
        &self,
        created_before: Timestamp,
        after: Option<&OpenTask>,
        limit: usize,
    ) -> StoreResult<Vec<OpenTask>> {
        let tables = self.tables();
        let after = after.map(|after| (after.created_at, after.id));
        let mut open: Vec<(Timestamp, TaskId)> = tables
            .tasks
            .values()
            .filter(|t| !t.status.is_end() || t.unsettled.is_some())
            .map(|t| (t.created_at, t.id))
            .filter(|place| place.0 < created_before && after.is_none_or(|after| after < *place))
            .collect();
        open.sort_unstable();
        Ok(open.into_iter().take(limit).map(|(created_at, id)| OpenTask { id, created_at }).collect())
    }
}

#[async_trait]
impl ProgressStore for MemoryStore {
    async fn tell(&self, id: TaskId, report: &Report, _: Timestamp) -> StoreResult<()> {
        self.tables().progress.entry(id).or_default().take(report);
        Ok(())
    }

    async fn told(&self, id: TaskId) -> StoreResult<Progress> {
        Ok(self.tables().progress.get(&id).copied().unwrap_or_default())
    }
    async fn shown(&self, id: TaskId) -> StoreResult<Option<Task>> {
        let (task, progress) = (TaskStore::get(self, id).await?, self.told(id).await?);
        Ok(task.map(|task| Task { progress, ..task }))
    }
}

#[async_trait]
impl TaskLife for MemoryStore {
    async fn begin(&self, id: TaskId, image: &Image, now: Timestamp) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.is_taken(image.id) {
            return Err(StoreError::Conflict);
        }
        tables.task(id)?.begin(Some(image.id), now)?;
        tables.images.insert(image.id, image.clone());
        Ok(())
    }

    async fn begin_filling(
        &self,
        id: TaskId,
        image: ImageId,
        staged: Option<StagedBytes>,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tables = self.tables();
        let mut record = tables.images.get(&image).cloned().ok_or(StoreError::Conflict)?;
        if !record.begin_filling(staged, now) {
            return Err(StoreError::Conflict);
        }
        tables.task(id)?.begin(Some(image), now)?;
        tables.images.insert(image, record);
        Ok(())
    }

    async fn begin_on(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<()> {
        Ok(self.tables().task(id)?.begin(Some(image), now)?)
    }

    async fn publish(
        &self,
        id: TaskId,
        publication: &Publication,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tables = self.tables();
        let is_its = tables.task(id)?.made_image() == Some(publication.image);
        let stored = tables.images.get(&publication.image);
        let stored = stored.filter(|stored| is_its && stored.status == ImageStatus::Importing);
        let record = stored.ok_or(StoreError::Conflict)?.clone();
        let task = tables.task(id)?;
        task.publish(publication, &record, result.clone(), ttl, now)?;
        tables.tokens.remove(&id);
        if let Some(image) = tables.images.get_mut(&publication.image) {
            image.publish(publication, now);
        }
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
        self.tables().fail(id, failure, ttl, now)
    }

    async fn fail_unbegun(
        &self,
        id: TaskId,
        failure: &Failure,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.task(id)?.status != TaskStatus::Pending {
            return Err(StoreError::Conflict);
        }
        tables.fail(id, failure, ttl, now)
    }

    async fn mark_cancelled(&self, id: TaskId, by: &str) -> StoreResult<()> {
        let mut tables = self.tables();
        let task = tables.task(id)?;
        if task.status.is_end() {
            return Err(StoreError::Conflict);
        }
        task.cancelled_by.get_or_insert_with(|| by.to_owned());
        Ok(())
    }

    async fn count_hashing(&self, id: TaskId, begun: u32) -> StoreResult<u32> {
        let mut tables = self.tables();
        match &mut tables.task(id)?.unsettled {
            Some(Unsettled::Hashing { executions }) if *executions == begun => {
                *executions += 1;
                Ok(*executions)
            }
            _ => Err(StoreError::Conflict),
        }
    }

    async fn end_hashing(&self, id: TaskId, now: Timestamp) -> StoreResult<()> {
        let mut tables = self.tables();
        let task = tables.task(id)?;
        let Some(Unsettled::Hashing { .. }) = task.unsettled else { return Err(StoreError::Conflict) };
        task.clean_later(now);
        Ok(())
    }

    async fn settle(&self, id: TaskId) -> StoreResult<()> {
        let mut tables = self.tables();
        let task = tables.task(id)?;
        if !task.status.is_end() {
            return Err(StoreError::Conflict);
        }
        task.unsettled = None;
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
                Some(project) => policy::lists(project, i),
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
            stored && matches!(image.status, ImageStatus::Active | ImageStatus::Deactivated)
        };
        let image = tables.images.get_mut(&id).filter(is_it).ok_or(StoreError::Conflict)?;
        image.set_hashes(hashes.clone());
        image.updated_at = now;
        Ok(())
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

    #[async_trait]
    impl conformance::PutImage for MemoryStore {
        async fn put_image(&self, image: &Image) {
            self.put_image(image.clone());
        }
    }

    #[async_trait]
    impl conformance::PutPart for MemoryStore {
        async fn put(&self, url: &str, bytes: Vec<u8>) -> Option<String> {
            self.put_part(url, bytes)
        }
    }

    #[tokio::test]
    async fn the_reference_keeps_what_it_demands() {
        let store = MemoryStore::default();
        conformance::task_store(&store, &store).await;
        conformance::progress_store(&store, &store).await;
        conformance::task_life(&store, &store, &store, &store).await;
        let store = MemoryStore::default();
        conformance::image_store(&store, &store, &store).await;
        conformance::credentials(&store, &store, &store).await;
        let store = MemoryStore::default();
        conformance::image_records(&store, &store, &store).await;
        conformance::image_tasks(&store, &store, &store).await;
        conformance::multipart_uploads(&store, &store).await;
    }
}
