//! `/v2/images`: making, changing and deleting records.

use http::Method;
use image_tasks_domain::{Image, ImageStatus};
use serde_json::{Value, json};

use crate::images::{image, importing};
use crate::service::{ADMIN, ALICE, Answer, BOB, Service};

pub(crate) const V21: &str = "application/openstack-images-v2.1-json-patch";
const V20: &str = "application/openstack-images-v2.0-json-patch";
const READER: &str = "carol:demo:reader";

async fn create(service: &Service, token: &str, body: Value) -> Answer {
    service.send(Method::POST, "/v2/images", &[("x-auth-token", token)], body.to_string()).await
}

async fn patch(service: &Service, token: &str, path: &str, media: &str, body: Value) -> Answer {
    let headers = [("x-auth-token", token), ("content-type", media)];
    service.send(Method::PATCH, path, &headers, body.to_string()).await
}

async fn delete(service: &Service, token: &str, path: &str) -> Answer {
    service.send(Method::DELETE, path, &[("x-auth-token", token)], "").await
}

fn path_of(image: &Image) -> String {
    format!("/v2/images/{}", image.id)
}

#[tokio::test]
async fn a_record_is_made() {
    let service = Service::new();
    let id = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let made = create(
        &service,
        ALICE,
        json!({
            "id": id, "name": "Debian", "disk_format": "raw", "container_format": "bare", "visibility": "community",
            "min_disk": 1, "min_ram": 2, "protected": true, "os_hidden": true, "tags": ["b", "a", "b"],
            "owner": "demo", "os_distro": "debian",
        }),
    )
    .await
    .ok(201);
    let path = format!("/v2/images/{id}");
    assert_eq!(made.header("location"), format!("https://images.example{path}"));
    assert_eq!(made.header("openstack-image-import-methods"), "glance-direct,web-download,glance-download");
    assert_eq!(
        made.body,
        json!({
            "os_distro": "debian", "name": "Debian", "disk_format": "raw", "container_format": "bare",
            "visibility": "community", "size": null, "virtual_size": null, "status": "queued", "checksum": null,
            "protected": true, "min_ram": 2, "min_disk": 1, "owner": "demo", "os_hidden": true, "os_hash_algo": null,
            "os_hash_value": null, "id": id, "created_at": "2026-11-18T11:06:40Z",
            "updated_at": "2026-11-18T11:06:40Z", "tags": ["a", "b"], "self": path, "file": format!("{path}/file"),
            "schema": "/v2/schemas/image",
        })
    );
    assert_eq!(service.get(ALICE, &path).await.ok(200).body, made.body);
    service.get(ALICE, &format!("{path}/file")).await.ok(204);
    let nothing_said = create(&service, ALICE, json!({})).await.ok(201).body;
    assert_eq!((&nothing_said["visibility"], &nothing_said["owner"]), (&json!("shared"), &json!("demo")));
    assert_eq!((&nothing_said["name"], &nothing_said["tags"]), (&Value::Null, &json!([])));
    // What Glance's clients send for "not said".
    create(&service, ALICE, json!({"name": null, "disk_format": null, "container_format": null}))
        .await
        .ok(201);
}

#[tokio::test]
async fn who_may_make_what() {
    let service = Service::new();
    for (token, body, status) in [
        (READER, json!({}), 403),
        (READER, json!({"status": "active"}), 403),
        (ALICE, json!({"owner": "other"}), 403),
        (ADMIN, json!({"owner": "other"}), 201),
        (ALICE, json!({"visibility": "public"}), 403),
        (ADMIN, json!({"visibility": "public"}), 201),
        (ALICE, json!({"visibility": "community"}), 201),
    ] {
        let answer = create(&service, token, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{token} {body}: {answer:?}");
    }
    assert_eq!(service.send(Method::POST, "/v2/images", &[], "{}").await.status.as_u16(), 401);
}

#[tokio::test]
async fn bad_records_are_refused_by_name() {
    let service = Service::new();
    for name in [
        "status",
        "size",
        "virtual_size",
        "checksum",
        "os_hash_algo",
        "os_hash_value",
        "created_at",
        "updated_at",
        "direct_url",
        "locations",
        "location",
        "self",
        "file",
        "schema",
        "stores",
        "deleted",
        "deleted_at",
        "os_glance_foo",
    ] {
        let refused = create(&service, ALICE, json!({(name): "x"})).await;
        assert_eq!(refused.error(403), format!("Attribute '{name}' is read-only"));
    }
    for (body, part) in [
        (json!([]), "must be a JSON object"),
        (json!({"id": "x"}), "id: "),
        (json!({"name": 5}), "name: "),
        (json!({"disk_format": "wrong"}), "disk_format: must be one of raw"),
        (json!({"container_format": "wrong"}), "container_format: must be one of bare"),
        (json!({"visibility": "everyone"}), "visibility: "),
        (json!({"min_disk": -1}), "min_disk: "),
        (json!({"min_ram": "1"}), "min_ram: "),
        (json!({"protected": "yes"}), "protected: "),
        (json!({"tags": ["", "a"]}), "tags[0]: "),
        (json!({"os_distro": 5}), "os_distro: must be a string"),
        (json!({("x".repeat(256)): "x"}), "a property's name"),
    ] {
        let refused = create(&service, ALICE, body.clone()).await;
        assert!(refused.error(400).contains(part), "{body}: {refused:?}");
    }
    let many: serde_json::Map<_, _> = (0..129).map(|n| (format!("p{n}"), json!("x"))).collect();
    let large: serde_json::Map<_, _> = (0..6).map(|n| (format!("p{n}"), json!("x".repeat(60_000)))).collect();
    let tags: Vec<_> = (0..129).map(|n| format!("t{n}")).collect();
    for body in [Value::Object(many), Value::Object(large), json!({"tags": tags})] {
        create(&service, ALICE, body).await.error(413);
    }
    let headers = [("x-auth-token", ALICE)];
    for (body, part) in [("", "body is required"), ("{", "not valid JSON")] {
        let refused = service.send(Method::POST, "/v2/images", &headers, body).await;
        assert!(refused.error(400).contains(part), "{body}");
    }
    service.send(Method::POST, "/v2/images", &headers, "x".repeat((1 << 20) + 1)).await.error(413);
}

/// A gateway adds what is missing, and python-glanceclient reads as JSON what is called so.
#[tokio::test]
async fn an_answer_without_a_body_isnt_called_json() {
    let service = Service::new();
    let id = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let path = format!("/v2/images/{id}");
    create(&service, ALICE, json!({"id": id})).await.ok(201);
    let tag = format!("{path}/tags/a");
    for (method, path) in [(Method::PUT, &tag), (Method::DELETE, &tag), (Method::DELETE, &path)] {
        let answer = service.send(method, path, &[("x-auth-token", ALICE)], "").await.ok(204);
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
}

#[tokio::test]
async fn an_id_is_used_once() {
    let service = Service::new();
    let id = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let path = format!("/v2/images/{id}");
    create(&service, ALICE, json!({"id": id})).await.ok(201);
    create(&service, BOB, json!({"id": id})).await.error(409);
    delete(&service, ALICE, &path).await.ok(204);
    service.get(ALICE, &path).await.error(404);
    delete(&service, ALICE, &path).await.error(404);
    create(&service, ALICE, json!({"id": id})).await.error(409);
    let mut import = crate::service::import();
    import["input"]["image_properties"] = json!({"id": id});
    service.post(ALICE, &import).await.error(409);
}

#[tokio::test]
async fn a_patch_changes_what_it_says() {
    let service = Service::new();
    let image = image("demo");
    service.store.put_image(image.clone());
    let path = path_of(&image);
    service.clock.advance(std::time::Duration::from_secs(1));
    let change = json!([
        {"op": "replace", "path": "/name", "value": "Ubuntu"},
        {"op": "add", "path": "/trait:STORAGE_DISK_SSD", "value": "required"},
        {"op": "remove", "path": "/os_distro"},
        {"op": "replace", "path": "/tags", "value": []},
    ]);
    let patched = patch(&service, ALICE, &path, V21, change).await.ok(200).body;
    assert_eq!((&patched["name"], &patched["tags"]), (&json!("Ubuntu"), &json!([])));
    assert_eq!((&patched["trait:STORAGE_DISK_SSD"], patched.get("os_distro")), (&json!("required"), None));
    assert_eq!(
        (&patched["updated_at"], &patched["size"]),
        (&json!("2026-11-18T11:06:41Z"), &json!(20_u64 << 30))
    );
    assert_eq!(service.get(ALICE, &path).await.body, patched);
    // Nothing to change is no change.
    service.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(patch(&service, ALICE, &path, V21, json!([])).await.ok(200).body, patched);
    let old = json!([{"replace": "/name", "value": "Fedora"}]);
    let media = format!("{V20}; charset=utf-8");
    assert_eq!(patch(&service, ALICE, &path, &media, old).await.ok(200).body["name"], "Fedora");
    // All of it or nothing.
    let half = json!([
        {"op": "replace", "path": "/name", "value": "half"}, {"op": "remove", "path": "/missing"},
    ]);
    patch(&service, ALICE, &path, V21, half).await.error(409);
    assert_eq!(service.get(ALICE, &path).await.body["name"], "Fedora");
}

#[tokio::test]
async fn a_patch_has_a_media_type() {
    let service = Service::new();
    let image = image("demo");
    service.store.put_image(image.clone());
    for media in [
        "application/json",
        "application/json-patch+json",
        "",
        "application/openstack-images-v2.2-json-patch",
    ] {
        let refused = patch(&service, ALICE, &path_of(&image), media, json!([])).await;
        assert!(refused.error(415).contains(V21));
        assert_eq!(refused.header("accept-patch"), format!("{V20}, {V21}"));
    }
}

#[tokio::test]
async fn what_a_patch_is_refused_for() {
    let service = Service::new();
    let [image, public] = [image("demo"), image("demo")];
    let public = Image { visibility: image_tasks_domain::Visibility::Public, ..public };
    service.store.put_image(image.clone());
    service.store.put_image(public.clone());
    let set =
        |name: &str, value: Value| json!([{"op": "replace", "path": format!("/{name}"), "value": value}]);
    let many: Vec<_> =
        (0..200).map(|n| json!({"op": "add", "path": format!("/p{n}"), "value": "x"})).collect();
    let tags: Vec<_> = (0..129).map(|n| format!("t{n}")).collect();
    for (token, image, body, status) in [
        (ALICE, &image, json!({}), 400),
        (ALICE, &image, json!([{"op": "move", "path": "/a"}]), 400),
        (ALICE, &image, set("min_disk", json!("x")), 400),
        (ALICE, &image, set("a/b", json!("x")), 400),
        (ALICE, &image, set("status", json!("active")), 403),
        (ALICE, &image, set("os_glance_foo", json!("bar")), 403),
        (ALICE, &image, set("disk_format", json!("raw")), 403),
        (ALICE, &image, set("owner", json!("other")), 403),
        (ALICE, &image, set("visibility", json!("public")), 403),
        (ALICE, &image, set("missing", json!("x")), 409),
        (ALICE, &image, Value::Array(many), 413),
        (ALICE, &image, set("tags", json!(tags)), 413),
        (READER, &image, set("name", json!("x")), 403),
        (BOB, &image, set("name", json!("x")), 404),
        (BOB, &public, set("name", json!("x")), 403),
        (ADMIN, &image, set("visibility", json!("public")), 200),
        // What is public stays so with who may change it.
        (ALICE, &public, set("visibility", json!("public")), 200),
        (ALICE, &public, set("visibility", json!("private")), 200),
        (ADMIN, &image, set("owner", json!("other")), 200),
    ] {
        let answer = patch(&service, token, &path_of(image), V21, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{token} {body}: {answer:?}");
    }
    patch(&service, ALICE, "/v2/images/0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b", V21, json!([]))
        .await
        .error(404);
}

#[tokio::test]
async fn deleting_removes_record_and_bytes() {
    let service = Service::new();
    let image = image("demo");
    service.store.put_image(image.clone());
    let path = path_of(&image);
    for (token, status) in [(BOB, 404), (READER, 403), (ALICE, 204), (ALICE, 404)] {
        assert_eq!(delete(&service, token, &path).await.status.as_u16(), status, "{token}");
    }
    assert_eq!(service.store.removed_bytes(), [image.stored.unwrap().key]);
    for gone in [path.clone(), format!("{path}/file")] {
        service.get(ADMIN, &gone).await.error(404);
    }
    assert_eq!(service.get(ALICE, "/v2/images").await.body["images"], json!([]));
}

#[tokio::test]
async fn what_is_not_deleted() {
    let service = Service::new();
    let protected = Image { protected: true, ..image("demo") };
    let public = Image { visibility: image_tasks_domain::Visibility::Public, ..image("demo") };
    let importing = importing("demo");
    for (image, token, status, words) in [
        (&protected, ALICE, 403, "is protected"),
        (&protected, ADMIN, 403, "is protected"),
        (&public, BOB, 403, "belongs to another project"),
        (&importing, ALICE, 409, "is being made by a task"),
    ] {
        service.store.put_image(image.clone());
        assert!(delete(&service, token, &path_of(image)).await.error(status).contains(words));
        service.get(ALICE, &path_of(image)).await.ok(200);
    }
    let unprotect = json!([{"op": "replace", "path": "/protected", "value": false}]);
    patch(&service, ALICE, &path_of(&protected), V21, unprotect).await.ok(200);
    delete(&service, ALICE, &path_of(&protected)).await.ok(204);
}

#[tokio::test]
async fn a_delete_that_could_not_remove_the_bytes_is_ended_by_the_next() {
    let service = Service::new();
    let image = image("demo");
    service.store.put_image(image.clone());
    let path = path_of(&image);
    service.store.set_unremovable(true);
    delete(&service, ALICE, &path).await.error(503);
    assert_eq!(service.get(ALICE, &path).await.ok(200).body["status"], "pending_delete");
    service.get(ALICE, &format!("{path}/file")).await.ok(204);
    let rename = json!([{"op": "replace", "path": "/name", "value": "x"}]);
    patch(&service, ALICE, &path, V21, rename).await.error(409);
    service.store.set_unremovable(false);
    delete(&service, ALICE, &path).await.ok(204);
    service.get(ALICE, &path).await.error(404);
    assert_eq!(service.store.removed_bytes().len(), 1);
}

#[tokio::test]
async fn a_deactivated_image_is_downloaded_by_admins_alone() {
    let service = Service::new();
    let image = Image { status: ImageStatus::Deactivated, ..image("demo") };
    service.store.put_image(image.clone());
    let path = format!("{}/file", path_of(&image));
    for (token, status) in [(ALICE, 403), (READER, 403), (BOB, 404), (ADMIN, 302)] {
        assert_eq!(service.get(token, &path).await.status.as_u16(), status, "{token}");
    }
}
