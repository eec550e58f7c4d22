//! The AWS that the function meets: DynamoDB by dynoxide, and a Step Functions that starts everything.

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
        let response = reqwest::Client::new()
            .post(&endpoint)
            .header("x-amz-target", "DynamoDB_20120810.CreateTable")
            .header("content-type", "application/x-amz-json-1.0")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=bench/20260101/eu-west-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
            .header("x-amz-date", "20260101T000000Z")
            .body(table_request(logical, table).to_string())
            .send()
            .await
            .unwrap();
        let status = response.status();
        assert!(status.is_success(), "{status}: {}", response.text().await.unwrap());
    }
    endpoint
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            connection.set_nodelay(true).unwrap();
            let service = service_fn(async |_| {
                let started = json!({
                    "executionArn": "arn:aws:states:eu-west-1:000000000000:execution:import:bench",
                    "startDate": 1_767_225_600.0,
                });
                let response = Response::builder().header("content-type", "application/x-amz-json-1.0");
                Ok::<_, Infallible>(response.body(Full::new(Bytes::from(started.to_string()))).unwrap())
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service);
            tokio::spawn(served);
        }
    });
    endpoint
}
