//! What an import makes of sources of every kind.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::Cut;
use md5::Digest as _;
use serde_json::{Value, json};

use crate::faults::{Fault, Kind};
use crate::sources::Script;
use crate::world::{CUT, QUOTA, World, hex, pattern};

const RAW: &str = "raw";

fn raw() -> Value {
    json!({"import_from_format": RAW})
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    // As the command-line tool does; damage can't be seen without it.
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn imported(script: Script, input: Value, stored: &[u8], context: &str) -> World {
    let world = World::new(script, input, CUT).await;
    world.run().await;
    let message = world.task().await.message;
    assert_eq!(world.check_ended(stored, context).await, TaskStatus::Success, "{context}: {message}");
    world
}

async fn fails(script: Script, input: Value, message: &str) -> World {
    let world = World::new(script, input, CUT).await;
    world.run().await;
    assert_eq!(world.check_ended(&[], message).await, TaskStatus::Failure);
    let told = world.task().await.message;
    assert!(told.starts_with(message), "{told}");
    world
}

#[tokio::test(start_paused = true)]
async fn any_size_from_any_kind_of_source() {
    for len in [0, 1, 2, 999, 1000, 1001, 1999, 2000, 2001, 5000, 16_384] {
        let bytes = pattern(len);
        for (ranges, sized) in [(true, true), (false, true), (false, false)] {
            let script = Script { ranges, sized, ..Script::of(bytes.clone()) };
            imported(script, raw(), &bytes, &format!("{len} bytes, ranges {ranges}, size {sized}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn compressed_streams_are_stored_unpacked() {
    for len in [1, 700, 5000, 1 << 20] {
        let bytes = pattern(len);
        for (name, packed) in [("gzip", gzip(&bytes)), ("xz", xz(&bytes)), ("zstd", zstd(&bytes))] {
            for ranges in [true, false] {
                let script = Script { ranges, ..Script::of(packed.clone()) };
                imported(script, raw(), &bytes, &format!("{len} bytes in {name}, ranges {ranges}")).await;
            }
        }
    }
    let twice = gzip(&gzip(&pattern(5000)));
    fails(Script::of(twice), raw(), "UnsupportedFormat: the source is compressed more than once").await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_cannot_be_unpacked_are_told() {
    for packed in [gzip(&pattern(9000)), xz(&pattern(9000)), zstd(&pattern(9000))] {
        let half = packed[..packed.len() / 2].to_vec();
        fails(Script::of(half), raw(), "BadData: the source's ").await;
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        fails(Script::of(damaged), raw(), "BadData: the source's ").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bomb_is_stopped_at_the_quota() {
    let bomb = zstd(&vec![0; usize::try_from(QUOTA).unwrap() + 1]);
    assert!(bomb.len() < 10_000);
    let world = World::new(Script::of(bomb), raw(), Cut { stage_part: 100_000, ..CUT }).await;
    world.run().await;
    world.check_ended(&[], "bomb").await;
    assert_eq!(world.task().await.message, "SourceTooLarge: the source has more than 16.0 MiB, the quota");
    assert!(world.objects.largest_upload() <= 100_000);
}

#[tokio::test(start_paused = true)]
async fn what_is_spooled_is_hashed_and_read_once() {
    let bytes = pattern(500_000);
    let script = Script { ranges: false, ..Script::of(bytes.clone()) };
    let world = imported(script, raw(), &bytes, "staged").await;
    assert_eq!(world.script().bytes_read.load(Ordering::SeqCst), 500_000);
    let key = world.image().await.unwrap().id.object_key(world.id);
    let judged = disk_image::inspect::HEAD + disk_image::inspect::TAIL;
    assert_eq!(
        world.objects.read_from("images", &key),
        judged,
        "copied inside the store, judged, and not read to be hashed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_ranged_source_is_read_once_but_for_its_ends() {
    let bytes = pattern(200_000);
    let world = imported(Script::of(bytes.clone()), raw(), &bytes, "ranged").await;
    let read = world.script().bytes_read.load(Ordering::SeqCst);
    assert_eq!(read, 200_000 + 65_536 + 2048, "head and tail to inspect, then each byte once");
}

#[tokio::test(start_paused = true)]
async fn the_record_is_what_was_said_and_what_was_found() {
    let bytes = pattern(3000);
    let input = json!({
        "import_from_format": "raw",
        "image_properties": {"name": "n", "min_disk": 3, "visibility": "private", "disk_format": "ami", "os": "x"},
        "checksum": hex(&md5::Md5::digest(&bytes)).to_uppercase(),
        "os_hash_algo": "sha512", "os_hash_value": hex(&sha2::Sha512::digest(&bytes)),
    });
    let image = imported(Script::of(bytes.clone()), input, &bytes, "record").await.image().await.unwrap();
    assert_eq!((image.name.as_deref(), image.min_disk), (Some("n"), 3));
    assert_eq!(image.disk_format.as_deref(), Some("ami"), "another name for the same bytes");
    assert_eq!(image.container_format.as_deref(), Some("bare"));
    assert_eq!(image.virtual_size, Some(3000));
    assert_eq!(image.visibility.name(), "private");
    assert_eq!(image.properties.get("os").map(String::as_str), Some("x"));
    // An opaque format that is asked for is a declared one.
    let input = json!({"image_properties": {"disk_format": "raw"}});
    let image = imported(Script::of(bytes.clone()), input, &bytes, "wanted raw").await.image().await.unwrap();
    assert_eq!((image.disk_format.as_deref(), image.min_disk), (Some("raw"), 1));
}

#[tokio::test(start_paused = true)]
async fn refusals_come_before_anything_is_copied() {
    let raw_bytes = pattern(5000);
    let mut qcow2 = vec![0; 5000];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    for (bytes, input, message) in [
        (
            raw_bytes.clone(),
            json!({}),
            "UnknownFormat: the file has no known signature; if it is a raw disk, as a VMDK's -flat file is, say \
             import_from_format \"raw\"",
        ),
        (
            raw_bytes.clone(),
            json!({"image_properties": {"disk_format": "qcow2"}}),
            "UnknownFormat: the file has no known signature; if it is a raw disk",
        ),
        (raw_bytes.clone(), json!({"import_from_format": "qcow2"}), "FormatMismatch: declared as qcow2"),
        (qcow2.clone(), raw(), "FormatMismatch: declared as raw, but the file is qcow2"),
        (qcow2, json!({}), "BadHeader: "),
        (Vec::new(), json!({"import_from_format": "qcow2"}), "FormatMismatch: declared as qcow2"),
        (vec![1; usize::try_from(QUOTA).unwrap() + 1], raw(), "SourceTooLarge: "),
    ] {
        for (ranges, sized) in [(true, true), (false, false)] {
            let script = Script { ranges, sized, ..Script::of(bytes.clone()) };
            let world = fails(script, input.clone(), message).await;
            assert!(ranges || world.task().await.status == TaskStatus::Failure);
        }
    }
    let world = World::new(Script::of(raw_bytes), raw(), CUT).await;
    world.sources.scripts.lock().unwrap().clear();
    world.run().await;
    assert_eq!(world.task().await.message, "SourceNotFound: http://example.com/image answered 404");
}

#[tokio::test(start_paused = true)]
async fn wrong_checksums_are_found_however_the_bytes_came() {
    let bytes = pattern(5000);
    let zeros = "0".repeat(32);
    for len in [1000, 5000] {
        for (ranges, packed) in [(true, false), (false, false), (true, true)] {
            let bytes = if packed { gzip(&bytes[..len]) } else { bytes[..len].to_vec() };
            let script = Script { ranges, ..Script::of(bytes.clone()) };
            let input = json!({"import_from_format": "raw", "checksum": zeros});
            fails(script, input, "ChecksumMismatch: checksum of the source is ").await;
            // The right one, of the source as it lies there.
            let script = Script { ranges, ..Script::of(bytes.clone()) };
            let input = json!({"import_from_format": "raw", "checksum": hex(&md5::Md5::digest(&bytes))});
            imported(script, input, &pattern(5000)[..len], "right checksum").await;
            let sha256 = |value: &str| json!({"import_from_format": "raw", "os_hash_algo": "sha256", "os_hash_value": value});
            let (right, wrong) = (hex(&sha2::Sha256::digest(&bytes)), "0".repeat(64));
            let script = Script { ranges, ..Script::of(bytes.clone()) };
            let told = format!("ChecksumMismatch: SHA-256 of the source is {right}, not {wrong} as given");
            fails(script, sha256(&wrong), &told).await;
            let script = Script { ranges, ..Script::of(bytes.clone()) };
            imported(script, sha256(&right), &pattern(5000)[..len], "right SHA-256").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broken_bodies_are_read_again_and_in_the_end_told() {
    for (len, ranges) in [(1500, true), (5000, true), (5000, false)] {
        let bytes = pattern(len);
        let script = Script { ranges, breaks: AtomicU64::new(3), ..Script::of(bytes.clone()) };
        imported(script, raw(), &bytes, "three breaks").await;
        let script = Script { ranges, breaks: AtomicU64::new(u64::MAX), ..Script::of(bytes) };
        fails(script, raw(), "SourceUnreachable: the ").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_falls_silent_is_told_as_that_and_not_as_a_store_of_ours() {
    let pace = Duration::from_secs(16);
    for len in [1500, 2500] {
        let script = Script { pace, ..Script::of(pattern(len)) };
        let told = "SourceUnreachable: the source fell silent: nothing came for 15 seconds (tried 5 times)";
        fails(script, raw(), told).await;
    }
    // Nothing waits for it where it is spooled.
    let bytes = pattern(1500);
    imported(Script { pace, ranges: false, ..Script::of(bytes.clone()) }, raw(), &bytes, "spooled").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_is_told() {
    for (len, ranges) in [(1500, true), (5000, true), (5000, false)] {
        for after in 1..3 {
            let script = Script { ranges, changes_after: Some(after), ..Script::of(pattern(len)) };
            let world = World::new(script, raw(), CUT).await;
            world.run().await;
            let reads = world.script().reads.load(Ordering::SeqCst);
            // A stream is read once: it can't change afterwards.
            if world.check_ended(&pattern(len), "changed").await == TaskStatus::Failure {
                assert!(world.task().await.message.starts_with("SourceChanged: "));
            } else {
                assert!(reads <= after, "{reads} reads, changed after {after}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn short_invocations_hand_on_what_is_left() {
    let bytes = pattern(40_000);
    // 58 chunks of a second each; one invocation has time for about seven of them, two parts side by side.
    let script = Script { pace: Duration::from_secs(1), ..Script::of(bytes.clone()) };
    let cut = Cut { part: 1000, ..CUT };
    let mut world = World::new(script, raw(), cut).await;
    world.time = Duration::from_secs(120);
    world.run().await;
    assert_eq!(
        world.check_ended(&bytes, "short").await,
        TaskStatus::Success,
        "{}",
        world.task().await.message
    );
}

#[tokio::test(start_paused = true)]
async fn sources_too_slow_for_an_invocation_are_told() {
    for (len, ranges) in [(1500, true), (5000, true), (5000, false)] {
        let script = Script { ranges, pace: Duration::from_secs(3), ..Script::of(pattern(len)) };
        let mut world = World::new(script, raw(), CUT).await;
        world.time = Duration::from_secs(5);
        world.run().await;
        assert_eq!(world.check_ended(&[], "slow").await, TaskStatus::Failure);
        let message = world.task().await.message;
        assert!(message.starts_with("SourceTooSlow: the source "), "{message}");
    }
}

/// Only calls of the same task write there: one of them wins.
#[tokio::test(start_paused = true)]
async fn another_write_that_comes_between_passes() {
    for len in [1500, 3500] {
        let bytes = pattern(len);
        let world = async || World::new(Script::of(bytes.clone()), raw(), CUT).await;
        let whole = world().await;
        whole.run().await;
        for call in 0..whole.faults.calls() {
            for after in [false, true] {
                let world = world().await;
                world.faults.set(Some(Fault { call, after, kind: Kind::Conflict }));
                world.run().await;
                let context = format!("{len} bytes, call {call}, after: {after}");
                assert_eq!(world.check_ended(&bytes, &context).await, TaskStatus::Success, "{context}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_in_use_by_another_image_is_left_alone() {
    let bytes = pattern(5000);
    let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
    let input = json!({"import_from_format": "raw", "image_properties": {"id": id}});
    let first = imported(Script::of(bytes.clone()), input.clone(), &bytes, "first").await;
    let image = first.image().await.unwrap();
    assert_eq!(image.id.to_string(), id);
    let second = World::new(Script::of(bytes), input, CUT).await;
    second.stores.inner.put_image(image.clone());
    second.run().await;
    assert!(second.task().await.message.starts_with("ImageExists: the id given in image_properties"));
    let kept = image_tasks_domain::ports::ImageStore::get(&second.stores.inner, image.id).await.unwrap();
    assert_eq!(kept, Some(image));
}
