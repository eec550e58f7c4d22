//! Images: listed, shown, changed, deleted.

use image_tasks_domain::{Image, ImageHashes, ImageId, Publication, StoredObject, TaskId, Timestamp};
use uuid::Uuid;

use crate::service::{NOW, Server};

/// What an image becomes active with.
pub(crate) fn publication(image: ImageId, size: u64, hashes: Option<ImageHashes>) -> Publication {
    Publication {
        image,
        disk_format: "raw".to_owned(),
        container_format: "bare".to_owned(),
        size,
        virtual_size: Some(size),
        hashes,
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

/// An active image of the project demo is there.
pub(crate) fn put(server: &Server, name: &str, size: u64) -> Image {
    put_hashed(server, name, size, None)
}

pub(crate) fn put_hashed(server: &Server, name: &str, size: u64, hashes: Option<ImageHashes>) -> Image {
    let mut image = Image {
        name: Some(name.to_owned()),
        ..Image::importing(ImageId(Uuid::new_v4()), "demo", Timestamp::from_epoch(NOW))
    };
    image.publish(&publication(image.id, size, hashes), image.created_at);
    server.store.put_image(image.clone());
    image
}

#[tokio::test]
async fn a_list_is_a_table_or_the_services_json() {
    let server = Server::start().await;
    assert_eq!(
        server.run(&["image", "list", "--output", "json"]).await.ends(0).json(),
        serde_json::json!([])
    );
    let image = put(&server, "with\u{1b}[31m colour", 20 << 30);
    let table = server.run(&["image", "list", "--status", "active", "--visibility", "shared"]).await.ends(0);
    let id = image.id.to_string();
    assert_eq!(
        table.stdout,
        format!(
            "{:36}  NAME              STATUS  DISK_FORMAT  SIZE         VISIBILITY\n\
             {id}  with\u{fffd}[31m colour  active  raw          21474836480  shared\n",
            "ID"
        )
    );
    let shown = server.run(&["image", "show", &id, "--output", "json"]).await.ends(0).json();
    assert_eq!(shown["name"], "with\u{1b}[31m colour");
}

#[tokio::test]
async fn a_list_is_followed_to_its_end() {
    let server = Server::start().await;
    for n in 0..1001 {
        put(&server, &format!("image {n}"), 1);
    }
    let all = server.run(&["image", "list", "--output", "json"]).await.ends(0).json();
    assert_eq!(all.as_array().unwrap().len(), 1001);
    assert_eq!(server.seen().len(), 2);
    let some = server.run(&["image", "list", "--limit", "3", "--output", "json"]).await.ends(0).json();
    assert_eq!(some.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_image_is_found_by_its_name_if_it_is_the_only_one() {
    let server = Server::start().await;
    let image = put(&server, "a: b", 1);
    let shown = server.run(&["image", "show", "a: b"]).await.ends(0);
    assert!(shown.stdout.contains(&format!("id                {}\n", image.id)), "{shown:?}");
    put(&server, "a: b", 1);
    let told = server.run(&["image", "show", "a: b"]).await.ends(1);
    assert_eq!(told.last_words(), "image-tasks: several images have the name \"a: b\": give an id");
    let told = server.run(&["image", "show", "c"]).await.ends(1);
    assert_eq!(told.last_words(), "image-tasks: no image has the name \"c\"");
    let id = Uuid::nil().to_string();
    let told = server.run(&["image", "show", &id]).await.ends(1);
    assert_eq!(told.last_words(), format!("Could not find image {id}"));
}

#[tokio::test]
async fn a_record_is_changed_and_deleted() {
    let server = Server::start().await;
    let image = put(&server, "debian", 1);
    let changes = [
        ["image", "set", "debian", "--name", "debian-13", "--visibility", "private", "--protected", "true"]
            .as_slice(),
        &["--property", "a/b~c=1=2", "--property", "gone=x", "--tag", "lts 13", "--output", "json"],
    ];
    let changed = server.run(&changes.concat()).await;
    assert_eq!(changed.ends(0).json()["tags"], serde_json::json!(["lts 13"]));
    let more =
        ["image", "set", "debian-13", "--remove-property", "gone", "--tag", "lts", "--remove-tag", "lts 13"];
    let changed =
        server.run(&[&more[..], &["--min-disk", "3", "--output", "json"]].concat()).await.ends(0).json();
    assert_eq!((&changed["a/b~c"], &changed["gone"]), (&"1=2".into(), &serde_json::Value::Null));
    assert_eq!((&changed["tags"], &changed["min_disk"]), (&serde_json::json!(["lts"]), &3.into()));
    let protected = server.run(&["image", "delete", "debian-13"]).await.ends(1);
    assert!(protected.last_words().contains("protected"), "{protected:?}");
    server.run(&["image", "set", "debian-13", "--protected", "false", "--remove-tag", "lts"]).await.ends(0);
    let deleted = server.run(&["image", "delete", "debian-13"]).await.ends(0);
    assert_eq!(deleted.stdout, format!("{}\n", image.id));
    server.run(&["image", "set", "debian-13"]).await.ends(2);
}
