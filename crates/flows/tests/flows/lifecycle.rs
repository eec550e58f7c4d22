//! Tasks that are ended from outside, and tasks that nobody works at.

use std::sync::atomic::Ordering;
use std::time::Duration;

use image_tasks_domain::TaskStatus;
use image_tasks_domain::ports::ExecutionStatus;
use image_tasks_flows::bounds::Cut;
use image_tasks_flows::events::{Caught, ExecutionEnd};
use serde_json::{Value, json};

use crate::faults::{Fault, Kind};
use crate::sources::Script;
use crate::world::{CUT, World, pattern};

pub(crate) fn raw() -> Value {
    json!({"import_from_format": "raw"})
}

pub(crate) async fn phase(world: &World, mut event: Value) -> Result<Value, image_tasks_domain::Failure> {
    event["task_id"] = json!(world.id);
    world.phase(event).await
}

/// The calls of an import in parts, one after the other.
pub(crate) fn steps() -> Vec<Value> {
    let round = |n| json!({"phase": "round", "item": {"round": "move", "first": n, "last": n}});
    let mut steps = vec![json!({"phase": "plan"})];
    steps.extend((1..=4).map(round));
    steps.push(json!({"phase": "next"}));
    steps
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_outlives_its_execution_leaves_nothing() {
    let steps = steps();
    // The execution is stopped after so many steps; what would have come later comes all the same.
    for stopped_after in 0..steps.len() {
        let world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
        for step in &steps[..stopped_after] {
            phase(&world, step.clone()).await.unwrap();
        }
        let event = json!({"detail": {"name": world.id, "status": "ABORTED"}});
        world.invoke_lifecycle(event, 1).await.unwrap();
        let context = format!("stopped after {stopped_after} steps");
        assert_eq!(world.check_ended(&[], &context).await, TaskStatus::Failure);
        assert_eq!(world.task().await.message, "Aborted: the task's execution was stopped");
        for step in &steps[stopped_after..] {
            let answer = phase(&world, step.clone()).await.unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(answer["next"] == "done" || answer == json!({"remaining": null}), "{context}: {answer}");
        }
        world.check_ended(&[], &format!("{context}, then the rest")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_in_the_middle_of_a_step_leaves_nothing_either() {
    // An invocation stands still at each call in turn, the task is ended meanwhile, and the invocation goes on.
    let (plan, stage) = (json!({"phase": "plan"}), json!({"phase": "stage"}));
    let staged = |steps: &[Value]| [&[plan.clone(), stage.clone()], steps].concat();
    let one_call = [plan.clone()];
    for (len, ranges, steps) in [
        (1500, true, one_call.to_vec()),
        (3500, true, steps()),
        (1500, false, staged(&one_call)),
        (3500, false, staged(&steps())),
    ] {
        let world = World::new(Script { ranges, ..Script::of(pattern(len)) }, raw(), CUT).await;
        let mut calls = Vec::new();
        for step in &steps {
            let before = world.faults.calls();
            phase(&world, step.clone()).await.unwrap();
            calls.push(world.faults.calls() - before);
        }
        for (n, calls) in calls.iter().enumerate() {
            for call in 0..*calls {
                let world = World::new(Script { ranges, ..Script::of(pattern(len)) }, raw(), CUT).await;
                for step in &steps[..n] {
                    phase(&world, step.clone()).await.unwrap();
                }
                let gate = world.faults.stop_at(world.faults.calls() + call);
                let working = phase(&world, steps[n].clone());
                let ending = async {
                    gate.reached().await;
                    let stopped = json!({"detail": {"name": world.id, "status": "ABORTED"}});
                    world.invoke_lifecycle(stopped, 1).await.unwrap();
                    let first = world.task().await.status;
                    gate.open();
                    first
                };
                let (worked, first) = tokio::join!(working, ending);
                let context = format!("{len} bytes, step {n}, call {call}: {worked:?}, task then {first:?}");
                let status = world.check_ended(&pattern(len), &context).await;
                assert_eq!(status, first, "{context}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_is_never_undone() {
    let bytes = pattern(3500);
    let world = World::new(Script::of(bytes.clone()), raw(), CUT).await;
    world.run().await;
    for end in [
        ExecutionEnd::Aborted(Caught::default()),
        ExecutionEnd::TimedOut,
        ExecutionEnd::Failed(Caught { error: "Internal".into(), cause: "x".into() }),
    ] {
        world.lifecycle.end(world.id, &end).await.unwrap();
        assert_eq!(world.check_ended(&bytes, "after the end").await, TaskStatus::Success);
    }
    for step in steps() {
        phase(&world, step).await.unwrap();
    }
    assert_eq!(world.check_ended(&bytes, "after phases that came late").await, TaskStatus::Success);
}

#[tokio::test(start_paused = true)]
async fn a_late_cleanup_spares_a_later_task_with_the_same_image_id() {
    let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
    let input = json!({"image_properties": {"id": id, "disk_format": "raw"}, "checksum": "0".repeat(32)});
    let world = World::new(Script::of(pattern(3500)), input, CUT).await;
    world.run().await;
    assert_eq!(world.task().await.status, TaskStatus::Failure);
    // The same id, given again, by another task.
    let mut record = {
        let other = World::new(
            Script::of(pattern(3500)),
            json!({"image_properties": {"id": id, "disk_format": "raw"}}),
            CUT,
        )
        .await;
        other.run().await;
        other.image().await.unwrap()
    };
    record.status = image_tasks_domain::ImageStatus::Importing;
    world.stores.inner.put_image(record);
    let at = image_tasks_flows::ports::ObjectRef { bucket: "images".into(), key: format!("images/{id}") };
    use image_tasks_flows::ports::Objects as _;
    world.objects.create_upload(&at).await.unwrap();
    world.lifecycle.end(world.id, &ExecutionEnd::Aborted(Caught::default())).await.unwrap();
    assert_eq!(world.objects.everything(), [format!("upload of images/images/{id}")]);
}

#[tokio::test(start_paused = true)]
async fn the_sweep_starts_what_never_started_and_ends_what_is_over() {
    let failed = |error: &str| ExecutionStatus::Failed {
        error: error.into(),
        cause: "a sentence of some length".into(),
    };
    let stopped = |error: &str| ExecutionStatus::Aborted {
        error: error.into(),
        cause: "a sentence of some length".into(),
    };
    for (begun, age, status, ends) in [
        (false, 60, None, None),
        (false, 600, None, Some("started")),
        (false, 7200, None, Some("StartFailed: the task could not be started")),
        (false, 600, Some(ExecutionStatus::Running), None),
        (true, 90_000, Some(ExecutionStatus::Running), None),
        (true, 600, None, Some("StartFailed: ")),
        (true, 600, Some(ExecutionStatus::Succeeded), Some("Internal: the task's execution ended without")),
        (true, 600, Some(stopped("")), Some("Aborted: ")),
        (true, 600, Some(stopped("Cancelled")), Some("Cancelled: a sentence")),
        (true, 600, Some(ExecutionStatus::TimedOut), Some("TimedOut: ")),
        (true, 600, Some(failed("BadHeader")), Some("BadHeader: a sentence")),
        (
            true,
            600,
            Some(failed("Runtime.ExitError")),
            Some("WorkerLost: a worker died or could not be run (Runtime.ExitError, request req-1)"),
        ),
    ] {
        let world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
        let context = format!("begun {begun}, {age} s, {status:?}");
        if begun {
            phase(&world, json!({"phase": "plan"})).await.unwrap();
        }
        world.clock.advance(Duration::from_secs(age));
        let known = status.is_some();
        if let Some(status) = status {
            world.machines.inner.set_status(world.id, status);
        }
        // Again is the same as once.
        for _ in 0..2 {
            world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await.unwrap();
        }
        let task = world.task().await;
        match ends {
            None => {
                assert!(!task.status.is_end(), "{context}");
                assert_eq!(world.machines.inner.started().len(), usize::from(known), "{context}");
            }
            Some("started") => assert_eq!(world.machines.inner.started(), [world.id], "{context}"),
            Some(message) => {
                assert!(task.message.starts_with(message), "{context}: {}", task.message);
                world.check_ended(&[], &context).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_fails_is_made_good_by_the_next() {
    for call in 0..12 {
        for kind in [Kind::Transient, Kind::Fatal, Kind::Crash] {
            for after in [false, true] {
                let world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
                phase(&world, json!({"phase": "plan"})).await.unwrap();
                world.clock.advance(Duration::from_secs(600));
                world.machines.inner.set_status(world.id, ExecutionStatus::TimedOut);
                world.faults.set(Some(Fault { call: world.faults.calls() + call, after, kind }));
                let _ = world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await;
                world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await.unwrap();
                // Once the task has ended, it is EventBridge's event that removes what is left.
                let event = json!({"detail": {"name": world.id, "status": "TIMED_OUT"}});
                world.faults.set(None);
                world.invoke_lifecycle(event, 1).await.unwrap();
                world.check_ended(&[], &format!("{kind:?} at {call}, after {after}")).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn progress_only_rises() {
    let bytes = pattern(40_000);
    let script = Script { pace: Duration::from_secs(1), ..Script::of(bytes.clone()) };
    // 200 parts in 50 batches, of which each moves two at once.
    let world = World::new(script, raw(), Cut { part: 200, ..CUT }).await;
    let watching = async {
        let mut seen = Vec::new();
        loop {
            let task = world.task().await;
            if task.status.is_end() {
                return seen;
            }
            seen.push((task.progress.percent(), task.progress.copied.done));
            seen.dedup();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ((), seen) = tokio::join!(world.run(), watching);
    assert!(seen.windows(2).all(|two| two[0] <= two[1]), "{seen:?}");
    assert!(seen.iter().any(|(percent, _)| (10..50).contains(percent)), "{seen:?}");
    assert_eq!(world.task().await.progress.copied.done, 40_000, "each part was counted once");
    assert!(world.script().reads.load(Ordering::SeqCst) >= 40);
}
