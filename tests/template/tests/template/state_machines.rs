//! Every state has a timeout, typed retries and a way to the lifecycle function; its function knows what it is called with.

use std::collections::{BTreeMap, BTreeSet};

use image_tasks_domain::FailureCode;
use image_tasks_domain::transfer::Batch;
use image_tasks_flows::events::{Event, LifecycleEvent, Next, Round, RoundItem};
use serde_json::{Value, json};
use template_tests::{Docs, State, StateMachine, Template, code_spans};

/// Errors of a called function that pass (Step Functions developer guide,
/// "Handling errors in Step Functions workflows" and best practices for Lambda).
const TRANSIENT: &[&str] = &[
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.TooManyRequestsException",
];

/// A worker that died or was never heard of again: worth one more try, since every phase may be repeated.
const WORKER_LOST: &[&str] =
    &["Lambda.Unknown", "Runtime.ExitError", "Runtime.OutOfMemory", "Sandbox.Timedout", "States.Timeout"];

const LIFECYCLE: &str = "LifecycleFunction";

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

fn of_type<'a>(machine: &'a StateMachine, state_type: &str) -> Vec<State<'a>> {
    machine.states().into_iter().filter(|state| state.body["Type"] == state_type).collect()
}

#[test]
fn every_machine_is_made_of_the_one_definition() {
    let template = Template::load();
    let deployed: BTreeSet<_> = template
        .resources("AWS::Serverless::StateMachine")
        .map(|(_, machine)| machine["DefinitionUri"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(deployed, StateMachine::definitions().into_iter().collect());
    assert_eq!(deployed.len(), 1);
}

#[test]
fn every_machine_calls_its_own_function_and_lifecycle_and_may_call_no_other() {
    let template = Template::load();
    let mut workers = BTreeSet::new();
    for machine in StateMachine::load_all() {
        assert!(!machine.definition.to_string().contains("${"), "{}: a name without a value", machine.id);
        let called: BTreeSet<_> =
            tasks(&machine).map(|state| state.body["Resource"].as_str().unwrap().to_owned()).collect();
        let worker = machine.id.replace("StateMachine", "Function");
        assert_eq!(called, BTreeSet::from([worker.clone(), LIFECYCLE.to_owned()]), "{}", machine.id);
        let policies = template.at(&format!("/Resources/{}/Properties/Policies", machine.role));
        let statements = entries(policies).iter().flat_map(|p| entries(&p["PolicyDocument"]["Statement"]));
        let mut invokes = statements.filter(|s| strings(&s["Action"]).contains(&"lambda:InvokeFunction"));
        let invoke = invokes.next().expect("a statement");
        let arns = called.iter().map(|function| json!({ "Fn::GetAtt": format!("{function}.Arn") }));
        let allowed: BTreeSet<_> = entries(&invoke["Resource"]).iter().map(Value::to_string).collect();
        assert_eq!(allowed, arns.map(|arn| arn.to_string()).collect(), "{}", machine.role);
        assert!(invokes.next().is_none(), "{}", machine.role);
        workers.insert(worker);
    }
    assert_eq!(workers.len(), 3);
}

#[test]
fn every_task_has_a_timeout_just_above_its_functions() {
    let template = Template::load();
    for machine in StateMachine::load_all() {
        assert!(machine.definition["TimeoutSeconds"].is_u64(), "{}", machine.id);
        for state in tasks(&machine) {
            let function = state.body["Resource"].as_str().unwrap();
            let own =
                template.at(&format!("/Resources/{function}/Properties/Timeout")).as_u64().expect(function);
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
                    // What has no room waits as long as the execution lives, half the longest delay on average.
                    let waits = attempts * retry["MaxDelaySeconds"].as_u64().unwrap_or(0) / 2;
                    match *error == "Lambda.TooManyRequestsException" {
                        true => assert!(waits > 86_400, "{}: {waits} s", state.name),
                        false => assert!(attempts <= 10, "{}: {error}", state.name),
                    }
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
                assert_eq!(state.body["Resource"], LIFECYCLE, "{} goes to Fail directly", state.name);
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
                let body = states.get(name).unwrap_or_else(|| panic!("{}: no state {name}", machine.id));
                if reached.insert(name) {
                    open.extend(targets(body));
                }
            }
            assert_eq!(reached, states.keys().map(String::as_str).collect(), "{}", machine.id);
        }
    }
}

/// What a state sends to its function.
fn payload(state: State<'_>) -> Value {
    let parameters = state.body["Parameters"].as_object().unwrap();
    let filled = parameters.iter().map(|(name, value)| match (name.as_str(), value.as_str()) {
        (_, Some("$.task_id")) => ("task_id".to_owned(), json!("0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b")),
        (_, Some("$.work.remaining")) => ("item".to_owned(), json!({"round": "move", "first": 1, "last": 4})),
        (_, Some("$.error")) => ("error".to_owned(), json!({"Error": "Transient", "Cause": "{}"})),
        (name, _) => {
            assert!(!name.ends_with(".$"), "{}: {name} is not known here", state.name);
            (name.to_owned(), value.clone())
        }
    });
    filled.collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn functions_know_every_call_and_refuse_it_in_another_version() {
    for machine in StateMachine::load_all() {
        for state in tasks(&machine) {
            let call = payload(state);
            if state.body["Resource"] == LIFECYCLE {
                LifecycleEvent::try_from(call).unwrap_or_else(|failure| panic!("{}: {failure}", state.name));
                continue;
            }
            Event::try_from(call.clone()).unwrap_or_else(|failure| panic!("{}: {failure}", state.name));
            let mut newer = call;
            newer["version"] = json!(newer["version"].as_u64().expect("a version") + 1);
            assert_eq!(Event::try_from(newer).unwrap_err().code, FailureCode::Aborted, "{}", state.name);
        }
    }
}

#[test]
fn every_answer_leads_somewhere_and_an_unknown_one_to_the_end() {
    let item = RoundItem { round: Round::Move, pieces: Batch { first: 1, last: 4 } };
    let answers = [Next::Done, Next::Stage, Next::Plan, Next::Round { items: vec![item] }, Next::Next];
    let answers: BTreeSet<_> = answers
        .iter()
        .map(|answer| serde_json::to_value(answer).unwrap()["next"].as_str().unwrap().to_owned())
        .collect();
    for machine in StateMachine::load_all() {
        let choices = of_type(&machine, "Choice");
        let by_answer = choices.iter().find(|state| state.map.is_none()).unwrap();
        let known = entries(&by_answer.body["Choices"]).iter().map(|choice| {
            assert_eq!(choice["Variable"], "$.answer.next");
            choice["StringEquals"].as_str().unwrap().to_owned()
        });
        assert_eq!(known.collect::<BTreeSet<_>>(), answers, "{}", machine.id);
        let unknown = &machine.definition["States"][by_answer.body["Default"].as_str().unwrap()];
        let code = unknown["Result"]["Error"].as_str().unwrap();
        assert!(FailureCode::from_name(code).is_some(), "{code}");
        assert_eq!(unknown["ResultPath"], "$.error");
    }
}

#[test]
fn phases_are_called_as_the_document_says() {
    let documented: BTreeMap<String, Value> = Docs::load()
        .table("## Which phases does an execution run?")
        .iter()
        .map(|row| {
            let call = code_spans(row[1]).into_iter().find(|span| span.starts_with('{')).expect("a call");
            let phase = call.split("\"phase\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            // `{"phase":"plan","task_id"}`: the other fields by name, values left out.
            let fields: BTreeSet<_> = ["version", "task_id", "item", "error"]
                .into_iter()
                .filter(|field| call.contains(&format!("\"{field}\"")))
                .collect();
            (phase, json!(fields))
        })
        .collect();
    for machine in StateMachine::load_all() {
        let called: BTreeMap<String, Value> = tasks(&machine)
            .map(|state| {
                let parameters = state.body["Parameters"].as_object().unwrap();
                let fields: BTreeSet<_> =
                    parameters.keys().filter(|k| *k != "phase").map(|k| k.trim_end_matches(".$")).collect();
                (parameters["phase"].as_str().unwrap().to_owned(), json!(fields))
            })
            .collect();
        assert_eq!(called, documented, "{}", machine.id);
    }
}

/// "Map: up to 40 concurrent iterations" in inline mode (Step Functions developer guide, "Using Map state in Inline mode").
#[test]
fn inline_maps_run_as_wide_as_the_engine_allows() {
    for machine in StateMachine::load_all() {
        for state in of_type(&machine, "Map") {
            assert_eq!(state.body["ItemProcessor"]["ProcessorConfig"]["Mode"], "INLINE", "{}", state.name);
            assert_eq!(state.body["MaxConcurrency"], 40, "{}", state.name);
            assert!(state.body["ResultPath"].is_null(), "{}: results would pile up in the state", state.name);
        }
    }
}
