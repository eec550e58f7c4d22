//! `POST /v2/tasks` of clones: what is taken, what is refused and how.

use serde_json::{Value, json};

use crate::service::{ADMIN, ALICE, Service};

const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
const THERE: &str = "https://eu-west-1.images.example";
const ENDPOINTS: &str = "https://us-east-1.images.example, https://eu-west-1.images.example";

fn clone(properties: Value) -> Value {
    json!({"type": "clone", "input": {
        "source_region": "eu-west-1", "image_uuid": ID, "image_properties": properties,
    }})
}

#[tokio::test]
async fn both_ways_of_naming_an_image_are_taken() {
    let service = Service::new();
    for input in [
        json!({"source_image_url": format!("{THERE}/v2/images/{ID}")}),
        json!({"source_region": "eu-west-1", "image_uuid": ID}),
        json!({"source_region": "us-east-1", "image_uuid": ID, "allow_duplicate": true}),
    ] {
        let made = service.post(ALICE, &json!({"type": "clone", "input": input})).await.ok(201);
        assert_eq!((&made.body["type"], &made.body["input"]), (&json!("clone"), &input));
    }
    assert_eq!(service.executions.started().len(), 3);
    let listed = service.get(ALICE, "/v2/tasks?type=clone").await.ok(200);
    assert_eq!(listed.body["tasks"].as_array().unwrap().len(), 3);
    let schema = service.get(ALICE, "/v2/schemas/task").await.ok(200);
    assert_eq!(schema.body["properties"]["type"]["enum"], json!(["import", "export", "clone"]));
}

#[tokio::test]
async fn what_is_not_known_is_refused_with_what_is() {
    let service = Service::new();
    for (input, told) in [
        (json!({}), "source_image_url: or source_region and image_uuid are required".to_owned()),
        (
            json!({"source_region": "mars-1", "image_uuid": ID}),
            "source_region: must be one of us-east-1, eu-west-1, not \"mars-1\"".to_owned(),
        ),
        (
            json!({"source_image_url": "https://other.example/v2/images/x"}),
            format!(
                "source_image_url: \"https://other.example/v2/images/x\" is no region's endpoint; known: {ENDPOINTS}"
            ),
        ),
        (
            json!({"source_region": "eu-west-1", "image_uuid": "x"}),
            "image_uuid: must name an image by its id, a UUID, not \"x\"".to_owned(),
        ),
    ] {
        let refused = service.post(ALICE, &json!({"type": "clone", "input": input})).await;
        assert_eq!(refused.error(400), told);
    }
    let refused = service.post(ALICE, &clone(json!({"disk_format": "raw"}))).await;
    assert!(refused.error(400).starts_with("image_properties.disk_format: can't be changed"));
    assert_eq!(service.executions.started(), []);
}

#[tokio::test]
async fn what_only_some_may_ask_for_and_ids_in_use() {
    let service = Service::new();
    let public = clone(json!({"visibility": "public"}));
    assert!(
        service.post(ALICE, &public).await.error(403).starts_with("image_properties.visibility: only an")
    );
    service.post(ADMIN, &public).await.ok(201);
    let refused = service.post(ALICE, &clone(json!({"owner": "other"}))).await;
    assert!(refused.error(403).starts_with("image_properties.owner: "));

    let image = crate::images::image("other");
    let taken = clone(json!({"id": image.id}));
    service.post(ALICE, &taken).await.ok(201);
    service.store.put_image(image);
    assert!(service.post(ALICE, &taken).await.error(409).contains("exists already"));
}

#[tokio::test]
async fn misspelt_keys_are_told() {
    let service = Service::new();
    let mut body = clone(json!({}));
    body["input"]["allow_duplicates"] = json!(true);
    let made = service.post(ALICE, &body).await.ok(201);
    assert_eq!(
        made.body["message"],
        "input.allow_duplicates is not known and was ignored; did you mean allow_duplicate?"
    );
}
