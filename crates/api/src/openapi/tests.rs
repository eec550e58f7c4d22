//! The document by itself; that it is true is for the wire tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

/// Path, method and operation of each.
fn operations(document: &Value) -> Vec<(&str, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            all.push((path.as_str(), method.to_uppercase(), operation));
        }
    }
    all
}

#[test]
fn every_method_of_every_path_is_documented_and_no_other() {
    let document = document("");
    let documented: BTreeSet<_> =
        operations(&document).into_iter().map(|(path, method, _)| format!("{method} {path}")).collect();
    let routed: BTreeSet<_> = Route::documented()
        .flat_map(|(path, route)| route.allow().split(", ").map(move |method| format!("{method} {path}")))
        .collect();
    assert_eq!(documented, routed);
    assert!(routed.len() >= 34, "{} operations", routed.len());
}

#[test]
fn ids_are_unique_and_paths_name_their_parameters() {
    let document = document("");
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is there twice");
        let named = document["paths"][path]["parameters"].as_array().map_or(0, Vec::len);
        assert_eq!(named, path.matches('{').count(), "{path}");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty() && !text.ends_with('.')));
    }
}

#[test]
fn every_reference_leads_to_a_component_and_every_component_is_used() {
    fn collect<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| collect(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let document = document("https://images.example");
    let mut found = BTreeSet::new();
    collect(&document, &mut found);
    for reference in &found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for kind in ["schemas", "responses", "headers"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(found.contains(reference.as_str()), "{reference} is never used");
        }
    }
}

#[test]
fn where_the_service_is_seen_is_where_it_is_documented_to_be() {
    assert_eq!(document("https://images.example")["servers"], json!([{"url": "https://images.example"}]));
    assert_eq!(document("")["servers"], json!([{"url": "/"}]));
}

/// Where it isn't, it is written anew, to be looked at and committed.
#[test]
fn the_reference_page_is_made_of_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let page = page::page(&document(""));
    if fs::read_to_string(&path).is_ok_and(|there| there == page) {
        return;
    }
    fs::write(&path, page).unwrap();
    panic!("docs/api.md wasn't what the document says. It is written anew: look at it, and commit it");
}
