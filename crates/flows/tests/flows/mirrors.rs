//! Several places of the same bytes, and sources whose versions nothing tells apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use image_tasks_domain::ports::{Clock as _, Credentials};
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::{ImportInput, TaskStatus};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::sources::Script;
use crate::world::{CUT, URL, World, hex, pattern};

const OTHER: &str = "https://mirror.example.net/image";

/// An import from two places.
async fn world(first: Script, other: Script, hash: Option<&[u8]>) -> World {
    let mut input = json!({"import_from": [URL, OTHER], "import_from_format": "raw"});
    if let Some(bytes) = hash {
        input["os_hash_value"] = Value::from(hex(&sha2::Sha512::digest(bytes)));
    }
    let world = World::new(first, input, CUT).await;
    world.sources.scripts.lock().unwrap().insert(OTHER.to_owned(), Arc::new(other));
    world
}

fn reads(world: &World, place: &str) -> u64 {
    world.sources.scripts.lock().unwrap()[place].reads.load(Ordering::SeqCst)
}

/// Other validators, as each mirror has its own.
fn mirror(bytes: &[u8]) -> Script {
    Script { etag: "\"m\"".into(), ..Script::of(bytes.to_vec()) }
}

#[tokio::test(start_paused = true)]
async fn before_the_first_byte_moves_any_place_may_stand_in() {
    let bytes = pattern(5000);
    let gone = || Script { gone_after: Some(0), ..Script::of(bytes.clone()) };
    let packed = crate::import::gzip(&bytes);
    // A stream is spooled, which begins anew.
    let spooled = Script { gone_after: Some(1), ..Script::of(packed.clone()) };
    for (first, other) in [(gone(), mirror(&bytes)), (spooled, mirror(&packed))] {
        let world = world(first, other, None).await;
        world.run().await;
        assert_eq!(world.check_ended(&bytes, "two places").await, TaskStatus::Success);
        assert!(reads(&world, OTHER) > 0);
    }
    let world = world(gone(), gone(), None).await;
    world.run().await;
    assert_eq!(world.check_ended(&[], "no place").await, TaskStatus::Failure);
    assert!(world.task().await.message.starts_with("SourceUnreachable: "));
}

#[tokio::test(start_paused = true)]
async fn in_mid_transfer_only_a_hash_lets_another_place_stand_in() {
    let bytes = pattern(5000);
    // One read looks at it.
    let first = || Script { gone_after: Some(4), ..Script::of(bytes.clone()) };
    let proved = world(first(), mirror(&bytes), Some(&bytes)).await;
    proved.run().await;
    assert_eq!(proved.check_ended(&bytes, "with a hash").await, TaskStatus::Success);
    assert!(reads(&proved, URL) == 4 && reads(&proved, OTHER) > 0);

    let unproved = world(first(), mirror(&bytes), None).await;
    unproved.run().await;
    assert_eq!(unproved.check_ended(&[], "without a hash").await, TaskStatus::Failure);
    assert_eq!(reads(&unproved, OTHER), 0);
    assert!(unproved.task().await.message.starts_with("SourceUnreachable: "));

    // One that has other bytes is found out.
    let other = pattern(5001)[1..].to_vec();
    let deceived = world(first(), mirror(&other), Some(&bytes)).await;
    deceived.run().await;
    assert_eq!(deceived.check_ended(&[], "other bytes").await, TaskStatus::Failure);
    assert!(deceived.task().await.message.starts_with("ChecksumMismatch: "));
}

#[tokio::test(start_paused = true)]
async fn a_source_is_told_the_headers_that_came_with_the_task() {
    let input = |value: &str| json!({"import_from": URL, "import_from_format": "raw", "import_from_headers": {"Authorization": value}});
    for (value, end) in [("Bearer s3cret", TaskStatus::Success), ("Bearer wrong", TaskStatus::Failure)] {
        let bytes = pattern(5000);
        let script = Script { token: Some("Bearer s3cret".into()), ..Script::of(bytes.clone()) };
        // As it is stored.
        let world = World::new(script, input("***"), CUT).await;
        let said = ImportInput::parse(&input(value), &SourcePolicy::default()).unwrap().headers.unwrap();
        let until = world.clock.now().plus(Duration::from_secs(3600));
        world.stores.inner.put_token(world.id, said.kept().unwrap(), until);
        world.run().await;
        assert_eq!(world.check_ended(&bytes, value).await, end);
        let kept = Credentials::token(&world.stores.inner, world.id, world.clock.now()).await.unwrap();
        assert_eq!(kept, None, "they go with the task");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_could_change_unseen_is_read_in_one_go_or_told() {
    let unpinned = |len| Script { etag: String::new(), ..Script::of(pattern(len)) };
    let input = json!({"import_from_format": "raw"});
    let small = World::new(unpinned(2900), input.clone(), CUT).await;
    small.run().await;
    assert_eq!(small.check_ended(&pattern(2900), "small").await, TaskStatus::Success);
    assert_eq!((small.script().reads.load(Ordering::SeqCst), small.task().await.message.as_str()), (1, ""));

    let large = World::new(unpinned(3100), input.clone(), CUT).await;
    large.run().await;
    assert_eq!(large.check_ended(&pattern(3100), "large").await, TaskStatus::Success);
    let told = large.task().await.message;
    assert!(told.contains("neither ETag nor Last-Modified") && told.contains("os_hash_value"), "{told}");

    let mut proved = input;
    proved["os_hash_value"] = Value::from(hex(&sha2::Sha512::digest(pattern(3100))));
    for script in [unpinned(3100), Script { breaks: AtomicU64::new(2), ..unpinned(3100) }] {
        let proved = World::new(script, proved.clone(), CUT).await;
        proved.run().await;
        assert_eq!(proved.check_ended(&pattern(3100), "proved").await, TaskStatus::Success);
        assert_eq!(proved.task().await.message, "");
    }
}
