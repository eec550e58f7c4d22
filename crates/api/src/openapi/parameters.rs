//! What stands in paths, queries and headers.

use image_tasks_domain::images::{NumberAttribute, SortKey, TextAttribute};
use image_tasks_domain::tasks::DEFAULT_LIMIT;
use image_tasks_domain::{MemberStatus, TaskStatus, TaskType, Visibility};
use serde_json::{Value, json};

use crate::{schemas, tasks};

/// The named parts of a documented path.
pub(super) fn of_path(path: &str) -> Vec<Value> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| named(path, name))
        .collect()
}

fn named(path: &str, name: &str) -> Value {
    let [plain, metadefs] = schemas::names();
    let (description, schema) = match name {
        "task_id" => ("Id of a task", uuid()),
        "image_id" => ("Id of an image", uuid()),
        "member_id" => ("Project that the image is shared with", json!({"type": "string", "minLength": 1})),
        "tag" => ("A tag", json!({"type": "string", "minLength": 1, "maxLength": 255})),
        "schema" if path.contains("metadefs") => ("Name of the schema", one_of(metadefs)),
        _ => ("Name of the schema", one_of(plain)),
    };
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
}

/// What the first request of several that ask for the same is known by.
pub(super) fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header",
        "description": "A name for this request: who repeats it is answered with the task that it made first",
        "schema": {"type": "string", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": 255},
    })
}

/// Of a list of tasks.
pub(super) fn of_tasks() -> Vec<Value> {
    let sort_keys: Vec<_> = tasks::SORT_KEYS.iter().map(|(name, _)| *name).collect();
    let types: Vec<_> = TaskType::ALL.iter().map(|t| t.name()).collect();
    let statuses: Vec<_> = TaskStatus::ALL.iter().map(|s| s.name()).collect();
    vec![
        limit(),
        query("marker", "Start behind the task of this id", uuid()),
        query("sort_key", "Sort by this, created_at unless said", one_of(sort_keys)),
        query("sort_dir", "In this direction, desc unless said", one_of(vec!["asc", "desc"])),
        query("type", "Only tasks of this type", one_of(types)),
        query("status", "Only tasks of this status", one_of(statuses)),
        query("owner", "Only tasks of this project", text()),
        query("id", "Only the task of this id", text()),
    ]
}

/// Of a list of images.
pub(super) fn of_images() -> Vec<Value> {
    let all = |names: Vec<&'static str>| one_of(names.into_iter().chain(["all"]).collect());
    let visibilities = Visibility::ALL.iter().map(|v| v.name()).collect();
    let answers = MemberStatus::ALL.iter().map(|s| s.name()).collect();
    let sort_keys: Vec<_> = SortKey::ALL.iter().map(|(name, _)| *name).collect();
    let directions = vec!["asc", "desc"];
    let sort = format!("^({0})(:(asc|desc))?(,({0})(:(asc|desc))?)*$", sort_keys.join("|"));
    let mut parameters = vec![
        limit(),
        query("marker", "Start behind the image of this id", uuid()),
        query(
            "sort",
            "Sort by keys with directions, as name:asc,size:desc",
            json!({"type": "string", "pattern": sort}),
        ),
        query("sort_key", "Sort by these", json!({"type": "array", "items": one_of(sort_keys)})),
        query("sort_dir", "In these directions", json!({"type": "array", "items": one_of(directions)})),
        query(
            "visibility",
            "Only images of this visibility; all takes others' community images in",
            all(visibilities),
        ),
        query("member_status", "Of images shared with the project those it said this to", all(answers)),
        query("os_hidden", "Hidden images instead of the others", json!({"type": "boolean"})),
        query("protected", "Only images that can't be deleted, or that can", json!({"type": "boolean"})),
        query("tag", "Only images that have each of these", json!({"type": "array", "items": text()})),
        query(
            "created_at",
            "A time as 2026-11-18T11:06:40Z, also behind eq:, neq:, gt:, gte:, lt: or lte:",
            text(),
        ),
        query("updated_at", "As created_at", text()),
    ];
    parameters.extend(
        TextAttribute::ALL
            .iter()
            .map(|attribute| query(attribute.name(), "Only images that have this value", text())),
    );
    for (name, _) in NumberAttribute::ALL {
        parameters.push(query(name, "Only images that have this value", number()));
        parameters.push(query(&format!("{name}_min"), "Only images that have at least this", number()));
        parameters.push(query(&format!("{name}_max"), "Only images that have at most this", number()));
    }
    parameters
}

fn limit() -> Value {
    let schema = json!({"type": "integer", "minimum": 0, "default": DEFAULT_LIMIT});
    query("limit", "Most records of the page; more than 1000 are never given", schema)
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

fn one_of(names: Vec<&str>) -> Value {
    json!({"type": "string", "enum": names})
}

fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn number() -> Value {
    json!({"type": "integer"})
}
