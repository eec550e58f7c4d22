//! Files of checksums: what they tell is checked like a given hash, and read once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image_tasks_domain::TaskStatus;
use md5::Digest as _;
use serde_json::{Value, json};

use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern};

const SUMS: &str = "http://example.com/SHA256SUMS";

fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

fn sha512(bytes: &[u8]) -> String {
    hex(&sha2::Sha512::digest(bytes))
}

/// An import whose source is listed in a file.
async fn world(script: Script, sums: Script, input: Value) -> World {
    let mut whole = json!({"import_from_format": "raw", "checksums_from": SUMS});
    whole.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
    let world = World::new(script, whole, CUT).await;
    world.sources.scripts.lock().unwrap().insert(SUMS.to_owned(), Arc::new(sums));
    world
}

async fn ends(world: &World, stored: &[u8], context: &str) -> String {
    world.run().await;
    let status = world.check_ended(stored, context).await;
    let told = world.task().await.message;
    assert_eq!(status == TaskStatus::Success, told.is_empty(), "{context}: {told}");
    told
}

#[tokio::test(start_paused = true)]
async fn what_a_file_lists_is_checked_however_the_bytes_come() {
    for len in [1000, 5000] {
        let bytes = pattern(len);
        for ranges in [true, false] {
            for sums in [
                format!("{}  other\n{} *image\n", "0".repeat(64), sha256(&bytes)),
                format!("SHA512 (image) = {}", sha512(&bytes)),
            ] {
                let script = Script { ranges, ..Script::of(bytes.clone()) };
                let sums = Script { breaks: AtomicU64::new(1), ..Script::of(sums) };
                let world = world(script, sums, json!({})).await;
                assert_eq!(ends(&world, &bytes, "listed").await, "");
                let reads = world.sources.scripts.lock().unwrap()[SUMS].reads.load(Ordering::SeqCst);
                assert_eq!(reads, 2, "once, and once more since it broke off");
            }
            let wrong = Script::of(format!("{}  image", "0".repeat(64)));
            let script = Script { ranges, ..Script::of(bytes.clone()) };
            let told = ends(&world(script, wrong, json!({})).await, &[], "wrong").await;
            assert!(told.starts_with("ChecksumMismatch: SHA-256 of the source is "), "{told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_tells_nothing_fails_before_anything_is_read() {
    let bytes = pattern(3000);
    let listed = format!("{}  image", sha256(&bytes));
    for (sums, input, words) in [
        (
            "<html>".to_owned(),
            json!({}),
            "SourceInvalid: http://example.com/SHA256SUMS has no line of checksums",
        ),
        (
            format!("{}  other.img", "0".repeat(64)),
            json!({}),
            "SourceInvalid: http://example.com/SHA256SUMS has no checksum of \"image\", but of \"other.img\"; name",
        ),
        (
            "#".repeat((1 << 20) + 1),
            json!({}),
            "SourceInvalid: http://example.com/SHA256SUMS has more than 1048576",
        ),
        (
            listed.clone(),
            json!({"os_hash_algo": "sha256", "os_hash_value": "0".repeat(64)}),
            "ChecksumMismatch: os_hash_value is 0000",
        ),
    ] {
        for sized in [true, false] {
            let sums = Script { sized, ..Script::of(sums.clone()) };
            let world = world(Script::of(bytes.clone()), sums, input.clone()).await;
            let told = ends(&world, &[], words).await;
            assert!(told.starts_with(words), "{told}");
            let opens = world.sources.scripts.lock().unwrap()[crate::world::URL].opens.load(Ordering::SeqCst);
            assert_eq!(opens, 0, "{words}");
        }
    }
    let world = world(Script::of(bytes.clone()), Script::of(listed), json!({})).await;
    world.sources.scripts.lock().unwrap().remove(SUMS);
    let told = ends(&world, &[], "no file").await;
    assert_eq!(told, "SourceNotFound: http://example.com/SHA256SUMS answered 404");
}

#[tokio::test(start_paused = true)]
async fn a_hash_of_another_kind_is_checked_beside_it() {
    let bytes = pattern(3000);
    let listed = || Script::of(format!("{}  image", sha256(&bytes)));
    for (md5, told) in
        [(hex(&md5::Md5::digest(&bytes)), ""), ("0".repeat(32), "ChecksumMismatch: checksum of")]
    {
        let world = world(Script::of(bytes.clone()), listed(), json!({"checksum": md5})).await;
        let ended = ends(&world, &bytes, "both").await;
        assert!(ended.starts_with(told) && ended.is_empty() == told.is_empty(), "{ended}");
    }
}
