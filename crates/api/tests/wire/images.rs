//! `/v2/images`: what is shown of one, and to whom.

use image_tasks_domain::{
    Image, ImageHashes, ImageId, ImageStatus, Publication, StoredObject, TaskId, Timestamp, Visibility,
};
use serde_json::json;
use uuid::Uuid;

use crate::service::{ADMIN, ALICE, BOB, NOW, Service};

/// The record of an image of that project that a task begins to make.
pub(crate) fn importing(owner: &str) -> Image {
    Image {
        name: Some("Debian".to_owned()),
        tags: vec!["lts".to_owned()],
        properties: [("os_distro".to_owned(), "debian".to_owned())].into(),
        ..Image::importing(ImageId(Uuid::new_v4()), owner, Timestamp::from_epoch(NOW))
    }
}

/// What it becomes active with.
pub(crate) fn publication(image: ImageId) -> Publication {
    Publication {
        image,
        disk_format: "qcow2".to_owned(),
        container_format: "bare".to_owned(),
        size: 20 << 30,
        virtual_size: Some(40 << 30),
        hashes: Some(ImageHashes {
            md5: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            sha512: "0".repeat(128),
        }),
        hashes_follow: false,
        remark: None,
        found: Default::default(),
        properties: Default::default(),
        stored: StoredObject {
            bucket: "images".to_owned(),
            key: image.object_key(TaskId(Uuid::nil())),
            etag: "\"e\"".to_owned(),
            crc64nvme: String::new(),
        },
    }
}

/// An active image of that project.
pub(crate) fn image(owner: &str) -> Image {
    let mut image = importing(owner);
    let publication = publication(image.id);
    image.publish(&publication, image.created_at);
    image
}

#[tokio::test]
async fn an_image_as_clients_know_it() {
    let service = Service::new();
    let image = image("demo");
    service.store.put_image(image.clone());
    let path = format!("/v2/images/{}", image.id);
    let shown = service.get(ALICE, &path).await.ok(200).body;
    assert_eq!(
        shown,
        json!({
            "os_distro": "debian", "name": "Debian", "disk_format": "qcow2", "container_format": "bare",
            "visibility": "shared", "size": 21_474_836_480_u64, "virtual_size": 42_949_672_960_u64, "status": "active",
            "checksum": "d41d8cd98f00b204e9800998ecf8427e", "protected": false, "min_ram": 0, "min_disk": 40,
            "owner": "demo", "os_hidden": false, "os_hash_algo": "sha512", "os_hash_value": "0".repeat(128),
            "id": image.id, "created_at": "2026-11-18T11:06:40Z", "updated_at": "2026-11-18T11:06:40Z",
            "tags": ["lts"], "self": path, "file": format!("{path}/file"), "schema": "/v2/schemas/image",
            "stores": "us-east-1",
        })
    );
    let schema = service.get(ALICE, "/v2/schemas/image").await.ok(200).body;
    for member in shown.as_object().unwrap().keys().filter(|member| *member != "os_distro") {
        assert!(schema["properties"].get(member).is_some(), "{member}");
    }
    assert_eq!(service.get(ALICE, "/v2/images/x").await.error(404), "Could not find image x");
}

#[tokio::test]
async fn nulls_are_shown() {
    let service = Service::new();
    let mut queued = image("demo");
    (queued.status, queued.size, queued.checksum, queued.stored) = (ImageStatus::Importing, None, None, None);
    service.store.put_image(queued.clone());
    let shown = service.get(ALICE, &format!("/v2/images/{}", queued.id)).await.ok(200).body;
    assert_eq!((shown.get("size"), shown.get("checksum")), (Some(&json!(null)), Some(&json!(null))));
}

#[tokio::test]
async fn who_sees_what() {
    let service = Service::new();
    for (visibility, read, listed) in [
        (Visibility::Public, true, true),
        (Visibility::Community, true, false),
        (Visibility::Shared, false, false),
        (Visibility::Private, false, false),
    ] {
        let mut image = image("demo");
        image.visibility = visibility;
        service.store.put_image(image.clone());
        let path = format!("/v2/images/{}", image.id);
        service.get(ALICE, &path).await.ok(200);
        service.get(ADMIN, &path).await.ok(200);
        let seen = service.get(BOB, &path).await;
        assert_eq!(seen.status.as_u16(), if read { 200 } else { 404 }, "{visibility:?}");
        let file = service.get(BOB, &format!("{path}/file")).await;
        assert_eq!(file.status.as_u16(), if read { 302 } else { 404 }, "{visibility:?}");
        let list = service.get(BOB, "/v2/images").await.ok(200).body;
        let found = list["images"].as_array().unwrap().iter().any(|i| i["id"] == json!(image.id));
        assert_eq!(found, listed, "{visibility:?}");
    }
    assert_eq!(service.get(ALICE, "/v2/images").await.body["images"].as_array().unwrap().len(), 4);
    // Another project's community image has to be asked for, by an admin too.
    assert_eq!(service.get(ADMIN, "/v2/images").await.body["images"].as_array().unwrap().len(), 3);
    let all = service.get(ADMIN, "/v2/images?visibility=all").await.body;
    assert_eq!(all["images"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn pages_of_images() {
    let service = Service::new();
    for _ in 0..5 {
        service.store.put_image(image("demo"));
    }
    let mut next = Some("/v2/images?limit=2".to_owned());
    let mut seen = Vec::new();
    while let Some(path) = next {
        let page = service.get(ALICE, &path).await.ok(200).body;
        assert_eq!(
            (&page["first"], &page["schema"]),
            (&json!("/v2/images?limit=2"), &json!("/v2/schemas/images"))
        );
        seen.extend(page["images"].as_array().unwrap().iter().map(|i| i["id"].to_string()));
        next = page.get("next").map(|link| link.as_str().unwrap().to_owned());
    }
    assert_eq!(seen.len(), 5);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
    assert_eq!(service.get(ALICE, "/v2/images?limit=0").await.ok(200).body["images"], json!([]));
    for (query, part) in [("limit=-1", "limit: "), ("marker=x", "marker: \"x\" is not an image in this list")]
    {
        assert!(
            service.get(ALICE, &format!("/v2/images?{query}")).await.error(400).contains(part),
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_bytes_are_fetched_where_they_lie() {
    let service = Service::new();
    let stored = image("demo");
    service.store.put_image(stored.clone());
    let answer = service.get(ALICE, &format!("/v2/images/{}/file", stored.id)).await.ok(302);
    let location = format!("https://images.example/{}?expires=3600", stored.stored.unwrap().key);
    assert_eq!(answer.header("location"), location);

    let mut empty = image("demo");
    (empty.status, empty.stored) = (ImageStatus::Importing, None);
    service.store.put_image(empty.clone());
    service.get(ALICE, &format!("/v2/images/{}/file", empty.id)).await.ok(204);
}

#[tokio::test]
async fn a_page_of_large_records_ends_early_and_all_are_there() {
    let service = Service::new();
    // As large as a record may be, of what is longest in an answer: quotes, which JSON escapes, as does the answer around it;
    // and control characters.
    for (project, filling, properties) in [("a", "\"", 4), ("b", "\u{1}", 4), ("c", "x", 4), ("d", "x", 0)] {
        let token = format!("alice:{project}");
        let mut made = Vec::new();
        for n in 0..25 {
            let value = filling.repeat(65_000);
            let mut large = Image {
                created_at: Timestamp::from_epoch(NOW + n),
                properties: (0..properties).map(|n| (format!("p{n}"), value.clone())).collect(),
                ..image(project)
            };
            large.name = Some(filling.repeat(200));
            made.insert(0, large.id.to_string());
            service.store.put_image(large);
        }
        let mut next = "/v2/images".to_owned();
        let (mut seen, mut pages) = (Vec::new(), 0);
        loop {
            let body = service.get(&token, &next).await.ok(200).body;
            // What the function hands to API Gateway: the body as a JSON string (Lambda developer guide, "Lambda quotas").
            let answer = serde_json::to_vec(&json!({"body": body.to_string()})).unwrap().len();
            assert!(answer < 6 << 20, "{project}: {answer} bytes");
            let ids = body["images"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned());
            let before = seen.len();
            seen.extend(ids);
            assert!(seen.len() > before, "{project}: an empty page");
            pages += 1;
            match body["next"].as_str() {
                Some(link) => link.clone_into(&mut next),
                None => break,
            }
        }
        assert_eq!(seen, made, "{project}");
        assert_eq!(pages == 1, properties == 0, "{project}: {pages} pages");
    }
}
