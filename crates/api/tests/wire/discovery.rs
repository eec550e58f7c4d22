//! Versions, schemas, and paths that lead nowhere.

use http::Method;
use image_tasks_domain::regions::Regions;
use serde_json::json;

use crate::service::{ALICE, Service};

#[tokio::test]
async fn versions_are_told_to_anybody() {
    let service = Service::new();
    let document = json!({"versions": [{
        "id": "v2.17", "status": "CURRENT", "links": [{"rel": "self", "href": "https://images.example/v2/"}],
    }]});
    for (path, status) in [
        ("/", 300),
        ("/versions", 200),
        ("/versions/", 200),
        ("/v1", 300),
        ("/v1/images", 300),
        ("/v3", 300),
        ("/v2.18/images", 300),
        ("/v2", 300),
        ("/v2/", 300),
    ] {
        let answer = service.send(Method::GET, path, &[], "").await.ok(status);
        assert_eq!(answer.body, document, "{path}");
    }
}

#[tokio::test]
async fn a_minor_version_in_the_path_is_the_same_api() {
    let service = Service::new();
    for version in ["v2", "v2.0", "v2.17"] {
        service.get(ALICE, &format!("/{version}/tasks")).await.ok(200);
    }
}

#[tokio::test]
async fn schemas_are_told_to_callers() {
    let service = Service::new();
    for name in ["task", "tasks", "image", "images"] {
        let path = format!("/v2/schemas/{name}");
        assert_eq!(service.get(ALICE, &path).await.ok(200).body["name"], name);
        assert_eq!(service.send(Method::GET, &path, &[], "").await.status.as_u16(), 401);
    }
    service.get(ALICE, "/v2/schemas/nonsense").await.error(404);
}

#[tokio::test]
async fn stores_are_the_regions() {
    let service = Service::new();
    let stores = json!({"stores": [
        {"id": "us-east-1", "description": "Region us-east-1, https://us-east-1.images.example", "default": true},
        {"id": "eu-west-1", "description": "Region eu-west-1, https://eu-west-1.images.example"},
    ]});
    assert_eq!(service.get(ALICE, "/v2/info/stores").await.ok(200).body, stores);
    assert_eq!(service.send(Method::GET, "/v2/info/stores", &[], "").await.status.as_u16(), 401);
    let refused = service.send(Method::POST, "/v2/info/stores", &[("x-auth-token", ALICE)], "{}").await;
    refused.error(405);
    assert_eq!(refused.header("allow"), "GET");

    let mut alone = Service::new();
    alone.app.tasks.regions = Regions::new("us-east-1", vec![]).unwrap();
    let stores = json!({"stores": [{"id": "us-east-1", "description": "Region us-east-1", "default": true}]});
    assert_eq!(alone.get(ALICE, "/v2/info/stores").await.ok(200).body, stores);
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let service = Service::new();
    for path in
        ["/nonsense", "/v2/nonsense", "/v2/tasks/a/b", "/v2/images/a/nonsense", "/v", "/vx", "/v2x/tasks"]
    {
        let missing = service.get(ALICE, path).await;
        assert!(missing.error(404).contains(path), "{path}");
        assert_eq!(service.send(Method::GET, path, &[], "").await.status.as_u16(), 401, "{path}");
    }
}
