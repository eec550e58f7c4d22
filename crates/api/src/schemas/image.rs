//! `image`, `member`, and lists of them.

use image_tasks_domain::Visibility;
use image_tasks_domain::image_properties::{CONTAINER_FORMATS, DISK_FORMATS};
use serde_json::{Value, json};

use super::{UUID, collection};

/// A page of images.
pub(super) fn images() -> Value {
    collection("images", image())
}

/// One image. Statuses are all that Images v2 has, so that a client of another deployment can read this one.
pub(super) fn image() -> Value {
    let visibilities: Vec<_> = Visibility::ALL.iter().map(|v| v.name()).collect();
    let or_null = |names: &[&'static str]| -> Vec<Option<&'static str>> {
        std::iter::once(None).chain(names.iter().copied().map(Some)).collect()
    };
    json!({
        "name": "image",
        "properties": {
            "id": {"description": "Id of the image", "type": "string", "pattern": UUID},
            "name": {"description": "Name of the image", "type": ["null", "string"], "maxLength": 255},
            "status": {"description": "Where the image is in its life", "type": "string", "enum": STATUSES, "readOnly": true},
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
            "stores": {"description": "Stores that hold the bytes", "type": "string", "readOnly": true},
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

/// A project that an image is shared with.
pub(super) fn member() -> Value {
    json!({
        "name": "member",
        "properties": {
            "member_id": {"description": "Project that the image is shared with", "type": "string"},
            "image_id": {"description": "Id of the image", "type": "string", "pattern": UUID},
            "status": {"description": "What the project said to it", "type": "string", "enum": ["pending", "accepted", "rejected"]},
            "created_at": {"description": "When the image was shared", "type": "string"},
            "updated_at": {"description": "When the status last changed", "type": "string"},
            "schema": {"type": "string", "readOnly": true},
        },
    })
}

/// All of an image's: a list of one page.
pub(super) fn members() -> Value {
    json!({
        "name": "members",
        "properties": {
            "members": {"type": "array", "items": member()},
            "schema": {"type": "string"},
        },
        "links": [{"rel": "describedby", "href": "{schema}"}],
    })
}

const STATUSES: &[&str] = &[
    "queued",
    "saving",
    "uploading",
    "importing",
    "active",
    "deactivated",
    "pending_delete",
    "killed",
    "deleted",
];
