//! JSON schemas of what is sent and shown. python-glanceclient reads `task`
//! before it creates one and refuses by it, so the `enum` of `type` holds every type that is taken.

use image_tasks_domain::image_properties::{CONTAINER_FORMATS, DISK_FORMATS};
use image_tasks_domain::{TaskStatus, TaskType, Visibility};
use serde_json::{Value, json};

/// Names under `/v2/schemas/`.
pub(crate) const NAMES: &[&str] = &["task", "tasks", "image", "images"];

const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// The schema of a name in [`NAMES`].
pub(crate) fn schema(name: &str) -> Value {
    match name {
        "tasks" => collection("tasks", task()),
        "image" => image(),
        "images" => collection("images", image()),
        _ => task(),
    }
}

fn collection(name: &str, item: Value) -> Value {
    json!({
        "name": name,
        "properties": {
            (name): {"type": "array", "items": item},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn task() -> Value {
    let types: Vec<_> = TaskType::ALL.iter().map(|t| t.name()).collect();
    let statuses: Vec<_> = TaskStatus::ALL.iter().map(|s| s.name()).collect();
    json!({
        "name": "task",
        "properties": {
            "id": {"description": "Id of the task", "type": "string", "pattern": UUID, "readOnly": true},
            "type": {"description": "What the task does", "type": "string", "enum": types},
            "status": {"description": "Where the task is", "type": "string", "enum": statuses, "readOnly": true},
            "input": {"description": "What the task works on; its members depend on the type", "type": ["null", "object"]},
            "result": {"description": "What the task made, once it succeeded", "type": ["null", "object"], "readOnly": true},
            "owner": {"description": "Project that the task belongs to", "type": "string", "readOnly": true},
            "user_id": {"description": "User that asked", "type": "string", "readOnly": true},
            "request_id": {"description": "Id of the request that made the task", "type": "string", "readOnly": true},
            "image_id": {"description": "Image that the task makes", "type": ["null", "string"], "readOnly": true},
            "message": {"description": "How far the task is, or why it failed", "type": "string", "readOnly": true},
            "progress": {"description": "How far the task is, in percent", "type": "integer", "minimum": 0, "maximum": 100, "readOnly": true},
            "created_at": {"description": "When the task was accepted", "type": "string", "readOnly": true},
            "updated_at": {"description": "When the status last changed", "type": "string", "readOnly": true},
            "expires_at": {"description": "When the task, not what it made, is deleted", "type": ["null", "string"], "readOnly": true},
            "self": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true},
        },
    })
}

fn image() -> Value {
    let visibilities: Vec<_> = Visibility::ALL.iter().map(|v| v.name()).collect();
    let or_null = |names: &[&'static str]| -> Vec<Option<&'static str>> {
        std::iter::once(None).chain(names.iter().copied().map(Some)).collect()
    };
    json!({
        "name": "image",
        "properties": {
            "id": {"description": "Id of the image", "type": "string", "pattern": UUID},
            "name": {"description": "Name of the image", "type": ["null", "string"], "maxLength": 255},
            "status": {"description": "Where the image is in its life", "type": "string", "enum": ["queued", "importing", "active"], "readOnly": true},
            "visibility": {"description": "Who may see the image", "type": "string", "enum": visibilities},
            "protected": {"description": "Whether the image can't be deleted", "type": "boolean"},
            "os_hidden": {"description": "Whether lists leave the image out", "type": "boolean"},
            "disk_format": {"description": "Format of the stored bytes", "type": ["null", "string"], "enum": or_null(DISK_FORMATS)},
            "container_format": {"description": "Envelope of the stored bytes", "type": ["null", "string"], "enum": or_null(CONTAINER_FORMATS)},
            "size": {"description": "Bytes stored", "type": ["null", "integer"], "readOnly": true},
            "virtual_size": {"description": "Bytes of the disk that a guest sees", "type": ["null", "integer"], "readOnly": true},
            "checksum": {"description": "MD5 of the stored bytes", "type": ["null", "string"], "maxLength": 32, "readOnly": true},
            "os_hash_algo": {"description": "Algorithm of os_hash_value", "type": ["null", "string"], "maxLength": 64, "readOnly": true},
            "os_hash_value": {"description": "That hash of the stored bytes", "type": ["null", "string"], "maxLength": 128, "readOnly": true},
            "min_disk": {"description": "GiB of disk that a guest needs", "type": "integer"},
            "min_ram": {"description": "MiB of memory that a guest needs", "type": "integer"},
            "owner": {"description": "Project that the image belongs to", "type": ["null", "string"], "maxLength": 255},
            "tags": {"description": "Tags of the image", "type": "array", "items": {"type": "string", "maxLength": 255}},
            "created_at": {"description": "When the image's record was made", "type": "string", "readOnly": true},
            "updated_at": {"description": "When the image's record last changed", "type": "string", "readOnly": true},
            "self": {"type": "string", "readOnly": true},
            "file": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true},
        },
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}
