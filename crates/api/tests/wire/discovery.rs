//! Versions, schemas, and paths that lead nowhere.

use bytes::Bytes;
use http::{Method, Request};
use image_tasks_api::RequestId;
use image_tasks_domain::regions::Regions;
use serde_json::json;

use crate::service::{ADMIN, ALICE, Service};

#[tokio::test]
async fn versions_are_told_to_anybody() {
    let service = Service::new();
    let versions: Vec<_> = (0..=17)
        .rev()
        .map(|minor| {
            let own = json!({"rel": "self", "href": "https://images.example/v2/"});
            let described = json!({"rel": "service-desc", "href": "https://images.example/v2/openapi.json"});
            let (status, links) =
                if minor == 17 { ("CURRENT", json!([own, described])) } else { ("SUPPORTED", json!([own])) };
            json!({"id": format!("v2.{minor}"), "status": status, "links": links})
        })
        .collect();
    let document = json!({"versions": versions});
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
    for (path, name) in [
        ("task", "task"),
        ("tasks", "tasks"),
        ("image", "image"),
        ("images", "images"),
        ("member", "member"),
        ("members", "members"),
        ("metadefs/namespace", "namespace"),
        ("metadefs/namespaces", "namespaces"),
        ("metadefs/resource_type", "resource_type_association"),
        ("metadefs/resource_types", "resource_type_associations"),
        ("metadefs/property", "property"),
        ("metadefs/properties", "properties"),
        ("metadefs/object", "object"),
        ("metadefs/objects", "objects"),
        ("metadefs/tag", "tag"),
        ("metadefs/tags", "tags"),
    ] {
        let path = format!("/v2/schemas/{path}");
        let schema = service.get(ALICE, &path).await.ok(200).body;
        assert_eq!(schema["name"], name);
        assert!(schema["properties"].as_object().is_some_and(|members| !members.is_empty()), "{path}");
        assert_eq!(service.send(Method::GET, &path, &[], "").await.status.as_u16(), 401);
    }
    for nothing in ["nonsense", "metadefs", "metadefs/nonsense", "task/", "metadefs/tag/x"] {
        service.get(ALICE, &format!("/v2/schemas/{nothing}")).await.error(404);
    }
}

#[tokio::test]
async fn a_list_of_tasks_declares_what_it_shows() {
    let service = Service::new();
    service.import(ALICE).await;
    let list = service.get(ALICE, "/v2/tasks").await.ok(200).body;
    let schema = service.get(ALICE, "/v2/schemas/tasks").await.ok(200).body;
    let declared = schema["properties"]["tasks"]["items"]["properties"].as_object().unwrap();
    for shown in list["tasks"][0].as_object().unwrap().keys() {
        assert!(declared.contains_key(shown), "{shown}");
    }
    for left_out in ["input", "result", "message", "progress"] {
        assert!(!declared.contains_key(left_out), "{left_out}");
        let alone = service.get(ALICE, "/v2/schemas/task").await.body;
        assert!(alone["properties"].get(left_out).is_some(), "{left_out}");
    }
}

#[tokio::test]
async fn the_api_is_described_to_anybody() {
    let service = Service::new();
    for path in ["/v2/openapi.json", "/v2.17/openapi.json"] {
        let document = service.send(Method::GET, path, &[], "").await.ok(200).body;
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["servers"], json!([{"url": "https://images.example"}]));
    }
    let refused = service.send(Method::POST, "/v2/openapi.json", &[], "{}").await;
    refused.error(405);
    assert_eq!(refused.header("allow"), "GET");
}

#[tokio::test]
async fn health_is_told_to_anybody() {
    let service = Service::new();
    assert_eq!(service.send(Method::GET, "/healthcheck", &[], "").await.ok(200).body, "OK");
    let refused = service.send(Method::POST, "/healthcheck", &[], "").await;
    refused.error(405);
    assert_eq!(refused.header("allow"), "GET");
}

#[tokio::test]
async fn a_slash_at_the_end_leads_nowhere() {
    let service = Service::new();
    for path in
        ["/v2/images/", "/v2/tasks/", "/v2/images//file", "/v2//images", "/v2/info/stores/", "/healthcheck/"]
    {
        for method in [Method::GET, Method::DELETE, Method::POST, Method::PATCH] {
            let headers = [("x-auth-token", ALICE)];
            service.send(method, path, &headers, "").await.error(404);
        }
    }
}

#[tokio::test]
async fn what_is_not_offered_is_told_with_what_is() {
    let service = Service::new();
    let task = format!("/v2/tasks/{}", service.import(ALICE).await);
    for (method, path, allow, words) in [
        (Method::OPTIONS, "/v2/tasks", "GET, POST", "allowed is GET, POST"),
        (Method::OPTIONS, "/", "GET", "allowed is GET"),
        (Method::DELETE, "/v2/tasks", "GET, POST", "DELETE is not allowed"),
        (Method::DELETE, task.as_str(), "GET", "expires_at"),
        (Method::DELETE, task.as_str(), "GET", "/cancel"),
        (Method::PUT, "/v2/info/import", "GET", "PUT is not allowed"),
    ] {
        let refused = service.send(method, path, &[("x-auth-token", ALICE)], "").await;
        assert!(refused.error(405).contains(words), "{path}: {refused:?}");
        assert_eq!(refused.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn the_methods_of_imports_into_an_image() {
    let service = Service::new();
    let told = service.get(ALICE, "/v2/info/import").await.ok(200).body;
    assert_eq!(
        (&told["import-methods"]["type"], &told["import-methods"]["value"]),
        (&json!("array"), &json!(["glance-direct", "web-download", "glance-download"]))
    );
}

#[tokio::test]
async fn the_store_is_this_region() {
    let service = Service::new();
    let stores =
        json!({"stores": [{"id": "us-east-1", "description": "Region us-east-1", "default": "true"}]});
    assert_eq!(service.get(ALICE, "/v2/info/stores").await.ok(200).body, stores);
    service.get(ALICE, "/v2/info/stores/detail").await.error(403);
    let detail = service.get(ADMIN, "/v2/info/stores/detail").await.ok(200).body;
    assert_eq!(
        (&detail["stores"][0]["id"], &detail["stores"][0]["type"]),
        (&json!("us-east-1"), &json!("s3"))
    );
    assert_eq!(service.send(Method::GET, "/v2/info/stores", &[], "").await.status.as_u16(), 401);
    let refused = service.send(Method::POST, "/v2/info/stores", &[("x-auth-token", ALICE)], "{}").await;
    refused.error(405);
    assert_eq!(refused.header("allow"), "GET");
}

#[tokio::test]
async fn regions_are_told_with_their_endpoints() {
    let mut service = Service::new();
    let region = |id, endpoint, here| json!({"id": id, "endpoint": endpoint, "here": here});
    let listed = json!({"regions": [
        region("us-east-1", json!("https://us-east-1.images.example"), true),
        region("eu-west-1", json!("https://eu-west-1.images.example"), false),
    ]});
    assert_eq!(service.get(ALICE, "/v2/info/regions").await.ok(200).body, listed);
    service.app.tasks.regions = Regions::new("us-east-1", vec![]).unwrap();
    let alone = json!({"regions": [region("us-east-1", json!(null), true)]});
    assert_eq!(service.get(ALICE, "/v2/info/regions").await.ok(200).body, alone);
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

#[tokio::test]
async fn a_request_that_has_an_id_keeps_it() {
    let service = Service::new();
    let id = "7f6a2bd0-3c3e-4a1f-9a57-0d6b3f0e8f11";
    let request = Request::get("/versions").extension(RequestId::parse(id).unwrap());
    let answer = service.request(request.body(Bytes::new()).unwrap()).await;
    assert_eq!(answer.header("x-openstack-request-id"), format!("req-{id}"));
    assert_ne!(service.get(ALICE, "/versions").await.header("x-openstack-request-id"), format!("req-{id}"));
}
