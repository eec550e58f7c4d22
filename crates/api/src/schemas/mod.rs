//! JSON schemas of what is sent and shown. python-glanceclient reads `task`
//! before it creates one and refuses by it, so the `enum` of `type` holds every type that is taken.

mod image;
mod metadef;
mod task;

use serde_json::{Value, json};

/// A document.
pub(crate) type Schema = fn() -> Value;

/// Those at `/v2/schemas/`, by name.
const SCHEMAS: &[(&str, Schema)] = &[
    ("task", task::task),
    ("tasks", task::tasks),
    ("image", image::image),
    ("images", image::images),
    ("member", image::member),
    ("members", image::members),
];

/// Those at `/v2/schemas/metadefs/`.
const METADEFS: &[(&str, Schema)] = &[
    ("namespace", metadef::namespace),
    ("namespaces", || collection("namespaces", metadef::namespace())),
    ("resource_type", metadef::resource_type),
    ("resource_types", || collection("resource_type_associations", metadef::resource_type())),
    ("property", metadef::property),
    ("properties", metadef::properties),
    ("object", metadef::object),
    ("objects", || collection("objects", metadef::object())),
    ("tag", metadef::tag),
    ("tags", || collection("tags", metadef::tag())),
];

const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// The schema of that name, if there is one.
pub(crate) fn named(name: &str) -> Option<Schema> {
    of(SCHEMAS, name)
}

/// The schema of that name of a metadata definition.
pub(crate) fn metadef_named(name: &str) -> Option<Schema> {
    of(METADEFS, name)
}

/// The names of all, and of those of metadata definitions.
pub(crate) fn names() -> [Vec<&'static str>; 2] {
    [SCHEMAS, METADEFS].map(|schemas| schemas.iter().map(|(name, _)| *name).collect())
}

fn of(schemas: &[(&str, Schema)], name: &str) -> Option<Schema> {
    schemas.iter().find(|(known, _)| *known == name).map(|(_, schema)| *schema)
}

fn collection(name: &str, item: Value) -> Value {
    page(name, json!({"type": "array", "items": item}))
}

/// A list's schema, whatever holds its items.
fn page(name: &str, items: Value) -> Value {
    json!({
        "name": name,
        "properties": {
            (name): items,
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
