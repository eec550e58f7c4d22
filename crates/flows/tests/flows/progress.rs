//! Progress is told beside the task: it costs little, and nothing depends on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use image_tasks_domain::ports::TaskLife as _;
use image_tasks_domain::{Failure, FailureCode, TaskStatus};
use image_tasks_flows::bounds::{Cut, LOOK_EVERY, TELL_EVERY};
use image_tasks_flows::events::VERSION;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::lifecycle::raw;
use crate::sources::Script;
use crate::stores::Telling;
use crate::world::{CUT, World, pattern, ticking};

const LEN: usize = 40_000;

/// An import of parts of that size, with 256 KiB of input.
async fn large_input(part: u64, pace: Duration) -> World {
    let mut input = raw();
    input["remark"] = Value::from("x".repeat(256 << 10));
    let script = Script { pace, ..Script::of(pattern(LEN)) };
    World::new(script, input, Cut { part, ..CUT }).await
}

#[tokio::test(start_paused = true)]
async fn write_units_of_a_task_with_a_large_input_do_not_follow_its_parts() {
    let mut seen = Vec::new();
    for part in [10_000, 1000, 100] {
        let world = large_input(part, Duration::ZERO).await;
        world.run().await;
        assert_eq!(world.task().await.status, TaskStatus::Success);
        assert_eq!(world.task().await.progress.copied.done, LEN as u64);
        let tells = world.stores.tells.load(Ordering::SeqCst);
        // One at the end of each call that has something to tell: the plan, at most one for each item of a round, the hashes.
        assert!(tells <= 2 + 256, "{tells} writes of progress for parts of {part}");
        seen.push(world.stores.units.load(Ordering::SeqCst));
    }
    // Its beginning and its end, each a transaction that writes 257 KiB.
    assert_eq!(seen, [1028; 3]);
}

#[tokio::test(start_paused = true)]
async fn no_task_fails_or_waits_for_its_progress() {
    for telling in [Telling::Works, Telling::Fails, Telling::Hangs] {
        for ranges in [true, false] {
            let script = Script { ranges, pace: Duration::from_secs(1), ..Script::of(pattern(LEN)) };
            let world = World::new(script, raw(), CUT).await;
            *world.stores.telling.lock().unwrap() = telling;
            world.run().await;
            let context = format!("{telling:?}, ranges {ranges}");
            assert_eq!(world.check_ended(&pattern(LEN), &context).await, TaskStatus::Success);
            let expected = if telling == Telling::Works { LEN as u64 } else { 0 };
            assert_eq!(world.task().await.progress.copied.total, expected, "{context}");
            let staged = world.task().await.progress.staged;
            assert_eq!(staged.total, if ranges { 0 } else { expected }, "{context}");
            assert!(world.stores.tells.load(Ordering::SeqCst) > 0, "{context}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_tells_by_time_and_stops_when_its_task_has_ended() {
    // 400 parts, two at once, a second each.
    let world = large_input(100, Duration::from_secs(1)).await;
    let id = world.id;
    ticking(world.phase(json!({"version": VERSION, "phase": "plan", "task_id": id}))).await.unwrap();
    let began = Instant::now();
    let end = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let failure = Failure::new(FailureCode::Aborted, "stopped");
        world.stores.inner.fail(id, &failure, Duration::from_secs(60), world.task().await.created_at).await
    };
    let item = json!({"round": "move", "first": 1, "last": 400});
    let round = world.phase(json!({"version": VERSION, "phase": "round", "task_id": id, "item": item}));
    let (answer, ended) = ticking(async { tokio::join!(round, end) }).await;
    ended.unwrap();
    assert_eq!(answer.unwrap(), json!({"remaining": null}), "the task has ended");
    let took = began.elapsed();
    assert!(took < LOOK_EVERY + Duration::from_secs(5), "it went on for {took:?}");
    let tells = world.stores.tells.load(Ordering::SeqCst);
    let most = took.as_secs() / TELL_EVERY.as_secs() + 2;
    assert!((5..=most).contains(&tells), "{tells} writes in {took:?}");
    assert_eq!(world.objects.everything(), Vec::<String>::new(), "and it removed what it made");
}
