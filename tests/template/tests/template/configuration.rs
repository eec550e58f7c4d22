//! The environment of the functions is what docs say, and comes from documented parameters.

use std::collections::{BTreeMap, BTreeSet};

use image_tasks_domain::import_input::OutputFormat;
use serde_json::Value;
use template_tests::{Docs, Template, code_spans};

const FUNCTIONS: &str = "AWS::Serverless::Function";

/// `ApiFunction` is the room `api`.
fn room(logical_id: &str) -> String {
    logical_id.strip_suffix("Function").expect("function ids end so").to_lowercase()
}

fn keys(object: &Value) -> impl Iterator<Item = String> + '_ {
    object.as_object().into_iter().flat_map(|map| map.keys().cloned())
}

/// What a parameter is where nobody says.
fn default(parameter: &Value) -> String {
    match &parameter["Default"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same, as a table names it.
fn documented_default(cell: &str) -> &str {
    match cell.trim_matches('`') {
        "empty" => "",
        "1 TiB" => "1099511627776",
        "128 GiB" => "137438953472",
        plain => plain,
    }
}

#[test]
fn each_variable_is_set_for_the_functions_that_read_it_and_for_no_other() {
    let template = Template::load();
    let rooms: BTreeSet<String> = template.resources(FUNCTIONS).map(|(id, _)| room(id)).collect();

    let mut set: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for variable in keys(template.at("/Globals/Function/Environment/Variables")) {
        set.insert(variable, rooms.clone());
    }
    for (id, function) in template.resources(FUNCTIONS) {
        for variable in keys(&function["Environment"]["Variables"]) {
            set.entry(variable).or_default().insert(room(id));
        }
    }

    let docs = Docs::load();
    let documented: BTreeMap<String, BTreeSet<String>> = docs
        .table("## Configuration")
        .iter()
        .map(|row| {
            let functions = match row[1] {
                "all" => rooms.clone(),
                some => some.split(", ").map(str::to_owned).collect(),
            };
            (code_spans(row[0])[0].to_owned(), functions)
        })
        .collect();

    assert_eq!(set, documented);
}

#[test]
fn a_variable_that_is_a_parameter_has_the_default_that_the_document_names() {
    let template = Template::load();
    let docs = Docs::load();
    let mut compared = 0;
    for row in docs.table("## Configuration") {
        let variable = code_spans(row[0])[0];
        let pointer = format!("Environment/Variables/{variable}/Ref");
        let parameter = template
            .resources(FUNCTIONS)
            .map(|(id, _)| template.at(&format!("/Resources/{id}/Properties/{pointer}")))
            .chain([template.at(&format!("/Globals/Function/{pointer}"))])
            .filter_map(Value::as_str)
            .find_map(|name| template.parameters().get(name));
        let Some(parameter) = parameter else { continue };
        assert_eq!(default(parameter), documented_default(row[3]), "{variable}");
        compared += 1;
    }
    assert!(compared >= 6, "only {compared} variables come from parameters");
}

#[test]
fn an_operator_chooses_the_format_that_imports_are_stored_in() {
    let template = Template::load();
    let formats: Vec<_> = OutputFormat::ALL.iter().map(|format| format.name()).collect();
    let parameter = &template.parameters()["ImportOutputFormat"];
    assert_eq!(parameter["AllowedValues"], serde_json::json!(formats));
    assert_eq!(parameter["Default"], OutputFormat::default().name());
    let variables = template.at("/Resources/ImportFunction/Properties/Environment/Variables");
    assert_eq!(variables["IMPORT_OUTPUT_FORMAT"], serde_json::json!({"Ref": "ImportOutputFormat"}));
}

#[test]
fn every_parameter_is_described_grouped_and_used() {
    let template = Template::load();
    let text = template.value().to_string();
    let groups = template.at("/Metadata/AWS::CloudFormation::Interface/ParameterGroups").to_string();
    for (name, parameter) in template.parameters() {
        assert!(parameter["Description"].as_str().is_some_and(|d| d.len() > 20), "{name} is not described");
        assert!(text.contains(&format!(r#"{{"Ref":"{name}"}}"#)), "{name} is not used");
        assert!(groups.contains(&format!("\"{name}\"")), "{name} is in no group");
    }
}

#[test]
fn the_document_names_every_parameter_in_the_consoles_order_with_its_default_and_choices() {
    let template = Template::load();
    let groups = template.at("/Metadata/AWS::CloudFormation::Interface/ParameterGroups").as_array().unwrap();
    let console = groups.iter().flat_map(|group| group["Parameters"].as_array().unwrap());
    let console: Vec<_> = console.map(|name| name.as_str().unwrap()).collect();
    assert_eq!(console.len(), template.parameters().len(), "each stands in one group, once");

    let docs = Docs::load();
    let rows = docs.table("## Parameters");
    let documented: Vec<_> = rows.iter().map(|row| code_spans(row[0])[0]).collect();
    assert_eq!(documented, console);
    for (name, row) in documented.iter().zip(&rows) {
        let parameter = &template.parameters()[*name];
        assert_eq!(default(parameter), documented_default(row[2]), "{name}");
        let choices = parameter["AllowedValues"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for choice in choices {
            assert!(code_spans(row[1]).contains(&choice), "{name} can be {choice}");
        }
    }
}

#[test]
fn every_function_is_built_by_cargo_lambda_for_the_chosen_processor() {
    let template = Template::load();
    let globals = template.at("/Globals/Function");
    assert_eq!(globals["Runtime"], "provided.al2023");
    assert_eq!(globals["Architectures"], serde_json::json!([{ "Ref": "Architecture" }]));
    assert_eq!(template.at("/Parameters/Architecture/Default"), "arm64");
    for (id, resource) in template.all_resources().filter(|(_, r)| r["Type"] == FUNCTIONS) {
        assert_eq!(resource["Metadata"]["BuildMethod"], "rust-cargolambda", "{id}");
        assert_eq!(resource["Properties"]["CodeUri"], format!("functions/{}", room(id)), "{id}");
        assert!(resource["Properties"]["MemorySize"].is_u64(), "{id}");
        assert!(resource["Properties"]["Timeout"].as_u64().is_some_and(|t| t <= 900), "{id}");
    }
}

#[test]
fn nothing_of_a_local_run_is_set_on_aws() {
    let text = Template::load().value().to_string();
    assert!(!text.contains("AWS_ENDPOINT_URL"));
    assert!(!text.contains("127.0.0.1"));
}
