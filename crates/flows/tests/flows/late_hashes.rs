//! Images too large to wait for their hashes: active first, hashed then.

use std::time::Duration;

use image_tasks_domain::ports::ExecutionStatus;
use image_tasks_domain::{TaskStatus, Unsettled};
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::json;

use crate::lifecycle::{phase, raw, steps};
use crate::sources::Script;
use crate::world::{CUT, World, pattern};

const SIZE: usize = 3500;

/// An import up to its first `finish`, and what that answered.
async fn finished(hash_before_active: u64) -> (World, String) {
    let mut world = World::new(Script::of(pattern(SIZE)), raw(), CUT).await;
    world.policy.hash_before_active = hash_before_active;
    let mut next = String::new();
    for step in steps() {
        next = phase(&world, step).await.unwrap()["next"].as_str().unwrap_or_default().to_owned();
    }
    (world, next)
}

async fn finish(world: &World) -> String {
    let answer = phase(world, json!({"phase": "next"})).await.unwrap();
    answer["next"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_limit_says_which_comes_first() {
    let (world, next) = finished(SIZE as u64).await;
    assert_eq!(next, "done");
    world.check_ended(&pattern(SIZE), "at the limit").await;

    let (world, next) = finished(SIZE as u64 - 1).await;
    assert_eq!(next, "next");
    assert_eq!(world.task().await.status, TaskStatus::Success);
    let image = world.image().await.unwrap();
    assert_eq!(image.status, image_tasks_domain::ImageStatus::Active);
    assert_eq!((image.size, image.checksum, image.os_hash_value), (Some(SIZE as u64), None, None));
    assert_eq!(world.task().await.progress.percent(), 99, "all that counts for the task is done");
    assert_eq!(finish(&world).await, "done");
    world.check_ended(&pattern(SIZE), "beyond the limit").await;
    // Asked again, there is nothing left to do.
    assert_eq!(finish(&world).await, "done");
    world.check_ended(&pattern(SIZE), "beyond the limit, again").await;
}

#[tokio::test]
async fn late_workers_leave_what_the_hashes_need() {
    let (world, _) = finished(0).await;
    for step in steps() {
        if step["phase"] != "next" {
            phase(&world, step).await.unwrap();
        }
    }
    assert_eq!(finish(&world).await, "done");
    world.check_ended(&pattern(SIZE), "after late workers").await;
}

#[tokio::test]
async fn hashes_that_were_given_are_checked_before_anything_is_active() {
    let input = json!({"import_from_format": "raw", "checksum": "0".repeat(32)});
    let mut world = World::new(Script::of(pattern(SIZE)), input, CUT).await;
    world.policy.hash_before_active = 0;
    for step in steps() {
        let failed = phase(&world, step.clone()).await.err();
        assert_eq!(failed.is_some(), step["phase"] == "next", "{failed:?}");
    }
    assert!(world.image().await.unwrap().checksum.is_none());
    assert_eq!(world.task().await.status, TaskStatus::Processing);
}

#[tokio::test]
async fn an_image_that_is_deleted_meanwhile_stays_deleted() {
    for with_its_bytes in [true, false] {
        let (world, _) = finished(0).await;
        let image = world.image().await.unwrap();
        let key = image.id.object_key(world.id);
        world.stores.inner.remove_image(image.id);
        if with_its_bytes {
            world.objects.delete(&ObjectRef { bucket: "images".into(), key: key.clone() }).await.unwrap();
        }
        assert_eq!(finish(&world).await, "done");
        assert!(world.image().await.is_none());
        let left = if with_its_bytes { vec![] } else { vec![format!("images/{key}")] };
        assert_eq!(world.objects.everything(), left);
    }
}

#[tokio::test]
async fn hashes_whose_execution_was_lost_are_taken_up_again() {
    let (world, _) = finished(0).await;
    let event = json!({"detail": {"name": world.id, "status": "TIMED_OUT"}});
    world.machines.inner.set_status(world.id, ExecutionStatus::TimedOut);
    world.invoke_lifecycle(event, 1).await.unwrap();
    assert!(world.image().await.unwrap().checksum.is_none());
    // Long after the task has expired: it is kept for this.
    world.clock.advance(Duration::from_secs(100 * 3600));
    let sweep = async || world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await.unwrap();
    assert_eq!(sweep().await["hashing"], 1);
    assert_eq!(world.machines.inner.last_run(world.id), Some(1));
    assert_eq!(sweep().await["hashing"], 0, "it runs");
    // It begins like any execution.
    assert_eq!(phase(&world, json!({"phase": "plan"})).await.unwrap()["next"], "next");
    assert_eq!(finish(&world).await, "done");
    world.check_ended(&pattern(SIZE), "hashed by another execution").await;
    assert_eq!(sweep().await["cleaned"], 0, "a worker may live still");
    world.clock.advance(Duration::from_secs(20 * 60));
    assert_eq!(sweep().await["cleaned"], 1);
    assert_eq!(world.task().await.unsettled, None);
    assert_eq!(sweep().await["checked"], 0);
}

#[tokio::test]
async fn hashes_that_never_come_about_are_given_up() {
    let (mut world, _) = finished(0).await;
    world.machines.inner.set_status(world.id, ExecutionStatus::TimedOut);
    world.clock.advance(Duration::from_secs(600));
    let mut swept = 0;
    while let Some(Unsettled::Hashing { .. }) = world.task().await.unsettled {
        world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await.unwrap();
        let run = world.machines.inner.last_run(world.id).unwrap();
        world.machines.inner.set_run_status(world.id, run, ExecutionStatus::TimedOut);
        swept += 1;
        assert!(swept < 20);
    }
    assert_eq!(world.machines.inner.last_run(world.id), Some(10));
    world.settle().await;
    world.may_lack_hashes = true;
    world.check_ended(&pattern(SIZE), "given up").await;
}
