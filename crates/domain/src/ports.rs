//! What the domain needs from outside: small traits, one per capability.
//!
//! Each port has one conformance suite (behind the feature `conformance`), run
//! against every implementation. Adapters map their errors to [`StoreError`];
//! a kind is added only where a caller acts on it.

mod identity;
mod images;
mod multipart;

pub use identity::{ProjectMap, Tokens};
pub use images::{FoundImages, ImageBytes, ImageRecords, ImageTasks, Staging};
pub use multipart::{Joined, MultipartUploads, StagedObject, StagedPart};

use std::cmp::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::failure::Failure;
use crate::image::{Image, ImageHashes, ImageId, Publication, StagedBytes};
use crate::progress::{Progress, Report};
use crate::secret::Secret;
use crate::task::{BadTransition, Task, TaskId, TaskStatus, TaskType};
use crate::time::Timestamp;

/// What went wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The record is not in the state the write demands (ended, gone, taken). Nothing was written.
    #[error("the record is not in the state that the write demands")]
    Conflict,
    /// The store is throttled or out of reach; the same call may succeed later.
    #[error("the store can't be reached now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A fault of ours: a record that can't be read, a call the store rejects.
    #[error("the store does not work")]
    Fault(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A step that the task's life does not allow is a write that its state does not allow.
impl From<BadTransition> for StoreError {
    fn from(_: BadTransition) -> Self {
        Self::Conflict
    }
}

/// Result of a store's call.
pub type StoreResult<T> = Result<T, StoreError>;

/// The time.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Now, in whole seconds.
    fn now(&self) -> Timestamp;
    /// Lets time pass.
    async fn sleep(&self, time: Duration);
}

/// A client's key for "the same request again", within one tenant, for 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Tenant.
    pub owner: String,
    /// The header's value.
    pub key: String,
    /// SHA-256 of the request body, hex: the same key with another body is a conflict.
    pub body_sha256: String,
}

/// What `create` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The task is new.
    New,
    /// This key made that task before, from the same body.
    Before(TaskId),
    /// This key made a task before, from another body.
    OtherBody,
    /// The task takes more room than the store has for one, together with what it gains in its life. Nothing was written.
    TooLarge {
        /// Bytes that it takes as it is stored.
        bytes: usize,
        /// Most that it may take.
        most: usize,
    },
}

/// Orders a list can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskSort {
    /// By time of acceptance: the default.
    CreatedAt,
    /// By time of the last status.
    UpdatedAt,
    /// By time of deletion; tasks without one come first in ascending order.
    ExpiresAt,
    /// By id.
    Id,
    /// By type.
    Type,
    /// By status.
    Status,
    /// By owner.
    Owner,
}

impl TaskSort {
    /// Ascending order of two tasks; ties by created_at, then id.
    pub fn compare(self, a: &Task, b: &Task) -> Ordering {
        let by_key = match self {
            Self::CreatedAt => Ordering::Equal,
            Self::UpdatedAt => a.updated_at.cmp(&b.updated_at),
            Self::ExpiresAt => a.expires_at.cmp(&b.expires_at),
            Self::Id => a.id.cmp(&b.id),
            Self::Type => a.task_type.name().cmp(b.task_type.name()),
            Self::Status => a.status.name().cmp(b.status.name()),
            Self::Owner => a.owner.cmp(&b.owner),
        };
        by_key.then(a.created_at.cmp(&b.created_at)).then(a.id.cmp(&b.id))
    }
}

/// A page of tasks that is asked for. Ties are broken by created_at, then id.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskQuery {
    /// Only this tenant's; `None` is an admin's view over all.
    pub owner: Option<String>,
    /// Only this type.
    pub task_type: Option<TaskType>,
    /// Only this status.
    pub status: Option<TaskStatus>,
    /// Only this id.
    pub id: Option<TaskId>,
    /// Order.
    pub sort: TaskSort,
    /// Largest first.
    pub descending: bool,
    /// At most this many.
    pub limit: usize,
    /// Start behind this task (read by the caller, so it exists and may be seen).
    pub after: Option<Task>,
    /// Tasks that expired by then are not there.
    pub now: Timestamp,
}

/// A page of tasks.
///
/// It may be shorter than its limit though more follow: reads are bounded. Empty though more may follow, it was given up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskPage {
    /// In order. `input`, `result`, `message`, `progress`, `cancelled_by` and `unsettled` are not filled in: lists
    /// leave them out.
    pub tasks: Vec<Task>,
    /// Whether another task follows.
    pub more: bool,
    /// Items the store read for it.
    pub items_read: usize,
    /// Of a page that was given up: the last task that was looked at, behind which the next search begins. `None` where
    /// the order asks for all tasks to be read.
    pub last_read: Option<TaskId>,
}

/// A task that the sweep has to look at, and its place in the order in which it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTask {
    /// Its id.
    pub id: TaskId,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// Tasks at rest.
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// Writes a new task, and with it the key and the caller's token where there are such: all or nothing.
    /// The token is kept apart from the task, for [`TOKEN_LIFE`] or until the task ends, whichever comes first.
    async fn create(
        &self,
        task: &Task,
        key: Option<&IdempotencyKey>,
        token: Option<&Secret>,
    ) -> StoreResult<Created>;
    /// The task as last written (strongly consistent), also when expired but not yet deleted; without its progress,
    /// with which [`ProgressStore`] shows it.
    async fn get(&self, id: TaskId) -> StoreResult<Option<Task>>;
    /// A page.
    async fn list(&self, query: &TaskQuery) -> StoreResult<TaskPage>;
    /// What this key made before, if it did and is still remembered.
    async fn remembered(&self, key: &IdempotencyKey, now: Timestamp) -> StoreResult<Option<Created>>;
    /// Tasks created before then that are not ended or not settled, oldest first: at most `limit`, behind `after`.
    /// Fewer than `limit` are the last.
    async fn unsettled(
        &self,
        created_before: Timestamp,
        after: Option<&OpenTask>,
        limit: usize,
    ) -> StoreResult<Vec<OpenTask>>;
}

/// How far tasks are: records beside the tasks, so that what is told often costs little, however large a task's input
/// is. Nothing depends on it, and nothing may fail because of it.
#[async_trait]
pub trait ProgressStore: Send + Sync {
    /// Adds what a worker tells of a task, whatever became of the task. The record may be deleted from `until` on.
    async fn tell(&self, id: TaskId, report: &Report, until: Timestamp) -> StoreResult<()>;
    /// What was told so far (strongly consistent).
    async fn told(&self, id: TaskId) -> StoreResult<Progress>;
    /// The task as [`TaskStore::get`] gives it, with what was told of it so far: one read, strongly consistent, so what a
    /// poller sees only rises. Where its progress alone can't be read, the task is shown without.
    async fn shown(&self, id: TaskId) -> StoreResult<Option<Task>>;
}

/// The longest that a caller's token is kept: the time that a task's execution may take (`TimeoutSeconds` of the machines).
pub const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Tokens that callers gave for their tasks to use elsewhere. [`TaskStore::create`] keeps one; whatever ends the task
/// ([`TaskLife`]) removes it in the same write.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// The token kept for a task; `None` once the task has ended, or [`TOKEN_LIFE`] is over by then.
    async fn token(&self, id: TaskId, now: Timestamp) -> StoreResult<Option<Secret>>;
}

/// How a task comes to its end: writes that change a task and its image together, or neither.
///
/// Invariants:
/// - A task that is marked as cancelled neither begins nor succeeds.
/// - An ended task that isn't settled is kept, whatever its expiry: the store deletes it only once it is both.
#[async_trait]
pub trait TaskLife: Send + Sync {
    /// pending -> processing, and the record of the image it makes. Conflict unless pending and not cancelled.
    async fn begin(&self, id: TaskId, image: &Image, now: Timestamp) -> StoreResult<()>;
    /// pending -> processing, for a task that fills an image's record that is there, with those staged bytes or from
    /// elsewhere. Conflict unless pending and not cancelled, and the record can be filled
    /// ([`Image::begin_filling`]).
    async fn begin_filling(
        &self,
        id: TaskId,
        image: ImageId,
        staged: Option<StagedBytes>,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// pending -> processing, for a task that works on an image that is there.
    /// Conflict unless pending and not cancelled.
    async fn begin_on(&self, id: TaskId, image: ImageId, now: Timestamp) -> StoreResult<()>;
    /// processing -> success, and the image it makes active: fields of the publication change, no others.
    /// Conflict unless the task is processing, not cancelled, and its image `importing`.
    async fn publish(
        &self,
        id: TaskId,
        publication: &Publication,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// processing -> success, with no change of an image. Conflict unless processing and not cancelled.
    async fn succeed_alone(
        &self,
        id: TaskId,
        result: &Value,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// pending or processing -> failure, to be settled after [`CLEAN_AFTER`](crate::task::CLEAN_AFTER); the record of
    /// the image that it makes is removed if it is still `importing`; one that it fills is `queued` again. Conflict in
    /// an end state.
    async fn fail(&self, id: TaskId, failure: &Failure, ttl: Duration, now: Timestamp) -> StoreResult<()>;
    /// As [`fail`](Self::fail), but only a task that never began. Conflict unless pending.
    async fn fail_unbegun(
        &self,
        id: TaskId,
        failure: &Failure,
        ttl: Duration,
        now: Timestamp,
    ) -> StoreResult<()>;
    /// Marks an unfinished task as cancelled by a user; the first mark stays. Conflict in an end state.
    async fn mark_cancelled(&self, id: TaskId, by: &str) -> StoreResult<()>;
    /// Counts an execution that is about to be started to make an ended task's hashes; its number.
    /// Conflict unless `begun` were counted so far.
    async fn count_hashing(&self, id: TaskId, begun: u32) -> StoreResult<u32>;
    /// Its hashes are made, or given up: to be settled after [`CLEAN_AFTER`](crate::task::CLEAN_AFTER). Conflict unless
    /// they were to be made.
    async fn end_hashing(&self, id: TaskId, now: Timestamp) -> StoreResult<()>;
    /// An ended task has nothing left to do: it may expire. Conflict unless ended; again is the same as once.
    async fn settle(&self, id: TaskId) -> StoreResult<()>;
}

/// A page of images that is asked for, newest first, ties by id.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageQuery {
    /// The caller's project: its own images and public ones. `None`: an admin's view over all.
    pub visible_to: Option<String>,
    /// At most this many.
    pub limit: usize,
    /// Start behind this image.
    pub after: Option<Image>,
}

/// A page of images. It may be shorter than its limit though more follow, since records are of very different sizes; but
/// then it isn't empty.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePage {
    /// In order.
    pub images: Vec<Image>,
    /// Whether another follows.
    pub more: bool,
}

/// Images at rest.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// The image as last written.
    async fn get(&self, id: ImageId) -> StoreResult<Option<Image>>;
    /// A page.
    async fn list(&self, query: &ImageQuery) -> StoreResult<ImagePage>;
    /// Adds the hashes of the stored bytes. Conflict unless the image is active, or deactivated since, and its object
    /// has that ETag.
    async fn set_hashes(
        &self,
        id: ImageId,
        etag: &str,
        hashes: &ImageHashes,
        now: Timestamp,
    ) -> StoreResult<()>;
}

/// What an execution is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// At work, or about to be.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended by its Fail state, with ASL's error and cause.
    Failed {
        /// ASL `Error`.
        error: String,
        /// ASL `Cause`.
        cause: String,
    },
    /// Out of time.
    TimedOut,
    /// Stopped from outside, with the error and cause that were given.
    Aborted {
        /// ASL `Error`.
        error: String,
        /// ASL `Cause`.
        cause: String,
    },
    /// There is none of that name.
    NotFound,
}

/// The orchestrator: a task's own execution, run 0, and further runs that make its hashes after its end.
/// They are named by [`ExecutionName`](crate::task::ExecutionName).
#[async_trait]
pub trait Executions: Send + Sync {
    /// Starts a run of the task; starting it twice is the same as once.
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()>;
    /// Stops the task's own execution and leaves the failure as its error and cause; false where there is none.
    /// Stopping one that has ended changes nothing.
    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool>;
    /// What a run is doing.
    async fn status(&self, task: &Task, run: u32) -> StoreResult<ExecutionStatus>;
}

/// Where a client fetches an image's bytes.
#[async_trait]
pub trait ImageLinks: Send + Sync {
    /// A URL that gives the image's bytes to whoever has it, for a limited time.
    async fn download_url(&self, image: &Image, valid_for: Duration) -> StoreResult<String>;
}
