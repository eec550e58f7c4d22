//! Objects that workers hash in turns: killed, late, doubled, short of time, and always with the hashes of the bytes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_domain::ports::ExecutionStatus;
use image_tasks_domain::{Failure, TaskStatus};
use image_tasks_flows::bounds::Relay;
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::{Value, json};

use crate::faults::die;
use crate::lifecycle::{phase, raw};
use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern, ticking};

const SIZE: usize = 5000;
/// 17 chunks.
const RELAY: Relay = Relay { inline: 0, chunk: 300, workers: 4 };
const ALONE: Relay = Relay { workers: 1, ..RELAY };

async fn world(relay: Relay, later: bool) -> World {
    let mut world = World::new(Script::of(pattern(SIZE)), raw(), CUT).await;
    world.policy.relay = relay;
    if later {
        world.policy.hash_before_active = 0;
    }
    world
}

/// The states that are there, by the number of their chunk, with their keys.
fn states(world: &World) -> Vec<(u32, String)> {
    let everything = world.objects.everything().into_iter();
    let keys = everything.filter_map(|name| name.strip_prefix("work/").map(str::to_owned));
    let number = |key: &str| key.rsplit_once("/")?.1.strip_suffix(".json")?.parse().ok();
    keys.filter(|key| key.contains("/hash/")).filter_map(|key| Some((number(&key)?, key))).collect()
}

async fn is_hashed(world: &World, chunk: u32) {
    while !states(world).iter().any(|(number, _)| *number == chunk) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The calls up to the relay, and its items.
async fn up_to_the_relay(world: &World) -> Vec<Value> {
    let mut answer = phase(world, json!({"phase": "plan"})).await.unwrap();
    loop {
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        if items.first().is_some_and(|item| item["round"] == "hash") {
            return items;
        }
        for item in items {
            phase(world, json!({"phase": "round", "item": item})).await.unwrap();
        }
        answer = phase(world, json!({"phase": "next"})).await.unwrap();
    }
}

async fn take(world: &World, item: &Value) -> Value {
    let answer = phase(world, json!({"phase": "round", "item": item})).await;
    answer.unwrap()["remaining"].clone()
}

/// Two workers die, one while it waits and one once it has saved a state; a third one is started late.
async fn disturbed(world: &World) -> (u32, u32) {
    let (died, gave_up) = (AtomicU32::new(0), AtomicU32::new(0));
    let begun = Mutex::new(Vec::new());
    let phases = |event: Value| {
        let (died, gave_up, begun) = (&died, &gave_up, &begun);
        async move {
            if event["item"]["round"] != "hash" {
                return world.phase(event).await;
            }
            let first = event["item"]["first"].as_u64().unwrap();
            let is_new = {
                let mut begun = begun.lock().unwrap();
                begun.push(first);
                begun.iter().filter(|n| **n == first).count() == 1
            };
            let dies = async {
                match first {
                    3 if is_new => tokio::time::sleep(Duration::from_secs(20)).await,
                    // It has died once by the time that it is called again.
                    4 if died.load(Ordering::SeqCst) < 2 => is_hashed(world, 4).await,
                    _ => std::future::pending().await,
                }
                died.fetch_add(1, Ordering::SeqCst);
                die().await
            };
            if first == 2 && is_new {
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
            let answer = tokio::select! {
                biased;
                () = dies => unreachable!("it is dead"),
                answer = world.phase(event.clone()) => answer,
            };
            if answer.as_ref().is_ok_and(|answer| answer["remaining"] == event["item"]) {
                gave_up.fetch_add(1, Ordering::SeqCst);
            }
            answer
        }
        .boxed()
    };
    world.run_with(&phases).await;
    (died.into_inner(), gave_up.into_inner())
}

#[tokio::test(start_paused = true)]
async fn workers_that_die_or_come_late_change_no_hash() {
    for later in [false, true] {
        let world = world(RELAY, later).await;
        let (died, gave_up) = disturbed(&world).await;
        assert_eq!(world.check_ended(&pattern(SIZE), "disturbed").await, TaskStatus::Success);
        assert_eq!(died, 2);
        assert!(gave_up >= 2, "{gave_up}");
    }
}

#[tokio::test(start_paused = true)]
async fn old_states_go_and_a_call_finds_its_place_without_them() {
    let relay = Relay { chunk: 30, ..ALONE };
    let world = world(relay, false).await;
    let items = up_to_the_relay(&world).await;
    assert_eq!(items, [json!({"round": "hash", "first": 1, "last": 167})]);
    ticking(async { assert_eq!(take(&world, &items[0]).await, Value::Null) }).await;
    let left: Vec<u32> = states(&world).into_iter().map(|(chunk, _)| chunk).collect();
    let mut expected = vec![64, 128, 166, 167];
    expected.sort_by_key(u32::to_string);
    assert_eq!(left, expected);
    // However little is left, a call that begins anew hashes nothing again.
    let key = world.task().await.image_id.unwrap().object_key(world.id);
    let read = world.objects.read_from("images", &key);
    for last in [167, 166, 128, 64] {
        let (calls, before) = (world.faults.calls(), world.objects.read_from("images", &key));
        ticking(async { assert_eq!(take(&world, &items[0]).await, Value::Null) }).await;
        let again = world.objects.read_from("images", &key) - before;
        assert!(again <= (167 - u64::from(last)) * 30, "{last}: {again} bytes");
        assert!(world.faults.calls() - calls < 2000);
        let (_, gone) = states(&world).into_iter().find(|(chunk, _)| *chunk == last).unwrap();
        world.objects.delete(&ObjectRef { bucket: "work".into(), key: gone }).await.unwrap();
    }
    assert!(read >= SIZE as u64);
    ticking(async { assert_eq!(take(&world, &items[0]).await, Value::Null) }).await;
    assert_eq!(phase(&world, json!({"phase": "next"})).await.unwrap()["next"], "done");
    world.check_ended(&pattern(SIZE), "found its place").await;
}

async fn forget(world: &World) {
    for (_, key) in states(world) {
        world.objects.delete(&ObjectRef { bucket: "work".into(), key }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn twins_make_the_same_states() {
    let world = world(ALONE, false).await;
    let items = up_to_the_relay(&world).await;
    let bytes = |states: Vec<(u32, String)>| -> Vec<_> {
        states.into_iter().map(|(chunk, key)| (chunk, world.objects.bytes("work", &key).unwrap())).collect()
    };
    let hash = async || {
        ticking(async { assert_eq!(take(&world, &items[0]).await, Value::Null) }).await;
        bytes(states(&world))
    };
    let first = hash().await;
    assert!(first.len() >= 2);
    forget(&world).await;
    assert_eq!(hash().await, first);
    // Both at once: one of them saves each state.
    forget(&world).await;
    let twins = async {
        tokio::join!(take(&world, &items[0]), take(&world, &items[0]));
    };
    ticking(twins).await;
    let twins = bytes(states(&world));
    assert!(first.iter().all(|state| twins.contains(state)));
    assert_eq!(phase(&world, json!({"phase": "next"})).await.unwrap()["next"], "done");
    world.check_ended(&pattern(SIZE), "twins").await;
}

#[tokio::test(start_paused = true)]
async fn states_of_another_version_of_the_object_are_not_taken() {
    let world = world(ALONE, false).await;
    let items = up_to_the_relay(&world).await;
    ticking(async { assert_eq!(take(&world, &items[0]).await, Value::Null) }).await;
    let before = states(&world);
    // No code of ours does that; an operator may.
    let key = world.task().await.image_id.unwrap().object_key(world.id);
    let other: Vec<u8> = pattern(SIZE).iter().map(|b| b.wrapping_add(2)).collect();
    let at = ObjectRef { bucket: "images".into(), key };
    world.objects.put(&at, other.clone().into()).await.unwrap();
    let next = phase(&world, json!({"phase": "next"})).await.unwrap();
    assert_eq!(next["next"], "round", "nothing of it is hashed");
    ticking(async { assert_eq!(take(&world, &items[0]).await, Value::Null) }).await;
    assert!(states(&world).len() > before.len());
    assert_eq!(phase(&world, json!({"phase": "next"})).await.unwrap()["next"], "done");
    world.check_ended(&other, "another version").await;
    let checksum = world.image().await.unwrap().checksum;
    assert_eq!(checksum, Some(hex(&<md5::Md5 as md5::Digest>::digest(&other))));
}

#[tokio::test(start_paused = true)]
async fn a_sha256_that_was_given_is_made_in_the_same_turns() {
    let right = hex(&<sha2::Sha256 as md5::Digest>::digest(pattern(SIZE)));
    for given in [right.clone(), "0".repeat(64)] {
        let input =
            json!({"import_from_format": "raw", "os_hash_algo": "sha256", "os_hash_value": given.clone()});
        let mut world = World::new(Script::of(pattern(SIZE)), input, CUT).await;
        world.policy.relay = RELAY;
        // What is given is checked first, however large the image is.
        world.policy.hash_before_active = 0;
        world.run().await;
        let status = world.check_ended(&pattern(SIZE), "a SHA-256").await;
        let told = world.task().await.message;
        assert_eq!(status == TaskStatus::Success, given == right, "{told}");
        let mismatch = format!("ChecksumMismatch: SHA-256 of the source is {right}, not {given} as given");
        assert_eq!(told, if given == right { String::new() } else { mismatch });
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_was_lost_goes_on_in_an_execution_of_its_own() {
    let mut world = world(ALONE, true).await;
    let items = up_to_the_relay(&world).await;
    assert_eq!(world.task().await.status, TaskStatus::Success);
    // Each read takes a second: of 17 chunks, seven.
    world.objects.read_time.store(1000, Ordering::SeqCst);
    world.time = Duration::from_millis(7500);
    let left = ticking(take(&world, &items[0])).await;
    let begun = left["first"].as_u64().unwrap();
    assert!(begun > 3, "{left}");
    let key = world.task().await.image_id.unwrap().object_key(world.id);
    let read = world.objects.read_from("images", &key);
    world.machines.inner.set_status(world.id, ExecutionStatus::TimedOut);
    // Long after the task has expired.
    world.clock.advance(Duration::from_secs(100 * 3600));
    let swept = world.invoke_lifecycle(json!({"phase": "sweep"}), 1).await.unwrap();
    assert_eq!(swept["hashing"], 1);
    assert_eq!(phase(&world, json!({"phase": "plan"})).await.unwrap()["next"], "next");
    let next = phase(&world, json!({"phase": "next"})).await.unwrap();
    let mut item = next["items"][0].clone();
    while item != Value::Null {
        item = ticking(take(&world, &item)).await;
    }
    assert_eq!(phase(&world, json!({"phase": "next"})).await.unwrap()["next"], "done");
    let read_then = world.objects.read_from("images", &key) - read;
    assert!(read_then <= SIZE as u64 - (begun - 1) * 300 + 3 * 300, "{read_then} bytes, from {left} on");
    world.check_ended(&pattern(SIZE), "by another execution").await;
    world.settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_gives_up_its_place_where_no_turn_comes() {
    let world = world(RELAY, false).await;
    let items = up_to_the_relay(&world).await;
    assert_eq!(items.len(), 4);
    let begun = tokio::time::Instant::now();
    let calls = world.faults.calls();
    assert_eq!(take(&world, &items[2]).await, items[2]);
    let waited = begun.elapsed();
    assert!((60..62).contains(&waited.as_secs()), "{waited:?} of tokio's time");
    // Twice a second, and what any call begins with.
    assert!(world.faults.calls() - calls < 2 * 61 + 40, "{}", world.faults.calls() - calls);
    // A cancelled task's worker doesn't wait at all.
    use image_tasks_domain::ports::TaskLife as _;
    world.stores.inner.mark_cancelled(world.id, "alice").await.unwrap();
    let stopped: Result<Value, Failure> = phase(&world, json!({"phase": "round", "item": items[2]})).await;
    assert_eq!(stopped.unwrap_err().message, "cancelled by alice");
}
