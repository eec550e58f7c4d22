//! Disk images on the local stack: converted by range, byte for byte; and the hostile set, each refused by its name.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::process::Command;

use disk_image_fixtures::Hostile;
use futures::StreamExt as _;
use image_tasks_e2e::{Tenant, cpu_seconds, peak_memory};
use image_tasks_local::{Content, Source, SourceServer, pattern};
use reqwest::StatusCode;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// No worker holds more, whatever the image's size: its buffers (`image_tasks_flows::bounds`) and the process itself.
const WORKER_MEMORY: u64 = 192 * MIB;

fn qemu_img(arguments: &[&str]) {
    let run = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    assert!(run.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

#[tokio::test]
async fn a_qcow2_over_http_becomes_raw_in_parallel_parts() {
    let tenant = Tenant::new("convert");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // 1.25 GiB of disk in 20 parts: data in every other MiB, none in the last quarter.
    let size = 1280 * MIB;
    let raw = std::fs::File::create_new(path("disk.raw")).unwrap();
    raw.set_len(size).unwrap();
    for at in (0..size * 3 / 4).step_by(2 << 20) {
        std::os::unix::fs::FileExt::write_all_at(&raw, &pattern::bytes(9, at, 1 << 20), at).unwrap();
    }
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", &path("disk.raw"), &path("disk.qcow2")]);
    tenant.stack.kill_function("ImportFunction").unwrap();
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk.qcow2", Source::new(Content::File(path("disk.qcow2").into())));
    let wanted = json!({"disk_format": "raw", "container_format": "bare"});
    let (task, image) = tenant
        .imported(json!({"import_from": url, "import_from_format": "qcow2", "image_properties": wanted}))
        .await;
    assert_eq!((&image["disk_format"], &image["size"]), (&json!("raw"), &json!(size)));
    assert_eq!((&image["virtual_size"], &image["min_disk"]), (&json!(size), &json!(2)));
    let mut at = 0;
    tenant
        .download(&image, |bytes| {
            let mut wanted = vec![0; bytes.len()];
            std::os::unix::fs::FileExt::read_exact_at(&raw, &mut wanted, at).unwrap();
            assert!(wanted == bytes[..], "differs in the chunk at {at}");
            at += bytes.len() as u64;
        })
        .await;
    assert_eq!(at, size);
    let part = tenant.stack.s3().head_object().bucket(tenant.stack.images_bucket());
    let part =
        part.key(format!("images/{}", image["id"].as_str().unwrap())).part_number(1).send().await.unwrap();
    assert!(part.parts_count().is_some_and(|count| count >= 16), "{:?}", part.parts_count());
    let cpu = cpu_seconds(&tenant.stack, "ImportFunction");
    println!("workers: {cpu:.1} CPU-seconds, {:.0} MB each", (size / 1_000_000) as f64 / cpu);
    let peak = peak_memory(&tenant.stack, "ImportFunction");
    println!("peak memory of a converting worker: {} KiB, of 1.25 GiB", peak / 1024);
    assert!(peak > 0 && peak < WORKER_MEMORY, "{peak} bytes");
    tenant.nothing_left_of_work(&task).await;
}

/// What is wrong with how a hostile image was answered, if anything.
async fn answered(
    tenant: &Tenant,
    server: &SourceServer,
    dir: &std::path::Path,
    image: Hostile,
) -> Option<String> {
    let file = dir.join(&image.name);
    image.file.write_to(&file).unwrap();
    let url = server.serve(&format!("/{}", image.name), Source::new(Content::File(file)));
    let mut input = json!({"import_from": url, "image_properties": {"disk_format": "raw"}});
    if let Some(format) = image.declared {
        input["import_from_format"] = json!(format.name());
    } else {
        // A wish for raw would be a declaration.
        input.as_object_mut().unwrap().remove("image_properties");
    }
    let accepted = tenant.post_task(&json!({"type": "import", "input": input})).await;
    if accepted.status != StatusCode::CREATED {
        return Some(format!("{}: {} {}", image.name, accepted.status, accepted.body));
    }
    let task: Value = tenant.ended(&accepted.body).await;
    tenant.nothing_left(&task).await;
    let message = task["message"].as_str().unwrap();
    (task["status"] != "failure" || !message.starts_with(&format!("{}: ", image.code)))
        .then(|| format!("{}: expected {}, got {} {message}", image.name, image.code, task["status"]))
}

#[tokio::test]
async fn every_hostile_image_ends_in_failure_with_its_code_and_leaves_nothing() {
    let tenant = Tenant::new("hostile");
    let server = SourceServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images = disk_image_fixtures::all();
    assert!(images.len() >= 80, "{}", images.len());
    let count = images.len();
    let wrong: Vec<String> = futures::stream::iter(images)
        .map(|image| answered(&tenant, &server, dir.path(), image))
        .buffer_unordered(6)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} hostile images refused");
}
