//! JSON schemas of what is sent and shown. python-glanceclient reads `task`
//! before it creates one and refuses by it, so the `enum` of `type` holds every type that is taken.

mod image;
mod metadef;
mod task;

use serde_json::{Value, json};

/// A document.
pub(crate) type Schema = fn() -> Value;

/// Those under `/v2/schemas/`, by name.
const SCHEMAS: &[(&str, Schema)] = &[
    ("task", task::task),
    ("tasks", task::tasks),
    ("image", image::image),
    ("images", image::images),
    ("member", image::member),
    ("members", image::members),
    ("metadefs/namespace", metadef::namespace),
    ("metadefs/namespaces", || collection("namespaces", metadef::namespace())),
    ("metadefs/resource_type", metadef::resource_type),
    ("metadefs/resource_types", || collection("resource_type_associations", metadef::resource_type())),
    ("metadefs/property", metadef::property),
    ("metadefs/properties", metadef::properties),
    ("metadefs/object", metadef::object),
    ("metadefs/objects", || collection("objects", metadef::object())),
    ("metadefs/tag", metadef::tag),
    ("metadefs/tags", || collection("tags", metadef::tag())),
];

const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// The schema of that name, if there is one.
pub(crate) fn named(name: &str) -> Option<Schema> {
    SCHEMAS.iter().find(|(known, _)| *known == name).map(|(_, schema)| *schema)
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
