//! Documents of metadata definitions. Clients ask for them whether or not namespaces are offered.

use serde_json::{Value, json};

/// A namespace of definitions.
pub(super) fn namespace() -> Value {
    json!({
        "name": "namespace",
        "additionalProperties": false,
        "required": ["namespace"],
        "properties": {
            "namespace": {"description": "Name of the namespace, unique", "type": "string", "maxLength": 80},
            "display_name": {"description": "Name for people", "type": "string", "maxLength": 80},
            "description": {"description": "What the namespace is for", "type": "string", "maxLength": 500},
            "visibility": {"description": "Who may see it", "type": "string", "enum": ["public", "private"]},
            "protected": {"description": "Whether it can't be deleted", "type": "boolean"},
            "owner": {"description": "Project that it belongs to", "type": "string", "maxLength": 255},
            "created_at": time("When it was made"),
            "updated_at": time("When it last changed"),
            "self": link(),
            "schema": link(),
            "resource_type_associations": {"type": "array", "items": texts(&["name", "prefix", "properties_target"])},
            "properties": {"$ref": "#/definitions/property"},
            "objects": {"type": "array", "items": {"type": "object", "properties": {
                "name": {"type": "string"},
                "description": {"type": "string"},
                "required": {"$ref": "#/definitions/stringArray"},
                "properties": {"$ref": "#/definitions/property"},
            }}},
            "tags": {"type": "array", "items": texts(&["name"])},
        },
        "definitions": definitions(),
    })
}

/// Which type of resource a namespace's properties are for.
pub(super) fn resource_type() -> Value {
    json!({
        "name": "resource_type_association",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": {"description": "Type of resource, as OS::Glance::Image", "type": "string", "maxLength": 80},
            "prefix": {"description": "What stands before the names of properties there", "type": "string", "maxLength": 80},
            "properties_target": {"description": "Which of the resource's sets of properties is meant", "type": "string", "maxLength": 80},
            "created_at": time("When it was made"),
            "updated_at": time("When it last changed"),
        },
    })
}

/// One property's definition.
pub(super) fn property() -> Value {
    json!({
        "name": "property",
        "additionalProperties": false,
        "required": ["name", "title", "type"],
        "properties": definition(),
        "definitions": numbers_and_texts(),
    })
}

/// Definitions by the names of properties.
pub(super) fn properties() -> Value {
    let mut one = property();
    one["required"] = json!(["title", "type"]);
    super::page("properties", json!({"type": "object", "additionalProperties": one}))
}

/// Properties that belong together.
pub(super) fn object() -> Value {
    json!({
        "name": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 80},
            "description": {"type": "string"},
            "required": {"$ref": "#/definitions/stringArray"},
            "properties": {"$ref": "#/definitions/property"},
            "created_at": time("When it was made"),
            "updated_at": time("When it last changed"),
            "self": link(),
            "schema": link(),
        },
        "definitions": definitions(),
    })
}

/// A tag that a namespace proposes.
pub(super) fn tag() -> Value {
    json!({
        "name": "tag",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 80},
            "created_at": time("When it was made"),
            "updated_at": time("When it last changed"),
        },
    })
}

fn time(description: &str) -> Value {
    json!({"description": description, "type": "string", "format": "date-time", "readOnly": true})
}

fn link() -> Value {
    json!({"type": "string", "readOnly": true})
}

fn texts(names: &[&str]) -> Value {
    let members: serde_json::Map<_, _> =
        names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
    json!({"type": "object", "properties": members})
}

fn definitions() -> Value {
    let mut all = numbers_and_texts();
    all["property"] = json!({"type": "object", "additionalProperties": {
        "type": "object", "required": ["title", "type"], "properties": definition(),
    }});
    all
}

fn numbers_and_texts() -> Value {
    json!({
        "positiveInteger": {"type": "integer", "minimum": 0},
        "positiveIntegerDefault0": {"allOf": [{"$ref": "#/definitions/positiveInteger"}, {"default": 0}]},
        "stringArray": {"type": "array", "items": {"type": "string"}, "uniqueItems": true},
    })
}

/// What may be said of a property: the words of JSON Schema.
fn definition() -> Value {
    let types = json!({"type": "string", "enum": ["array", "boolean", "integer", "number", "object", "string", null]});
    json!({
        "name": {"type": "string", "maxLength": 80},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "operators": {"type": "array", "items": {"type": "string"}},
        "type": types,
        "required": {"$ref": "#/definitions/stringArray"},
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "minLength": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "maxLength": {"$ref": "#/definitions/positiveInteger"},
        "pattern": {"type": "string", "format": "regex"},
        "enum": {"type": "array"},
        "readonly": {"type": "boolean"},
        "default": {},
        "items": {"type": "object", "properties": {"type": types, "enum": {"type": "array"}}},
        "minItems": {"$ref": "#/definitions/positiveIntegerDefault0"},
        "maxItems": {"$ref": "#/definitions/positiveInteger"},
        "uniqueItems": {"type": "boolean", "default": false},
        "additionalItems": {"type": "boolean"},
    })
}
