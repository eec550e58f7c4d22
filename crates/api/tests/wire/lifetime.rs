//! `GET /v2/tasks/{id}`: what a poller sees from the first to the last.

use std::time::Duration;

use image_tasks_domain::{Failure, FailureCode, Report, Step, TaskId, Timestamp};
use serde_json::json;

use crate::service::{ADMIN, ALICE, BOB, NOW, Service, TTL};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(NOW + seconds)
}

#[tokio::test]
async fn what_is_not_the_callers_is_not_there() {
    let service = Service::new();
    let id = service.import(ALICE).await;
    let path = format!("/v2/tasks/{id}");
    service.get(ALICE, &path).await.ok(200);
    service.get("carol:demo:reader", &path).await.ok(200);
    service.get(ADMIN, &path).await.ok(200);
    assert_eq!(service.get(BOB, &path).await.error(404), format!("Could not find task {id}"));
    for odd in ["nonsense", "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b", &id.to_uppercase(), &id.replace('-', "")]
    {
        let missing = service.get(ADMIN, &format!("/v2/tasks/{odd}")).await;
        assert_eq!(missing.error(404), format!("Could not find task {odd}"));
    }
    assert_eq!(service.send(http::Method::GET, &path, &[], "").await.status.as_u16(), 401);
}

#[tokio::test]
async fn from_pending_to_success_to_expiry() {
    let service = Service::new();
    let mut body = crate::service::import();
    body["input"]["importFrom"] = json!("x");
    let made = service.post(ALICE, &body).await.ok(201);
    let path = made.body["self"].as_str().unwrap();
    let id: TaskId = made.body["id"].as_str().unwrap().parse().unwrap();
    let tasks = &service.app.tasks;
    let remark = made.body["message"].as_str().unwrap();
    assert!(remark.contains("importFrom"));

    let image = crate::images::importing("demo");
    tasks.life.begin(id, &image, at(1)).await.unwrap();
    let seen = service.get(ALICE, path).await.ok(200).body;
    assert_eq!((&seen["status"], &seen["progress"]), (&json!("processing"), &json!(0)));
    assert_eq!((&seen["image_id"], &seen["message"]), (&json!(image.id), &json!(remark)));

    let gib = 1 << 30;
    let told = Report::default().with_total(Step::Copied, 4 * gib).with_total(Step::Hashed, 4 * gib);
    tasks.progress.tell(id, &told, at(5)).await.unwrap();
    let mut last = 0;
    for (step, words) in [
        (Step::Copied, "copied 2.0 GiB of 4.0 GiB, 25%"),
        (Step::Copied, "copied 4.0 GiB of 4.0 GiB, 50%"),
        (Step::Hashed, "hashed 2.0 GiB of 4.0 GiB, 74%"),
    ] {
        tasks.progress.tell(id, &Report::default().with_done(step, 2 * gib), at(5)).await.unwrap();
        let seen = service.get(ALICE, path).await.ok(200).body;
        assert_eq!(seen["message"], words);
        assert!(seen["progress"].as_u64().unwrap() > last);
        last = seen["progress"].as_u64().unwrap();
    }

    let publication = crate::images::publication(image.id);
    tasks.life.publish(id, &publication, &json!({"image_id": image.id}), TTL, at(60)).await.unwrap();
    let seen = service.get(ALICE, path).await.ok(200).body;
    assert_eq!((&seen["status"], &seen["progress"]), (&json!("success"), &json!(100)));
    assert_eq!((&seen["result"], &seen["message"]), (&json!({"image_id": image.id}), &json!(remark)));
    assert_eq!(seen["expires_at"], "2026-11-20T11:07:40Z");
    assert_eq!(seen["updated_at"], "2026-11-18T11:07:40Z");

    // The store still holds it; readers don't see it, and what it made outlives it.
    service.clock.advance(TTL + Duration::from_secs(59));
    service.get(ALICE, path).await.ok(200);
    let listed = service.get(ALICE, "/v2/tasks").await.ok(200).body;
    assert_eq!(listed["tasks"][0]["expires_at"], "2026-11-20T11:07:40Z");
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(service.get(ALICE, path).await.error(404), format!("Could not find task {id}"));
    assert_eq!(service.get(ADMIN, path).await.error(404), format!("Could not find task {id}"));
    assert_eq!(service.get(ALICE, "/v2/tasks").await.ok(200).body["tasks"], json!([]));
    assert!(service.get(ALICE, &format!("/v2/tasks?marker={id}")).await.error(400).starts_with("marker: "));
    service.get(ALICE, &format!("/v2/images/{}", image.id)).await.ok(200);
}

#[tokio::test]
async fn a_failure_says_why() {
    let service = Service::new();
    let id = service.import(ALICE).await;
    let failure = Failure::new(FailureCode::SourceNotFound, "https://example.com/a.qcow2 answered 404");
    service.app.tasks.life.fail(id.parse().unwrap(), &failure, TTL, at(5)).await.unwrap();
    let seen = service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body;
    assert_eq!(seen["status"], "failure");
    assert_eq!(seen["message"], "SourceNotFound: https://example.com/a.qcow2 answered 404");
    assert_eq!((&seen["result"], &seen["expires_at"]), (&json!(null), &json!("2026-11-20T11:06:45Z")));
    assert_eq!(seen.get("image_id"), None);
}

#[tokio::test]
async fn an_expired_task_is_not_made_again_by_its_key() {
    let mut service = Service::new();
    service.app.tasks.ttl = Duration::from_secs(3600);
    service.executions.set_refusing(true);
    let headers = [("x-auth-token", ALICE), ("idempotency-key", "k")];
    let body = crate::service::import().to_string();
    service.send(http::Method::POST, "/v2/tasks", &headers, body.clone()).await.ok(201);
    service.clock.advance(Duration::from_secs(3600));
    let refused = service.send(http::Method::POST, "/v2/tasks", &headers, body).await;
    assert!(refused.error(409).contains("has expired"));
}
