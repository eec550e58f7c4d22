//! JSON Schema, as much of it as the OpenAPI document's answers use. Any other keyword is a panic, so none is passed over.
//!
//! A library would do, but those there are change the features of crates below the SDKs, which would be compiled twice.

use regex_lite::Regex;
use serde_json::{Value, json};

/// What a value isn't, with the place. `document` is where references lead.
pub(crate) fn errors(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { document }.check(schema, value, "", &mut found);
    found
}

struct Check<'a> {
    document: &'a Value,
}

impl Check<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        for (keyword, said) in schema.as_object().expect("a schema") {
            let holds = match keyword.as_str() {
                "description" | "readOnly" | "examples" | "default" => true,
                "$ref" => {
                    let pointer = said.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference");
                    self.check(self.document.pointer(pointer).expect("a component"), value, at, found);
                    true
                }
                "type" => match said {
                    Value::Array(types) => types.iter().any(|name| is_type(name, value)),
                    name => is_type(name, value),
                },
                "const" => said == value,
                "enum" => said.as_array().unwrap().contains(value),
                "minimum" => value.as_i64().is_none_or(|number| number >= said.as_i64().unwrap()),
                "maximum" => value.as_i64().is_none_or(|number| number <= said.as_i64().unwrap()),
                "minLength" => value.as_str().is_none_or(|text| text.chars().count() >= count(said)),
                "maxLength" => value.as_str().is_none_or(|text| text.chars().count() <= count(said)),
                "pattern" => {
                    let pattern = Regex::new(said.as_str().unwrap()).unwrap();
                    value.as_str().is_none_or(|text| pattern.is_match(text))
                }
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(said, item, &format!("{at}/{n}"), found);
                    }
                    true
                }
                "required" => value.as_object().is_none_or(|members| {
                    said.as_array().unwrap().iter().all(|name| members.contains_key(name.as_str().unwrap()))
                }),
                "properties" | "additionalProperties" => true,
                other => panic!("{other} isn't looked at yet"),
            };
            if !holds {
                found.push(format!("{at}: not as {keyword} {said} has it"));
            }
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(known), _) => self.check(known, member, &at, found),
                (None, Some(Value::Bool(false))) => found.push(format!("{at}: not known")),
                (None, Some(others @ Value::Object(_))) => self.check(others, member, &at, found),
                (None, _) => {}
            }
        }
    }
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

fn count(said: &Value) -> usize {
    said.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap()
}

#[test]
fn what_is_not_of_a_schema_is_told_with_its_place() {
    let document =
        json!({"short": {"type": "string", "minLength": 1, "maxLength": 2, "pattern": "^[a-z]+$"}});
    let schema = json!({
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"$ref": "#/short"},
            "list": {"type": ["null", "array"], "items": {"type": "integer", "minimum": 0, "maximum": 9}},
            "one": {"enum": ["x", null]},
            "same": {"const": 5},
        },
        "additionalProperties": {"type": "boolean"},
    });
    let errors = |value: Value| errors(&document, &schema, &value);
    let none: [&str; 0] = [];
    assert_eq!(errors(json!({"a": "ab", "list": [0, 9], "one": null, "same": 5, "other": true})), none);
    assert_eq!(errors(json!({"a": "ab", "list": null})), none);
    for (value, at) in [
        (json!([]), ": not as type"),
        (json!({}), ": not as required"),
        (json!({"a": ""}), "/a: not as"),
        (json!({"a": "abc"}), "/a: not as maxLength"),
        (json!({"a": "A"}), "/a: not as pattern"),
        (json!({"a": "a", "list": [1, 10]}), "/list/1: not as maximum"),
        (json!({"a": "a", "list": [-1]}), "/list/0: not as minimum"),
        (json!({"a": "a", "list": [0.5]}), "/list/0: not as type"),
        (json!({"a": "a", "one": "y"}), "/one: not as enum"),
        (json!({"a": "a", "same": 6}), "/same: not as const"),
        (json!({"a": "a", "other": 5}), "/other: not as type"),
    ] {
        let told = errors(value.clone());
        assert!(told.first().is_some_and(|told| told.starts_with(at)), "{value}: {told:?}");
    }
}
