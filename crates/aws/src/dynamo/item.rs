//! Records as items and back.
//!
//! Sort attributes end in the id, so they are unique and order ties:
//! `created_sort` = `created_at#id`, `updated_sort` = `updated_at#created_at#id`.
//! RFC 3339 in UTC with whole seconds sorts as text.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use image_tasks_domain::ports::{StoreError, StoreResult};
use image_tasks_domain::{
    Image, ImageId, Meter, Progress, Step, Task, TaskId, TaskStatus, TaskType, Timestamp,
};
use serde_json::{Map, Number, Value};

/// Attributes of one record.
pub type Item = HashMap<String, AttributeValue>;

/// Partitions of the indexes over all tenants: each takes 1000 writes a second (DynamoDB developer guide,
/// "Partitions and data distribution").
pub(super) const SHARDS: u8 = 4;

/// A task as it is stored. `expires_at_epoch` is as DynamoDB's TTL wants it: seconds, a number.
pub fn task_item(task: &Task) -> Item {
    let mut item: Item = [
        ("id", text(task.id)),
        ("type", text(task.task_type.name())),
        ("status", text(task.status.name())),
        ("owner", text(&task.owner)),
        ("user_id", text(&task.user_id)),
        ("request_id", text(&task.request_id)),
        ("input", text(&task.input)),
        ("message", text(&task.message)),
        ("created_at", text(task.created_at)),
        ("updated_at", text(task.updated_at)),
        ("created_sort", text(created_sort(task.created_at, task.id))),
        ("updated_sort", text(updated_sort(task.updated_at, task.created_at, task.id))),
        ("shard", text(shard(task.id))),
        ("stages", AttributeValue::Bool(task.progress.stages)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(result) = &task.result {
        item.insert("result".to_owned(), text(result));
    }
    if let Some(at) = task.expires_at {
        item.insert("expires_at_epoch".to_owned(), number(at.epoch()));
    }
    if let Some(image) = task.image_id {
        item.insert("image_id".to_owned(), text(image));
    }
    if !task.status.is_end() {
        item.insert("unfinished".to_owned(), text(shard(task.id)));
    }
    for step in [Step::Staged, Step::Copied, Step::Hashed] {
        let (meter, (done, total)) = (meter(&task.progress, step), meter_names(step));
        item.insert(done.to_owned(), number(meter.done));
        item.insert(total.to_owned(), number(meter.total));
    }
    item
}

/// A task from its item, or from what an index has of it: what lists leave out is empty then.
pub(super) fn task(item: &Item) -> StoreResult<Task> {
    let json = |name: &str| item.get(name).map(|_| read(item, name)).transpose();
    let read_meter = |step| {
        let (done, total) = meter_names(step);
        Ok::<_, StoreError>(Meter { done: unsigned(item, done)?, total: unsigned(item, total)? })
    };
    let (task_type, status) = (string(item, "type")?, string(item, "status")?);
    Ok(Task {
        id: task_id(item)?,
        task_type: TaskType::from_name(task_type).ok_or_else(|| broken("type", task_type))?,
        status: TaskStatus::from_name(status).ok_or_else(|| broken("status", status))?,
        owner: string(item, "owner")?.to_owned(),
        user_id: string(item, "user_id")?.to_owned(),
        request_id: string(item, "request_id")?.to_owned(),
        input: json("input")?.unwrap_or(Value::Null),
        result: json("result")?,
        message: item
            .get("message")
            .map(|_| string(item, "message"))
            .transpose()?
            .unwrap_or_default()
            .to_owned(),
        created_at: read_time(item, "created_at")?,
        updated_at: read_time(item, "updated_at")?,
        expires_at: expires_at(item)?,
        image_id: item
            .get("image_id")
            .map(|_| string(item, "image_id").and_then(|id| id.parse().map_err(|_| broken("image_id", id))))
            .transpose()?,
        progress: Progress {
            stages: item.get("stages").and_then(|v| v.as_bool().ok()).copied().unwrap_or_default(),
            staged: read_meter(Step::Staged)?,
            copied: read_meter(Step::Copied)?,
            hashed: read_meter(Step::Hashed)?,
        },
    })
}

pub(super) fn task_id(item: &Item) -> StoreResult<TaskId> {
    let id = string(item, "id")?;
    id.parse().map_err(|_| broken("id", id))
}

fn expires_at(item: &Item) -> StoreResult<Option<Timestamp>> {
    if !item.contains_key("expires_at_epoch") {
        return Ok(None);
    }
    integer(item, "expires_at_epoch").map(|seconds| Some(Timestamp::from_epoch(seconds)))
}

pub(super) fn integer(item: &Item, name: &str) -> StoreResult<i64> {
    let number = item.get(name).and_then(|value| value.as_n().ok()).and_then(|n| n.parse().ok());
    number.ok_or_else(|| broken(name, "not a whole number"))
}

/// The two attributes of a step's meter.
pub(super) const fn meter_names(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Staged => ("staged_done", "staged_total"),
        Step::Copied => ("copied_done", "copied_total"),
        Step::Hashed => ("hashed_done", "hashed_total"),
    }
}

pub(super) const fn meter(progress: &Progress, step: Step) -> Meter {
    match step {
        Step::Staged => progress.staged,
        Step::Copied => progress.copied,
        Step::Hashed => progress.hashed,
    }
}

/// An image's record: its fields under their own names, nulls left out.
pub(super) fn image_item(image: &Image) -> StoreResult<Item> {
    let value = serde_json::to_value(image).map_err(|e| StoreError::Fault(e.into()))?;
    let AttributeValue::M(mut item) = attribute(value) else { return Err(broken("image", "")) };
    item.retain(|_, value| !value.is_null());
    item.insert("created_sort".to_owned(), text(created_sort(image.created_at, image.id)));
    Ok(item)
}

pub(super) fn image(item: Item) -> StoreResult<Image> {
    serde_json::from_value(json(AttributeValue::M(item))?).map_err(|e| StoreError::Fault(e.into()))
}

fn attribute(value: Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(b) => AttributeValue::Bool(b),
        Value::Number(n) => AttributeValue::N(n.to_string()),
        Value::String(s) => AttributeValue::S(s),
        Value::Array(values) => AttributeValue::L(values.into_iter().map(attribute).collect()),
        Value::Object(map) => AttributeValue::M(map.into_iter().map(|(k, v)| (k, attribute(v))).collect()),
    }
}

fn json(value: AttributeValue) -> StoreResult<Value> {
    Ok(match value {
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::Bool(b) => Value::Bool(b),
        AttributeValue::N(n) => Value::Number(n.parse::<Number>().map_err(|_| broken("number", &n))?),
        AttributeValue::S(s) => Value::String(s),
        AttributeValue::L(values) => Value::Array(values.into_iter().map(json).collect::<Result<_, _>>()?),
        AttributeValue::M(map) => Value::Object(
            map.into_iter().map(|(k, v)| Ok((k, json(v)?))).collect::<StoreResult<Map<_, _>>>()?,
        ),
        other => return Err(broken("attribute of another type", &format!("{other:?}"))),
    })
}

pub(super) fn created_sort(created_at: Timestamp, id: impl std::fmt::Display) -> String {
    format!("{created_at}#{id}")
}

pub(super) fn updated_sort(updated_at: Timestamp, created_at: Timestamp, id: TaskId) -> String {
    format!("{updated_at}#{created_at}#{id}")
}

/// The last bits of a random UUID are as random as any.
pub(super) fn shard(id: TaskId) -> String {
    let [.., last] = *id.0.as_bytes();
    (last % SHARDS).to_string()
}

pub(super) fn image_key(id: ImageId) -> (String, AttributeValue) {
    ("id".to_owned(), text(id))
}

pub(super) fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn string<'a>(item: &'a Item, name: &str) -> StoreResult<&'a str> {
    item.get(name).and_then(|v| v.as_s().ok()).map(String::as_str).ok_or_else(|| broken(name, "(none)"))
}

fn unsigned(item: &Item, name: &str) -> StoreResult<u64> {
    let Some(value) = item.get(name) else { return Ok(0) };
    value.as_n().ok().and_then(|n| n.parse().ok()).ok_or_else(|| broken(name, "not a whole number"))
}

fn read(item: &Item, name: &str) -> StoreResult<Value> {
    serde_json::from_str(string(item, name)?).map_err(|e| StoreError::Fault(e.into()))
}

fn read_time(item: &Item, name: &str) -> StoreResult<Timestamp> {
    let at = string(item, name)?;
    at.parse().map_err(|_| broken(name, at))
}

fn broken(name: &str, value: &str) -> StoreError {
    StoreError::Fault(format!("a record's attribute '{name}' can't be read: {value}").into())
}
