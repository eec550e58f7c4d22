//! Records as items and back.
//!
//! Sort attributes end in the id, so they are unique and order ties:
//! `created_sort` = `created_at#id`, `updated_sort` = `updated_at#created_at#id`.
//! RFC 3339 in UTC with whole seconds sorts as text.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use image_tasks_domain::ports::{OpenTask, StoreError, StoreResult};
use image_tasks_domain::task::MAX_MESSAGE;
use image_tasks_domain::{
    Image, ImageId, Progress, Task, TaskId, TaskStatus, TaskType, Timestamp, Unsettled,
};
use serde_json::Value;

/// Attributes of one record.
pub type Item = HashMap<String, AttributeValue>;

/// Partitions of the indexes over all tenants: each takes 1000 writes a second (DynamoDB developer guide,
/// "Partitions and data distribution").
pub(super) const SHARDS: u8 = 4;

/// Most bytes that DynamoDB keeps in an item (DynamoDB developer guide, "Quotas").
const MAX_ITEM: usize = 400 << 10;
/// What a task gains after it was accepted, at most: a result, a message ([`MAX_MESSAGE`]), who cancelled it, times.
const ROOM: usize = 4 * MAX_MESSAGE;
/// Most bytes of a task's item when it is made.
pub(super) const MAX_NEW_TASK: usize = MAX_ITEM - ROOM;

/// Bytes that an item takes, by which DynamoDB limits and charges (DynamoDB developer guide, "DynamoDB item sizes and
/// formats"). Of numbers that guide gives an approximation; this is never less.
pub(super) fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &AttributeValue) -> usize {
    const OF_A_COLLECTION: usize = 3;
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::L(list) => {
            list.iter().map(|value| 1 + value_size(value)).sum::<usize>() + OF_A_COLLECTION
        }
        AttributeValue::M(map) => map.len() + item_size(map) + OF_A_COLLECTION,
        AttributeValue::Ss(texts) => texts.iter().map(|text| text.len() + 1).sum::<usize>() + OF_A_COLLECTION,
        // Booleans and nulls; other sets are nowhere in our records.
        _ => 1,
    }
}

/// A task as it is stored. Times that DynamoDB compares are seconds, numbers. `expires_at` is what readers go by;
/// `expires_at_epoch`, by which DynamoDB deletes, is there only once nothing is left to do for the task.
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
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut set =
        |name: &str, value: Option<AttributeValue>| item.extend(value.map(|v| (name.to_owned(), v)));
    set("result", task.result.as_ref().map(text));
    // The key of an index, so a task that has yet to be bound has it as well.
    let of_image = task.of_image();
    set("image_id", of_image.map(text));
    let unbound = of_image.is_some() && task.image_id.is_none();
    set("unbound", unbound.then_some(AttributeValue::Bool(true)));
    set("cancelled_by", task.cancelled_by.as_ref().map(text));
    let expires = task.expires_at.map(|at| number(at.epoch()));
    let settled = task.status.is_end() && task.unsettled.is_none();
    set("expires_at_epoch", expires.clone().filter(|_| settled));
    set("expires_at", expires);
    set("unsettled", (!settled).then(|| text(shard(task.id))));
    match task.unsettled {
        Some(Unsettled::Cleaning { after }) => set("clean_after", Some(number(after.epoch()))),
        Some(Unsettled::Hashing { executions }) => set("hash_executions", Some(number(executions))),
        None => {}
    }
    item
}

/// A task from its item, or from what an index has of it: what lists leave out is empty then.
pub(super) fn task(item: &Item) -> StoreResult<Task> {
    let (task_type, status) = (string(item, "type")?, string(item, "status")?);
    Ok(Task {
        id: task_id(item)?,
        task_type: TaskType::from_name(task_type).ok_or_else(|| broken("type", task_type))?,
        status: TaskStatus::from_name(status).ok_or_else(|| broken("status", status))?,
        owner: string(item, "owner")?.to_owned(),
        user_id: string(item, "user_id")?.to_owned(),
        request_id: string(item, "request_id")?.to_owned(),
        input: given(item, "input", read)?.unwrap_or(Value::Null),
        result: given(item, "result", read)?,
        message: given(item, "message", string)?.unwrap_or_default().to_owned(),
        created_at: read_time(item, "created_at")?,
        updated_at: read_time(item, "updated_at")?,
        expires_at: given(item, "expires_at", integer)?.map(Timestamp::from_epoch),
        image_id: given(item, "image_id", string)?
            .filter(|_| !item.contains_key("unbound"))
            .map(|id| id.parse().map_err(|_| broken("image_id", id)))
            .transpose()?,
        progress: Progress::default(),
        cancelled_by: given(item, "cancelled_by", string)?.map(str::to_owned),
        unsettled: unsettled(item)?,
    })
}

pub(super) fn task_id(item: &Item) -> StoreResult<TaskId> {
    let id = string(item, "id")?;
    id.parse().map_err(|_| broken("id", id))
}

fn unsettled(item: &Item) -> StoreResult<Option<Unsettled>> {
    if let Some(after) = given(item, "clean_after", integer)? {
        return Ok(Some(Unsettled::Cleaning { after: Timestamp::from_epoch(after) }));
    }
    let executions = given(item, "hash_executions", integer)?.map(u32::try_from).transpose();
    let executions = executions.map_err(|_| broken("hash_executions", "not a count"))?;
    Ok(executions.map(|executions| Unsettled::Hashing { executions }))
}

/// An attribute that need not be there.
fn given<'a, T>(
    item: &'a Item,
    name: &str,
    read: impl FnOnce(&'a Item, &str) -> StoreResult<T>,
) -> StoreResult<Option<T>> {
    item.contains_key(name).then(|| read(item, name)).transpose()
}

/// What the sweep's index has of a task: its place in the order of creation.
pub(super) fn open_task(item: &Item) -> StoreResult<OpenTask> {
    let sort = string(item, "created_sort")?;
    let created_at = sort.split_once('#').and_then(|(at, _)| at.parse().ok());
    let created_at = created_at.ok_or_else(|| broken("created_sort", sort))?;
    Ok(OpenTask { id: task_id(item)?, created_at })
}

pub(super) fn integer(item: &Item, name: &str) -> StoreResult<i64> {
    let number = item.get(name).and_then(|value| value.as_n().ok()).and_then(|n| n.parse().ok());
    number.ok_or_else(|| broken(name, "not a whole number"))
}

/// An image's record: its fields under their own names, nulls left out.
pub fn image_item(image: &Image) -> StoreResult<Item> {
    let mut item: Item = serde_dynamo::to_item(image).map_err(|e| StoreError::Fault(e.into()))?;
    item.retain(|_, value| !value.is_null());
    item.insert("created_sort".to_owned(), text(created_sort(image.created_at, image.id)));
    if let Some(name) = image.name.as_ref().filter(|name| !name.is_empty()) {
        item.insert(NAME_KEY.to_owned(), text(name));
    }
    Ok(item)
}

/// The image's name where it can be the key of an index, which takes no empty text (DynamoDB developer guide,
/// "Constraints": key values).
pub(super) const NAME_KEY: &str = "name_key";

/// Whether an item of the images' table is an image's record: of a removed one only the id is left.
pub(super) fn is_record(item: &Item) -> bool {
    item.contains_key("owner")
}

pub(super) fn image(item: Item) -> StoreResult<Image> {
    serde_dynamo::from_item(item).map_err(|e| StoreError::Fault(e.into()))
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

pub(super) fn unsigned(item: &Item, name: &str) -> StoreResult<u64> {
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
