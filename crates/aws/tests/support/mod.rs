//! DynamoDB on this machine, with the tables as template.yaml declares them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use serde::Deserialize;

/// A DynamoDB of the test's own, and its client. It ends with the test's runtime.
pub(crate) async fn dynamodb() -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let database = dynoxide::Database::memory().unwrap();
    tokio::spawn(dynoxide::server::serve_on(listener, database));
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(endpoint)
        .build();
    let client = Client::from_conf(config);
    for (logical, table) in
        [("TasksTable", "tasks"), ("ImagesTable", "images"), ("CredentialsTable", "credentials")]
    {
        create(&client, logical, table).await;
    }
    client
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Template {
    resources: BTreeMap<String, Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Resource {
    properties: Option<Properties>,
}

/// Of a table; other resources have other properties, hence the options.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    attribute_definitions: Option<Vec<Attribute>>,
    key_schema: Option<Vec<Key>>,
    global_secondary_indexes: Option<Vec<Index>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    attribute_name: String,
    attribute_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    attribute_name: String,
    key_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Index {
    index_name: String,
    key_schema: Vec<Key>,
    projection: Projected,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Projected {
    projection_type: String,
    non_key_attributes: Option<Vec<String>>,
}

async fn create(client: &Client, logical: &str, table: &str) {
    let text = include_str!("../../../../template.yaml");
    let mut template: Template = serde_saphyr::from_str(text).unwrap();
    let properties = template.resources.remove(logical).unwrap().properties.unwrap();
    let attributes = properties.attribute_definitions.unwrap().into_iter().map(|a| {
        AttributeDefinition::builder()
            .attribute_name(a.attribute_name)
            .attribute_type(ScalarAttributeType::from(a.attribute_type.as_str()))
            .build()
            .unwrap()
    });
    let indexes = properties.global_secondary_indexes.map(|indexes| {
        indexes
            .into_iter()
            .map(|index| {
                let projection = Projection::builder()
                    .projection_type(ProjectionType::from(index.projection.projection_type.as_str()))
                    .set_non_key_attributes(index.projection.non_key_attributes)
                    .build();
                GlobalSecondaryIndex::builder()
                    .index_name(index.index_name)
                    .set_key_schema(Some(keys(index.key_schema)))
                    .projection(projection)
                    .build()
                    .unwrap()
            })
            .collect()
    });
    client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(attributes.collect()))
        .set_key_schema(Some(keys(properties.key_schema.unwrap())))
        .set_global_secondary_indexes(indexes)
        .send()
        .await
        .unwrap();
}

fn keys(schema: Vec<Key>) -> Vec<KeySchemaElement> {
    let element = |key: Key| {
        KeySchemaElement::builder()
            .attribute_name(key.attribute_name)
            .key_type(KeyType::from(key.key_type.as_str()))
            .build()
            .unwrap()
    };
    schema.into_iter().map(element).collect()
}

/// Ids in no order, different on each call, the same in each run.
pub(crate) fn next_uuid() -> uuid::Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // Odd multipliers permute, so that ids don't rise with the time of their making.
    let (high, low) = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n.wrapping_mul(0xd6e8_feb8_6659_fd93));
    uuid::Uuid::from_u64_pair(high, low)
}
