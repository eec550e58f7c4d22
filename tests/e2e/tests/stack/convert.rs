//! Disk images on the local stack: converted by range, byte for byte; and the hostile set, each refused by its name.

use std::io::Write as _;

use disk_image_fixtures::Hostile;
use futures::StreamExt as _;
use image_tasks_e2e::{Tenant, cpu_seconds, peak_memory, qemu_img};
use image_tasks_local::{Content, HASH_BEFORE_ACTIVE, Source, SourceServer, pattern};
use md5::{Digest as _, Md5};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::Sha512;

const MIB: u64 = 1 << 20;

/// No worker holds more, whatever the image's size: its buffers (`image_tasks_flows::bounds`) and the process itself.
const WORKER_MEMORY: u64 = 192 * MIB;

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
    // Beyond what waits for its hashes: they came after the task's end.
    assert!(size > HASH_BEFORE_ACTIVE);
    let (mut at, mut md5, mut sha512) = (0, Md5::new(), Sha512::new());
    tenant
        .download(&image, |bytes| {
            md5.update(bytes);
            sha512.update(bytes);
            let mut wanted = vec![0; bytes.len()];
            std::os::unix::fs::FileExt::read_exact_at(&raw, &mut wanted, at).unwrap();
            assert!(wanted == bytes[..], "differs in the chunk at {at}");
            at += bytes.len() as u64;
        })
        .await;
    assert_eq!(at, size);
    assert_eq!(image["checksum"], hex::encode(md5.finalize()));
    assert_eq!(image["os_hash_value"], hex::encode(sha512.finalize()));
    let part = tenant.stack.s3().head_object().bucket(tenant.stack.images_bucket());
    let part = part.key(tenant.object_key(&image).await).part_number(1).send().await.unwrap();
    assert!(part.parts_count().is_some_and(|count| count >= 16), "{:?}", part.parts_count());
    let cpu = cpu_seconds(&tenant.stack, "ImportFunction");
    println!("workers: {cpu:.1} CPU-seconds, {:.0} MB each", (size / 1_000_000) as f64 / cpu);
    let peak = peak_memory(&tenant.stack, "ImportFunction");
    println!("peak memory of a converting worker: {} KiB, of 1.25 GiB", peak / 1024);
    assert!(peak > 0 && peak < WORKER_MEMORY, "{peak} bytes");
    tenant.nothing_left_of_work(&task).await;
}

#[tokio::test]
async fn other_formats_over_http_become_qcow2() {
    let tenant = Tenant::new("to-qcow2");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // 8 ranges of 64 MiB: data in every other MiB, none in the last quarter but its end.
    let size = 512 * MIB;
    let raw = std::fs::File::create_new(path("disk.raw")).unwrap();
    raw.set_len(size).unwrap();
    for at in (0..size * 3 / 4).step_by(2 << 20).chain([size - MIB]) {
        std::os::unix::fs::FileExt::write_all_at(&raw, &pattern::bytes(19, at, 1 << 20), at).unwrap();
    }
    let stream = ["-O", "vmdk", "-o", "subformat=streamOptimized"];
    qemu_img(&[&["convert", "-f", "raw"], &stream[..], &[&path("disk.raw"), &path("disk.vmdk")]].concat());
    tenant.stack.kill_function("ImportFunction").unwrap();
    let server = SourceServer::start().await.unwrap();
    for format in ["vmdk", "raw"] {
        let file = path(&format!("disk.{format}"));
        let url = server.serve(&format!("/disk.{format}"), Source::new(Content::File(file.into())));
        let wanted = json!({"disk_format": "qcow2", "container_format": "bare"});
        let (task, image) = tenant
            .imported(json!({"import_from": url, "import_from_format": format, "image_properties": wanted}))
            .await;
        assert_eq!((&image["disk_format"], &image["virtual_size"]), (&json!("qcow2"), &json!(size)));
        let made = path(&format!("{format}.qcow2"));
        let mut file = std::fs::File::create_new(&made).unwrap();
        let (mut md5, mut len) = (Md5::new(), 0);
        tenant
            .download(&image, |bytes| {
                file.write_all(bytes).unwrap();
                md5.update(bytes);
                len += bytes.len() as u64;
            })
            .await;
        assert_eq!((&image["size"], &image["checksum"]), (&json!(len), &json!(hex::encode(md5.finalize()))));
        // Data, and tables.
        assert!((193 * MIB..=198 * MIB).contains(&len), "{len} bytes");
        qemu_img(&["check", "-q", "-f", "qcow2", &made]);
        qemu_img(&["compare", "-q", "-f", "raw", "-F", "qcow2", &path("disk.raw"), &made]);
        let key = tenant.object_key(&image).await;
        let part =
            tenant.stack.s3().head_object().bucket(tenant.stack.images_bucket()).key(key).part_number(1);
        let parts = part.send().await.unwrap().parts_count();
        // The blobs of six ranges are copied; the tables are in a part that is made.
        assert!(parts.is_some_and(|count| count >= 7), "{parts:?}");
        tenant.nothing_left_of_work(&task).await;
    }
    let peak = peak_memory(&tenant.stack, "ImportFunction");
    println!("peak memory of a worker that writes a qcow2: {} KiB, of 512 MiB", peak / 1024);
    assert!(peak > 0 && peak < WORKER_MEMORY, "{peak} bytes");
}

#[tokio::test]
async fn of_an_ova_with_several_disks_the_named_one_is_imported() {
    let tenant = Tenant::new("ova");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let disk = |seed| pattern::bytes(seed, 0, 3 << 20);
    let vmdk = |name: &str, seed| {
        std::fs::write(path(name), disk(seed)).unwrap();
        let stream = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
        qemu_img(&[&stream[..], &[&path(name), &path(&format!("{name}.vmdk"))]].concat());
        std::fs::read(path(&format!("{name}.vmdk"))).unwrap()
    };
    let disks = [("a.vmdk", vmdk("a", 1)), ("b.vmdk", vmdk("b", 2))];
    let members = disks.each_ref().map(|(name, bytes)| (*name, bytes.as_slice()));
    disk_image_fixtures::ova(&members).write_to(dir.path().join("vm.ova").as_path()).unwrap();
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/vm.ova", Source::new(Content::File(path("vm.ova").into())));
    let mut input =
        json!({"import_from": url, "import_from_format": "ova", "image_properties": {"disk_format": "raw"}});
    let unnamed = tenant.refused(input.clone()).await;
    let message = unnamed["message"].as_str().unwrap();
    assert!(message.starts_with("BadArchive: ") && message.contains("\"a.vmdk\", \"b.vmdk\""), "{message}");
    input["import_from_member"] = json!("b.vmdk");
    let (_, image) = tenant.imported(input).await;
    let mut found = Vec::new();
    tenant.download(&image, |bytes| found.extend_from_slice(bytes)).await;
    assert!(found == disk(2), "not the disk that was named");
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
