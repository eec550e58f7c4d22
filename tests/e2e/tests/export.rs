//! Exports on the local stack, from the POST to the object in the receiving bucket.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use image_tasks_e2e::Tenant;
use image_tasks_local::pattern;
use reqwest::StatusCode;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn qemu_img(args: &[&str]) {
    let run = Command::new("qemu-img").args(args).output().expect("qemu-img is installed");
    assert!(run.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&run.stderr));
}

/// Puts a file where imports may read it; its location.
async fn stage(tenant: &Tenant, key: &str, file: &Path) -> String {
    let bucket = &tenant.stack.coordinates().source_bucket;
    let body = ByteStream::from_path(file).await.unwrap();
    tenant.stack.s3().put_object().bucket(bucket).key(key).body(body).send().await.unwrap();
    format!("s3://{bucket}/{key}")
}

async fn start(tenant: &Tenant, image: &Value, more: Value) -> Value {
    let bucket = &tenant.stack.coordinates().export_bucket;
    let mut input = json!({"image_uuid": image["id"], "receiving_bucket": bucket});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let accepted = tenant.post_task(&json!({"type": "export", "input": input})).await;
    assert_eq!(accepted.status, StatusCode::CREATED, "{}", accepted.body);
    accepted.body
}

async fn exported(tenant: &Tenant, image: &Value, more: Value) -> Value {
    let task = tenant.ended(&start(tenant, image, more).await).await;
    assert_eq!(task["status"], "success", "{task}");
    tenant.nothing_left_of_work(&task).await;
    task["result"].clone()
}

/// Fetches an export to a file and holds the result against it.
async fn fetch(tenant: &Tenant, image: &Value, result: &Value, to: &Path) {
    let location = result["export_location"].as_str().unwrap();
    let (bucket, key) = location.strip_prefix("s3://").unwrap().split_once('/').unwrap();
    let object = tenant.stack.s3().get_object().bucket(bucket).key(key).send().await.unwrap();
    let metadata = object.metadata().unwrap().clone();
    assert_eq!(metadata["image-id"], image["id"].as_str().unwrap());
    assert_eq!(metadata["image-name"], image["name"].as_str().unwrap());
    assert_eq!(metadata["image-properties"], r#"{"os_type":"linux"}"#);
    let bytes = object.body.collect().await.unwrap().into_bytes();
    assert_eq!(result["size"], bytes.len());
    std::fs::write(to, &bytes).unwrap();
}

/// A sparse disk of 200 MiB: larger than what one call makes, with data at both ends and between.
fn disk(to: &Path) {
    let mut bytes = vec![0; 200 * MIB];
    for (at, len) in [(0, 20 * MIB), (90 * MIB + 512, 7 * MIB), (200 * MIB - 4096, 4096)] {
        bytes[at..at + len].copy_from_slice(&pattern::bytes(7, at as u64, len));
    }
    std::fs::write(to, bytes).unwrap();
}

fn named(name: &str) -> Value {
    json!({"name": name, "disk_format": "raw", "os_type": "linux"})
}

#[tokio::test]
async fn there_and_back_again_it_is_the_same_disk() {
    let tenant = Tenant::new("round-trip");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    disk(&path("disk.raw"));
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", &text("disk.raw"), &text("disk.qcow2")]);
    let from = stage(&tenant, "round-trip.qcow2", &path("disk.qcow2")).await;
    let (_, first) =
        tenant.imported(json!({"import_from": from, "image_properties": named("round trip")})).await;
    assert_eq!(first["size"], 200 * MIB);

    for compression in ["zstd", "zlib", "none"] {
        let key = format!("{}-{compression}.qcow2", first["id"].as_str().unwrap());
        let bucket = tenant.stack.coordinates().export_bucket.clone();
        let input = json!({
            "image_uuid": first["id"], "export_to": format!("s3://{bucket}/{key}"), "compression": compression,
        });
        let accepted = tenant.post_task(&json!({"type": "export", "input": input})).await;
        assert_eq!(accepted.status, StatusCode::CREATED, "{}", accepted.body);
        let task = tenant.ended(&accepted.body).await;
        assert_eq!(task["status"], "success", "{task}");
        fetch(&tenant, &first, &task["result"], &path(&key)).await;
        qemu_img(&["check", "-q", "-f", "qcow2", &text(&key)]);
        qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", &text(&key), &text("disk.raw")]);
        if compression == "zstd" {
            let from = stage(&tenant, &key, &path(&key)).await;
            let (_, again) =
                tenant.imported(json!({"import_from": from, "image_properties": named("again")})).await;
            assert_eq!(again["os_hash_value"], first["os_hash_value"]);
        }
    }

    let result = exported(&tenant, &first, json!({"export_format": "raw"})).await;
    assert_eq!(result["os_hash_value"], first["os_hash_value"], "the same bytes, copied");
    fetch(&tenant, &first, &result, &path("back.raw")).await;
    assert!(std::fs::read(path("back.raw")).unwrap() == std::fs::read(path("disk.raw")).unwrap());
}

#[tokio::test]
async fn nothing_is_overwritten_and_one_of_two_wins() {
    let tenant = Tenant::new("export-twice");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.raw");
    std::fs::write(&file, pattern::bytes(8, 0, 3 * MIB)).unwrap();
    let from = stage(&tenant, "export-twice.raw", &file).await;
    let input = json!({"import_from": from, "import_from_format": "raw", "image_properties": named("twice")});
    let (_, image) = tenant.imported(input).await;

    let (a, b) = tokio::join!(start(&tenant, &image, json!({})), start(&tenant, &image, json!({})));
    let (a, b) = tokio::join!(tenant.ended(&a), tenant.ended(&b));
    let (won, lost): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(|task| task["status"] == "success");
    assert_eq!((won.len(), lost.len()), (1, 1), "{won:?} {lost:?}");
    fetch(&tenant, &image, &won[0]["result"], &dir.path().join("won.qcow2")).await;

    let third = tenant.ended(&start(&tenant, &image, json!({})).await).await;
    for task in [&lost[0], &third] {
        assert_eq!(task["status"], "failure", "{task}");
        assert!(task["message"].as_str().unwrap().starts_with("ObjectExists: "), "{task}");
        tenant.nothing_left_of_work(task).await;
    }
    let bucket = &tenant.stack.coordinates().export_bucket;
    let prefix = image["id"].as_str().unwrap();
    let s3 = tenant.stack.s3();
    let objects = s3.list_objects_v2().bucket(bucket).prefix(prefix).send().await.unwrap();
    assert_eq!(objects.contents().len(), 1);
    let uploads = s3.list_multipart_uploads().bucket(bucket).prefix(prefix).send().await.unwrap();
    assert!(uploads.uploads().is_empty());
}

#[tokio::test]
async fn causes_are_told() {
    let tenant = Tenant::new("export-causes");
    let other = Tenant::new("export-causes-other");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.raw");
    std::fs::write(&file, pattern::bytes(9, 0, MIB)).unwrap();
    let from = stage(&tenant, "export-causes.raw", &file).await;
    let mut properties = named("causes");
    properties["visibility"] = json!("community");
    let input = json!({"import_from": from, "import_from_format": "raw", "image_properties": properties});
    let (_, image) = tenant.imported(input).await;

    let task = other.ended(&start(&other, &image, json!({})).await).await;
    assert!(task["message"].as_str().unwrap().starts_with("NotOwner: "), "{task}");
    let unknown = json!({"id": "00000000-0000-4000-8000-000000000000"});
    let task = tenant.ended(&start(&tenant, &unknown, json!({})).await).await;
    assert!(task["message"].as_str().unwrap().starts_with("ImageNotFound: "), "{task}");

    let elsewhere = json!({"image_uuid": image["id"], "receiving_bucket": "somebody-elses"});
    let refused = tenant.post_task(&json!({"type": "export", "input": elsewhere})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.body);
    let wrong = json!({"image_uuid": image["id"], "receiving_bucket": "x", "export_format": "vmdk"});
    let refused = tenant.post_task(&json!({"type": "export", "input": wrong})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
}
