//! Tasks end by expiry, at once for readers, later for the table.

use aws_sdk_dynamodb::types::{AttributeValue, TimeToLiveStatus};
use image_tasks_e2e::Tenant;
use image_tasks_local::{Content, Source, SourceServer};
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn the_deployed_table_deletes_what_has_expired() {
    let tenant = Tenant::new("ttl");
    let table = tenant.stack.tasks_table();
    let ttl = tenant.stack.dynamodb().describe_time_to_live().table_name(table).send().await.unwrap();
    let ttl = ttl.time_to_live_description().unwrap();
    assert_eq!(ttl.time_to_live_status(), Some(&TimeToLiveStatus::Enabled));
    assert_eq!(ttl.attribute_name(), Some("expires_at_epoch"));
}

#[tokio::test]
async fn past_its_time_a_task_is_gone_and_its_image_is_not() {
    let tenant = Tenant::new("expiry");
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source::new(Content::Pattern { seed: 5, length: 4096 }));
    let (task, image) = tenant.imported(json!({"import_from": url, "import_from_format": "raw"})).await;
    let id = task["id"].as_str().unwrap();
    let listed = tenant.get("/v2/tasks").await.body;
    assert!(listed["tasks"].as_array().unwrap().iter().any(|t| t["id"] == id), "{listed}");

    let updated_at = task["updated_at"].as_str().unwrap();
    let expires_at = task["expires_at"].as_str().unwrap();
    assert_eq!(updated_at[10..], expires_at[10..], "whole days later: {updated_at} {expires_at}");
    // One second after the end instead of 48 hours.
    let item = tenant
        .stack
        .dynamodb()
        .get_item()
        .table_name(tenant.stack.tasks_table())
        .key("id", AttributeValue::S(id.to_owned()));
    let stored = item.send().await.unwrap().item.unwrap();
    assert!(!stored.contains_key("expires_at_epoch"), "it is to be cleaned up once more: {stored:?}");
    let end = stored["expires_at"].as_n().unwrap().parse::<u64>().unwrap() - 48 * 3600;
    tenant
        .stack
        .dynamodb()
        .update_item()
        .table_name(tenant.stack.tasks_table())
        .key("id", AttributeValue::S(id.to_owned()))
        .update_expression("SET expires_at = :at")
        .expression_attribute_values(":at", AttributeValue::N(end.to_string()))
        .send()
        .await
        .unwrap();

    let gone = tenant.get(&format!("/v2/tasks/{id}")).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND, "{}", gone.body);
    assert_eq!(gone.body["error"]["message"], format!("Could not find task {id}"));
    let listed = tenant.get("/v2/tasks").await.body;
    assert!(listed["tasks"].as_array().unwrap().iter().all(|t| t["id"] != id), "{listed}");
    tenant.is_pattern(&image, 5, 4096).await;
}
