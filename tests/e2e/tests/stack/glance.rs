//! Clones from a Glance elsewhere on the local stack: with the caller's token, from the POST to the bytes.

use aws_sdk_dynamodb::types::AttributeValue;
use image_tasks_e2e::{Tenant, pause};
use image_tasks_local::{Content, RangeSupport, Source, SourceServer, pattern};
use md5::{Digest, Md5};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::Sha512;

const MIB: u64 = 1 << 20;
const SEED: u64 = 31;
/// What the tenant sends, and the Glance elsewhere wants.
const TOKEN: &str = "tester:glance";

fn id(n: u8) -> String {
    format!("7b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a{n:02x}")
}

/// The record of an image of so many bytes of the pattern.
fn record(id: &str, size: u64) -> Value {
    let bytes = pattern::bytes(SEED, 0, usize::try_from(size).unwrap());
    json!({
        "id": id, "status": "active", "name": "theirs", "owner": "someone", "visibility": "public",
        "disk_format": "raw", "container_format": "bare", "size": size, "virtual_size": null, "min_disk": 0,
        "min_ram": 64, "checksum": hex::encode(Md5::digest(&bytes)), "os_hash_algo": "sha512",
        "os_hash_value": hex::encode(Sha512::digest(&bytes)), "tags": [], "os_distro": "debian",
        "os_glance_failed_import": "", "direct_url": "rbd://pool/x", "protected": false, "os_hidden": false,
    })
}

fn bytes(size: u64) -> Source {
    Source::new(Content::Pattern { seed: SEED, length: size })
}

async fn start(tenant: &Tenant, url: &str) -> Value {
    let input = json!({"source_image_url": url, "image_properties": {"name": "mine"}});
    let accepted = tenant.post_task(&json!({"type": "clone", "input": input})).await;
    assert_eq!(accepted.status, StatusCode::CREATED, "{}", accepted.body);
    assert!(!accepted.body.to_string().contains(TOKEN), "{}", accepted.body);
    accepted.body
}

async fn cloned(tenant: &Tenant, task: &Value) -> Value {
    let task = tenant.ended(task).await;
    assert_eq!(task["status"], "success", "{task}");
    let image = tenant.get(&format!("/v2/images/{}", task["result"]["image_id"].as_str().unwrap())).await;
    assert_eq!((&image.body["status"], &image.body["name"]), (&json!("active"), &json!("mine")));
    assert_eq!((&image.body["os_distro"], &image.body["min_ram"]), (&json!("debian"), &json!(64)));
    tenant.nothing_left_of_work(&task).await;
    image.body
}

async fn fails(tenant: &Tenant, url: &str, message: &str) {
    let task = tenant.ended(&start(tenant, url).await).await;
    assert_eq!(task["status"], "failure", "{task}");
    assert!(task["message"].as_str().unwrap().starts_with(message), "{task}");
    tenant.nothing_left(&task).await;
    assert_eq!(kept(tenant, &task).await, None, "{message}");
}

/// The token that is kept for a task.
async fn kept(tenant: &Tenant, task: &Value) -> Option<AttributeValue> {
    let table = tenant.stack.physical_id("CredentialsTable").to_owned();
    let id = AttributeValue::S(task["id"].as_str().unwrap().to_owned());
    let found = tenant.stack.dynamodb().get_item().table_name(table).key("id", id).send().await.unwrap();
    found.item.map(|item| item["token"].clone())
}

/// One test, since one process at a time can be the Glance that the stack allows.
#[tokio::test]
async fn an_image_of_a_glance_elsewhere_is_cloned_with_the_callers_token() {
    let tenant = Tenant::new("glance");
    let glance = SourceServer::at(tenant.stack.coordinates().glance_address).await.unwrap();

    // By range, in parts, and while it works the token lies where only its readers can.
    let size = 130 * MIB + 5;
    let file = Source { hold_at: Some(100 * MIB), ..bytes(size) };
    let url = glance.serve_image(&id(1), record(&id(1), size).to_string(), file, TOKEN);
    let task = start(&tenant, &url).await;
    while glance.bodies_now() == 0 {
        pause().await;
    }
    assert_eq!(kept(&tenant, &task).await, Some(AttributeValue::S(TOKEN.to_owned())));
    glance.release();
    let image = cloned(&tenant, &task).await;
    tenant.is_pattern(&image, SEED, size).await;
    assert_eq!(image["os_glance_source_image"], url);
    assert_eq!((&image["visibility"], &image["owner"]), (&json!("shared"), &json!("glance")));
    assert_eq!(kept(&tenant, &task).await, None);
    let file = format!("/v2/images/{}/file", id(1));
    let parts = glance.requests().iter().filter(|r| r.path == file && r.range.is_some()).count();
    // Three parts of 64 MiB, each with the look of a worker that opens the source, beside those of planning: three at least.
    assert!(parts >= 9, "{parts}");

    // From a store that can't read from the middle; small enough for one call; not a byte at all.
    for (n, size, ranges) in
        [(2, 20 * MIB, RangeSupport::Refused), (3, MIB, RangeSupport::Yes), (4, 0, RangeSupport::Ignored)]
    {
        let file = Source { ranges, ..bytes(size) };
        let url = glance.serve_image(&id(n), record(&id(n), size).to_string(), file, TOKEN);
        let image = cloned(&tenant, &start(&tenant, &url).await).await;
        tenant.is_pattern(&image, SEED, size).await;
    }
    assert!(glance.requests().iter().all(|r| r.token.as_deref() == Some(TOKEN)));

    // Into a record that is there, by the region's name.
    let url = glance.serve_image(&id(9), record(&id(9), 20 * MIB).to_string(), bytes(20 * MIB), TOKEN);
    let formats = json!({"name": "mine", "disk_format": "qcow2", "container_format": "bare"});
    let waiting = tenant.post("/v2/images", &formats).await.body;
    let path = format!("/v2/images/{}", waiting["id"].as_str().unwrap());
    let method = json!({"name": "glance-download", "glance_region": "elsewhere", "glance_image_id": id(9)});
    let asked = tenant.post(&format!("{path}/import"), &json!({"method": method})).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{url}: {}", asked.body);
    let image = loop {
        let image = tenant.get(&path).await.body;
        assert_eq!(image["os_glance_failed_import"], Value::Null, "{image}");
        if image["status"] == "active" {
            break image;
        }
        pause().await;
    };
    tenant.is_pattern(&image, SEED, 20 * MIB).await;
    assert_eq!((&image["disk_format"], &image["os_distro"]), (&json!("raw"), &json!("debian")));
    let tasks = tenant.get(&format!("{path}/tasks")).await.body;
    assert_eq!(tasks["tasks"][0]["status"], "success", "{tasks}");
    assert_eq!(kept(&tenant, &tasks["tasks"][0]).await, None);

    // Refused there; replaced there; not there; not active.
    let url = glance.serve_image(&id(5), record(&id(5), MIB).to_string(), bytes(MIB), "another");
    fails(&tenant, &url, &format!("SourceDenied: {url} answered 401")).await;
    let other = Source::new(Content::Pattern { seed: SEED + 1, length: 130 * MIB });
    let url = glance.serve_image(&id(6), record(&id(6), 130 * MIB).to_string(), other, TOKEN);
    fails(&tenant, &url, "ChecksumMismatch: checksum of the source is ").await;
    fails(&tenant, &glance.url(&format!("/v2/images/{}", id(7))), "ImageNotFound: ").await;
    let mut queued = record(&id(8), MIB);
    queued["status"] = json!("queued");
    let url = glance.serve_image(&id(8), queued.to_string(), bytes(MIB), TOKEN);
    fails(&tenant, &url, &format!("ImageNotActive: {url} is \"queued\"")).await;

    let elsewhere = "https://glance.example.org/v2/images/7b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let input = json!({"type": "clone", "input": {"source_image_url": elsewhere}});
    let refused = tenant.post_task(&input).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let told = refused.body["error"]["message"].as_str().unwrap();
    assert!(told.contains(&glance.url("")) && told.contains(tenant.stack.endpoint()), "{told}");

    // Nowhere in any record: neither of tasks nor of images.
    let stack = &tenant.stack;
    for table in [stack.tasks_table(), stack.images_table(), stack.physical_id("CredentialsTable")] {
        let mut pages = stack.dynamodb().scan().table_name(table).into_paginator().send();
        while let Some(page) = pages.next().await {
            assert!(!format!("{:?}", page.unwrap().items()).contains(TOKEN), "{table}");
        }
    }
}
