//! `POST /v2/tasks` of clones: what is taken, what is refused and how.

use image_tasks_domain::ports::{Clock, Credentials};
use image_tasks_domain::{Secret, SourceHeaders, TaskId};
use serde_json::{Value, json};

use crate::service::{ADMIN, ALICE, GLANCE, Service};

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
    let types = json!(["import", "export", "clone", "api_image_import"]);
    assert_eq!(schema.body["properties"]["type"]["enum"], types);
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
                "source_image_url: \"https://other.example/v2/images/x\" is below no endpoint that images are cloned from; known: {ENDPOINTS}, {GLANCE}"
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

#[tokio::test]
async fn a_clone_from_a_glance_elsewhere_keeps_the_callers_token_and_shows_it_to_nobody() {
    let service = Service::new();
    let url = format!("{GLANCE}/v2/images/{ID}");
    let body = json!({"type": "clone", "input": {"source_image_url": url}});
    let made = service.post(ALICE, &body).await.ok(201);
    let id: TaskId = made.body["id"].as_str().unwrap().parse().unwrap();
    let kept = service.store.token(id, service.clock.now()).await.unwrap();
    assert_eq!(kept, Some(Secret::new(ALICE).unwrap()));
    let shown = service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body;
    let listed = service.get(ADMIN, "/v2/tasks").await.ok(200).body;
    for body in [&made.body, &shown, &listed] {
        assert!(!body.to_string().contains(ALICE), "{body}");
    }
    // Who needs none leaves none.
    for body in [
        json!({"type": "clone", "input": {"source_region": "eu-west-1", "image_uuid": ID}}),
        json!({"type": "import", "input": {"import_from": "https://example.com/a"}}),
    ] {
        let made = service.post(ALICE, &body).await.ok(201);
        let id = made.body["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(service.store.token(id, service.clock.now()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn headers_of_a_source_are_kept_and_shown_to_nobody() {
    let service = Service::new();
    let input = |value: &str| json!({"import_from": "https://example.com/a", "import_from_headers": {"Authorization": value}});
    let made = service.post(ALICE, &json!({"type": "import", "input": input("Bearer s3cret")})).await.ok(201);
    let id: TaskId = made.body["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(made.body["input"], input("***"));
    let kept = service.store.token(id, service.clock.now()).await.unwrap().unwrap();
    let headers = SourceHeaders::from_kept(&kept).unwrap();
    assert_eq!(headers.expose().collect::<Vec<_>>(), [("authorization", "Bearer s3cret")]);
    let shown = service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body;
    assert_eq!(shown["input"], input("***"));
    let refused =
        service.post(ALICE, &json!({"type": "import", "input": input("s3cret\r\nHost: evil")})).await;
    assert!(!refused.error(400).contains("s3cret"));
}

#[tokio::test]
async fn a_clone_from_a_glance_elsewhere_needs_a_token() {
    let mut service = Service::new();
    service.app.identity = image_tasks_api::Identity::Iam(None);
    let body = json!({"type": "clone", "input": {"source_image_url": format!("{GLANCE}/v2/images/{ID}")}});
    let told = format!(
        "X-Auth-Token: is required to read {GLANCE}/v2/images/{ID}: 1 to 8192 visible ASCII characters"
    );
    let ask = async |token: Option<&str>| {
        let mut request =
            http::Request::post("/v2/tasks").body(bytes::Bytes::from(body.to_string())).unwrap();
        let arn = "arn:aws:iam::123456789012:user/alice".to_owned();
        request
            .extensions_mut()
            .insert(image_tasks_api::IamPrincipal { account_id: "123456789012".into(), arn });
        if let Some(token) = token {
            request.headers_mut().insert("x-auth-token", token.parse().unwrap());
        }
        let answer = service.app.handle(request).await;
        (answer.status().as_u16(), serde_json::from_slice::<Value>(answer.body()).unwrap())
    };
    for token in [None, Some(""), Some("two words")] {
        let (status, answer) = ask(token).await;
        assert_eq!((status, &answer["error"]["message"]), (400, &json!(told)), "{token:?}");
    }
    assert_eq!(service.executions.started(), []);
    assert_eq!(ask(Some("gAAAAABk")).await.0, 201);
}
