//! What a project uses, and the tasks of an image.

use http::Method;
use image_tasks_domain::{Task, TaskId, TaskType, Timestamp};
use serde_json::{Value, json};
use std::time::Duration;

use crate::images::{image, importing, publication};
use crate::service::{ADMIN, ALICE, BOB, NOW, QUOTA, Service, TTL};

async fn create(service: &Service, token: &str, body: Value) -> crate::service::Answer {
    service.send(Method::POST, "/v2/images", &[("x-auth-token", token)], body.to_string()).await
}

#[tokio::test]
async fn a_quota_bounds_a_projects_images() {
    let service = Service::new();
    let usage = async |token: &str| service.get(token, "/v2/info/usage").await.ok(200).body;
    let of = |images: usize, importing: usize, mebibytes: u64| {
        json!({"usage": {
            "image_count_total": {"limit": QUOTA, "usage": images},
            "image_count_uploading": {"limit": -1, "usage": importing},
            "image_size_total": {"limit": -1, "usage": mebibytes},
            "image_stage_total": {"limit": -1, "usage": 0},
        }})
    };
    assert_eq!(usage(ALICE).await, of(0, 0, 0));
    service.store.put_image(image("demo"));
    service.store.put_image(importing("demo"));
    service.store.put_image(image("other"));
    assert_eq!(usage(ALICE).await, of(2, 1, 20 << 10));
    assert_eq!(usage("carol:demo:reader").await, of(2, 1, 20 << 10));
    for _ in 2..QUOTA {
        create(&service, ALICE, json!({})).await.ok(201);
    }
    assert_eq!(usage(ALICE).await, of(QUOTA, 1, 20 << 10));
    let clone = json!({"type": "clone", "input": {
        "source_region": "eu-west-1", "image_uuid": "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b",
    }});
    let told = format!("Project demo has {QUOTA} images, which is its quota");
    assert!(create(&service, ALICE, json!({})).await.error(413).starts_with(&told));
    assert!(create(&service, ADMIN, json!({"owner": "demo"})).await.error(413).starts_with(&told));
    assert!(service.post(ALICE, &crate::service::import()).await.error(413).starts_with(&told));
    assert!(service.post(ALICE, &clone).await.error(413).starts_with(&told));
    // An export makes no image; another project has a quota of its own.
    let export = json!({"type": "export", "input": {
        "image_uuid": "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b", "receiving_bucket": "exports",
    }});
    service.post(ALICE, &export).await.ok(201);
    create(&service, BOB, json!({})).await.ok(201);
    // One less, one more.
    let one = service.get(ALICE, "/v2/images?status=queued&limit=1").await.body["images"][0]["self"].clone();
    service.send(Method::DELETE, one.as_str().unwrap(), &[("x-auth-token", ALICE)], "").await.ok(204);
    service.post(ALICE, &crate::service::import()).await.ok(201);
}

#[tokio::test]
async fn an_image_knows_its_tasks() {
    let service = Service::new();
    let image = importing("demo");
    let path = format!("/v2/images/{}/tasks", image.id);
    let id: TaskId = service.import(ALICE).await.parse().unwrap();
    service.get(ALICE, &path).await.error(404);
    let life = &service.app.tasks.life;
    let at = |seconds| Timestamp::from_epoch(NOW + seconds);
    life.begin(id, &image, at(1)).await.unwrap();
    let shown = service.get(ALICE, &path).await.ok(200).body;
    assert_eq!(shown, json!({"tasks": [service.get(ALICE, &format!("/v2/tasks/{id}")).await.body]}));
    life.publish(id, &publication(image.id), &json!({}), TTL, at(2)).await.unwrap();
    // Others that work on it, the newest first; another project's is its own affair.
    let export = |owner: &str, seconds| Task {
        image_id: Some(image.id),
        ..Task::pending(TaskType::Export, owner, json!({}), at(seconds))
    };
    let [own, others] = [export("demo", 5), export("other", 6)];
    service.store.put_task(own.clone());
    service.store.put_task(others.clone());
    let ids = async |token: &str| {
        let list = service.get(token, &path).await.ok(200).body;
        list["tasks"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(ALICE).await, [json!(own.id), json!(id)]);
    assert_eq!(ids(ADMIN).await, [json!(others.id), json!(own.id), json!(id)]);
    assert_eq!(service.get(BOB, &path).await.status.as_u16(), 404);
    // A task that has expired is gone here too.
    service.clock.advance(TTL + Duration::from_secs(3));
    assert_eq!(ids(ALICE).await, [json!(own.id)]);
}
