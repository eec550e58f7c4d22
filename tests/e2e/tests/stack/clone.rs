//! Clones between the two regions of the local stack, from the POST to the bytes in the other bucket.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{Tag, Tagging};
use image_tasks_e2e::{Tenant, qemu_img};
use image_tasks_local::{Content, S3Request, Source, SourceServer, pattern};
use reqwest::StatusCode;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const HERE: &str = "eu-west-1";
const THERE: &str = "us-east-1";

/// Calls that have S3 copy, or look at what is there: no byte of an image is in them or their answers.
const WITHOUT_BYTES: &[&str] = &[
    "HeadObject",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPartCopy",
    "ListParts",
    "ListMultipartUploads",
    "CompleteMultipartUpload",
];

/// Bytes of a copy that its judge reads at most: head and tail, 66 KiB, once more where its call is repeated.
const MOST_JUDGED: u64 = 256 << 10;

/// A tenant in both regions.
fn regions(project: &str) -> (Tenant, Tenant) {
    let there = Tenant::new(project);
    let here = there.in_region(HERE);
    (there, here)
}

fn of(image: &Value) -> Value {
    json!({"source_region": THERE, "image_uuid": image["id"]})
}

fn with(mut input: Value, more: Value) -> Value {
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    input
}

/// An image of the pattern.
async fn imported(tenant: &Tenant, seed: u64, length: u64, properties: Value) -> Value {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source::new(Content::Pattern { seed, length }));
    let input = json!({"import_from": url, "import_from_format": "raw", "image_properties": properties});
    tenant.imported(input).await.1
}

async fn object(tenant: &Tenant, image: &Value) -> HeadObjectOutput {
    let key = tenant.object_key(image).await;
    let head = tenant.stack.s3().head_object().bucket(tenant.stack.images_bucket()).key(key);
    head.checksum_mode(aws_sdk_s3::types::ChecksumMode::Enabled).send().await.unwrap()
}

/// Tags the image's object, as an operator's scanner does.
async fn tag(tenant: &Tenant, image: &Value) {
    let tag = Tag::builder().key("scanned").value("yes").build().unwrap();
    let tags = Tagging::builder().tag_set(tag).build().unwrap();
    let (bucket, key) = (tenant.stack.images_bucket(), tenant.object_key(image).await);
    tenant.stack.s3().put_object_tagging().bucket(bucket).key(key).tagging(tags).send().await.unwrap();
}

async fn tags(tenant: &Tenant, image: &Value) -> usize {
    let (bucket, key) = (tenant.stack.images_bucket(), tenant.object_key(image).await);
    let found = tenant.stack.s3().get_object_tagging().bucket(bucket).key(key).send().await.unwrap();
    found.tag_set().len()
}

/// What functions asked S3 of an image's object.
fn asked(tenant: &Tenant, image: &Value) -> Vec<S3Request> {
    let id = image["id"].as_str().unwrap();
    // Not the map beside it.
    let prefix = format!("images/{id}/");
    let names = |name: &str| name.contains(&prefix) && !name.ends_with(".allocation");
    let mut requests = tenant.stack.s3_requests(id).unwrap();
    requests.retain(|one| one.is_by_function() && (names(&one.key) || names(&one.copy_source)));
    requests
}

fn bytes(requests: &[S3Request]) -> u64 {
    requests.iter().map(|one| one.sent + one.received).sum()
}

/// The copy is equal to its source in every way that both regions tell.
async fn equal(there: &Tenant, source: &Value, here: &Tenant, copy: &Value) {
    for key in [
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "disk_format",
        "container_format",
    ] {
        assert_eq!(copy[key], source[key], "{key}");
    }
    assert_ne!(copy["id"], source["id"]);
    let (from, to) = (object(there, source).await, object(here, copy).await);
    assert_eq!((to.e_tag(), to.content_length()), (from.e_tag(), from.content_length()));
    assert!(from.checksum_crc64_nvme().is_some());
    assert_eq!(to.checksum_crc64_nvme(), from.checksum_crc64_nvme());
}

#[tokio::test]
async fn an_image_comes_over_whole_and_functions_read_its_ends_alone() {
    let (there, here) = regions("clone");
    let size = 150 * MIB + 1;
    let named = json!({"name": "Debian", "os_distro": "debian", "tags": ["stable"], "min_ram": 64});
    let source = imported(&there, 41, size, named).await;
    let before = object(&there, &source).await;

    let imports = asked(&there, &source);
    assert!(bytes(&imports) > size, "the log of S3 counts what an import moves");
    assert!(imports.iter().any(|one| one.operation == "UploadPart"));

    let (task, copy) = here.made("clone", of(&source)).await;
    equal(&there, &source, &here, &copy).await;
    here.is_pattern(&copy, 41, size).await;
    here.nothing_left_of_work(&task).await;
    assert_eq!(
        (&copy["name"], &copy["os_distro"], &copy["tags"]),
        (&json!("Debian"), &json!("debian"), &json!(["stable"]))
    );
    assert_eq!(copy["os_glance_source_image"], format!("{THERE}/{}", source["id"].as_str().unwrap()));
    assert_eq!((&copy["owner"], &copy["min_ram"]), (&json!("clone"), &json!(64)));

    let of_clone = [&asked(&there, &source)[imports.len()..], &asked(&here, &copy)].concat();
    // What is published is judged first: the copy's own head and tail are read, and nothing of the source.
    let (read, of_clone): (Vec<_>, Vec<_>) = of_clone
        .into_iter()
        .partition(|one| one.operation == "GetObject" && one.key.contains(copy["id"].as_str().unwrap()));
    assert!((1..=MOST_JUDGED).contains(&bytes(&read)), "{} bytes", bytes(&read));
    let operations: BTreeSet<_> = of_clone.iter().map(|one| one.operation.as_str()).collect();
    assert!(operations.contains("UploadPartCopy"), "{operations:?}");
    assert!(operations.iter().all(|one| WITHOUT_BYTES.contains(one)), "{operations:?}");
    assert!(bytes(&of_clone) < 64 << 10, "{} bytes", bytes(&of_clone));
    println!("{} requests, {} bytes of XML for {size} bytes of image", of_clone.len(), bytes(&of_clone));

    // The source is as it was, and unknown to the other region.
    let path = format!("/v2/images/{}", source["id"].as_str().unwrap());
    assert_eq!(there.get(&path).await.body, source);
    let after = object(&there, &source).await;
    assert_eq!((after.e_tag(), after.last_modified()), (before.e_tag(), before.last_modified()));
    assert_eq!(here.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        there.get(&format!("/v2/images/{}", copy["id"].as_str().unwrap())).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn both_ways_of_naming_and_the_same_bits_once() {
    let (there, here) = regions("clone-names");
    let source = imported(&there, 42, 3 * MIB, json!({"name": "twin", "hw": "x"})).await;
    let url = format!("{}/v2/images/{}", there.stack.endpoint(), source["id"].as_str().unwrap());
    let (_, first) = here.made("clone", json!({"source_image_url": url})).await;
    equal(&there, &source, &here, &first).await;

    let copied = asked(&there, &source).len();
    let (task, again) = here.made("clone", of(&source)).await;
    assert_eq!(again, first, "the same bits, the same owner: nothing is copied");
    assert_eq!(asked(&there, &source).len(), copied);
    assert_eq!(task["image_id"], first["id"]);

    let mine = json!({"image_properties": {"name": "mine", "hw": "y", "visibility": "private"}});
    let (_, second) = here.made("clone", with(of(&source), mine)).await;
    assert_eq!(
        (&second["name"], &second["hw"], &second["visibility"]),
        (&json!("mine"), &json!("y"), &json!("private"))
    );
    let (_, third) = here.made("clone", with(of(&source), json!({"allow_duplicate": true}))).await;
    let ids: BTreeSet<_> =
        [&first, &second, &third].into_iter().map(|image| image["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    here.is_pattern(&third, 42, 3 * MIB).await;
    // The same bits of another owner are not his.
    let (_, shared) = {
        let (there, here) = regions("clone-names-other");
        let own = imported(&there, 42, 3 * MIB, json!({})).await;
        here.made("clone", of(&own)).await
    };
    assert!(!ids.contains(shared["id"].as_str().unwrap()));
}

#[tokio::test]
async fn more_than_40_parts_are_the_sources_parts() {
    let (there, here) = regions("clone-parts");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    // 2.75 GiB in 44 parts; nearly all of it zeros, which an import doesn't fetch either.
    let size = 2816 * MIB;
    let raw = std::fs::File::create_new(path("disk.raw")).unwrap();
    raw.set_len(size).unwrap();
    let data = [0, 1000 * MIB + 512, size - 2 * MIB];
    for at in data {
        raw.write_all_at(&pattern::bytes(43, at, 2 << 20), at).unwrap();
    }
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &path("disk.raw"), &path("disk.qcow2")]);
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk.qcow2", Source::new(Content::File(path("disk.qcow2").into())));
    let wanted = json!({"import_from": url, "image_properties": {"disk_format": "raw"}});
    let (_, source) = there.imported(wanted).await;
    let etag = object(&there, &source).await.e_tag().unwrap().to_owned();
    assert!(etag.ends_with("-44\""), "{etag}");

    let (task, copy) = here.made("clone", of(&source)).await;
    equal(&there, &source, &here, &copy).await;
    let parts = asked(&here, &copy)
        .iter()
        .filter(|one| one.operation == "UploadPartCopy" && one.status == 200)
        .count();
    assert_eq!(parts, 44);
    here.nothing_left_of_work(&task).await;
    for at in data {
        let range = format!("bytes={at}-{}", at + (2 << 20) - 1);
        let key = here.object_key(&copy).await;
        let got = here
            .stack
            .s3()
            .get_object()
            .bucket(here.stack.images_bucket())
            .key(&key)
            .range(range)
            .send()
            .await;
        assert!(
            got.unwrap().body.collect().await.unwrap().into_bytes() == pattern::bytes(43, at, 2 << 20),
            "{at}"
        );
    }
    // Where the disk has data is known there too: an export of the copy is as quick.
    let map = format!("{}.allocation", here.object_key(&copy).await);
    here.stack.s3().head_object().bucket(here.stack.images_bucket()).key(map).send().await.unwrap();
}

#[tokio::test]
async fn no_byte_one_byte_and_what_one_request_copies() {
    let (there, here) = regions("clone-small");
    for (seed, size) in [(44, 0), (45, 1), (46, 5 * MIB - 1), (47, 5 * MIB + 1)] {
        let source = imported(&there, seed, size, json!({})).await;
        tag(&there, &source).await;
        let (task, copy) = here.made("clone", of(&source)).await;
        assert_eq!(tags(&there, &source).await, 1);
        assert_eq!(tags(&here, &copy).await, 0, "who copies may not read an operator's tags");
        equal(&there, &source, &here, &copy).await;
        here.is_pattern(&copy, seed, size).await;
        here.nothing_left_of_work(&task).await;
        let copies: Vec<_> =
            asked(&here, &copy).into_iter().filter(|one| !one.copy_source.is_empty()).collect();
        assert_eq!(
            copies.iter().map(|one| one.operation.as_str()).collect::<Vec<_>>(),
            ["CopyObject"],
            "{size}"
        );
    }
}

#[tokio::test]
async fn a_region_clones_its_own_images_too() {
    let (there, here) = regions("clone-own");
    let source = imported(&here, 48, 70 * MIB, json!({"name": "own"})).await;
    let url = format!("{}/v2/images/{}", here.stack.endpoint(), source["id"].as_str().unwrap());
    for input in
        [json!({"source_region": HERE, "image_uuid": source["id"]}), json!({"source_image_url": url})]
    {
        let (_, copy) = here.made("clone", input).await;
        equal(&here, &source, &here, &copy).await;
        here.is_pattern(&copy, 48, 70 * MIB).await;
    }
    // And the other way round.
    let (_, copy) = there.made("clone", json!({"source_region": HERE, "image_uuid": source["id"]})).await;
    equal(&here, &source, &there, &copy).await;
}

#[tokio::test]
async fn what_may_not_be_seen_there_is_not_there() {
    let (there, here) = regions("clone-seen");
    let (_, stranger) = regions("clone-stranger");
    let hidden = imported(&there, 49, MIB, json!({})).await;
    let unknown = json!({"id": "00000000-0000-4000-8000-000000000000"});
    for image in [&hidden, &unknown] {
        let task = stranger.ended(&stranger.accepted("clone", of(image)).await).await;
        let id = image["id"].as_str().unwrap();
        assert_eq!(task["message"], format!("ImageNotFound: there is no image {id} in region {THERE}"));
        stranger.nothing_left(&task).await;
    }
    here.made("clone", of(&hidden)).await;
    let shown = imported(&there, 50, MIB, json!({"visibility": "community"})).await;
    let (_, copy) = stranger.made("clone", of(&shown)).await;
    assert_eq!((&copy["owner"], &copy["os_hash_value"]), (&json!("clone-stranger"), &shown["os_hash_value"]));
}

#[tokio::test]
async fn regions_are_listed_and_others_refused() {
    let (there, here) = regions("clone-regions");
    for (tenant, own) in [(&there, THERE), (&here, HERE)] {
        let regions = tenant.get("/v2/info/regions").await;
        assert_eq!(regions.status, StatusCode::OK, "{}", regions.body);
        let regions = regions.body["regions"].as_array().unwrap().clone();
        let ids: BTreeSet<_> = regions.iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(ids, [HERE, THERE].into());
        let here: Vec<_> = regions.iter().filter(|one| one["here"] == true).map(|one| &one["id"]).collect();
        assert_eq!(here, [own]);
    }
    let id = "00000000-0000-4000-8000-000000000000";
    for (input, known) in [
        (json!({"source_region": "mars-1", "image_uuid": id}), [HERE, THERE]),
        (
            json!({"source_image_url": format!("https://elsewhere.example/v2/images/{id}")}),
            [here.stack.endpoint(), there.stack.endpoint()],
        ),
    ] {
        let refused = here.post_task(&json!({"type": "clone", "input": input})).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(known.iter().all(|one| message.contains(one)), "{message}");
    }
}

#[tokio::test]
async fn a_small_image_that_was_stored_by_parts() {
    let (there, here) = regions("small-parts");
    let server = SourceServer::start().await.unwrap();
    // Nothing but zeros: as a qcow2 a few hundred kilobytes, and made by parts, since the disk is large.
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(80 * MIB).unwrap();
    let url = server.serve("/zeros", Source::new(Content::File(disk.path().to_owned())));
    let input = json!({"import_from": url, "import_from_format": "raw", "image_properties": {"disk_format": "qcow2"}});
    let (_, source) = there.imported(input).await;
    let stored = object(&there, &source).await;
    assert!(stored.content_length().unwrap() < 5 << 20, "{stored:?}");
    assert!(stored.e_tag().unwrap().ends_with("-1\""), "{stored:?}");
    let (_, copy) = here.made("clone", of(&source)).await;
    assert_eq!(copy["os_hash_value"], source["os_hash_value"]);
    let copied = object(&here, &copy).await;
    assert_eq!(copied.checksum_crc64_nvme(), stored.checksum_crc64_nvme());
}
