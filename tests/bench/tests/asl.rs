//! The interpreter by small machines: each kind of state, the arithmetic of retries, what is caught, what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_test_bench::asl::{MAX_PAYLOAD, Machine, Outcome, Thrown};
use serde_json::{Value, json};
use tokio::time::Instant;

const WORKER: &str = "${WorkerFunctionArn}";

/// A machine of these states, which starts at `A`.
fn machine(states: Value) -> Machine {
    Machine::from_json(&json!({"StartAt": "A", "States": states}).to_string()).unwrap()
}

/// A Task state that ends the machine, with more fields.
fn task(more: Value) -> Value {
    let mut task = json!({"Type": "Task", "Resource": WORKER});
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if task.get("Next").is_none() {
        task["End"] = json!(true);
    }
    task
}

/// Runs a machine whose task answers these, one after the other, and says what it was called with.
async fn run(machine: &Machine, input: Value, answers: Vec<Result<Value, &str>>) -> (Outcome, Vec<Value>) {
    let answers = Mutex::new(VecDeque::from(answers));
    let payloads = Mutex::new(Vec::new());
    let invoke = |resource: &str, payload: Value| {
        assert_eq!(resource, WORKER);
        payloads.lock().unwrap().push(payload);
        let answer = answers.lock().unwrap().pop_front().expect("one call too many");
        async move { answer.map_err(|error| Thrown::new(error, "why")) }.boxed()
    };
    let outcome = machine.run("one", input, &invoke).await;
    assert!(answers.lock().unwrap().is_empty(), "calls that were not made");
    (outcome, payloads.into_inner().unwrap())
}

fn error(outcome: &Outcome) -> &str {
    &outcome.result.as_ref().unwrap_err().error
}

#[test]
fn the_deployed_machine_is_understood() {
    Machine::deployed("task").unwrap();
}

#[test]
fn what_is_not_known_is_refused_with_its_place() {
    for (state, told) in [
        (task(json!({"HeartbeatSeconds": 5})), "state A: unknown field `HeartbeatSeconds`"),
        (json!({"Type": "Parallel", "End": true}), "state A: unknown variant `Parallel`"),
        (task(json!({"Next": "B"})), "B is a target and no state"),
        (task(json!({"Next": "A", "End": true})), "state A: exactly one of Next and End"),
        (
            task(json!({"Resource": "arn:aws:states:::lambda:invoke"})),
            "state A: Resource arn:aws:states:::lambda",
        ),
        (task(json!({"Parameters": {"a.$": "$.b[0]"}})), "state A: $.b[0] is no path"),
        (task(json!({"Parameters": {"a.$": "States.UUID()"}})), "state A: States.UUID() is no path"),
        (task(json!({"Parameters": {"a.$": 5}})), "state A: a.$ is 5 and must be a path"),
        (task(json!({"ResultPath": "$$.a"})), "state A: ResultPath $$.a"),
        (task(json!({"Retry": [{"ErrorEquals": ["States.ALL", "X"]}]})), "state A: ErrorEquals: States.ALL"),
        (json!({"Type": "Wait", "End": true}), "state A: exactly one of Seconds"),
        (
            json!({"Type": "Choice", "Choices": [{"Variable": "$.a", "Next": "A"}]}),
            "state A: a rule must have one",
        ),
        (json!({"Type": "Choice", "Choices": []}), "state A: there are no Choices"),
        (
            json!({"Type": "Fail", "Error": "a", "ErrorPath": "$.a"}),
            "state A: an error or cause is given twice",
        ),
    ] {
        let text = json!({"StartAt": "A", "States": {"A": state}}).to_string();
        let refused = Machine::from_json(&text).expect_err(told);
        assert!(refused.starts_with(told), "{refused}\n{told}");
    }
    let lost = json!({"StartAt": "A", "States": {"A": {"Type": "Succeed"}, "B": {"Type": "Succeed"}}});
    assert_eq!(Machine::from_json(&lost.to_string()).unwrap_err(), "state B is never entered");
    let more = json!({"StartAt": "A", "QueryLanguage": "JSONata", "States": {"A": {"Type": "Succeed"}}});
    assert!(Machine::from_json(&more.to_string()).unwrap_err().starts_with("unknown field `QueryLanguage`"));
}

#[tokio::test(start_paused = true)]
async fn a_task_takes_parameters_and_puts_its_result_where_it_is_told() {
    let parameters = json!({"n.$": "$.a.b", "list": [{"name.$": "$$.Execution.Name"}], "fixed": "$.a"});
    let called = json!({"n": 7, "list": [{"name": "one"}], "fixed": "$.a"});
    for (path, output) in [
        (json!("$"), json!("done")),
        (json!("$.a.c"), json!({"a": {"b": 7, "c": "done"}})),
        (json!("$.x.y"), json!({"a": {"b": 7}, "x": {"y": "done"}})),
        (Value::Null, json!({"a": {"b": 7}})),
    ] {
        let machine = machine(json!({"A": task(json!({"Parameters": parameters, "ResultPath": path}))}));
        let (outcome, payloads) = run(&machine, json!({"a": {"b": 7}}), vec![Ok(json!("done"))]).await;
        assert_eq!((outcome.result, payloads), (Ok(output), vec![called.clone()]));
        assert_eq!((outcome.events, outcome.visited), (7, vec!["A".to_owned()]));
    }
    // A path that leads nowhere ends the execution, whoever catches.
    let catch = json!([{"ErrorEquals": ["States.ALL"], "Next": "B"}]);
    let states = json!({
        "A": task(json!({"Parameters": {"n.$": "$.none"}, "Catch": catch})), "B": {"Type": "Succeed"},
    });
    let (outcome, _) = run(&machine(states), json!({}), vec![]).await;
    assert_eq!(error(&outcome), "States.Runtime");
    let (outcome, _) =
        run(&machine(json!({"A": task(json!({"ResultPath": "$.a"}))})), json!(5), vec![Ok(json!(1))]).await;
    assert_eq!(error(&outcome), "States.ResultPathMatchFailure");
}

#[tokio::test(start_paused = true)]
async fn a_choice_takes_the_first_rule_that_holds() {
    let rule = |more: Value, next: &str| {
        let mut rule = json!({"Next": next});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let small = json!({"Not": {"Variable": "$.n", "NumericEquals": 5}});
    let both =
        json!({"And": [{"Variable": "$.s", "StringEquals": "x"}, {"Variable": "$.s", "IsNull": false}]});
    let any =
        json!({"Or": [{"Variable": "$.s", "IsNull": true}, {"Variable": "$.s", "BooleanEquals": true}]});
    let states = json!({
        "A": {"Type": "Choice", "Default": "Other", "Choices": [
            rule(json!({"Variable": "$.n", "IsPresent": false}), "Missing"),
            rule(small, "Number"), rule(both, "Both"), rule(any, "Any"),
        ]},
        "Missing": {"Type": "Succeed"}, "Number": {"Type": "Succeed"}, "Both": {"Type": "Succeed"},
        "Any": {"Type": "Succeed"}, "Other": {"Type": "Succeed"},
    });
    let machine = machine(states);
    for (input, end) in [
        (json!({}), "Missing"),
        (json!({"n": 4}), "Number"),
        (json!({"n": 5, "s": "x"}), "Both"),
        (json!({"n": 5.0, "s": null}), "Any"),
        (json!({"n": 5, "s": true}), "Any"),
        (json!({"n": 5, "s": 1}), "Other"),
    ] {
        let (outcome, _) = run(&machine, input.clone(), vec![]).await;
        assert_eq!(outcome.visited, ["A", end], "{input}");
        assert_eq!((outcome.result, outcome.events), (Ok(input), 6));
    }
    let (outcome, _) = run(&machine, json!({"n": 5}), vec![]).await;
    assert_eq!(error(&outcome), "States.Runtime");
    let choices = json!([{"Variable": "$.n", "NumericEquals": 5, "Next": "B"}]);
    let states = json!({"A": {"Type": "Choice", "Choices": choices}, "B": {"Type": "Succeed"}});
    let (outcome, _) = run(&self::machine(states), json!({"n": 6}), vec![]).await;
    assert_eq!(error(&outcome), "States.NoChoiceMatched");
}

#[tokio::test(start_paused = true)]
async fn pass_wait_and_fail() {
    let states = json!({
        "A": {"Type": "Pass", "Result": {"Error": "E", "Cause": "C"}, "ResultPath": "$.error", "Next": "B"},
        "B": {"Type": "Wait", "SecondsPath": "$.seconds", "Next": "C"},
        "C": {"Type": "Wait", "Seconds": 2, "Next": "D"},
        "D": {"Type": "Pass", "Parameters": {"x.$": "$.error.Error", "Cause.$": "$.error.Cause"}, "Next": "E"},
        "E": {"Type": "Fail", "ErrorPath": "$.x", "CausePath": "$.Cause"},
    });
    let start = Instant::now();
    let (outcome, _) = run(&machine(states), json!({"seconds": 60}), vec![]).await;
    assert_eq!(outcome.result, Err(Thrown::new("E", "C")));
    assert!(!outcome.timed_out);
    assert_eq!(start.elapsed().as_secs(), 62);
}

fn retrier(errors: &[&str], more: Value) -> Value {
    let mut retrier = json!({"ErrorEquals": errors});
    retrier.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    retrier
}

#[tokio::test(start_paused = true)]
async fn waits_grow_and_each_retrier_counts_for_itself() {
    let retry = json!([
        retrier(
            &["A", "B"],
            json!({"IntervalSeconds": 2, "MaxAttempts": 4, "BackoffRate": 3, "MaxDelaySeconds": 20})
        ),
        retrier(&["C"], json!({"MaxAttempts": 1})),
        retrier(&["States.ALL"], json!({"MaxAttempts": 0})),
    ]);
    let machine = machine(json!({"A": task(json!({"Retry": retry}))}));
    let start = Instant::now();
    let (outcome, _) =
        run(&machine, json!({}), vec![Err("A"), Err("B"), Err("C"), Err("A"), Ok(json!(1))]).await;
    // 2, 2 * 3, 1 of the other retrier, 2 * 9.
    assert_eq!((outcome.result, start.elapsed().as_secs()), (Ok(json!(1)), 27));
    assert_eq!(outcome.events, 4 + 5 * 3);
    let start = Instant::now();
    let (outcome, _) = run(&machine, json!({}), ["A"; 5].map(Err).to_vec()).await;
    // The fourth wait would be of 54 seconds.
    assert_eq!((error(&outcome), start.elapsed().as_secs()), ("A", 2 + 6 + 18 + 20));
    let (outcome, _) = run(&machine, json!({}), vec![Err("C"), Err("C")]).await;
    assert_eq!(error(&outcome), "C");
    let (outcome, _) = run(&machine, json!({}), vec![Err("D")]).await;
    assert_eq!(error(&outcome), "D");
}

#[tokio::test(start_paused = true)]
async fn full_jitter_stays_below_the_wait_and_is_the_same_each_time() {
    let retry = retrier(&["A"], json!({"IntervalSeconds": 100, "BackoffRate": 1, "JitterStrategy": "FULL"}));
    let machine = machine(json!({"A": task(json!({"Retry": [retry]}))}));
    let mut waits = Vec::new();
    for _ in 0..2 {
        let start = Instant::now();
        run(&machine, json!({}), vec![Err("A"), Err("A"), Err("A"), Ok(json!(1))]).await.0.result.unwrap();
        waits.push(start.elapsed());
    }
    assert_eq!(waits[0], waits[1]);
    assert!((1..300).contains(&waits[0].as_secs()), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_are_caught_by_name_in_the_order_that_is_written() {
    let catch = json!([
        {"ErrorEquals": ["Known"], "ResultPath": "$.error", "Next": "Known"},
        {"ErrorEquals": ["States.TaskFailed"], "Next": "Failed"},
        {"ErrorEquals": ["States.ALL"], "ResultPath": null, "Next": "Any"},
    ]);
    let states = json!({
        "A": task(json!({"Catch": catch, "TimeoutSeconds": 10})),
        "Known": {"Type": "Succeed"}, "Failed": {"Type": "Succeed"}, "Any": {"Type": "Succeed"},
    });
    let machine = machine(states);
    let caught = json!({"Error": "Known", "Cause": "why"});
    let (outcome, _) = run(&machine, json!({"n": 1}), vec![Err("Known")]).await;
    assert_eq!(outcome.result, Ok(json!({"n": 1, "error": caught})));
    let (outcome, _) = run(&machine, json!({"n": 1}), vec![Err("Other")]).await;
    assert_eq!(outcome.result, Ok(json!({"Error": "Other", "Cause": "why"})));
    // A timeout is no failure of the task.
    let never = |_: &str, _: Value| futures::future::pending().boxed();
    let start = Instant::now();
    let outcome = machine.run("one", json!({"n": 1}), &never).await;
    assert_eq!((outcome.result, start.elapsed().as_secs()), (Ok(json!({"n": 1})), 10));
    assert_eq!(outcome.visited, ["A", "Any"]);
}

#[tokio::test(start_paused = true)]
async fn the_machines_own_time_ends_it() {
    let states = json!({"A": {"Type": "Wait", "Seconds": 1000, "End": true}});
    let text = json!({"StartAt": "A", "TimeoutSeconds": 100, "States": states}).to_string();
    let start = Instant::now();
    let (outcome, _) = run(&Machine::from_json(&text).unwrap(), json!({}), vec![]).await;
    assert_eq!(
        (error(&outcome), outcome.timed_out, start.elapsed().as_secs()),
        ("States.Timeout", true, 100)
    );
}

/// A map over `$.items` whose workers wait as many seconds as their item says; 13 fails.
async fn mapped(items: Value, at_once: usize, more: Value) -> (Outcome, Duration, usize) {
    let mut map = json!({
        "Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": at_once,
        "ItemSelector": {"n.$": "$$.Map.Item.Value", "at.$": "$$.Map.Item.Index", "all.$": "$.items"},
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "Work",
            "States": {"Work": task(json!({}))},
        },
        "End": true,
    });
    map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let invoke = |_: &str, payload: Value| {
        let (running, most) = (&running, &most);
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let n = payload["n"].as_u64().unwrap();
            tokio::time::sleep(Duration::from_secs(n)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            if n == 13 { Err(Thrown::new("Unlucky", "13")) } else { Ok(json!([payload["at"], n])) }
        }
        .boxed()
    };
    let start = Instant::now();
    let outcome = machine(json!({"A": map})).run("one", json!({"items": items}), &invoke).await;
    (outcome, start.elapsed(), most.load(Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn a_map_runs_so_many_at_once_and_keeps_the_order() {
    let (outcome, took, most) = mapped(json!([4, 1, 2]), 2, json!({})).await;
    assert_eq!(outcome.result, Ok(json!([[0, 4], [1, 1], [2, 2]])));
    assert_eq!((took.as_secs(), most, outcome.events), (4, 2, 6 + 3 * 7));
    let (outcome, _, most) = mapped(json!(vec![1; 100]), 0, json!({"ResultPath": null})).await;
    assert_eq!((outcome.result.unwrap()["items"].as_array().unwrap().len(), most), (100, 40));
    let (outcome, ..) = mapped(json!([]), 0, json!({})).await;
    assert_eq!(outcome.result, Ok(json!([])));
    let (outcome, ..) = mapped(json!(5), 0, json!({})).await;
    assert_eq!(error(&outcome), "States.Runtime");
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_ends_a_map_and_stops_the_others() {
    let (outcome, took, _) = mapped(json!([1, 13, 1000]), 3, json!({})).await;
    assert_eq!((error(&outcome), took.as_secs()), ("Unlucky", 13));
    let again = json!({"Retry": [retrier(&["Unlucky"], json!({"MaxAttempts": 1}))]});
    let (outcome, took, _) = mapped(json!([1, 13, 1000]), 3, again).await;
    assert_eq!((error(&outcome), took.as_secs()), ("Unlucky", 27));
}

#[tokio::test(start_paused = true)]
async fn data_beyond_the_limit_ends_the_execution_whoever_catches() {
    let catch = json!([{"ErrorEquals": ["States.ALL"], "Next": "B"}]);
    let states = json!({"A": task(json!({"Catch": catch, "ResultPath": "$.a"})), "B": {"Type": "Succeed"}});
    let machine = machine(states);
    // With its quotes; and without the name that it gets in the output.
    let text = |len: usize| json!("x".repeat(len - 2));
    for (len, fits) in [(MAX_PAYLOAD - 6, true), (MAX_PAYLOAD - 5, false), (MAX_PAYLOAD + 1, false)] {
        let (outcome, _) = run(&machine, json!({}), vec![Ok(text(len))]).await;
        assert_eq!(outcome.result.is_ok(), fits, "{len}");
        assert!(fits || error(&outcome) == "States.DataLimitExceeded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_history_ends_the_execution() {
    let machine = machine(json!({"A": {"Type": "Pass", "Next": "A"}}));
    let (outcome, _) = run(&machine, json!({}), vec![]).await;
    assert_eq!((error(&outcome), outcome.events), ("States.Runtime", 25_000));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_stops() {
    let machine = machine(json!({"A": task(json!({}))}));
    let calls = AtomicUsize::new(0);
    let invoke = |_: &str, _: Value| {
        let calls = &calls;
        async move {
            calls.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(5)).await;
            calls.fetch_add(1, Ordering::SeqCst);
            Ok(Value::Null)
        }
        .boxed()
    };
    let stopped = tokio::time::timeout(Duration::from_secs(1), machine.run("one", json!({}), &invoke)).await;
    assert!(stopped.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
