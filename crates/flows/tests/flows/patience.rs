//! Sources whose servers are busy: they are waited for, asked less, and given up in the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use image_tasks_domain::TaskStatus;
use serde_json::json;

use crate::sources::Script;
use crate::world::{CUT, World, pattern};

async fn world(script: Script) -> World {
    let world = World::new(script, json!({"import_from_format": "raw"}), CUT).await;
    world.run().await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_server_that_serves_few_at_once_is_read_to_its_end() {
    let bytes = pattern(40_000);
    for connections in [1, 2] {
        let pace = Duration::from_millis(700);
        let world = world(Script { connections, pace, ..Script::of(bytes.clone()) }).await;
        assert_eq!(world.check_ended(&bytes, "few at once").await, TaskStatus::Success);
        let script = world.script();
        let refused = script.refused.load(Ordering::SeqCst);
        assert!(refused > 0 && script.reads.load(Ordering::SeqCst) > 40, "{refused}");
        assert!(!world.task().await.progress.waits, "it was told that the wait is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_is_left_alone_for_as_long_as_it_asks() {
    let bytes = pattern(500);
    let (busy, retry_after) = (AtomicU64::new(3), Duration::from_secs(60));
    let world = world(Script { busy, retry_after, ..Script::of(bytes.clone()) }).await;
    assert_eq!(world.check_ended(&bytes, "asks for a minute, thrice").await, TaskStatus::Success);
    assert_eq!(world.script().refused.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn waiting_has_an_end_and_is_told_meanwhile() {
    for (retry_after, told) in [
        (301, "asks to come back in 301 seconds; at most 300 are waited"),
        (100, "has done so for "),
        (0, "has done so for "),
    ] {
        let (busy, retry_after) = (AtomicU64::new(u64::MAX), Duration::from_secs(retry_after));
        let world = world(Script { busy, retry_after, ..Script::of(pattern(500)) }).await;
        assert_eq!(world.check_ended(&[], told).await, TaskStatus::Failure);
        let task = world.task().await;
        let begin = "SourceUnreachable: the source answered 503 Service Unavailable, and ";
        assert!(task.message.starts_with(begin) && task.message.contains(told), "{}", task.message);
        let waited = retry_after.as_secs() <= 300;
        assert_eq!(task.progress.message().contains("waiting for the source"), waited);
    }
}
