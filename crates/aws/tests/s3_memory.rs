//! What a part on its way costs in memory, in a process of its own: `cargo local test`.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod objects;

use futures::TryStreamExt;
use image_tasks_flows::ports::Objects;
use objects::{MIB, body, combined, range, store};

/// The process grows by a few chunks, whatever the part's size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_256_mib_pass_through_in_little_memory() {
    const PART: u64 = 64 * MIB;
    let (store, at) = store("large");
    let target = at("image");
    let upload = store.create_upload(&target).await.unwrap();
    let before = peak_kib();
    let started = std::time::Instant::now();
    let sent = (0..4u32).map(|n| {
        let offset = u64::from(n) * PART;
        store.upload_part(&target, &upload, n + 1, PART, body(5, offset, PART))
    });
    let parts = futures::future::try_join_all(sent).await.unwrap();
    let speed = 256.0 / started.elapsed().as_secs_f64();
    let grown = peak_kib() - before;
    println!("{speed:.0} MiB/s to the local S3, {grown} KiB more");
    assert!(grown < 48 << 10, "{grown} KiB for 4 parts of 64 MiB at once");
    let done = store.complete(&target, &upload, &parts, combined(&parts), true).await.unwrap();
    let started = std::time::Instant::now();
    let mut read = store.read(&target, Some(&done.etag), range(0, done.size)).await.unwrap();
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    while let Some(chunk) = read.try_next().await.unwrap() {
        digest.update(&chunk);
    }
    println!("{:.0} MiB/s from it", 256.0 / started.elapsed().as_secs_f64());
    assert_eq!(Some(digest.finalize()), done.crc64nvme);
    store.delete(&target).await.unwrap();
}

/// Most memory this process ever held (proc(5), `VmHWM`).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
