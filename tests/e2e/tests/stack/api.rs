//! The HTTP contract through API Gateway: what only the wire can show. The
//! tables of every rule are in `crates/api`.

use image_tasks_e2e::Tenant;
use image_tasks_local::{Content, Source, SourceServer};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[tokio::test]
async fn a_task_is_accepted_found_listed_and_nobody_elses() {
    let tenant = Tenant::new("wire");
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source::new(Content::Pattern { seed: 7, length: 1000 }));
    let body = json!({"type": "import", "input": {"import_from": url, "import_from_format": "raw"}});
    let accepted = tenant.post_task(&body).await;
    assert_eq!(accepted.status, StatusCode::CREATED, "{}", accepted.body);
    let id = accepted.body["id"].as_str().unwrap();
    assert_eq!(accepted.location, Some(format!("{}/v2/tasks/{id}", tenant.stack.endpoint())));
    tenant.ended(&accepted.body).await;

    let listed = tenant.get("/v2/tasks?limit=1&type=import&status=success").await;
    assert_eq!((listed.status, &listed.body["tasks"][0]["id"]), (StatusCode::OK, &json!(id)));
    let foreign = tenant.with_token("eve:elsewhere").get(&format!("/v2/tasks/{id}")).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    let admin = tenant.with_token("root:ops:admin").get(&format!("/v2/tasks/{id}")).await;
    assert_eq!(admin.status, StatusCode::OK);
}

#[tokio::test]
async fn refusals_keep_their_status_and_sentence_on_the_way() {
    let tenant = Tenant::new("refusals");
    let none = tenant.with_token("").get("/v2/tasks").await;
    assert_eq!(
        (none.status, &none.body["error"]["title"]),
        (StatusCode::UNAUTHORIZED, &json!("Unauthorized"))
    );
    let cases = [
        (json!({"type": "import"}), "input"),
        (json!({"type": "resize", "input": {}}), "type"),
        (json!({"type": "import", "input": {"import_from": 7}}), "import_from"),
        (json!({"type": "import", "input": {"import_from": "file:///etc/passwd"}}), "import_from"),
    ];
    for (body, names) in cases {
        let refused = tenant.post_task(&body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
        assert_eq!(refused.body["error"]["code"], "400 Bad Request");
        assert!(refused.body["error"]["message"].as_str().unwrap().contains(names), "{}", refused.body);
    }
    for path in ["/v2", "/v2/"] {
        let versions = tenant.with_token("").get(path).await;
        assert_eq!(versions.status, StatusCode::MULTIPLE_CHOICES);
        assert_eq!(versions.body["versions"][0]["status"], "CURRENT");
    }
    let allowed =
        tenant.request(Method::DELETE, "/v2/tasks/0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b", None).await;
    assert_eq!(allowed.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(allowed.headers()["allow"], "GET");
    assert!(allowed.headers()["x-openstack-request-id"].to_str().unwrap().starts_with("req-"));
}

#[tokio::test]
async fn the_same_key_is_the_same_task() {
    let tenant = Tenant::new("again");
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source::new(Content::Pattern { seed: 8, length: 10 }));
    let body = json!({"type": "import", "input": {"import_from": url, "import_from_format": "raw"}});
    let first = tenant.post_task_with_key(&body, "key-1").await;
    let second = tenant.post_task_with_key(&body, "key-1").await;
    assert_eq!(first.body["id"], second.body["id"]);
    let other = json!({"type": "import", "input": {"import_from": url}});
    assert_eq!(tenant.post_task_with_key(&other, "key-1").await.status, StatusCode::CONFLICT);
    tenant.ended(&first.body).await;
}
