//! Members, tags and actions of images.

use http::Method;
use image_tasks_domain::{Image, ImageStatus, Visibility};
use serde_json::{Value, json};

use crate::images::{image, importing};
use crate::service::{ADMIN, ALICE, Answer, BOB, Service};

const READER: &str = "carol:demo:reader";
const BOBS_READER: &str = "dave:other:reader";
const THIRD: &str = "eve:third";

async fn send(service: &Service, method: Method, token: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    service.send(method, path, &[("x-auth-token", token)], body).await
}

/// A service with an image of demo's, and its path.
fn with(image: Image) -> (Service, String) {
    let service = Service::new();
    service.store.put_image(image.clone());
    let path = format!("/v2/images/{}", image.id);
    (service, path)
}

async fn lists(service: &Service, token: &str) -> bool {
    !service.get(token, "/v2/images").await.ok(200).body["images"].as_array().unwrap().is_empty()
}

#[tokio::test]
async fn an_image_is_shared_accepted_and_taken_back() {
    let (service, path) = with(image("demo"));
    let members = format!("{path}/members");
    let bobs = format!("{members}/other");
    service.get(BOB, &path).await.error(404);
    let shared = send(&service, Method::POST, ALICE, &members, json!({"member": "other"})).await.ok(200).body;
    let id = path.rsplit('/').next().unwrap();
    assert_eq!(
        shared,
        json!({
            "member_id": "other", "image_id": id, "status": "pending", "created_at": "2026-11-18T11:06:40Z",
            "updated_at": "2026-11-18T11:06:40Z", "schema": "/v2/schemas/member",
        })
    );
    // Pending: seen by its id, not in lists.
    service.get(BOB, &path).await.ok(200);
    service.get(BOB, &format!("{path}/file")).await.ok(302);
    assert!(!lists(&service, BOB).await);
    service.clock.advance(std::time::Duration::from_secs(2));
    let accepted = send(&service, Method::PUT, BOB, &bobs, json!({"status": "accepted"})).await.ok(200).body;
    assert_eq!(
        (&accepted["status"], &accepted["updated_at"]),
        (&json!("accepted"), &json!("2026-11-18T11:06:42Z"))
    );
    assert!(lists(&service, BOB).await);
    assert_eq!(service.get(ALICE, &bobs).await.ok(200).body, accepted);
    assert_eq!(service.get(BOB, &bobs).await.ok(200).body, accepted);
    let list = json!({"members": [accepted], "schema": "/v2/schemas/members"});
    assert_eq!(service.get(ALICE, &members).await.ok(200).body, list);
    // Sharing makes no image younger.
    assert_eq!(service.get(ALICE, &path).await.body["updated_at"], "2026-11-18T11:06:40Z");
    send(&service, Method::PUT, BOB, &bobs, json!({"status": "rejected"})).await.ok(200);
    assert!(!lists(&service, BOB).await);
    service.get(BOB, &path).await.ok(200);
    send(&service, Method::DELETE, ALICE, &bobs, Value::Null).await.ok(204);
    service.get(BOB, &path).await.error(404);
    service.get(ALICE, &bobs).await.error(404);
    assert_eq!(service.get(ALICE, &members).await.ok(200).body["members"], json!([]));
}

#[tokio::test]
async fn who_may_say_what_of_a_share() {
    let (service, path) = with(image("demo"));
    let members = format!("{path}/members");
    let add = |project: &str| json!({"member": project});
    for (token, project, status) in [
        (READER, "other", 403),
        (BOB, "other", 404),
        (ALICE, "other", 200),
        (ALICE, "other", 409),
        (BOB, "third", 403),
        (ADMIN, "third", 200),
    ] {
        let answer = send(&service, Method::POST, token, &members, add(project)).await;
        assert_eq!(answer.status.as_u16(), status, "{token} {project}: {answer:?}");
    }
    for (token, project, status) in [
        (ALICE, "other", 403),
        (BOBS_READER, "other", 403),
        (THIRD, "other", 404),
        (BOB, "other", 200),
        (ADMIN, "third", 200),
        (ADMIN, "nobody", 404),
        ("x:unknown", "other", 404),
    ] {
        let answer = send(
            &service,
            Method::PUT,
            token,
            &format!("{members}/{project}"),
            json!({"status": "accepted"}),
        )
        .await;
        assert_eq!(answer.status.as_u16(), status, "{token} {project}: {answer:?}");
    }
    // A member knows of itself, the owner of all.
    for (token, known) in [(ALICE, 2), (READER, 2), (ADMIN, 2), (BOB, 1), (BOBS_READER, 1)] {
        let list = service.get(token, &members).await.ok(200).body;
        assert_eq!(list["members"].as_array().unwrap().len(), known, "{token}");
    }
    service.get(BOB, &format!("{members}/third")).await.error(404);
    for (token, project, status) in [
        (BOB, "other", 403),
        (READER, "other", 403),
        (ALICE, "nobody", 404),
        (ALICE, "other", 204),
        (ADMIN, "third", 204),
    ] {
        let answer =
            send(&service, Method::DELETE, token, &format!("{members}/{project}"), Value::Null).await;
        assert_eq!(answer.status.as_u16(), status, "{token} {project}: {answer:?}");
    }
}

#[tokio::test]
async fn only_a_shared_image_has_members() {
    for visibility in [Visibility::Public, Visibility::Community, Visibility::Private] {
        let (service, path) = with(Image { visibility, ..image("demo") });
        let members = format!("{path}/members");
        let one = format!("{members}/other");
        for token in [ALICE, ADMIN] {
            service.get(token, &members).await.error(403);
            service.get(token, &one).await.error(404);
            send(&service, Method::POST, token, &members, json!({"member": "other"})).await.error(403);
            send(&service, Method::PUT, token, &one, json!({"status": "accepted"})).await.error(403);
            send(&service, Method::DELETE, token, &one, Value::Null).await.error(403);
        }
    }
}

#[tokio::test]
async fn bad_shares_are_refused() {
    let (service, path) = with(image("demo"));
    let members = format!("{path}/members");
    for body in [
        Value::Null,
        json!([]),
        json!({}),
        json!({"members": "other"}),
        json!({"member": 5}),
        json!({"member": ""}),
        json!({"member": "x".repeat(256)}),
    ] {
        send(&service, Method::POST, ALICE, &members, body).await.error(400);
    }
    send(&service, Method::POST, ALICE, &members, json!({"member": "other"})).await.ok(200);
    for body in [json!({}), json!({"status": "maybe"}), json!({"status": null}), json!("accepted")] {
        send(&service, Method::PUT, BOB, &format!("{members}/other"), body).await.error(400);
    }
    for n in 0..127 {
        send(&service, Method::POST, ALICE, &members, json!({"member": format!("p{n}")})).await.ok(200);
    }
    send(&service, Method::POST, ALICE, &members, json!({"member": "one-more"})).await.error(413);
    // A project's id may hold what a path has to escape.
    let (service, path) = with(image("demo"));
    send(&service, Method::POST, ALICE, &format!("{path}/members"), json!({"member": "a b/c"})).await.ok(200);
    let one = service.get(ALICE, &format!("{path}/members/a%20b%2Fc")).await.ok(200).body;
    assert_eq!(one["member_id"], "a b/c");
}

#[tokio::test]
async fn tags() {
    let (service, path) = with(image("demo"));
    let of = async |service: &Service| service.get(ALICE, &path).await.ok(200).body["tags"].clone();
    let tag = |tag: &str| format!("{path}/tags/{tag}");
    for name in ["b", "a%20b", "b"] {
        send(&service, Method::PUT, ALICE, &tag(name), Value::Null).await.ok(204);
    }
    assert_eq!(of(&service).await, json!(["a b", "b", "lts"]));
    send(&service, Method::DELETE, ALICE, &tag("a%20b"), Value::Null).await.ok(204);
    send(&service, Method::DELETE, ALICE, &tag("a%20b"), Value::Null).await.error(404);
    assert_eq!(of(&service).await, json!(["b", "lts"]));
    for (token, status) in [(READER, 403), (BOB, 404), (ADMIN, 204)] {
        let answer = send(&service, Method::PUT, token, &tag("c"), Value::Null).await;
        assert_eq!(answer.status.as_u16(), status, "{token}");
    }
    send(&service, Method::PUT, ALICE, &tag(&"x".repeat(256)), Value::Null).await.error(400);
    for n in 0..125 {
        send(&service, Method::PUT, ALICE, &tag(&format!("t{n}")), Value::Null).await.ok(204);
    }
    send(&service, Method::PUT, ALICE, &tag("one-more"), Value::Null).await.error(413);
}

#[tokio::test]
async fn an_image_is_deactivated_and_reactivated() {
    let (service, path) = with(image("demo"));
    let action = |name: &str| format!("{path}/actions/{name}");
    let status = async |service: &Service| service.get(ALICE, &path).await.ok(200).body["status"].clone();
    for (token, refused) in [(BOB, 404), (READER, 403)] {
        send(&service, Method::POST, token, &action("deactivate"), Value::Null).await.error(refused);
    }
    for _ in 0..2 {
        send(&service, Method::POST, ALICE, &action("deactivate"), Value::Null).await.ok(204);
        assert_eq!(status(&service).await, "deactivated");
    }
    service.get(ALICE, &format!("{path}/file")).await.error(403);
    for _ in 0..2 {
        send(&service, Method::POST, ALICE, &action("reactivate"), Value::Null).await.ok(204);
        assert_eq!(status(&service).await, "active");
    }
    service.get(ALICE, &format!("{path}/file")).await.ok(302);
    for status in [ImageStatus::Queued, ImageStatus::Importing] {
        let (service, path) = with(Image { status, ..importing("demo") });
        for name in ["deactivate", "reactivate"] {
            let refused =
                send(&service, Method::POST, ALICE, &format!("{path}/actions/{name}"), Value::Null).await;
            assert!(refused.error(403).contains(status.name()));
        }
    }
}
