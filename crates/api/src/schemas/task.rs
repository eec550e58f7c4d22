//! `task` and `tasks`.

use image_tasks_domain::{TaskStatus, TaskType};
use serde_json::{Value, json};

use super::{UUID, collection};

/// A task by itself.
pub(super) fn task() -> Value {
    let mut task = row();
    let alone = json!({
        "input": {"description": "What the task works on; its members depend on the type", "type": ["null", "object"]},
        "result": {"description": "What the task made, once it succeeded", "type": ["null", "object"], "readOnly": true},
        "message": {"description": "How far the task is, or why it failed", "type": "string", "readOnly": true},
        "progress": {"description": "How far the task is, in percent", "type": "integer", "minimum": 0, "maximum": 100, "readOnly": true},
    });
    if let (Some(all), Value::Object(alone)) = (task["properties"].as_object_mut(), alone) {
        all.extend(alone);
    }
    task
}

/// A page of tasks: what a list leaves out isn't declared.
pub(super) fn tasks() -> Value {
    collection("tasks", row())
}

fn row() -> Value {
    let types: Vec<_> = TaskType::ALL.iter().map(|t| t.name()).collect();
    let statuses: Vec<_> = TaskStatus::ALL.iter().map(|s| s.name()).collect();
    json!({
        "name": "task",
        "properties": {
            "id": {"description": "Id of the task", "type": "string", "pattern": UUID, "readOnly": true},
            "type": {"description": "What the task does", "type": "string", "enum": types},
            "status": {"description": "Where the task is", "type": "string", "enum": statuses, "readOnly": true},
            "owner": {"description": "Project that the task belongs to", "type": "string", "readOnly": true},
            "user_id": {"description": "User that asked", "type": "string", "readOnly": true},
            "request_id": {"description": "Id of the request that made the task", "type": "string", "readOnly": true},
            "image_id": {"description": "Image that the task makes", "type": ["null", "string"], "readOnly": true},
            "created_at": {"description": "When the task was accepted", "type": "string", "readOnly": true},
            "updated_at": {"description": "When the status last changed", "type": "string", "readOnly": true},
            "expires_at": {"description": "When the task, not what it made, is deleted", "type": ["null", "string"], "readOnly": true},
            "self": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true},
        },
    })
}
