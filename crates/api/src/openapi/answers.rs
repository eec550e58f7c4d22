//! Schemas of what is shown, and what every refusal is.

use serde_json::{Map, Value, json};

use super::reference;
use crate::schemas;

/// By the names of components. Records are those at `/v2/schemas`, made strict: these say which members are always there.
pub(super) fn schemas() -> Map<String, Value> {
    let mut task_row = Value::Null;
    let schemas = [
        ("error", error()),
        ("task", record(shown("task"), &["expires_at", "image_id"])),
        ("tasks", list(shown("tasks"), "tasks", "taskInList", &mut task_row)),
        ("taskInList", record(task_row, &["expires_at", "image_id"])),
        ("imageTasks", object(json!({"tasks": array("task")}))),
        ("image", record(shown("image"), &["stores"])),
        ("images", list(shown("images"), "images", "image", &mut Value::Null)),
        ("partUrls", part_urls()),
        ("member", record(shown("member"), &[])),
        ("members", list(shown("members"), "members", "member", &mut Value::Null)),
        ("versions", versions()),
        ("importInfo", import_info()),
        ("store", store()),
        ("stores", object(json!({"stores": array("store")}))),
        ("storesDetail", stores_detail()),
        ("regions", regions()),
        ("usage", usage()),
        ("schema", json!({"type": "object", "required": ["name", "properties"]})),
        ("document", json!({"type": "object", "required": ["openapi", "info", "paths", "components"]})),
    ];
    schemas.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

/// A schema of Images v2 as JSON Schema has it now: an object, with all members but those that may be missing, and no others
/// where it doesn't say what others are.
fn record(mut schema: Value, may_be_missing: &[&str]) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.remove("name");
        members.remove("links");
        let names = members.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let required: Vec<_> =
            names.filter(|name| !may_be_missing.contains(&name.as_str())).cloned().collect();
        members.insert("type".to_owned(), json!("object"));
        members.insert("required".to_owned(), json!(required));
        members.entry("additionalProperties").or_insert(json!(false));
    }
    schema
}

/// The same of a list, whose items are a component; what they were is put into `item`.
fn list(schema: Value, name: &str, component: &str, item: &mut Value) -> Value {
    let mut list = record(schema, &["next"]);
    *item = std::mem::replace(&mut list["properties"][name]["items"], reference("schemas", component));
    list
}

fn shown(name: &str) -> Value {
    schemas::named(name).map(|schema| schema()).unwrap_or_default()
}

fn object(properties: Value) -> Value {
    record(json!({"properties": properties}), &[])
}

fn array(component: &str) -> Value {
    json!({"type": "array", "items": reference("schemas", component)})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn error() -> Value {
    let told = object(json!({
        "message": {"description": "What is wrong, and what would be taken", "type": "string", "minLength": 1},
        "code": {"description": "The status and its name", "type": "string", "pattern": "^[45][0-9]{2} "},
        "title": {"description": "The status's name", "type": "string", "minLength": 1},
    }));
    object(json!({"error": told}))
}

fn versions() -> Value {
    let link = object(json!({"rel": text(), "href": text()}));
    let version = object(json!({
        "id": {"type": "string", "pattern": "^v2\\.[0-9]+$"},
        "status": {"type": "string", "enum": ["CURRENT", "SUPPORTED"]},
        "links": {"type": "array", "items": link},
    }));
    object(json!({"versions": {"type": "array", "items": version}}))
}

fn import_info() -> Value {
    object(json!({"import-methods": object(json!({
        "description": text(), "type": {"const": "array"}, "value": {"type": "array", "items": text()},
    }))}))
}

fn store() -> Value {
    let properties = json!({
        "id": {"description": "Name of the region", "type": "string"},
        "description": text(),
        "default": {"description": "Bytes go there", "const": "true"},
    });
    object(properties)
}

fn stores_detail() -> Value {
    let mut store = store();
    store["properties"]["type"] = json!({"const": "s3"});
    store["properties"]["properties"] = json!({"type": "object"});
    store["properties"]["weight"] = json!({"type": "integer"});
    let store = record(store, &[]);
    object(json!({"stores": {"type": "array", "items": store}}))
}

fn part_urls() -> Value {
    let count = |description: &str| json!({"description": description, "type": "integer", "minimum": 0});
    let part = object(json!({
        "part_number": {"type": "integer", "minimum": 1},
        "offset": count("Where in the file it begins"),
        "size": count("Its bytes"),
        "url": {"description": "Where it is put", "type": "string"},
    }));
    object(json!({
        "upload_id": text(),
        "size": count("Bytes of the file"),
        "part_size": count("Bytes of each part but the last"),
        "part_count": count("Parts in all"),
        "parts": {"type": "array", "items": part},
        "expires_at": {"description": "When the URLs end at the latest", "type": "string"},
    }))
}

fn regions() -> Value {
    let region = object(json!({
        "id": text(),
        "endpoint": {"description": "Null where the operator lists none", "type": ["null", "string"]},
        "here": {"description": "Whether it is the region that answers", "type": "boolean"},
    }));
    object(json!({"regions": {"type": "array", "items": region}}))
}

fn usage() -> Value {
    let count = object(
        json!({"limit": {"type": "integer", "minimum": -1}, "usage": {"type": "integer", "minimum": 0}}),
    );
    let names = ["image_count_total", "image_count_uploading", "image_size_total", "image_stage_total"];
    let counts: Map<_, _> = names.into_iter().map(|name| (name.to_owned(), count.clone())).collect();
    object(json!({"usage": object(Value::Object(counts))}))
}

/// Headers of answers. Each is always there where it is named.
pub(super) fn headers() -> Value {
    let header = |description: &str| json!({"description": description, "required": true, "schema": text()});
    json!({
        "x-openstack-request-id": header("What the service's logs know the request by: req-<uuid>"),
        "Location": header("Where what was asked for is"),
        "OpenStack-image-import-methods": header("How bytes come into the record"),
        "WWW-Authenticate": header("How to authenticate: for a token, at which Keystone"),
    })
}

/// Refusals by their status.
pub(super) fn refusals() -> Value {
    let refusal = |description: &str| {
        json!({
            "description": description,
            "headers": {"x-openstack-request-id": reference("headers", "x-openstack-request-id")},
            "content": {"application/json": {"schema": reference("schemas", "error")}},
        })
    };
    let mut refusals = json!({
        "400": refusal("A parameter or the body can't be taken; the message names it"),
        "401": refusal("Nobody is known by this token or signature"),
        "403": refusal("The caller's roles or the state of the image don't allow it"),
        "404": refusal("There is none, or none that the caller may see"),
        "409": refusal("Something that exists is in the way"),
        "413": refusal("More than is taken; the message says how much that is"),
        "415": refusal("The body's type isn't taken; the message names those that are"),
        "500": refusal("A fault of the service; the message has the request's id"),
        "503": refusal("Something that the service needs can't be reached now; send the request again"),
    });
    refusals["401"]["headers"]["WWW-Authenticate"] = reference("headers", "WWW-Authenticate");
    refusals["503"]["headers"]["Retry-After"] =
        json!({"description": "Seconds", "required": true, "schema": {"type": "integer"}});
    refusals
}
