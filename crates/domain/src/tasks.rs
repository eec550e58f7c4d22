//! What callers do with tasks: create, look at, list, cancel.
//!
//! Invariants:
//! - A task that a caller may not see, one past its expiry and one that never was are the same: not found.
//! - Whatever happens between the write of a task and the start of its execution, the task ends: a start that
//!   fails fails the task, a process that dies in between leaves it to the sweep. A task that runs is never failed
//!   because the answer to its start was lost.
//! - A cancel is a fact before it is an act: the mark comes first, and what is marked never succeeds.
//! - What a poller reads never goes back: a status is shown only once it is written.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::caller::Caller;
use crate::clone_input::{CloneInput, CloneSource};
use crate::export_input::{ExportInput, ExportPolicy};
use crate::failure::{Failure, FailureCode};
use crate::glance::GlanceEndpoints;
use crate::image::ImageId;
use crate::images::ImageQuota;
use crate::import_input::ImportInput;
use crate::input::InvalidInput;
use crate::policy;
use crate::ports::{
    Clock, Created, ExecutionStatus, Executions, IdempotencyKey, ImageRecords, ProgressStore, StoreError,
    StoreResult, TaskLife, TaskPage, TaskQuery, TaskSort, TaskStore,
};
use crate::regions::Regions;
use crate::rejection::{Answer, Rejection};
use crate::secret::Secret;
use crate::source::SourcePolicy;
use crate::source_headers::SourceHeaders;
use crate::task::{Task, TaskId, TaskStatus, TaskType};

/// Most tasks of one page.
pub const MAX_LIMIT: usize = 1000;
/// Tasks of a page whose size isn't asked for.
pub const DEFAULT_LIMIT: usize = 25;

/// The use cases of tasks.
#[derive(Clone)]
pub struct Tasks {
    /// Tasks at rest.
    pub store: Arc<dyn TaskStore>,
    /// How far they are.
    pub progress: Arc<dyn ProgressStore>,
    /// Ends of tasks.
    pub life: Arc<dyn TaskLife>,
    /// Images, for ids that are taken.
    pub images: Arc<dyn ImageRecords>,
    /// The orchestrator.
    pub executions: Arc<dyn Executions>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where images may come from.
    pub sources: SourcePolicy,
    /// Where exports may go.
    pub receivers: ExportPolicy,
    /// The regions of this cloud.
    pub regions: Regions,
    /// The Glances elsewhere that images may be copied from.
    pub glances: GlanceEndpoints,
    /// From a task's end to its expiry.
    pub ttl: Duration,
    /// Most images of a project.
    pub quota: ImageQuota,
}

/// A task that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// What it shall do.
    pub task_type: TaskType,
    /// Its input, as sent.
    pub input: Value,
    /// Id of the request.
    pub request_id: String,
    /// The client's key for "the same again", and the SHA-256 of the body under it, hex.
    pub idempotency: Option<(String, String)>,
    /// The caller's token, as the request had it. Kept only for a task that needs it elsewhere.
    pub token: Option<Secret>,
}

/// A page of tasks that is asked for, as far as the wire's own rules go.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskListing {
    /// Only this owner's.
    pub owner: Option<String>,
    /// Only this type; `Some(None)` matches none.
    pub task_type: Option<Option<TaskType>>,
    /// Only this status; `Some(None)` matches none.
    pub status: Option<Option<TaskStatus>>,
    /// Only this id.
    pub id: Option<String>,
    /// Order.
    pub sort: TaskSort,
    /// Largest first.
    pub descending: bool,
    /// At most this many; more than [`MAX_LIMIT`] are never given.
    pub limit: usize,
    /// Start behind the task of this id.
    pub marker: Option<String>,
}

impl Default for TaskListing {
    fn default() -> Self {
        Self {
            owner: None,
            task_type: None,
            status: None,
            id: None,
            sort: TaskSort::CreatedAt,
            descending: true,
            limit: DEFAULT_LIMIT,
            marker: None,
        }
    }
}

impl Tasks {
    /// Whether this caller may make tasks at all: `reader`, OpenStack's role for looking on, may not.
    ///
    /// # Errors
    /// [`Rejection::Forbidden`].
    pub fn check_may_create(&self, caller: &Caller) -> Answer<()> {
        if policy::may_create_tasks(caller) {
            return Ok(());
        }
        Err(Rejection::Forbidden("Creating and cancelling tasks needs the role member or admin".to_owned()))
    }

    /// Accepts a task and starts its work. A repeated request (same key, same body) gives the first one's task.
    ///
    /// # Errors
    /// [`Rejection`]: what can be known to be wrong now is told now.
    pub async fn create(&self, caller: &Caller, new: NewTask) -> Answer<Task> {
        self.check_may_create(caller)?;
        let now = self.clock.now();
        let key = new.idempotency.map(|(key, body_sha256)| IdempotencyKey {
            owner: caller.project.clone(),
            key,
            body_sha256,
        });
        let (remarks, token) = match self.check(caller, new.task_type, &new.input, new.token).await {
            Ok(checked) => checked,
            // What this key made may be what fails the check now: the image has the id that was asked for it.
            Err(refused) => {
                let Some(key) = &key else { return Err(refused) };
                return match self.store.remembered(key, now).await? {
                    Some(Created::Before(first)) => self.repeated(first).await,
                    Some(Created::OtherBody) => Err(other_body()),
                    Some(Created::New | Created::TooLarge { .. }) | None => Err(refused),
                };
            }
        };
        let task = Task {
            user_id: caller.user.clone(),
            request_id: new.request_id,
            message: remarks,
            ..Task::pending(new.task_type, &caller.project, SourceHeaders::hidden(new.input), now)
        };
        self.accept(task, key.as_ref(), token.as_ref()).await
    }

    /// Accepts a task that fills an image's record, whose input is checked already.
    pub(crate) async fn fill(
        &self,
        caller: &Caller,
        input: Value,
        remarks: String,
        request_id: &str,
        token: Option<Secret>,
    ) -> Answer<Task> {
        self.check_may_create(caller)?;
        let task = Task {
            user_id: caller.user.clone(),
            request_id: request_id.to_owned(),
            message: remarks,
            ..Task::pending(TaskType::ApiImageImport, &caller.project, input, self.clock.now())
        };
        self.accept(task, None, token.as_ref()).await
    }

    async fn accept(&self, task: Task, key: Option<&IdempotencyKey>, token: Option<&Secret>) -> Answer<Task> {
        match self.store.create(&task, key, token).await? {
            Created::New => self.start(task).await,
            Created::Before(first) => self.repeated(first).await,
            Created::OtherBody => Err(other_body()),
            Created::TooLarge { bytes, most } => Err(Rejection::TooLarge(format!(
                "The task would take {bytes} bytes as it is stored, where numbers may be longer than they were \
                 written; at most {most} are taken"
            ))),
        }
    }

    /// One task, and how far it is.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] for unknown, malformed, expired and other projects' ids.
    pub async fn get(&self, caller: &Caller, id: &str) -> Answer<Task> {
        let not_found = || Rejection::NotFound { kind: "task", id: id.to_owned() };
        let Ok(id) = id.parse::<TaskId>() else { return Err(not_found()) };
        let task = self.shown(id).await?.filter(|task| policy::caller_sees_task(caller, task));
        task.ok_or_else(not_found)
    }

    /// Asks for a task's end. It is marked first, and a marked task never succeeds; only then its execution is stopped.
    /// What it made is removed, and the task fails with who asked, as with any execution that is stopped: in a moment.
    /// The task as it is now.
    ///
    /// # Errors
    /// [`Rejection::Conflict`] where the task has ended by itself.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Answer<Task> {
        self.check_may_create(caller)?;
        let task = self.get(caller, id).await?;
        match self.life.mark_cancelled(task.id, &caller.user).await {
            Ok(()) => {}
            Err(StoreError::Conflict) => {
                return Err(Rejection::Conflict(format!("Task {id} has ended already")));
            }
            Err(e) => return Err(e.into()),
        }
        // The first mark counts, which need not be this caller's.
        let task = self.get(caller, id).await?;
        if let Some(why) = task.cancellation()
            && !task.status.is_end()
            && let Err(error) = self.end_cancelled(&task, &why).await
        {
            // The mark is what was promised: the sweep stops whatever is marked.
            tracing::warn!(task_id = %task.id, error = &error as &dyn std::error::Error, "not stopped yet");
        }
        Ok(self.shown(task.id).await?.unwrap_or(task))
    }

    async fn end_cancelled(&self, task: &Task, why: &Failure) -> StoreResult<()> {
        if self.executions.stop(task, why).await? {
            return Ok(());
        }
        // Not started, so nothing was made. If it is just about to start, it will find the task ended.
        match self.life.fail_unbegun(task.id, why, self.ttl, self.clock.now()).await {
            // It began before it was marked, unseen by the orchestrator's answer, or has ended: either way as marked.
            Err(StoreError::Conflict) => Ok(()),
            done => done,
        }
    }

    /// A page of tasks.
    ///
    /// # Errors
    /// [`Rejection::Invalid`] for a marker that is no task of the caller's.
    pub async fn list(&self, caller: &Caller, listing: TaskListing) -> Answer<TaskPage> {
        let empty = TaskPage::default();
        let after = match listing.marker {
            None => None,
            Some(marker) => match self.visible(caller, &marker).await? {
                Some(task) => Some(task),
                None => {
                    let told = format!("{} is not a task in this list", crate::input::quoted(&marker));
                    return Err(InvalidInput::new("marker", told).into());
                }
            },
        };
        let owner = match listing.owner {
            Some(owner) if !caller.may_see(&owner) => return Ok(empty),
            Some(owner) => Some(owner),
            None if caller.is_admin() => None,
            None => Some(caller.project.clone()),
        };
        let id = match listing.id.map(|id| id.parse::<TaskId>()) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Ok(empty),
        };
        if listing.limit == 0 || listing.task_type == Some(None) || listing.status == Some(None) {
            return Ok(empty);
        }
        let query = TaskQuery {
            owner,
            task_type: listing.task_type.flatten(),
            status: listing.status.flatten(),
            id,
            sort: listing.sort,
            descending: listing.descending,
            limit: listing.limit.min(MAX_LIMIT),
            after,
            now: self.clock.now(),
        };
        let mut page = self.store.list(&query).await?;
        if page.tasks.is_empty() && page.more {
            // Clients take an empty page for the end, whatever link it has.
            match given_up(&query, &page) {
                Some(told) => return Err(told.into()),
                None => page.more = false,
            }
        }
        Ok(page)
    }

    /// Checks what is asked for, and gives the remarks that its task begins with and the token that it needs.
    async fn check(
        &self,
        caller: &Caller,
        task_type: TaskType,
        input: &Value,
        token: Option<Secret>,
    ) -> Answer<(String, Option<Secret>)> {
        match task_type {
            TaskType::Import => self.check_import(caller, input).await,
            TaskType::Export => Ok((self.check_export(caller, input)?, None)),
            TaskType::Clone => self.check_clone(caller, input, token).await,
            TaskType::ApiImageImport => {
                let told = "is made by POST to /v2/images/{id}/import alone";
                Err(InvalidInput::new("type", format!("{} {told}", task_type.name())).into())
            }
        }
    }

    /// Checks an import and gives the remarks that its task begins with, and the headers that its source wants.
    async fn check_import(&self, caller: &Caller, input: &Value) -> Answer<(String, Option<Secret>)> {
        let import = ImportInput::parse(input, &self.sources)?;
        import.check_permitted(caller).map_err(Rejection::Forbidden)?;
        self.check_unused(import.image.id).await?;
        self.quota.check(&*self.images, &caller.project, self.clock.now()).await?;
        Ok((import.remarks.join(" "), import.headers.and_then(|headers| headers.kept())))
    }

    /// Checks a clone and gives the remarks that its task begins with, and the token that it needs. What has to be
    /// asked of the source is the task's.
    async fn check_clone(
        &self,
        caller: &Caller,
        input: &Value,
        token: Option<Secret>,
    ) -> Answer<(String, Option<Secret>)> {
        let clone = CloneInput::parse(input, &self.regions, &self.glances)?;
        let token = token_for(&clone.source, token)?;
        clone.check_permitted(caller).map_err(Rejection::Forbidden)?;
        self.check_unused(clone.image.id).await?;
        self.quota.check(&*self.images, &caller.project, self.clock.now()).await?;
        Ok((clone.remarks.join(" "), token))
    }

    /// An id asked for an image to be made must be no image's, and never have been.
    async fn check_unused(&self, id: Option<ImageId>) -> Answer<()> {
        match id {
            Some(id) if self.images.is_taken(id).await? => Err(Rejection::Conflict(format!(
                "image_properties.id: image {id} exists already, or was deleted"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks an export and gives the remarks that its task begins with. What has to be asked of the image is the
    /// task's.
    fn check_export(&self, caller: &Caller, input: &Value) -> Answer<String> {
        let export = ExportInput::parse(input, &caller.project)?;
        self.receivers.region(&export.bucket).map_err(Rejection::Forbidden)?;
        Ok(export.remarks.join(" "))
    }

    /// The task that a key made before.
    async fn repeated(&self, first: TaskId) -> Answer<Task> {
        match self.shown(first).await? {
            // Its first request may have died before the start; starting twice is starting once.
            Some(task) if task.status == TaskStatus::Pending && task.cancelled_by.is_none() => {
                self.start(task).await
            }
            Some(task) => Ok(task),
            None => Err(Rejection::Conflict(
                "The task that this Idempotency-Key made has expired; use a new key".to_owned(),
            )),
        }
    }

    /// Starts a pending task's execution; where there is none afterwards, the task fails.
    async fn start(&self, task: Task) -> Answer<Task> {
        let Err(error) = self.executions.start(&task, 0).await else { return Ok(task) };
        tracing::error!(task_id = %task.id, error = &error as &dyn std::error::Error, "execution not started");
        match self.executions.status(&task, 0).await {
            Ok(ExecutionStatus::NotFound) => {}
            // Only the answer was lost.
            Ok(_) => return Ok(task),
            // Nobody knows now whether it runs. The task is pending, until its work begins or the sweep looks at it.
            Err(_) => return Ok(task),
        }
        let why = match error {
            StoreError::Unavailable(_) => "the orchestrator can't be reached now; send the request again",
            StoreError::Conflict | StoreError::Fault(_) => "the orchestrator refuses it; tell the operator",
        };
        let told = format!("the work could not be started: {why} (request {})", task.request_id);
        let failure = Failure::new(FailureCode::StartFailed, told);
        match self.life.fail_unbegun(task.id, &failure, self.ttl, self.clock.now()).await {
            // Conflict: it did start after all, and may be at work or even done.
            Ok(()) | Err(StoreError::Conflict) => Ok(self.live(task.id).await?.unwrap_or(task)),
            // Nobody can write now. The task is as it was written: pending, until the sweep starts or ends it.
            Err(StoreError::Unavailable(_) | StoreError::Fault(_)) => Ok(task),
        }
    }

    async fn visible(&self, caller: &Caller, id: &str) -> Answer<Option<Task>> {
        let Ok(id) = id.parse::<TaskId>() else { return Ok(None) };
        Ok(self.live(id).await?.filter(|task| policy::caller_sees_task(caller, task)))
    }

    /// A task with its progress.
    async fn shown(&self, id: TaskId) -> Answer<Option<Task>> {
        Ok(self.unexpired(self.progress.shown(id).await?))
    }

    async fn live(&self, id: TaskId) -> Answer<Option<Task>> {
        Ok(self.unexpired(self.store.get(id).await?))
    }

    fn unexpired(&self, task: Option<Task>) -> Option<Task> {
        task.filter(|task| !task.is_expired(self.clock.now()))
    }
}

/// The token that goes with a task that copies an image: none but for one of a Glance elsewhere.
///
/// # Errors
/// [`Rejection::Invalid`] where one is needed and the request had none.
pub(crate) fn token_for(source: &CloneSource, token: Option<Secret>) -> Answer<Option<Secret>> {
    match (source, token) {
        (CloneSource::Region { .. }, _) => Ok(None),
        (CloneSource::Glance(_), Some(token)) => Ok(Some(token)),
        (CloneSource::Glance(image), None) => {
            let told = format!("is required to read {image}: {}", Secret::SHAPE);
            Err(InvalidInput::new("X-Auth-Token", told).into())
        }
    }
}

/// What a caller is told whose list was given up before it was known what is on it. Nothing where no filter left out what
/// was read: all of it has expired, and so has what is older.
fn given_up(query: &TaskQuery, page: &TaskPage) -> Option<InvalidInput> {
    let read = page.items_read;
    let filter = match (query.status, query.task_type) {
        (Some(_), _) => Some("status"),
        (None, Some(_)) => Some("type"),
        (None, None) => None,
    };
    let Some(last) = page.last_read else {
        let told = format!("{read} tasks and more can't be sorted so; sort by created_at or updated_at");
        return Some(InvalidInput::new("sort_key", told));
    };
    let told = format!("none of the first {read} tasks matches; look on behind them with marker={last}");
    filter.map(|filter| InvalidInput::new(filter, told))
}

fn other_body() -> Rejection {
    let told = "This Idempotency-Key was used with another request body in the last 24 hours";
    Rejection::Conflict(told.to_owned())
}
