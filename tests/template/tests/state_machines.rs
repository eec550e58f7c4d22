//! Every state has a timeout, typed retries and a way to the lifecycle function.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use image_tasks_domain::FailureCode;
use serde_json::{Value, json};
use template_tests::{Architecture, State, StateMachine, Template, code_spans};

/// Errors of a called function that pass (Step Functions developer guide,
/// "Handling errors in Step Functions workflows" and best practices for Lambda).
const TRANSIENT: &[&str] = &[
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.TooManyRequestsException",
];

/// A worker that died or was never heard of again: worth one more try, since every phase may be repeated.
const WORKER_LOST: &[&str] =
    &["Lambda.Unknown", "Runtime.ExitError", "Runtime.OutOfMemory", "Sandbox.Timedout", "States.Timeout"];

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|v| v.as_str().unwrap()).collect()
}

fn entries(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn tasks(machine: &StateMachine) -> impl Iterator<Item = State<'_>> {
    machine.states().into_iter().filter(|state| state.body["Type"] == "Task")
}

/// Where a state may go: next, choices, default, catches.
fn targets(body: &Value) -> BTreeSet<&str> {
    let direct = [&body["Next"], &body["Default"]].into_iter().filter_map(Value::as_str);
    let listed = ["Choices", "Catch"]
        .into_iter()
        .flat_map(|field| entries(&body[field]))
        .filter_map(|e| e["Next"].as_str());
    direct.chain(listed).collect()
}

#[test]
fn there_is_a_machine_for_each_in_the_template() {
    let template = Template::load();
    let deployed: BTreeSet<_> = template
        .resources("AWS::Serverless::StateMachine")
        .map(|(_, machine)| machine["DefinitionUri"].as_str().unwrap().to_owned())
        .collect();
    let written: BTreeSet<_> = StateMachine::load_all().into_iter().map(|machine| machine.path).collect();
    assert_eq!(deployed, written);
    assert!(!written.is_empty());
}

#[test]
fn substitutions_are_those_that_the_definition_uses() {
    let template = Template::load();
    for machine in StateMachine::load_all() {
        let (_, deployed) = template
            .resources("AWS::Serverless::StateMachine")
            .find(|(_, deployed)| deployed["DefinitionUri"] == machine.path.as_str())
            .unwrap();
        let given: BTreeSet<&str> =
            deployed["DefinitionSubstitutions"].as_object().unwrap().keys().map(String::as_str).collect();
        let text = machine.definition.to_string();
        let used: BTreeSet<&str> =
            text.split("${").skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
        assert_eq!(given, used, "{}", machine.path);
    }
}

#[test]
fn every_task_has_a_timeout_just_above_its_functions() {
    let template = Template::load();
    for machine in StateMachine::load_all() {
        assert!(machine.definition["TimeoutSeconds"].is_u64(), "{}", machine.path);
        for state in tasks(&machine) {
            let resource = state.body["Resource"].as_str().unwrap();
            let function = resource.trim_start_matches("${").trim_end_matches("Arn}");
            let own =
                template.at(&format!("/Resources/{function}/Properties/Timeout")).as_u64().expect(resource);
            let state_timeout = state.body["TimeoutSeconds"].as_u64().expect(state.name);
            assert!(
                (own + 10..=own + 60).contains(&state_timeout),
                "{}: {state_timeout} for {own}",
                state.name
            );
        }
    }
}

#[test]
fn retries_are_typed_and_bounded() {
    for machine in StateMachine::load_all() {
        for state in tasks(&machine) {
            let mut retried = BTreeSet::new();
            for retry in entries(&state.body["Retry"]) {
                let errors = strings(&retry["ErrorEquals"]);
                let attempts = retry["MaxAttempts"].as_u64().expect("a bound");
                for error in &errors {
                    let passing = TRANSIENT.contains(error) || *error == FailureCode::Transient.name();
                    assert!(passing || WORKER_LOST.contains(error), "{}: retries {error}", state.name);
                    assert!(
                        passing || attempts == 1,
                        "{}: {error} is tried again {attempts} times",
                        state.name
                    );
                    assert!(attempts <= 10);
                    assert!(retried.insert(*error), "{}: {error} twice", state.name);
                }
            }
            let expected: BTreeSet<_> =
                TRANSIENT.iter().chain(WORKER_LOST).copied().chain([FailureCode::Transient.name()]).collect();
            assert_eq!(retried, expected, "{}", state.name);
        }
    }
}

#[test]
fn every_task_and_map_catches_all() {
    for machine in StateMachine::load_all() {
        for state in machine.states() {
            if !["Task", "Map"].contains(&state.body["Type"].as_str().unwrap()) {
                continue;
            }
            // A failed iteration fails its map, which catches.
            let catches = entries(&state.map.unwrap_or(state.body)["Catch"]);
            assert_eq!(catches.len(), 1, "{}", state.name);
            assert_eq!(catches[0]["ErrorEquals"], json!(["States.ALL"]), "{}", state.name);
            let kept = catches[0]["ResultPath"].as_str().expect("the input is kept beside the error");
            assert!(kept.starts_with("$."), "{}", state.name);
        }
    }
}

#[test]
fn nothing_fails_before_the_lifecycle_function_ran() {
    for machine in StateMachine::load_all() {
        let states = machine.states();
        for failing in states.iter().filter(|s| s.body["Type"] == "Fail") {
            assert!(failing.map.is_none(), "{}: an iteration fails by its error", failing.name);
            assert_eq!(
                failing.body["ErrorPath"], "$.error.Error",
                "the first error is told, not that of cleaning up"
            );
            assert_eq!(failing.body["CausePath"], "$.error.Cause");
            let before: Vec<_> = states.iter().filter(|s| targets(s.body).contains(failing.name)).collect();
            assert!(!before.is_empty());
            for state in before {
                assert_eq!(
                    state.body["Resource"], "${LifecycleFunctionArn}",
                    "{} goes to Fail directly",
                    state.name
                );
            }
        }
        for choice in states.iter().filter(|s| s.body["Type"] == "Choice") {
            // An unmatched choice can't be caught.
            assert!(choice.body["Default"].is_string(), "{}", choice.name);
        }
    }
}

#[test]
fn every_state_is_reached_and_every_target_exists() {
    for machine in StateMachine::load_all() {
        let mut levels = vec![&machine.definition];
        levels.extend(machine.states().iter().filter_map(|s| s.body.get("ItemProcessor")));
        for level in levels {
            let states = level["States"].as_object().unwrap();
            let mut reached = BTreeSet::new();
            let mut open = vec![level["StartAt"].as_str().unwrap()];
            while let Some(name) = open.pop() {
                let body = states.get(name).unwrap_or_else(|| panic!("{}: no state {name}", machine.path));
                if reached.insert(name) {
                    open.extend(targets(body));
                }
            }
            assert_eq!(reached, states.keys().map(String::as_str).collect(), "{}", machine.path);
        }
    }
}

#[test]
fn phases_are_called_as_the_document_says() {
    for (section, file) in [
        ("## Flow of an import", "import.asl.json"),
        ("## Flow of an export", "export.asl.json"),
        ("## Flow of a clone", "clone.asl.json"),
    ] {
        assert_phases(section, file);
    }
}

fn assert_phases(section: &str, file: &str) {
    let documented: BTreeMap<String, Value> = Architecture::load()
        .table(section)
        .iter()
        .map(|row| {
            let call = code_spans(row[1]).into_iter().find(|span| span.starts_with('{')).expect("a call");
            let phase = call.split('"').nth(3).unwrap().to_owned();
            // `{"phase":"plan","task_id"}`: the other fields by name, values left out.
            let fields: BTreeSet<_> = ["task_id", "batch", "error"]
                .into_iter()
                .filter(|field| call.contains(&format!("\"{field}\"")))
                .collect();
            (phase, json!(fields))
        })
        .collect();
    let machines = StateMachine::load_all();
    let machine = machines.iter().find(|m| m.path.ends_with(file)).unwrap();
    let called: BTreeMap<String, Value> = tasks(machine)
        .map(|state| {
            let parameters = state.body["Parameters"].as_object().unwrap();
            let fields: BTreeSet<_> =
                parameters.keys().filter(|k| *k != "phase").map(|k| k.trim_end_matches(".$")).collect();
            (parameters["phase"].as_str().unwrap().to_owned(), json!(fields))
        })
        .collect();
    assert_eq!(called, documented);
}

/// "Map: up to 40 concurrent iterations" in inline mode (Step Functions developer guide, "Using Map state in Inline mode").
#[test]
fn inline_maps_run_as_wide_as_the_engine_allows() {
    for machine in StateMachine::load_all() {
        for state in machine.states().iter().filter(|s| s.body["Type"] == "Map") {
            assert_eq!(state.body["ItemProcessor"]["ProcessorConfig"]["Mode"], "INLINE", "{}", state.name);
            assert_eq!(state.body["MaxConcurrency"], 40, "{}", state.name);
            assert!(state.body["ResultPath"].is_null(), "{}: results would pile up in the state", state.name);
        }
    }
}
