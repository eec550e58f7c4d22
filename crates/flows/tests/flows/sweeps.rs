//! What the sweep finds: tasks that nobody works at, however many and however old.

use std::time::Duration;

use image_tasks_domain::images::ImageQuota;
use image_tasks_domain::ports::{Clock as _, ExecutionStatus, Executions as _, TaskLife as _, TaskStore};
use image_tasks_domain::rejection::Rejection;
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::tasks::{NewTask, TaskListing, Tasks};
use image_tasks_domain::{Caller, Task, TaskId, TaskStatus, TaskType, Unsettled};
use image_tasks_flows::Deadline;
use image_tasks_flows::events::LifecycleEvent;
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::{Value, json};

use crate::faults::Hold;
use crate::lifecycle::{phase, raw, steps};
use crate::sources::Script;
use crate::world::{CUT, URL, World, pattern, ticking};

const MINUTE: Duration = Duration::from_secs(60);

/// The use cases as the API has them.
fn tasks(world: &World) -> Tasks {
    Tasks {
        store: world.stores.clone(),
        progress: world.stores.clone(),
        life: world.stores.clone(),
        images: std::sync::Arc::<image_tasks_domain::memory::MemoryStore>::default(),
        executions: world.machines.clone(),
        clock: world.clock.clone(),
        sources: SourcePolicy::default(),
        receivers: Default::default(),
        regions: Default::default(),
        glances: Default::default(),
        quota: ImageQuota::new(1000),
        ttl: world.settings.task_ttl,
    }
}

fn alice() -> Caller {
    Caller { user: "alice".into(), project: "demo".into(), roles: vec!["member".into()] }
}

async fn sweep(world: &World) -> Value {
    world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await.unwrap()
}

/// An import whose task is to be seen for a minute after its end.
async fn short_lived() -> World {
    let mut world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
    world.settings.task_ttl = MINUTE;
    world.lifecycle.stores.settings.task_ttl = MINUTE;
    world
}

/// Nobody sees a task any more that is past its expiry, and it is in the store still.
async fn check_hidden(world: &World, context: &str) {
    let gone = tasks(world).get(&alice(), &world.id.to_string()).await;
    assert!(matches!(gone, Err(Rejection::NotFound { .. })), "{context}: {gone:?}");
    let listed = tasks(world).list(&alice(), TaskListing::default()).await.unwrap();
    assert_eq!(listed.tasks, [], "{context}");
    assert!(world.task().await.is_expired(world.clock.now()), "{context}");
}

#[tokio::test(start_paused = true)]
async fn hashes_that_were_lost_are_made_long_after_the_task_is_gone_from_sight() {
    let later = async || {
        let mut world = short_lived().await;
        world.policy.hash_before_active = 0;
        for step in steps() {
            phase(&world, step).await.unwrap();
        }
        world.machines.inner.set_status(world.id, ExecutionStatus::Running);
        world
    };
    let world = later().await;
    let before = world.faults.calls();
    phase(&world, json!({"phase": "next"})).await.unwrap();
    let calls = world.faults.calls() - before;
    assert!(calls > 8, "{calls}");
    for call in 0..calls {
        for at in [Hold::Before(call), Hold::After(call)] {
            let context = format!("lost at {at:?}");
            let lost = async {
                let world = later().await;
                let start = world.faults.calls();
                let gate = world.faults.hold(match at {
                    Hold::Before(call) => Hold::Before(start + call),
                    Hold::After(call) => Hold::After(start + call),
                });
                // The worker dies there, and its execution ends without anybody's being told.
                tokio::select! {
                    biased;
                    answer = phase(&world, json!({"phase": "next"})) => panic!("{context}: {answer:?}"),
                    () = gate.reached() => {}
                }
                world
            };
            let world = ticking(lost).await;
            world.machines.inner.set_status(world.id, ExecutionStatus::TimedOut);
            world.clock.advance(Duration::from_secs(10 * 24 * 3600));
            check_hidden(&world, &context).await;
            let due = matches!(world.task().await.unsettled, Some(Unsettled::Hashing { .. }));
            assert_eq!(sweep(&world).await["hashing"], u32::from(due), "{context}");
            if due {
                let next = json!({"phase": "next"});
                let hashed = ticking(phase(&world, next)).await.unwrap();
                assert_eq!(hashed["next"], "done", "{context}");
            }
            // What a worker left that died behind that is cleaned up too.
            world.settle().await;
            assert_eq!(sweep(&world).await["checked"], 0, "{context}");
            assert_eq!(world.check_ended(&pattern(3500), &context).await, TaskStatus::Success);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_lives_for_a_minute_is_kept_until_it_is_cleaned() {
    for n in 0..steps().len() {
        let world = short_lived().await;
        for step in &steps()[..n] {
            phase(&world, step.clone()).await.unwrap();
        }
        let event = json!({"detail": {"name": world.id, "status": "TIMED_OUT"}});
        world.invoke_lifecycle(event, 1).await.unwrap();
        world.clock.advance(2 * MINUTE);
        check_hidden(&world, "failed").await;
        // A worker that outlived it begins an upload that nobody gives up.
        let at = ObjectRef { bucket: "work".into(), key: format!("work/{}/late", world.id) };
        world.objects.create_upload(&at).await.unwrap();
        world.clock.advance(5 * MINUTE);
        sweep(&world).await;
        assert!(matches!(world.task().await.unsettled, Some(Unsettled::Cleaning { .. })), "too early");
        world.clock.advance(15 * MINUTE);
        assert_eq!(sweep(&world).await["cleaned"], 1);
        assert_eq!(world.task().await.unsettled, None);
        assert_eq!(world.check_ended(&[], "cleaned").await, TaskStatus::Failure);
        assert_eq!(sweep(&world).await["checked"], 0);
    }
}

/// So many tasks whose executions are over, and nobody was told. The world's own, which is none of them, has ended.
async fn crowd(count: u64) -> (World, Vec<TaskId>) {
    let world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
    world.stores.inner.put_task(Task { status: TaskStatus::Success, ..world.task().await });
    let ids = (0..count).map(|n| {
        let status = if n % 2 == 0 { TaskStatus::Pending } else { TaskStatus::Processing };
        // Many of one second, as a page can end within it.
        let at = world.clock.now().plus(Duration::from_secs(n / 700));
        let task =
            Task { status, ..Task::pending(TaskType::Import, "demo", json!({"import_from": URL}), at) };
        world.machines.inner.set_status(task.id, ExecutionStatus::TimedOut);
        world.stores.inner.put_task(task.clone());
        task.id
    });
    let ids = ids.collect();
    world.clock.advance(Duration::from_secs(600));
    (world, ids)
}

async fn failed(world: &World, ids: &[TaskId]) -> usize {
    let mut failed = 0;
    for id in ids {
        let task = TaskStore::get(&world.stores.inner, *id).await.unwrap().unwrap();
        failed += usize::from(task.status == TaskStatus::Failure);
    }
    failed
}

#[tokio::test(start_paused = true)]
async fn three_thousand_tasks_are_all_seen_by_one_sweep() {
    let (world, ids) = crowd(3000).await;
    let swept = sweep(&world).await;
    assert_eq!(
        (&swept["checked"], &swept["failed"], &swept["errors"]),
        (&json!(3000), &json!(3000), &json!(0))
    );
    assert_eq!(failed(&world, &ids).await, 3000);
    world.clock.advance(25 * MINUTE);
    assert_eq!(sweep(&world).await["cleaned"], 3000);
    assert_eq!(sweep(&world).await["checked"], 0);
}

/// One call of the sweep stands until its time is up. The tasks behind it are seen by then or by the next, which goes on from
/// there; those few that were being looked at, by the one that begins anew.
#[tokio::test(start_paused = true)]
async fn a_sweep_that_runs_out_of_time_is_gone_on_with_by_the_next() {
    let (world, _) = crowd(3000).await;
    let before = world.faults.calls();
    sweep(&world).await;
    let calls = world.faults.calls() - before;
    for at in [20, calls / 3, calls / 2, calls - 20] {
        let (world, ids) = crowd(3000).await;
        let gate = world.faults.stop_at(world.faults.calls() + at);
        let deadline = Deadline::after(Duration::from_secs(300));
        let first = world.lifecycle.handle(LifecycleEvent::Sweep, deadline).await.unwrap();
        gate.open();
        let done = failed(&world, &ids).await;
        assert!((400..3000).contains(&done), "{at}: {first}: {done}");
        let second = sweep(&world).await;
        assert!(failed(&world, &ids).await > 3000 - 8, "{at}: {first}, then {second}");
        let [first, second] = [first, second].map(|swept| swept["checked"].as_u64().unwrap());
        assert!((2992..=3000).contains(&(first + second)), "{at}: {first}, then {second}");
        // The one after it begins at the first again.
        assert_eq!(sweep(&world).await["checked"], 3000);
        assert_eq!(failed(&world, &ids).await, 3000, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_marked_task_whose_stop_was_lost_is_stopped() {
    for n in 0..=steps().len() - 1 {
        for started in [true, false] {
            let world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
            if started {
                world.machines.inner.set_status(world.id, ExecutionStatus::Running);
            }
            for step in &steps()[..n] {
                phase(&world, step.clone()).await.unwrap();
            }
            world.stores.inner.mark_cancelled(world.id, "alice").await.unwrap();
            world.clock.advance(10 * MINUTE);
            assert_eq!(sweep(&world).await["failed"], 1);
            if started {
                let (error, cause) = ("Cancelled".to_owned(), "cancelled by alice".to_owned());
                let status = world.machines.inner.status(&world.task().await, 0).await.unwrap();
                assert_eq!(status, ExecutionStatus::Aborted { error, cause });
            }
            assert_eq!(world.task().await.message, "Cancelled: cancelled by alice");
            world.settle().await;
            world.check_ended(&[], &format!("marked after {n}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_start_was_not_answered_runs_to_its_end() {
    let mut world = World::new(Script::of(pattern(3500)), raw(), CUT).await;
    for seen in [true, false] {
        world.machines.inner.set_answers_lost(true);
        let new = NewTask {
            task_type: TaskType::Import,
            input: json!({"import_from": URL, "import_from_format": "raw"}),
            request_id: "req-2".into(),
            idempotency: None,
            token: None,
        };
        let task = tasks(&world).create(&alice(), new).await.unwrap();
        world.machines.inner.set_answers_lost(false);
        assert_eq!(task.status, TaskStatus::Pending, "{}", task.message);
        world.id = task.id;
        if !seen {
            // The sweep comes by before it has begun, and leaves it alone.
            world.clock.advance(10 * MINUTE);
            sweep(&world).await;
            assert_eq!(world.task().await.status, TaskStatus::Pending);
        }
        world.run().await;
        let ended = world.task().await;
        assert_eq!(ended.status, TaskStatus::Success, "{}", ended.message);
        sweep(&world).await;
        assert_eq!(world.task().await.status, TaskStatus::Success);
    }
}
