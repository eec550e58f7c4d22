//! Whom the function meets: DynamoDB by dynoxide, a Step Functions that starts everything, a Keystone that knows one token.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::net::TcpListener;

/// DynamoDB with the tables of template.yaml; its endpoint.
pub(crate) async fn dynamodb() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(dynoxide::server::serve_on(listener, dynoxide::Database::memory().unwrap()));
    for (logical, table) in [("TasksTable", "tasks"), ("ImagesTable", "images")] {
        call(&endpoint, "CreateTable", &table_request(logical, table)).await;
    }
    endpoint
}

/// Makes an image active, as far as those who look at its record see.
pub(crate) async fn activate(endpoint: &str, image: &str) {
    let update = json!({
        "TableName": "images", "Key": {"id": {"S": image}}, "UpdateExpression": "SET #status = :active",
        "ExpressionAttributeNames": {"#status": "status"}, "ExpressionAttributeValues": {":active": {"S": "active"}},
    });
    call(endpoint, "UpdateItem", &update).await;
}

async fn call(endpoint: &str, name: &str, request: &Value) {
    let response = reqwest::Client::new()
        .post(endpoint)
        .header("x-amz-target", format!("DynamoDB_20120810.{name}"))
        .header("content-type", "application/x-amz-json-1.0")
        .header("authorization", "AWS4-HMAC-SHA256 Credential=bench/20260101/eu-west-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
        .header("x-amz-date", "20260101T000000Z")
        .body(request.to_string())
        .send()
        .await
        .unwrap();
    let status = response.status();
    assert!(status.is_success(), "{status}: {}", response.text().await.unwrap());
}

#[derive(Deserialize)]
struct Template {
    #[serde(rename = "Resources")]
    resources: BTreeMap<String, Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "Properties")]
    properties: Option<Properties>,
}

/// CloudFormation's names of these are DynamoDB's own. Other resources have other properties, hence the options.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    attribute_definitions: Option<Value>,
    key_schema: Option<Value>,
    global_secondary_indexes: Option<Value>,
}

fn table_request(logical: &str, table: &str) -> Value {
    let mut template: Template = serde_saphyr::from_str(include_str!("../../../../template.yaml")).unwrap();
    let properties = template.resources.remove(logical).unwrap().properties.unwrap();
    json!({
        "TableName": table, "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": properties.attribute_definitions, "KeySchema": properties.key_schema,
        "GlobalSecondaryIndexes": properties.global_secondary_indexes,
    })
}

/// A Step Functions that answers every call as it answers StartExecution; its endpoint.
pub(crate) async fn step_functions() -> String {
    always(&json!({
        "executionArn": "arn:aws:states:eu-west-1:000000000000:execution:import:bench",
        "startDate": 1_767_225_600.0,
    }))
    .await
}

/// A Keystone that answers every token with this one (Identity API v3, "Validate and show information for token"). It is
/// asked once in the function's life: what it says counts for an hour.
pub(crate) async fn keystone() -> String {
    always(&json!({"token": {
        "methods": ["password"], "expires_at": "2100-01-01T00:00:00.000000Z", "issued_at": "2026-01-01T00:00:00.000000Z",
        "user": {"id": "ee4dfb6e5540447cb3741905149d9b6e", "name": "bench", "domain": {"id": "default", "name": "Default"}},
        "project": {"id": "a6944d763bf64ee6a275f1263fae0352", "name": "bench", "domain": {"id": "default", "name": "Default"}},
        "roles": [{"id": "51cc68287d524c759f47c811e6463340", "name": "member"}],
    }}))
    .await
}

/// A server with one answer; its endpoint.
async fn always(said: &Value) -> String {
    let said = Bytes::from(said.to_string());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            connection.set_nodelay(true).unwrap();
            let said = said.clone();
            let service = service_fn(move |_| {
                let answer = Response::builder().header("content-type", "application/json");
                std::future::ready(Ok::<_, Infallible>(answer.body(Full::new(said.clone())).unwrap()))
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service);
            tokio::spawn(served);
        }
    });
    endpoint
}
