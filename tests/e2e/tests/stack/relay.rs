//! A relay of deployed workers: one comes late, two are killed, and the hashes are those of the bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use image_tasks_e2e::{Tenant, pause, peak_memory, processes_above};
use image_tasks_flows::bounds::{HASH_CHUNK, HASH_INLINE, HASH_WORKERS};
use image_tasks_local::{Content, Disturbance, HASH_BEFORE_ACTIVE, Source, SourceServer, Stack, pattern};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// The least that no call hashes alone: 17 chunks, the last one short.
const SIZE: u64 = HASH_INLINE + MIB;
/// It is active before it is hashed.
const _: () = assert!(SIZE > HASH_BEFORE_ACTIVE);

/// Only who has most of a chunk in memory holds so much: other workers' buffers are bounded below it.
const HOLDS_A_CHUNK: u64 = 192 * MIB;

/// The sum that a coreutils program prints of a file.
fn sum(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// A sparse disk of which no chunk is like another, and none begins where its data does.
fn disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(SIZE).unwrap();
    for (n, at) in (0..SIZE).step_by(128 << 20).enumerate() {
        let at = at + 4099 * n as u64;
        file.write_all_at(&pattern::bytes(41, at, 100_000), at).unwrap();
    }
}

/// Waits until the call that completes the image's object has come to S3.
async fn completing(tenant: &Tenant, task: &Value) -> String {
    loop {
        let now = tenant.task(&task["id"]).await;
        assert!(now["status"] != "failure" && now["status"] != "success", "{now}");
        if let Some(image) = now["image_id"].as_str() {
            let requests = tenant.stack.s3_requests(image).unwrap();
            if requests.iter().any(|one| one.operation == "CompleteMultipartUpload" && one.status == 0) {
                return image.to_owned();
            }
        }
        pause().await;
    }
}

/// Chunks behind which there is a state.
async fn hashed(tenant: &Tenant, task: &Value) -> BTreeSet<u64> {
    let prefix = format!("work/{}/hash/", task["id"].as_str().unwrap());
    let listed = tenant.stack.s3().list_objects_v2().bucket(tenant.stack.work_bucket()).prefix(prefix);
    let listed = listed.send().await.unwrap();
    let names = listed.contents().iter().filter_map(|object| object.key()?.rsplit_once('/'));
    names.map(|(_, name)| name.strip_suffix(".json").unwrap().parse().unwrap()).collect()
}

/// Waits until so many workers hold a chunk, and names them.
async fn holders(tenant: &Tenant, count: usize) -> Vec<u32> {
    loop {
        let holders = processes_above(&tenant.stack, "ImportFunction", HOLDS_A_CHUNK);
        if holders.len() >= count {
            return holders;
        }
        pause().await;
    }
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn workers_that_are_killed_or_come_late_change_no_hash() {
    let tenant = Tenant::new("relay");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    disk(&path);
    tenant.stack.kill_function("ImportFunction").unwrap();
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk.raw", Source::new(Content::File(path.clone())));
    // Whichever import is the next to complete an object.
    let hold = Disturbance { pass: 0, code: "", status: 0, times: 0 };
    let operation = ["CompleteMultipartUpload"];
    let held = tenant.stack.disturb("relay", &operation, "[^/]+/images/.*", hold).unwrap();
    // All 40 at once, each with two parts, is more than a small machine moves.
    tenant.reserve("ImportFunction", Some(6)).await;
    let task = tenant.import(json!({"import_from": url, "import_from_format": "raw"})).await;
    let image = completing(&tenant, &task).await;

    // One worker fewer than there are: the last one is refused, and asked again until there is room.
    let fewer = HASH_WORKERS - 1;
    tenant.reserve("ImportFunction", Some(fewer)).await;
    drop(held);
    let task = tenant.ended(&task).await;
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(holders(&tenant, fewer as usize).await.len(), fewer as usize);
    tenant.reserve("ImportFunction", None).await;

    // Each has had a turn, the late one too.
    let reached = loop {
        let reached = hashed(&tenant, &task).await.last().copied().unwrap_or(0);
        if reached > HASH_WORKERS.into() {
            break reached;
        }
        pause().await;
    };
    let chunks = SIZE.div_ceil(HASH_CHUNK);
    let killed = holders(&tenant, 2).await.into_iter().take(2).filter(|pid| Stack::kill_process(*pid));
    assert_eq!(killed.count(), 2);
    println!("two of {HASH_WORKERS} workers killed behind chunk {reached} of {chunks}");

    let image = loop {
        let found = tenant.get(&format!("/v2/images/{image}")).await.body;
        if !found["checksum"].is_null() {
            break found;
        }
        pause().await;
    };
    assert_eq!(image["checksum"], sum("md5sum", &path));
    assert_eq!(image["os_hash_value"], sum("sha512sum", &path));
    assert_eq!((&image["size"], &image["virtual_size"]), (&json!(SIZE), &json!(SIZE)));
    let failed = tenant.failed_calls(&task).await;
    let times = |name: &str| failed.iter().filter(|error| *error == name).count();
    assert!(times("Lambda.TooManyRequestsException") >= 1, "{failed:?}");
    assert_eq!(times("Runtime.ExitError"), 2, "{failed:?}");
    let peak = peak_memory(&tenant.stack, "ImportFunction");
    println!(
        "peak memory of a worker of a relay: {} MiB, of a chunk of {} MiB",
        peak / MIB,
        HASH_CHUNK / MIB
    );
    assert!(peak < HASH_CHUNK + 128 * MIB, "{peak} bytes");
    tenant.nothing_left_of_work(&task).await;
}
