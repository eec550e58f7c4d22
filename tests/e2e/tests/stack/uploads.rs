//! Bytes that a client puts into staging itself, in parts, with nothing but HTTP.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use futures::future::join_all;
use image_tasks_e2e::{Tenant, pause};
use image_tasks_local::{Disturbance, pattern};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

const MIB: u64 = 1 << 20;

async fn record(tenant: &Tenant) -> String {
    let made = tenant.post("/v2/images", &json!({"disk_format": "raw", "container_format": "bare"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    made.body["id"].as_str().unwrap().to_owned()
}

/// The bytes of a part of the pattern.
fn bytes(seed: u64, part: &Value) -> Vec<u8> {
    let size = usize::try_from(part["size"].as_u64().unwrap()).unwrap();
    pattern::bytes(seed, part["offset"].as_u64().unwrap(), size)
}

/// Puts a part; its ETag.
async fn put(tenant: &Tenant, part: &Value, bytes: Vec<u8>) -> String {
    let answer = tenant.put(part["url"].as_str().unwrap(), bytes).await;
    let (status, etag) = (answer.status(), answer.headers().get("etag").cloned());
    assert_eq!(status, StatusCode::OK, "{}", answer.text().await.unwrap());
    etag.unwrap().to_str().unwrap().to_owned()
}

/// The image, once it is active.
async fn active(tenant: &Tenant, id: &str) -> Value {
    loop {
        let image = tenant.get(&format!("/v2/images/{id}")).await.body;
        match image["status"].as_str().unwrap() {
            "active" => return image,
            "uploading" | "importing" => pause().await,
            other => panic!("{other}: {image}"),
        }
    }
}

#[tokio::test]
async fn a_file_of_200_mib_in_parts() {
    let (tenant, seed, size) = (Tenant::new("parts"), 41, 200 * MIB);
    let id = record(&tenant).await;
    let path = format!("/v2/images/{id}/upload");
    let begun = tenant.post(&path, &json!({"size": size})).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.body);
    let parts = begun.body["parts"].as_array().unwrap();
    assert_eq!((parts.len(), &begun.body["part_count"]), (4, &json!(4)), "{}", begun.body);
    let upload_id = &begun.body["upload_id"];

    // Out of order, one of them twice, one by a URL that was asked for later; none with other bytes than it is for.
    let short = tenant.put(parts[0]["url"].as_str().unwrap(), vec![0; 1000]).await;
    assert_eq!(short.status(), StatusCode::FORBIDDEN);
    let mut etags = vec![String::new(); 4];
    for n in [3, 1] {
        etags[n] = put(&tenant, &parts[n], bytes(seed, &parts[n])).await;
    }
    let wrong = put(&tenant, &parts[0], bytes(seed + 1, &parts[0])).await;
    etags[0] = put(&tenant, &parts[0], bytes(seed, &parts[0])).await;
    let more = tenant.post(&path, &json!({"upload_id": upload_id, "part_numbers": [3]})).await;
    assert_eq!(more.status, StatusCode::OK, "{}", more.body);
    etags[2] = put(&tenant, &more.body["parts"][0], bytes(seed, &parts[2])).await;

    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
    parts.iter().for_each(|part| digest.update(&bytes(seed, part)));
    let crc64nvme = STANDARD.encode(digest.finalize().to_be_bytes());
    let complete = async |etags: &[String], crc64nvme: &str| {
        let parts = etags.iter().zip(1..).map(|(etag, n)| json!({"part_number": n, "etag": etag}));
        let parts: Vec<_> = parts.collect();
        let body = json!({"upload_id": upload_id, "parts": parts, "crc64nvme": crc64nvme});
        tenant.post(&format!("{path}/complete"), &body).await
    };
    let stale = [&wrong, &etags[1], &etags[2], &etags[3]].map(Clone::clone);
    for (etags, crc64nvme, told) in [
        (&etags[..3], &*crc64nvme, "parts: must name each part from 1 to 4 once; part 4 is missing"),
        (&stale[..], &*crc64nvme, "parts: part 1 is stored with the ETag "),
        (&etags[..], "AAAAAAAAAAA=", "crc64nvme: the parts make a file with another CRC64NVME"),
    ] {
        let refused = complete(etags, crc64nvme).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
        assert!(refused.body["error"]["message"].as_str().unwrap().starts_with(told), "{}", refused.body);
    }
    // By several at once, as where an answer is late and the call is sent again; and once more afterwards.
    let mut all = join_all((0..4).map(|_| complete(&etags, &crc64nvme))).await;
    all.push(complete(&etags, &crc64nvme).await);
    for completed in all {
        assert_eq!(completed.status, StatusCode::NO_CONTENT, "{}", completed.body);
    }
    let direct = json!({"method": {"name": "glance-direct"}});
    let imported = tenant.post(&format!("/v2/images/{id}/import"), &direct).await;
    assert_eq!(imported.status, StatusCode::ACCEPTED, "{}", imported.body);
    let image = active(&tenant, &id).await;
    tenant.is_pattern(&image, seed, size).await;
    tenant.nothing_under(tenant.stack.work_bucket(), &format!("staging/{id}/")).await;
}

/// Somebody's shell: the command line, with states of its own.
fn command_line(tenant: &Tenant, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(&tenant.stack.coordinates().command_line);
    command.args(arguments).env_clear().current_dir(directory).env("XDG_STATE_HOME", directory);
    command.env("IMAGE_TASKS_ENDPOINT", tenant.stack.endpoint()).env("OS_TOKEN", tenant.token());
    command.stdin(Stdio::null());
    command
}

#[tokio::test]
async fn an_upload_of_the_command_line_that_was_killed_goes_on() {
    let (tenant, seed, size) = (Tenant::new("upload-killed"), 43, 150 * MIB);
    let directory = tempfile::tempdir().unwrap();
    let mut file = BufWriter::new(File::create(directory.path().join("disk.img")).unwrap());
    for n in 0..size / MIB {
        file.write_all(&pattern::bytes(seed, n * MIB, 1 << 20)).unwrap();
    }
    file.flush().unwrap();
    let id = Uuid::new_v4().to_string();
    let arguments = ["upload", "disk.img", "--disk-format", "raw", "--parallel", "1", "--id", &id];
    // The second part never ends, so that the first run is in its middle for as long as this needs.
    let hold = Disturbance { pass: 1, code: "", status: 0, times: 0 };
    let about = format!("[^/]+/staging/{id}/.*");
    let held = tenant.stack.disturb("upload-killed", &["UploadPart"], &about, hold).unwrap();
    let mut first = command_line(&tenant, directory.path(), &arguments).spawn().unwrap();
    let states = directory.path().join("image-tasks/uploads");
    let sent = || {
        let states = std::fs::read_dir(&states).into_iter().flatten();
        let texts = states.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        texts.map(|text| text.matches("\"part\"").count()).sum::<usize>()
    };
    while sent() == 0 {
        assert!(first.try_wait().unwrap().is_none(), "it ended before anything was sent");
        pause().await;
    }
    first.kill().unwrap();
    first.wait().unwrap();
    drop(held);
    let second = command_line(&tenant, directory.path(), &arguments);
    let second = tokio::task::spawn_blocking(|| { second }.output().unwrap()).await.unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(second.status.success() && told.starts_with("Going on with disk.img, image "), "{told}");
    assert_eq!(String::from_utf8(second.stdout).unwrap().trim(), id);
    let image = tenant.get(&format!("/v2/images/{id}")).await.body;
    tenant.is_pattern(&image, seed, size).await;
    assert_eq!(std::fs::read_dir(&states).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let tenant = Tenant::new("given-up");
    let id = record(&tenant).await;
    let path = format!("/v2/images/{id}/upload");
    let staged = format!("staging/{id}/");
    for given_up in [path.clone(), format!("/v2/images/{id}")] {
        let begun = tenant.post(&path, &json!({"size": 65 * MIB})).await.body;
        put(&tenant, &begun["parts"][1], vec![7; 1 << 20]).await;
        let gone = tenant.request(Method::DELETE, &given_up, None).await;
        assert_eq!(gone.status(), StatusCode::NO_CONTENT);
        tenant.nothing_under(tenant.stack.work_bucket(), &staged).await;
        let late = tenant.put(begun["parts"][1]["url"].as_str().unwrap(), vec![7; 1 << 20]).await;
        assert_eq!(late.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(tenant.get(&format!("/v2/images/{id}")).await.status, StatusCode::NOT_FOUND);
}
