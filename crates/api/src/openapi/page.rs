//! `docs/api.md`, made from the document.
//!
//! Invariant: the page follows from the document alone, in an order that doesn't depend on how JSON keeps its members.

use serde_json::{Map, Value};

const HEAD: &str = "# The API

Each call: what it takes, and what it answers. A test makes this page from the OpenAPI document that the service gives
at `GET /v2/openapi.json`. [Semantics](../SEMANTICS.md) says what each call promises, with examples.

Every answer has the header `x-openstack-request-id`. Calls need a token of Keystone (`X-Auth-Token`) or a signature of
AWS (SigV4, service `execute-api`), whichever the operator chose, but for those that are open to anybody.
";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
const WIDTH: usize = 120;

/// The page.
pub(super) fn page(document: &Value) -> String {
    let mut page = HEAD.to_owned();
    page +=
        "\n## How is a call refused?\n\nThe body is an [error](#error).\n\n| status | meaning |\n|---|---|\n";
    for (status, refusal) in sorted(&document["components"]["responses"]) {
        page += &format!("| {status} | {} |\n", text(refusal));
    }
    for tag in document["tags"].as_array().into_iter().flatten() {
        page += &format!("\n## Calls of {}\n\n{}.\n", named(tag), text(tag));
        for (path, item) in sorted(&document["paths"]) {
            for method in METHODS {
                let operation = &item[method];
                if operation["tags"][0] == tag["name"] {
                    page += &call(&format!("{} {path}", method.to_uppercase()), item, operation);
                }
            }
        }
    }
    page += "\n## What bodies hold\n";
    for (name, schema) in sorted(&document["components"]["schemas"]) {
        page += &format!("\n### {name}\n\n{}", described(schema));
    }
    page
}

fn call(name: &str, item: &Value, operation: &Value) -> String {
    let summary = operation["summary"].as_str().unwrap_or_default();
    let open = if operation["security"].is_array() { " Open to anybody." } else { "" };
    let about = text(operation);
    let gap = if about.is_empty() { "" } else { " " };
    let mut told = format!("\n### `{name}`\n\n{}\n", wrapped(&format!("{summary}.{gap}{about}{open}")));
    let parameters: Vec<_> = [&item["parameters"], &operation["parameters"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .map(|one| {
            let place = one["in"].as_str().unwrap_or_default();
            format!("| `{}` | {place} | {} | {} |\n", named(one), kind(&one["schema"]), text(one))
        })
        .collect();
    if !parameters.is_empty() {
        told += &format!("\n| parameter | in | type | meaning |\n|---|---|---|---|\n{}", parameters.concat());
    }
    for (of_type, body) in sorted(&operation["requestBody"]["content"]) {
        told += &format!("\nTakes `{of_type}`: {}.\n", kind(&body["schema"]));
    }
    let (mut answers, mut refused) = (String::new(), Vec::new());
    for (status, answer) in sorted(&operation["responses"]) {
        if answer["$ref"].is_string() {
            refused.push(status);
            continue;
        }
        let holds: Vec<_> =
            sorted(&answer["content"]).into_iter().map(|(_, body)| kind(&body["schema"])).collect();
        let headers: Vec<_> = sorted(&answer["headers"])
            .into_iter()
            .filter(|(name, _)| *name != "x-openstack-request-id")
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        answers +=
            &format!("| {status} | {} | {} | {} |\n", text(answer), holds.join(", "), headers.join(", "));
    }
    told += &format!("\n| answer | meaning | body | headers |\n|---|---|---|---|\n{answers}");
    if !refused.is_empty() {
        told += &format!("\nRefused with {}.\n", refused.join(", "));
    }
    told
}

/// A component, as text and a table of its members.
fn described(schema: &Value) -> String {
    let mut told = String::new();
    if !text(schema).is_empty() {
        told += &format!("{}.\n\n", wrapped(&text(schema)));
    }
    let alternatives: Vec<&Value> = schema["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["properties"].is_object())
        .collect();
    for (n, alternative) in alternatives.iter().enumerate() {
        told += if n == 0 { "" } else { "\nor\n\n" };
        told += &table(alternative);
    }
    if schema["properties"].is_object() {
        told += &table(schema);
    } else if alternatives.is_empty() {
        told += &format!("{}\n", wrapped(&format!("A {}.", kind(schema))));
        if schema["items"]["properties"].is_object() {
            told += &format!("\n{}", table(&schema["items"]));
        }
    }
    let choices = schema["allOf"].as_array().into_iter().flatten().chain([schema]);
    for choice in choices.map(|one| choice(&one["oneOf"])).filter(|choice| !choice.is_empty()) {
        told += &format!("\nExactly one is needed: {choice}.\n");
    }
    told
}

/// `a` or `b` with `c`: what one of is needed.
fn choice(alternatives: &Value) -> String {
    let alternatives = alternatives.as_array().into_iter().flatten();
    let needed: Vec<_> = alternatives
        .filter(|one| !one["properties"].is_object())
        .filter_map(|one| one["required"].as_array())
        .map(|names| names.iter().map(code).collect::<Vec<_>>().join(" with "))
        .collect();
    needed.join(" or ")
}

fn table(schema: &Value) -> String {
    let mut rows = Vec::new();
    members("", schema, &mut rows);
    if rows.is_empty() {
        return "An object.\n".to_owned();
    }
    let extra = &schema["additionalProperties"];
    if extra.is_object() {
        rows.push(format!("| any other | {} | |\n", kind(extra)));
    }
    format!("| member | type | meaning |\n|---|---|---|\n{}", rows.concat())
}

/// A row for each member, those of members too: `parts[].etag`.
fn members(below: &str, schema: &Value, rows: &mut Vec<String>) {
    let needed: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut sorted = sorted(&schema["properties"]);
    sorted.sort_by_key(|(name, _)| !needed.contains(name));
    for (name, member) in sorted {
        let name = format!("{below}{name}");
        let required = if needed.contains(&name.as_str()) && below.is_empty() { ", required" } else { "" };
        rows.push(format!("| `{name}` | {}{required} | {} |\n", kind(member), text(member)));
        members(&format!("{name}."), member, rows);
        members(&format!("{name}[]."), &member["items"], rows);
    }
}

/// What a value is.
fn kind(schema: &Value) -> String {
    let mut told = bare(schema);
    let bounds = [
        ("minimum", "at least "),
        ("maximum", "at most "),
        ("maxLength", "longest "),
        ("maxItems", "at most so many: "),
        ("maxProperties", "at most so many: "),
        ("default", "unless said "),
    ];
    for (bound, word) in bounds {
        if let Some(value) = schema.get(bound) {
            told += &format!(", {word}{}", if bound == "default" { code(value) } else { value.to_string() });
        }
    }
    told
}

fn bare(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(value) = schema.get("const") {
        return code(value);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(code).collect::<Vec<_>>().join(", ");
    }
    if let (Some(alternatives), None) = (schema["oneOf"].as_array(), schema.get("type")) {
        return alternatives.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(&schema["items"])),
        Value::String(name) => match schema["format"].as_str() {
            Some(format) => format!("{name} ({format})"),
            None => name.clone(),
        },
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "anything".to_owned(),
    }
}

fn code(value: &Value) -> String {
    format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn named(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// A description, safe in a table.
fn text(value: &Value) -> String {
    let text = value["description"].as_str().unwrap_or_default();
    text.replace('|', "\\|").replace('<', "\\<").replace('*', "\\*")
}

fn sorted(members: &Value) -> Vec<(&str, &Value)> {
    let mut sorted: Vec<_> = members
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    sorted.sort_by_key(|(name, _)| *name);
    sorted
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("a line");
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
