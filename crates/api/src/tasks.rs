//! `/v2/tasks`: decode, one use case, encode.

use bytes::Bytes;
use http::header::{HeaderName, LOCATION};
use http::{Response, StatusCode};
use image_tasks_domain::input::{hint, quoted, type_of};
use image_tasks_domain::ports::TaskSort;
use image_tasks_domain::tasks::{NewTask, TaskListing, Tasks};
use image_tasks_domain::{ImageId, InvalidInput, Secret, Task, TaskStatus, TaskType, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::app::Call;
use crate::error::ApiError;
use crate::page::fitting;
use crate::{body, reply};

const PATH: &str = "/v2/tasks";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const X_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// Largest body of a POST: far more than any honest input. Whether a task fits as it is stored is the store's to say.
const MAX_BODY: usize = 256 << 10;

pub(crate) async fn create(tasks: &Tasks, call: Call) -> Result<Response<Bytes>, ApiError> {
    tasks.check_may_create(&call.caller)?;
    let (task_type, input) = decode(&call.body)?;
    let idempotency = idempotency(&call)?;
    let token = token_of(&call);
    let new = NewTask { task_type, input, request_id: call.request_id, idempotency, token };
    let task = tasks.create(&call.caller, new).await?;
    let mut response = reply::json(StatusCode::CREATED, &TaskBody::of(&task));
    reply::set(&mut response, LOCATION, &format!("{}{}", call.endpoint, path_of(&task)));
    Ok(response)
}

/// The caller's token, for a task that needs it elsewhere.
pub(crate) fn token_of(call: &Call) -> Option<Secret> {
    call.parts.headers.get(X_AUTH_TOKEN).and_then(|token| token.to_str().ok()).and_then(Secret::new)
}

pub(crate) async fn get(tasks: &Tasks, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let task = tasks.get(&call.caller, id).await?;
    Ok(reply::json(StatusCode::OK, &TaskBody::of(&task)))
}

pub(crate) async fn cancel(tasks: &Tasks, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let task = tasks.cancel(&call.caller, id).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &TaskBody::of(&task)))
}

pub(crate) async fn list(tasks: &Tasks, call: Call) -> Result<Response<Bytes>, ApiError> {
    let page = tasks.list(&call.caller, listing(&call)?).await?;
    let tasks = fitting(page.tasks.iter().map(TaskRow::of));
    let more = page.more || tasks.len() < page.tasks.len();
    let next = tasks.last().filter(|_| more).map(|last| last.id.clone());
    let body = TaskList {
        tasks,
        first: call.query.link(PATH, None),
        next: next.map(|marker| call.query.link(PATH, Some(&marker))),
        schema: "/v2/schemas/tasks",
    };
    Ok(reply::json(StatusCode::OK, &body))
}

/// The type and input of a POST's body, checked in the order that the contract names.
fn decode(body: &Bytes) -> Result<(TaskType, Value), ApiError> {
    let value = body::json(body, MAX_BODY, "A request body is required: a JSON object")?;
    let Value::Object(mut members) = value else {
        let found = type_of(&value);
        return Err(ApiError::BadBody(format!("The request body must be a JSON object, not {found}")));
    };
    for required in SENT {
        if !members.contains_key(*required) {
            let hint = hint(members.keys().map(String::as_str), &[*required], SENT);
            return Err(InvalidInput::new(*required, format!("is required{hint}")).into());
        }
    }
    let task_type = match members.get("type") {
        Some(Value::String(name)) => TaskType::from_name(name).ok_or_else(|| {
            let allowed: Vec<_> = TaskType::OFFERED.iter().map(|t| t.name()).collect();
            InvalidInput::new("type", format!("must be one of {}, not {}", allowed.join(", "), quoted(name)))
        })?,
        other => {
            let found = other.map_or("nothing", type_of);
            return Err(InvalidInput::new("type", format!("must be a string, not {found}")).into());
        }
    };
    check_other_members(&members)?;
    match members.remove("input") {
        Some(input @ Value::Object(_)) => Ok((task_type, input)),
        other => {
            let found = other.as_ref().map_or("nothing", type_of);
            Err(InvalidInput::new("input", format!("must be an object, not {found}")).into())
        }
    }
}

/// What makes a task.
const SENT: &[&str] = &["type", "input"];
/// What a task has beside, and only the service says.
const READ_ONLY: &[&str] = &[
    "created_at",
    "expires_at",
    "id",
    "image_id",
    "message",
    "owner",
    "progress",
    "request_id",
    "result",
    "schema",
    "self",
    "status",
    "updated_at",
    "user_id",
];

/// Top-level keys beside those that make a task: the task's own are ignored if they could be a task's, as clients send
/// back what they got.
fn check_other_members(members: &Map<String, Value>) -> Result<(), InvalidInput> {
    let unknown =
        members.keys().find(|key| !SENT.contains(&key.as_str()) && !READ_ONLY.contains(&key.as_str()));
    if let Some(key) = unknown {
        return Err(InvalidInput::new(quoted(key), "is not a property of a task; send type and input"));
    }
    for (key, value) in members {
        let fits = match key.as_str() {
            "id" => value.as_str().is_some_and(|id| uuid::Uuid::try_parse(id).is_ok()),
            "status" => value.as_str().is_some_and(|name| TaskStatus::from_name(name).is_some()),
            "result" => value.is_null() || value.is_object(),
            "expires_at" | "image_id" => value.is_null() || value.is_string(),
            "progress" => value.as_u64().is_some_and(|percent| percent <= 100),
            "type" | "input" => true,
            _ => value.is_string(),
        };
        if !fits {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let told = format!("is read-only, and {} is not a value it can have", quoted(&value));
            return Err(InvalidInput::new(key.clone(), told));
        }
    }
    Ok(())
}

/// The client's key and the hash of what it sent under it.
fn idempotency(call: &Call) -> Result<Option<(String, String)>, InvalidInput> {
    const MOST: usize = 255;
    let Some(value) = call.parts.headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MOST).contains(&key.len()) => {
            Ok(Some((key.to_owned(), hex::encode(Sha256::digest(&call.body)))))
        }
        _ => Err(InvalidInput::new(
            "Idempotency-Key",
            format!("must have 1 to {MOST} visible ASCII characters"),
        )),
    }
}

/// What a list can be sorted by.
pub(crate) const SORT_KEYS: &[(&str, TaskSort)] = &[
    ("id", TaskSort::Id),
    ("type", TaskSort::Type),
    ("status", TaskSort::Status),
    ("owner", TaskSort::Owner),
    ("created_at", TaskSort::CreatedAt),
    ("updated_at", TaskSort::UpdatedAt),
    ("expires_at", TaskSort::ExpiresAt),
];

fn listing(call: &Call) -> Result<TaskListing, InvalidInput> {
    let query = &call.query;
    let refused = |name: &str, allowed: &[&str], value: &str| {
        let told = format!("must be one of {}, not {}", allowed.join(", "), quoted(value));
        InvalidInput::new(name, told)
    };
    let mut listing = TaskListing { limit: query.limit()?, ..TaskListing::default() };
    if let Some(name) = query.get("sort_key") {
        let names: Vec<_> = SORT_KEYS.iter().map(|(key, _)| *key).collect();
        let found = SORT_KEYS.iter().find(|(key, _)| *key == name);
        listing.sort = found.ok_or_else(|| refused("sort_key", &names, name))?.1;
    }
    listing.descending = match query.get("sort_dir") {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(other) => return Err(refused("sort_dir", &["asc", "desc"], other)),
    };
    listing.task_type = match query.get("type") {
        None => None,
        Some("") => Some(None),
        Some(name) => {
            let names: Vec<_> = TaskType::ALL.iter().map(|t| t.name()).collect();
            Some(Some(TaskType::from_name(name).ok_or_else(|| refused("type", &names, name))?))
        }
    };
    listing.status = match query.get("status") {
        None => None,
        Some("") => Some(None),
        Some(name) => {
            let names: Vec<_> = TaskStatus::ALL.iter().map(|s| s.name()).collect();
            Some(Some(TaskStatus::from_name(name).ok_or_else(|| refused("status", &names, name))?))
        }
    };
    listing.owner = query.get("owner").map(str::to_owned);
    listing.id = query.get("id").map(str::to_owned);
    listing.marker = query.get("marker").map(str::to_owned);
    Ok(listing)
}

/// A task as `GET` shows it.
pub(crate) fn shown(task: &Task) -> Value {
    serde_json::to_value(TaskBody::of(task)).unwrap_or_default()
}

fn path_of(task: &Task) -> String {
    format!("{PATH}/{}", task.id)
}

/// A task in a list.
#[derive(Serialize)]
struct TaskRow<'a> {
    id: String,
    #[serde(rename = "type")]
    task_type: TaskType,
    status: TaskStatus,
    owner: &'a str,
    user_id: &'a str,
    request_id: &'a str,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<ImageId>,
    #[serde(rename = "self")]
    self_link: String,
    schema: &'static str,
}

impl<'a> TaskRow<'a> {
    fn of(task: &'a Task) -> Self {
        Self {
            id: task.id.to_string(),
            task_type: task.task_type,
            status: task.status,
            owner: &task.owner,
            user_id: &task.user_id,
            request_id: &task.request_id,
            created_at: task.created_at,
            updated_at: task.updated_at,
            expires_at: task.expires_at,
            image_id: task.of_image(),
            self_link: path_of(task),
            schema: "/v2/schemas/task",
        }
    }
}

/// A task by itself.
#[derive(Serialize)]
struct TaskBody<'a> {
    #[serde(flatten)]
    row: TaskRow<'a>,
    input: &'a Value,
    result: Option<&'a Value>,
    message: String,
    progress: u8,
}

impl<'a> TaskBody<'a> {
    fn of(task: &'a Task) -> Self {
        let at_work = task.progress.message();
        let (progress, message) = match task.status {
            TaskStatus::Pending => (0, task.message.clone()),
            TaskStatus::Processing if at_work.is_empty() => (task.progress.percent(), task.message.clone()),
            TaskStatus::Processing => (task.progress.percent(), at_work),
            TaskStatus::Success => (100, task.message.clone()),
            TaskStatus::Failure => (task.progress.percent(), task.message.clone()),
        };
        Self { row: TaskRow::of(task), input: &task.input, result: task.result.as_ref(), message, progress }
    }
}

/// A page.
#[derive(Serialize)]
struct TaskList<'a> {
    tasks: Vec<TaskRow<'a>>,
    first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    schema: &'static str,
}
