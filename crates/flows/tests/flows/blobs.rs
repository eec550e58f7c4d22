//! A qcow2 by blobs: whatever they are cut by, the disk is the same, and S3 takes the parts.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::{BlobCut, Cut, ExportCut};
use image_tasks_flows::events::VERSION;
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::json;

use crate::disks::qcow2;
use crate::execution::Execution;
use crate::export::{self, Scenario, scenarios, task_id};
use crate::qcow2::{assert_holds, stored, to_qcow2};
use crate::sources::Script;
use crate::world::{World, pattern, ticking};

const MIB: usize = 1 << 20;

/// Bytes that don't compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let numbers = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    numbers.take(len.div_ceil(8)).flatten().take(len).collect()
}

/// Four ranges of 64 MiB: a blob of both kinds, one too short for a part, none, one that the disk's end cuts short.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 210 * MIB + 512];
    let mut put = |at: usize, bytes: Vec<u8>| disk[at..at + bytes.len()].copy_from_slice(&bytes);
    put(3 * MIB + 5, noise(20 * MIB));
    put(30 * MIB, pattern(20 * MIB));
    put(70 * MIB, noise(MIB));
    put(195 * MIB, noise(9 * MIB));
    put(210 * MIB, noise(512));
    disk
}

/// The clusters of a disk that aren't zeros.
fn runs(disk: &[u8]) -> Vec<std::ops::Range<u64>> {
    let starts = (0..disk.len()).step_by(1 << 16);
    let clusters = starts.map(|start| start..disk.len().min(start + (1 << 16)));
    let data = clusters.filter(|cluster| disk[cluster.clone()].iter().any(|byte| *byte != 0));
    data.map(|cluster| cluster.start as u64..cluster.end as u64).collect()
}

fn exported_as(codec: &str, disk: Vec<u8>, cut: ExportCut) -> Scenario {
    let mut scenario = scenarios().remove(0);
    scenario.stored = disk;
    scenario.cut = cut;
    scenario.input["export_format"] = json!("qcow2");
    scenario.input["compression"] = json!(codec);
    scenario
}

/// Bytes of the file that `qemu-img` makes of a disk.
fn theirs(disk: &[u8], options: &[&str]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let [raw, made] = ["raw", "made"].map(|name| dir.path().join(name));
    std::fs::write(&raw, disk).unwrap();
    let mut run = Command::new("qemu-img");
    run.args(["convert", "-f", "raw", "-O", "qcow2"]).args(options).arg(&raw).arg(&made);
    let done = run.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    std::fs::metadata(made).unwrap().len()
}

/// By S3's own limits, which the store holds it to.
#[tokio::test(start_paused = true)]
async fn each_codec_makes_the_disk_and_a_file_as_small_as_qemus() {
    let disk = disk();
    for (codec, options) in [
        ("zlib", &["-c"][..]),
        ("zstd", &["-c", "-o", "compression_type=zstd"]),
        ("none", &[]),
        ("imported", &[]),
    ] {
        let (file, copied, parts) = if codec == "imported" {
            let script = Script::of(disk.clone());
            let world = World::new(script, to_qcow2("raw"), Cut { single_below: 0, ..Cut::default() });
            let mut world = world.await;
            world.policy.max_image_bytes = 1 << 30;
            world.run().await;
            let file = stored(&world, codec).await;
            (file, world.objects.copied(), world.objects.completed().into_values().last())
        } else {
            let mut scenario = exported_as(codec, disk.clone(), ExportCut::default());
            scenario.data = Some(runs(&disk));
            let world = scenario.world().await;
            world.run(task_id(1)).await;
            assert_eq!(world.check(None, codec).await, TaskStatus::Success, "{codec}");
            let exports = world.objects.completed();
            let parts = exports.iter().find(|((bucket, _), _)| bucket == "exports").map(|(_, parts)| *parts);
            (world.exported().unwrap().to_vec(), world.objects.copied(), parts)
        };
        assert_holds(&file, &disk, codec);
        let theirs = theirs(&disk, options);
        println!("{codec}: {} bytes, {theirs} by qemu-img, {copied} copied, {parts:?} parts", file.len());
        // Where ranges of the image are copied, an island is filled up to a part.
        let filled = if codec == "none" { 4 << 20 } else { 0 };
        assert!((file.len() as u64 - filled) * 100 <= theirs * 103, "{codec}: {} bytes", file.len());
        // All but what fills the first part, and the blob that is too short for one.
        assert!(copied + (7 << 20) > file.len() as u64, "{codec}: {copied} bytes copied");
        assert!(parts.is_some_and(|parts| parts >= 3), "{codec}: {parts:?}");
    }
}

/// Blobs of a few clusters, in every order of short and long ones.
#[tokio::test(start_paused = true)]
async fn any_blobs_make_the_same_disk() {
    let mut disk = vec![0; 3 * MIB + 300_000];
    for (n, at) in (0..disk.len()).step_by(120_000).enumerate().filter(|(n, _)| n % 5 != 3) {
        let len = (disk.len() - at).min(n * 31_000 % 120_000);
        let bytes = if n % 3 == 0 { noise(len) } else { pattern(len) };
        disk[at..at + len].copy_from_slice(&bytes);
    }
    for (part, most, least) in [(1, 3, 0), (1, 4, 1), (2, 7, 2), (64, 64, 5)] {
        for (range, most_clusters, made) in [(4, 99, 40), (16, 3, 12), (16, 5, 99)] {
            let cut = BlobCut {
                range: range << 16,
                part: (part * 50_000).max((least + 1) << 16),
                most: most << 16,
                most_clusters,
                least: (least << 16).max(1 << 16),
                made: made << 16,
            };
            for codec in ["zlib", "zstd"] {
                let context = format!("{codec}, {cut:?}");
                let scenario = exported_as(
                    codec,
                    disk.clone(),
                    ExportCut { tiny: 0, blobs: cut, ..ExportCut::default() },
                );
                let world = scenario.world().await;
                world.run(task_id(1)).await;
                let status = world.check(None, &context).await;
                assert_eq!(
                    status,
                    TaskStatus::Success,
                    "{context}: {}",
                    world.task(task_id(1)).await.message
                );
                assert_holds(&world.exported().unwrap(), &disk, &context);
            }
        }
    }
}

/// Runs an export whose image is read slowly, in calls of so many seconds; how many of them the round took, and what blobs
/// there were before they were removed.
async fn in_calls(scenario: &Scenario, read_ms: u64, seconds: u64) -> (export::World, u64, Vec<String>) {
    let mut world = scenario.world().await;
    world.objects.read_time.store(read_ms, Ordering::SeqCst);
    world.time = Duration::from_secs(seconds);
    let (calls, blobs) = (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let execution = Execution {
        id: task_id(1),
        run: 0,
        phases: &|event| {
            let (world, calls, blobs) = (&world, Arc::clone(&calls), Arc::clone(&blobs));
            async move {
                if event["item"]["round"] == "move" {
                    calls.fetch_add(1, Ordering::SeqCst);
                }
                if event["phase"] == "next" {
                    // What follows is put together at once.
                    world.objects.read_time.store(0, Ordering::SeqCst);
                    let all = world.objects.everything();
                    *blobs.lock().unwrap() = all.into_iter().filter(|key| key.contains("/blob/")).collect();
                }
                world.phase(event).await
            }
            .boxed()
        },
        lifecycle: &world.lifecycle,
        faults: &world.faults,
        executions: &world.machines.inner,
        twice: false,
    };
    ticking(execution.run()).await;
    let blobs = blobs.lock().unwrap().iter().filter(|key| key.ends_with(".json")).cloned().collect();
    (world, calls.load(Ordering::SeqCst), blobs)
}

/// Two ranges of 64 MiB are 16 windows of 10 s each; a call has 2 or 3 times that before it must end its blobs.
#[tokio::test(start_paused = true)]
async fn a_blob_ends_for_want_of_time_and_another_goes_on() {
    let disk = noise(128 * MIB);
    let scenario = exported_as("zstd", disk.clone(), ExportCut::default());
    let (world, calls, blobs) = in_calls(&scenario, 10_000, 30 + 25).await;
    let status = world.check(None, "slow").await;
    assert_eq!(status, TaskStatus::Success, "{}", world.task(task_id(1)).await.message);
    assert_holds(&world.exported().unwrap(), &disk, "slow");
    println!("{calls} calls, {blobs:?}");
    // Each range by a worker of its own, two windows of its eight a call.
    assert_eq!((calls, blobs.len()), (8, 8));
    // What was on its way when the time was up was read again; nothing else was.
    let key = format!("images/{}/{}", export::IMAGE, task_id(99));
    let read = world.objects.read_from("images", &key);
    assert!(read <= (128 + 8 * 8) * MIB as u64, "{read}");

    let (world, ..) = in_calls(&scenario, 10_000, 30 + 5).await;
    let message = world.task(task_id(1)).await.message;
    assert_eq!(world.check(None, "too slow").await, TaskStatus::Failure);
    assert!(message.starts_with("TimedOut: the export did not get a single part done"), "{message}");
}

/// A full blob takes 20 s here: with 15 s left none is begun, for it would be one more of few that make an object.
#[tokio::test(start_paused = true)]
async fn a_blob_that_can_not_be_filled_is_left_to_the_next_call() {
    let disk = noise(128 * MIB);
    let cut = BlobCut { most: 16 << 20, ..BlobCut::S3 };
    let scenario = exported_as("zlib", disk.clone(), ExportCut { blobs: cut, ..ExportCut::default() });
    let (world, calls, blobs) = in_calls(&scenario, 10_000, 30 + 39).await;
    let status = world.check(None, "slow").await;
    assert_eq!(status, TaskStatus::Success, "{}", world.task(task_id(1)).await.message);
    assert_holds(&world.exported().unwrap(), &disk, "slow");
    println!("{calls} calls, {} blobs", blobs.len());
    assert!(blobs.len() <= 10, "{blobs:?}");
}

/// Beyond what fits in one object the plan says so.
#[tokio::test(start_paused = true)]
async fn a_disk_beyond_forty_tebibytes_is_refused_at_once() {
    let islands = vec![(0, pattern(1000))];
    let mut scenario = exported_as("zlib", qcow2((40 << 40) + 512, &islands), ExportCut::default());
    scenario.format = "qcow2";
    let world = scenario.world().await;
    world.run(task_id(1)).await;
    assert_eq!(world.check(None, "40 TiB").await, TaskStatus::Failure);
    let message = world.task(task_id(1)).await.message;
    assert!(message.starts_with("TooLarge: a disk of 43980465111552 bytes"), "{message}");
}

/// A record for each blob of a disk of which nothing compresses, each blob as long as it may be.
async fn record_all(world: &export::World, size: u64) -> usize {
    let (cut, cluster) = (BlobCut::S3, 64 << 10);
    let mut blobs = 0;
    for piece in 1..=cut.ranges(size).unwrap() {
        let range = cut.range(size, piece).unwrap();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + (5 << 30) - (1 << 20));
            let (first, last) = (at / cluster / 8192, (end - 1) / cluster / 8192);
            let key = format!("work/{}/blob/{at}", task_id(1));
            let object = |suffix: &str| {
                let at = json!({"bucket": "work", "key": format!("{key}/{}{suffix}", task_id(7))});
                json!({"at": at, "etag": "\"0123456789abcdef0123456789abcdef-320\"", "size": end - at_of(&key)})
            };
            let record = json!({
                "version": VERSION,
                "summary": {
                    "first_cluster": at / cluster,
                    "clusters": (end - at) / cluster,
                    "len": end - at,
                    "tables": [[first, last - first + 1]],
                    "place": "own",
                },
                "stored": {"bytes": object(""), "index": object(".index")},
            });
            let place = ObjectRef { bucket: "work".into(), key: format!("{key}.json") };
            world.objects.put(&place, record.to_string().into()).await.unwrap();
            (at, blobs) = (end, blobs + 1);
        }
    }
    blobs
}

fn at_of(key: &str) -> u64 {
    key.rsplit_once('/').unwrap().1.parse().unwrap()
}

/// Requests of planning the largest disk, and the parts that come of it.
#[tokio::test(start_paused = true)]
async fn forty_tebibytes_are_planned_by_few_requests() {
    let size = 40 << 40;
    let mut scenario = exported_as("zlib", qcow2(size, &vec![(0, pattern(1000))]), ExportCut::default());
    scenario.format = "qcow2";
    let world = scenario.world().await;
    let call = async |phase: &str| {
        let before = world.faults.calls();
        let event = json!({"version": VERSION, "phase": phase, "task_id": task_id(1)});
        let answer = world.phase(event).await.unwrap();
        (answer, world.faults.calls() - before)
    };
    let (planned, plan_calls) = call("plan").await;
    let items = |answer: &serde_json::Value| {
        let items = answer["items"].as_array().unwrap().clone();
        (items.len(), items.last().unwrap()["last"].as_u64().unwrap())
    };
    let (workers, ranges) = items(&planned);
    let blobs = record_all(&world, size).await;
    let (listed, list_calls) = call("next").await;
    let (sealing, parts) = items(&listed);
    let (again, again_calls) = call("next").await;
    assert_eq!(again, listed);
    let list = world.objects.bytes("work", &format!("work/{}/blobs.json", task_id(1))).unwrap().len();
    println!(
        "plan: {plan_calls} calls, {ranges} ranges for {workers}; seal: {list_calls} calls, then {again_calls}, \
         {blobs} blobs in a list of {list} bytes, {parts} parts for {sealing}"
    );
    assert!(listed["items"].as_array().unwrap().iter().all(|item| item["round"] == "seal"));
    assert!(plan_calls < 50 && ranges <= 256 && workers <= 256 && sealing <= 256);
    assert!(blobs > 8000 && parts > blobs as u64 && parts <= 10_000);
    // A record each, and for each range one that isn't there; then the list alone.
    assert!(list_calls <= blobs as u64 + 256 + 10 && again_calls <= 8);
}
