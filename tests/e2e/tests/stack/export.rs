//! Exports on the local stack, from the POST to the object in the receiving bucket.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use disk_image_fixtures::bootable::{boot, bootable_disk};
use image_tasks_e2e::{Tenant, qemu_img};
use image_tasks_local::{S3Request, pattern};
use reqwest::StatusCode;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

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
    succeeded(tenant, &start(tenant, image, more).await).await
}

/// An export to a name of its own in the receiving bucket.
async fn exported_as(tenant: &Tenant, image: &Value, key: &str, compression: &str) -> Value {
    let to = format!("s3://{}/{key}", tenant.stack.coordinates().export_bucket);
    succeeded(tenant, &start_to(tenant, image, &to, json!({"compression": compression})).await).await
}

async fn start_to(tenant: &Tenant, image: &Value, to: &str, more: Value) -> Value {
    let mut input = json!({"image_uuid": image["id"], "export_to": to});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let accepted = tenant.post_task(&json!({"type": "export", "input": input})).await;
    assert_eq!(accepted.status, StatusCode::CREATED, "{}", accepted.body);
    accepted.body
}

async fn succeeded(tenant: &Tenant, task: &Value) -> Value {
    let task = tenant.ended(task).await;
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
    // Where a disk starts by a firmware, its import found that out.
    let properties: Value = serde_json::from_str(&metadata["image-properties"]).unwrap();
    let mut expected = json!({"os_type": "linux"});
    if let Some(found) = image.get("hw_firmware_type") {
        expected["hw_firmware_type"] = found.clone();
    }
    assert_eq!(properties, expected);
    let (mut body, mut file, mut size) = (object.body, std::fs::File::create(to).unwrap(), 0);
    while let Some(bytes) = body.try_next().await.unwrap() {
        file.write_all(&bytes).unwrap();
        size += bytes.len();
    }
    assert_eq!(result["size"], size);
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
        let result = exported_as(&tenant, &first, &key, compression).await;
        fetch(&tenant, &first, &result, &path(&key)).await;
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
async fn what_was_imported_and_exported_boots() {
    let tenant = Tenant::new("boots");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.raw");
    bootable_disk(300 << 20).write_to(&file).unwrap();
    let from = stage(&tenant, "boots.raw", &file).await;
    let input = json!({"import_from": from, "import_from_format": "raw", "image_properties": named("boots")});
    let (_, image) = tenant.imported(input).await;
    assert_eq!(image["hw_firmware_type"], "bios", "{image}");
    for compression in ["zlib", "zstd", "none"] {
        let key = format!("{}-{compression}.qcow2", image["id"].as_str().unwrap());
        let result = exported_as(&tenant, &image, &key, compression).await;
        assert!(
            result["size"].as_u64().unwrap() < 6 << 20,
            "two sectors and what is needed around them: {result}"
        );
        let to = dir.path().join(&key);
        fetch(&tenant, &image, &result, &to).await;
        if let Some(booted) = boot(&to, "qcow2").unwrap() {
            assert_eq!(booted, Ok(()), "{compression}");
        }
    }
}

/// The figure, at S3: of a raw image of 1 GiB less than 1% is sent to the export's workers or comes from them.
#[tokio::test]
async fn an_uncompressed_export_of_a_raw_image_passes_no_worker() {
    const SIZE: u64 = 1 << 30;
    let tenant = Tenant::new("counted");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let file = std::fs::File::create(path("disk.raw")).unwrap();
    file.set_len(SIZE).unwrap();
    // Data at both ends, between, and a crumb.
    for (at, len) in [(0, 100 * MIB), (400 << 20, 200 * MIB), (700 << 20, 10), (SIZE - 4096, 4096)] {
        file.write_all_at(&pattern::bytes(11, at, len), at).unwrap();
    }
    let from = stage(&tenant, "counted.raw", &path("disk.raw")).await;
    let input =
        json!({"import_from": from, "import_from_format": "raw", "image_properties": named("counted")});
    let (_, image) = tenant.imported(input).await;

    // Whatever functions ask about this image, this task, and the object that it makes.
    let image_id = image["id"].as_str().unwrap();
    let before = tenant.stack.s3_requests(image_id).unwrap().len();
    let task = start(&tenant, &image, json!({"compression": "none"})).await;
    let result = succeeded(&tenant, &task).await;
    let mut requests = tenant.stack.s3_requests(image_id).unwrap().split_off(before);
    requests.extend(tenant.stack.s3_requests(task["id"].as_str().unwrap()).unwrap());
    requests.retain(S3Request::is_by_function);
    let through: u64 = requests.iter().map(|request| request.sent + request.received).sum();
    println!("{through} bytes in {} requests passed workers, of an image of {SIZE}", requests.len());
    assert!(requests.iter().any(|request| request.operation == "UploadPartCopy"), "{requests:?}");
    assert!(through > 5 << 20, "part 1 alone is more: {requests:?}");
    assert!(through * 100 < SIZE, "{through} bytes passed workers");

    fetch(&tenant, &image, &result, &path("disk.qcow2")).await;
    assert!(result["size"].as_u64().unwrap() < 320 << 20, "zeros are left out: {result}");
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    qemu_img(&["check", "-q", "-f", "qcow2", &text("disk.qcow2")]);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", &text("disk.qcow2"), &text("disk.raw")]);
}

/// Two at once for one name in every form, then a third. LocalStack's `CopyObject` overwrites whatever is asked: there it is the
/// claim alone that keeps the second away.
#[tokio::test]
async fn nothing_is_overwritten_and_one_of_two_wins() {
    let tenant = Tenant::new("export-twice");
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("small.raw"), dir.path().join("large.raw"));
    std::fs::write(&small, pattern::bytes(8, 0, 3 * MIB)).unwrap();
    disk(&large);
    let mut images = Vec::new();
    for file in [&small, &large] {
        let from = stage(&tenant, file.file_name().unwrap().to_str().unwrap(), file).await;
        let input =
            json!({"import_from": from, "import_from_format": "raw", "image_properties": named("twice")});
        images.push(tenant.imported(input).await.1);
    }
    for (image, form) in [
        // Made in one call, by workers, copied by parts, copied whole.
        (&images[0], json!({})),
        (&images[1], json!({"compression": "zstd"})),
        (&images[1], json!({"compression": "none"})),
        (&images[1], json!({"export_format": "raw"})),
    ] {
        let (a, b) = tokio::join!(start(&tenant, image, form.clone()), start(&tenant, image, form.clone()));
        let (a, b) = tokio::join!(tenant.ended(&a), tenant.ended(&b));
        let (won, lost): (Vec<_>, Vec<_>) = [a, b].into_iter().partition(|task| task["status"] == "success");
        assert_eq!((won.len(), lost.len()), (1, 1), "{won:?} {lost:?}");
        let location = won[0]["result"]["export_location"].as_str().unwrap();
        let (bucket, key) = location.strip_prefix("s3://").unwrap().split_once('/').unwrap();
        let s3 = tenant.stack.s3();
        let head = s3.head_object().bucket(bucket).key(key).send().await.unwrap();
        assert_eq!(head.metadata().unwrap()["image-task-id"], won[0]["id"].as_str().unwrap(), "the winner's");

        let third = tenant.ended(&start(&tenant, image, form.clone()).await).await;
        for task in [&lost[0], &third] {
            assert_eq!(task["status"], "failure", "{form}: {task}");
            assert!(task["message"].as_str().unwrap().starts_with("ObjectExists: "), "{task}");
            tenant.nothing_left_of_work(task).await;
        }
        fetch(&tenant, image, &won[0]["result"], &dir.path().join("won")).await;
        let objects = s3.list_objects_v2().bucket(bucket).prefix(key).send().await.unwrap();
        assert_eq!(objects.contents().len(), 1);
        let uploads = s3.list_multipart_uploads().bucket(bucket).prefix(key).send().await.unwrap();
        assert!(uploads.uploads().is_empty());
        // The next form's name is the same.
        s3.delete_object().bucket(bucket).key(key).send().await.unwrap();
    }
}

/// Whether it is in the region that the operator named is for S3 to say, which answers 301 where it isn't.
#[tokio::test]
async fn a_bucket_of_another_region_receives() {
    let tenant = Tenant::new("export-regions");
    let there = tenant.in_region("eu-west-1");
    let bucket = there.stack.deployment().export_bucket.clone();
    let dir = tempfile::tempdir().unwrap();
    let (raw, text) = (dir.path().join("disk.raw"), |path: &Path| path.to_str().unwrap().to_owned());
    disk(&raw);
    let from = stage(&tenant, "export-regions.raw", &raw).await;
    let input = json!({"import_from": from, "import_from_format": "raw", "image_properties": named("far")});
    let (_, image) = tenant.imported(input).await;

    let mut keys = Vec::new();
    for (key, form) in [
        ("copied.raw", json!({"export_format": "raw"})),
        ("copied.qcow2", json!({"compression": "none"})),
        ("rewritten.qcow2", json!({"compression": "zstd"})),
    ] {
        let task = start_to(&tenant, &image, &format!("s3://{bucket}/{key}"), form).await;
        let result = succeeded(&tenant, &task).await;
        let to = dir.path().join(key);
        fetch(&there, &image, &result, &to).await;
        let format = key.rsplit_once('.').unwrap().1;
        qemu_img(&["compare", "-q", "-f", format, "-F", "raw", &text(&to), &text(&raw)]);
        keys.push(key);
    }
    let (here, there) = (tenant.stack.s3(), there.stack.s3());
    let refused = here.list_objects_v2().bucket(&bucket).send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 301, "regions are apart: {refused:?}");

    // A bucket of that name, but elsewhere than the operator says.
    for key in keys {
        there.delete_object().bucket(&bucket).key(key).send().await.unwrap();
    }
    there.delete_bucket().bucket(&bucket).send().await.unwrap();
    let mut messages = Vec::new();
    for make in [false, true] {
        if make {
            here.create_bucket().bucket(&bucket).send().await.unwrap();
        }
        for form in [json!({"export_format": "raw"}), json!({"compression": "none"}), json!({})] {
            let task = start_to(&tenant, &image, &format!("s3://{bucket}/wrong"), form).await;
            let task = tenant.ended(&task).await;
            tenant.nothing_left_of_work(&task).await;
            messages.push((make, task["message"].as_str().unwrap().to_owned()));
        }
    }
    here.delete_bucket().bucket(&bucket).send().await.expect("nothing is left in it");
    let region = there.config().region().unwrap().to_string();
    let place = CreateBucketConfiguration::builder()
        .location_constraint(BucketLocationConstraint::from(region.as_str()))
        .build();
    there.create_bucket().bucket(&bucket).create_bucket_configuration(place).send().await.unwrap();
    for (made, message) in messages {
        let expected = if made {
            format!("BucketNotFound: bucket '{bucket}' is not in the region that the operator named")
        } else {
            format!("BucketNotFound: there is no bucket '{bucket}'")
        };
        assert!(message.starts_with(&expected), "made {made}: {message}");
    }
}

#[tokio::test]
async fn an_export_stopped_from_outside_leaves_nothing() {
    let tenant = Tenant::new("export-stopped");
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    disk(&raw);
    let from = stage(&tenant, "export-stopped.raw", &raw).await;
    let input =
        json!({"import_from": from, "import_from_format": "raw", "image_properties": named("stopped")});
    let (_, image) = tenant.imported(input).await;
    let bucket = &tenant.stack.coordinates().export_bucket;
    let (s3, machine) = (tenant.stack.s3(), tenant.stack.export_state_machine());
    let executions = machine.replacen(":stateMachine:", ":execution:", 1);
    for compression in ["zlib", "none"] {
        let key = format!("stopped-{compression}");
        let task =
            start_to(&tenant, &image, &format!("s3://{bucket}/{key}"), json!({"compression": compression}))
                .await;
        // In the middle: the upload has begun, and the export isn't over.
        loop {
            let uploads = s3.list_multipart_uploads().bucket(bucket).prefix(&key).send().await.unwrap();
            if !uploads.uploads().is_empty() {
                break;
            }
            let now = tenant.task(&task["id"]).await;
            assert!(now["status"] != "success" && now["status"] != "failure", "{now}");
        }
        let execution = format!("{executions}:{}", task["id"].as_str().unwrap());
        tenant.stack.step_functions().stop_execution().execution_arn(execution).send().await.unwrap();
        let task = tenant.ended(&task).await;
        assert_eq!(task["status"], "failure", "{task}");
        assert!(task["message"].as_str().unwrap().starts_with("Aborted: "), "{task}");
        tenant.nothing_left_of_work(&task).await;
        tenant.nothing_under(bucket, &key).await;
        // Nor is the name taken.
        let to = format!("s3://{bucket}/{key}");
        succeeded(&tenant, &start_to(&tenant, &image, &to, json!({"export_format": "raw"})).await).await;
    }
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
