//! Schemas of what is sent.

use image_tasks_domain::export_input::{COMPRESSIONS, FORMATS};
use image_tasks_domain::image::HASH_ALGORITHM;
use image_tasks_domain::image_import::METHODS;
use image_tasks_domain::import_input::{MAX_SOURCES, SOURCE_FORMATS, SOURCE_HASHES};
use image_tasks_domain::source_headers::MOST as MOST_HEADERS;
use image_tasks_domain::uploads::MOST_URLS;
use image_tasks_domain::{MemberStatus, TaskType};
use serde_json::{Map, Value, json};

use super::reference;
use crate::schemas;

/// By the names of components.
pub(super) fn schemas() -> Map<String, Value> {
    let said: Vec<_> = MemberStatus::ALL.iter().map(|status| status.name()).collect();
    let schemas = [
        ("newTask", new_task()),
        ("importInput", import_input()),
        ("exportInput", export_input()),
        ("cloneInput", clone_input()),
        ("newImage", new_image()),
        ("imageImport", image_import()),
        ("partsRequest", parts_request()),
        ("completion", completion()),
        ("patch", patch()),
        ("oldPatch", old_patch()),
        ("newMember", one("member", json!({"type": "string", "minLength": 1, "maxLength": 255}))),
        ("memberStatus", one("status", json!({"type": "string", "enum": said}))),
    ];
    schemas.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

/// A task: its type, and an input as that type has it.
fn new_task() -> Value {
    let of = |(task_type, input): (TaskType, &str)| {
        json!({
            "type": "object",
            "required": ["type", "input"],
            "properties": {"type": {"const": task_type.name()}, "input": reference("schemas", input)},
        })
    };
    let types = [
        (TaskType::Import, "importInput"),
        (TaskType::Export, "exportInput"),
        (TaskType::Clone, "cloneInput"),
    ];
    json!({"oneOf": types.map(of)})
}

fn import_input() -> Value {
    json!({
        "type": "object",
        "required": ["import_from"],
        "properties": {
            "import_from": {
                "description": "Where the image is: http(s)://, s3://bucket/key, container/object, or \
                                oci://registry/repository:tag; or a list of such places, without oci://, that have \
                                the same bytes",
                "oneOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_SOURCES},
                ],
                "examples": ["https://example.com/disk.qcow2"],
            },
            "import_from_headers": {
                "description": "What the web server wants to be told; kept until the task ends, and shown as ***",
                "type": "object", "minProperties": 1, "maxProperties": MOST_HEADERS,
                "additionalProperties": {"type": "string"},
                "examples": [{"Authorization": "Bearer ..."}],
            },
            "import_from_format": {
                "description": "The format that inspection has to find; a raw disk has to be declared",
                "type": "string", "enum": SOURCE_FORMATS,
            },
            "import_from_member": {
                "description": "Which disk of an archive is taken", "type": "string", "minLength": 1, "maxLength": 255,
            },
            "image_properties": reference("schemas", "newImage"),
            "checksum": {"description": "MD5 of the source", "type": "string", "pattern": "^[0-9a-fA-F]{32}$"},
            "os_hash_algo": {
                "description": "Algorithm of os_hash_value", "type": "string", "enum": SOURCE_HASHES,
                "default": HASH_ALGORITHM,
            },
            "os_hash_value": {
                "description": "That hash of the source", "type": "string",
                "pattern": "^([0-9a-fA-F]{64}|[0-9a-fA-F]{128})$",
            },
            "checksums_from": {
                "description": "Where a file such as SHA256SUMS lists a hash of the source, by its name",
                "type": "string", "examples": ["https://example.com/SHA256SUMS"],
            },
        },
        "dependentRequired": {"os_hash_algo": ["os_hash_value"]},
        "if": {"properties": {"os_hash_algo": {"const": "sha256"}}, "required": ["os_hash_algo"]},
        "then": {"properties": {"os_hash_value": {"pattern": "^[0-9a-fA-F]{64}$"}}},
        "else": {"properties": {"os_hash_value": {"pattern": "^[0-9a-fA-F]{128}$"}}},
    })
}

fn export_input() -> Value {
    let image = json!({"description": "The image to export", "type": "string", "format": "uuid"});
    let bucket = json!({"description": "The bucket that receives it", "type": "string", "minLength": 3, "maxLength": 63});
    let required =
        |names: &[&str]| -> Value { names.iter().map(|name| json!({"required": [name]})).collect() };
    json!({
        "type": "object",
        "allOf": [
            {"oneOf": required(&["image_uuid", "export_uuid"])},
            {"oneOf": required(&["receiving_bucket", "receiving_swift_container", "export_to"])},
        ],
        "properties": {
            "image_uuid": image, "export_uuid": image,
            "receiving_bucket": bucket, "receiving_swift_container": bucket,
            "export_to": {"description": "The object to make", "type": "string", "pattern": "^s3://[^/]+/.+$"},
            "export_format": {"type": "string", "enum": FORMATS, "default": "qcow2"},
            "compression": {"description": "Of a qcow2's clusters", "type": "string", "enum": COMPRESSIONS},
        },
    })
}

fn clone_input() -> Value {
    json!({
        "type": "object",
        "oneOf": [{"required": ["source_image_url"]}, {"required": ["source_region", "image_uuid"]}],
        "properties": {
            "source_image_url": {
                "description": "<endpoint>/v2/images/<id> of another region, or of a Glance that the operator allows",
                "type": "string", "format": "uri",
            },
            "source_region": {"description": "Name of the region that has the image", "type": "string"},
            "image_uuid": {"description": "The image there", "type": "string", "format": "uuid"},
            "image_properties": reference("schemas", "newImage"),
            "allow_duplicate": {
                "description": "Copy it though the project has the same bits here", "type": "boolean", "default": false,
            },
        },
    })
}

fn parts_request() -> Value {
    let number = json!({"type": "integer", "minimum": 1, "maximum": 10_000});
    let begin = json!({
        "type": "object",
        "required": ["size"],
        "properties": {"size": {"description": "The file's bytes", "type": "integer", "minimum": 1}},
        "not": {"required": ["upload_id"]},
    });
    let more = json!({
        "type": "object",
        "required": ["upload_id", "part_numbers"],
        "properties": {
            "upload_id": {"type": "string", "format": "uuid"},
            "part_numbers": {"type": "array", "items": number, "minItems": 1, "maxItems": MOST_URLS},
        },
        "not": {"required": ["size"]},
    });
    json!({"oneOf": [begin, more]})
}

fn completion() -> Value {
    let part = json!({
        "type": "object",
        "required": ["part_number", "etag"],
        "properties": {
            "part_number": {"type": "integer", "minimum": 1, "maximum": 10_000},
            "etag": {"description": "What S3 answered", "type": "string", "maxLength": 128},
        },
    });
    json!({
        "type": "object",
        "required": ["upload_id", "parts"],
        "properties": {
            "upload_id": {"type": "string", "format": "uuid"},
            "parts": {"description": "Each part once, in any order", "type": "array", "items": part},
            "crc64nvme": {
                "description": "CRC64NVME of the whole file, base64", "type": "string",
                "pattern": "^[A-Za-z0-9+/]{10}[AEIMQUYcgkosw048]=$",
            },
        },
    })
}

/// What the image's schema has that callers may say.
fn new_image() -> Value {
    let mut image = schemas::named("image").map(|schema| schema()).unwrap_or_default();
    let mut settable = Map::new();
    if let Some(Value::Object(attributes)) = image.get_mut("properties").map(Value::take) {
        settable.extend(attributes.into_iter().filter(|(_, said)| said["readOnly"] != true));
    }
    for name in ["min_disk", "min_ram"] {
        if let Some(count) = settable.get_mut(name) {
            count["minimum"] = json!(0);
            count["maximum"] = json!(i32::MAX);
        }
    }
    // Shown it may be null, said it may not.
    if let Some(owner) = settable.get_mut("owner") {
        owner["type"] = json!("string");
    }
    json!({
        "description": "Attributes of an image; any other member is an extra property",
        "type": "object",
        "properties": settable,
        "additionalProperties": image["additionalProperties"],
    })
}

fn image_import() -> Value {
    json!({
        "type": "object",
        "required": ["method"],
        "properties": {"method": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "enum": METHODS},
                "uri": {"description": "Of web-download: where the bytes are", "type": "string"},
                "glance_region": {
                    "description": "Of glance-download: the region that has the image, as GET /v2/info/regions or the \
                                    operator names it",
                    "type": "string",
                },
                "glance_image_id": {
                    "description": "Of glance-download: the image there", "type": "string", "format": "uuid",
                },
                "glance_service_interface": {"type": "string", "enum": ["public"], "default": "public"},
            },
        }},
    })
}

fn patch() -> Value {
    json!({"type": "array", "maxItems": 1000, "items": {
        "type": "object",
        "required": ["op", "path"],
        "properties": {
            "op": {"type": "string", "enum": ["add", "replace", "remove"]},
            "path": {"type": "string", "pattern": "^/[^/]+$"},
            "value": {"description": "For add and replace"},
        },
    }})
}

fn old_patch() -> Value {
    let path = json!({"type": "string", "pattern": "^/[^/]+$"});
    json!({"type": "array", "maxItems": 1000, "items": {
        "type": "object",
        "oneOf": [{"required": ["add"]}, {"required": ["replace"]}, {"required": ["remove"]}],
        "properties": {"add": path, "replace": path, "remove": path, "value": {}},
    }})
}

fn one(name: &str, schema: Value) -> Value {
    json!({"type": "object", "required": [name], "properties": {(name): schema}})
}
