//! The regions of the local stack: one template, nothing shared.

use std::collections::BTreeSet;

use image_tasks_e2e::Tenant;
use reqwest::StatusCode;

#[tokio::test]
async fn regions_are_deployed_apart() {
    let tenant = Tenant::new("apart");
    let deployments = &tenant.stack.coordinates().deployments;
    assert_eq!(deployments.len(), 2);
    for logical in ["ImagesBucket", "WorkBucket", "HttpApi", "ImportStateMachine"] {
        let ids: BTreeSet<_> =
            deployments.iter().map(|one| one.physical_id(logical).expect(logical)).collect();
        assert_eq!(ids.len(), 2, "{logical}: {ids:?}");
    }
    assert_ne!(deployments[0].export_bucket, deployments[1].export_bucket);

    // A task of one region is none of the other's, whose tables have the same names.
    let body = serde_json::json!({"type": "import", "input": {"import_from": "http://127.0.0.1:1/x"}});
    let task = tenant.post_task(&body).await;
    assert_eq!(task.status, StatusCode::CREATED, "{}", task.body);
    let path = format!("/v2/tasks/{}", task.body["id"].as_str().unwrap());
    let there = tenant.in_region("eu-west-1");
    assert_eq!(there.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(tenant.get(&path).await.status, StatusCode::OK);
}
