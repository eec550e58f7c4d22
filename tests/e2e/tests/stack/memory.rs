//! A worker's resident memory, which doesn't follow the image: its heap is measured in `image-tasks-flows`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use image_tasks_e2e::{Tenant, peak_memory, qemu_img};
use image_tasks_local::{Content, Source, SourceServer, pattern};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A sparse disk with 256 MiB of data in its middle, as VHDX.
fn vhdx(dir: &Path, size: u64) -> PathBuf {
    let (raw, made) = (dir.join("disk.raw"), dir.join(format!("{size}.vhdx")));
    let file = File::create(&raw).unwrap();
    file.set_len(size).unwrap();
    for at in (size / 2..size / 2 + 256 * MIB).step_by(1 << 20) {
        file.write_all_at(&pattern::bytes(51, at, 1 << 20), at).unwrap();
    }
    qemu_img(&["convert", "-f", "raw", "-O", "vhdx", raw.to_str().unwrap(), made.to_str().unwrap()]);
    made
}

#[tokio::test]
async fn a_workers_memory_does_not_follow_the_image() {
    let tenant = Tenant::new("memory");
    let dir = tempfile::tempdir().unwrap();
    let server = SourceServer::start().await.unwrap();
    let mut peaks = Vec::new();
    for (name, size) in [("2 GiB", 2 << 30), ("1 TiB", 1 << 40)] {
        let file = vhdx(dir.path(), size);
        // Another process has no peak of an earlier import.
        tenant.stack.kill_function("ImportFunction").unwrap();
        let url = server.serve(&format!("/{size}.vhdx"), Source::new(Content::File(file)));
        let input = json!({"import_from": url, "image_properties": {"disk_format": "qcow2"}});
        let (task, image) = tenant.imported(input).await;
        assert_eq!((&image["disk_format"], &image["virtual_size"]), (&json!("qcow2"), &json!(size)));
        let peak = peak_memory(&tenant.stack, "ImportFunction");
        println!("peak memory of a worker: {} MiB, of a sparse {name}", peak / MIB);
        peaks.push(peak);
        tenant.nothing_left_of_work(&task).await;
    }
    // A tenth, and what a runtime gives or takes.
    assert!(peaks[1] <= peaks[0] + peaks[0] / 10 + 8 * MIB, "{peaks:?}");
}
