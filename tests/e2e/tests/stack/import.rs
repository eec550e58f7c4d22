//! Images as they come, over every kind of source, byte for byte.

use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use image_tasks_e2e::{Tenant, cpu_seconds, peak_memory};
use image_tasks_local::{Content, EntityTag, RangeSupport, Source, SourceServer, pattern};
use serde_json::json;

const MIB: u64 = 1 << 20;

/// No worker holds more, whatever the image's size: its buffers (`image_tasks_flows::bounds`) and the process itself.
const WORKER_MEMORY: u64 = 192 * MIB;

fn raw(seed: u64, length: u64) -> Source {
    Source::new(Content::Pattern { seed, length })
}

/// The sum that a coreutils program prints of a file.
fn sum(program: &str, path: &std::path::Path) -> String {
    let output = Command::new(program).arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_gibibyte_over_http_travels_in_parallel_parts() {
    let tenant = Tenant::new("gibibyte");
    let size = 1024 * MIB;
    let file = tempfile::NamedTempFile::new().unwrap();
    for at in (0..size).step_by(8 << 20) {
        std::io::Write::write_all(&mut file.as_file(), &pattern::bytes(1, at, 8 << 20)).unwrap();
    }
    tenant.stack.kill_function("ImportFunction").unwrap();
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk.img", Source::new(Content::File(file.path().to_owned())));
    let (task, image) = tenant
        .imported(json!({"import_from": url, "import_from_format": "raw", "image_properties": {"name": "gibibyte"}}))
        .await;
    assert_eq!((task["progress"].as_u64(), &task["input"]["import_from"]), (Some(100), &json!(url)));
    assert_eq!(image["checksum"], sum("md5sum", file.path()));
    assert_eq!(image["os_hash_value"], sum("sha512sum", file.path()));
    assert_eq!((&image["disk_format"], &image["owner"]), (&json!("raw"), &json!("gibibyte")));
    assert_eq!(image["virtual_size"], size);
    tenant.is_pattern(&image, 1, size).await;

    let key = tenant.object_key(&image).await;
    let part = tenant
        .stack
        .s3()
        .head_object()
        .bucket(tenant.stack.images_bucket())
        .key(key)
        .part_number(1)
        .send()
        .await
        .unwrap();
    assert!(part.parts_count().is_some_and(|count| count >= 16), "{:?}", part.parts_count());
    assert!(server.most_bodies_at_once() > 2, "{} bodies at once", server.most_bodies_at_once());
    let cpu = cpu_seconds(&tenant.stack, "ImportFunction");
    println!("workers: {cpu:.1} CPU-seconds, {:.0} MB each", (size / 1_000_000) as f64 / cpu);
    let peak = peak_memory(&tenant.stack, "ImportFunction");
    println!("peak memory of a worker: {} KiB, of 1 GiB", peak / 1024);
    assert!(peak > 0 && peak < WORKER_MEMORY, "{peak} bytes");
    tenant.nothing_left_of_work(&task).await;
}

#[tokio::test]
async fn sizes_at_the_edges() {
    let tenant = Tenant::new("edges");
    let server = SourceServer::start().await.unwrap();
    for size in [0, 1, 100 * MIB - 1, 100 * MIB] {
        let url = server.serve(&format!("/{size}.img"), raw(size, size));
        let (_, image) = tenant.imported(json!({"import_from": url, "import_from_format": "raw"})).await;
        tenant.is_pattern(&image, size, size).await;
    }
}

#[tokio::test]
async fn from_s3() {
    let tenant = Tenant::new("from-s3");
    let bucket = tenant.stack.coordinates().source_bucket.clone();
    let size = 150 * MIB;
    let body = pattern::bytes(3, 0, usize::try_from(size).unwrap());
    tenant
        .stack
        .s3()
        .put_object()
        .bucket(&bucket)
        .key("disks/one.raw")
        .body(ByteStream::from(body))
        .send()
        .await
        .unwrap();
    for from in [format!("s3://{bucket}/disks/one.raw"), format!("{bucket}/disks/one.raw")] {
        let (_, image) = tenant.imported(json!({"import_from": from, "import_from_format": "raw"})).await;
        tenant.is_pattern(&image, 3, size).await;
    }
    let missing =
        json!({"import_from": format!("s3://{bucket}/disks/none.raw"), "import_from_format": "raw"});
    let task = tenant.refused(missing).await;
    assert!(task["message"].as_str().unwrap().starts_with("SourceNotFound: "), "{task}");
}

#[tokio::test]
async fn servers_without_ranges() {
    let tenant = Tenant::new("no-ranges");
    let server = SourceServer::start().await.unwrap();
    let cases = [
        ("ignored", 150 * MIB, RangeSupport::Ignored, true, EntityTag::Strong("v".to_owned())),
        ("pretended", 130 * MIB, RangeSupport::Pretended, true, EntityTag::None),
        ("no-length", 120 * MIB, RangeSupport::Ignored, false, EntityTag::Weak("w".to_owned())),
        ("small", 5 * MIB, RangeSupport::Ignored, false, EntityTag::None),
    ];
    for (name, size, ranges, content_length, etag) in cases {
        let source = Source { ranges, content_length, etag, ..raw(size, size) };
        let url = server.serve(&format!("/{name}"), source);
        let (task, image) = tenant.imported(json!({"import_from": url, "import_from_format": "raw"})).await;
        tenant.is_pattern(&image, size, size).await;
        tenant.nothing_left_of_work(&task).await;
    }
}
