//! `PUT /v2/images/{id}/file`, `PUT .../stage`, `POST .../import`.

use http::Method;
use image_tasks_domain::image::Publication;
use image_tasks_domain::ports::{Clock as _, Credentials as _, ImageStore as _, TaskLife as _};
use image_tasks_domain::{
    Failure, FailureCode, ImageId, ImageStatus, Secret, StagedBytes, StoredObject, TaskId, TaskStatus,
};
use serde_json::{Value, json};

use crate::service::{ADMIN, ALICE, Answer, BOB, GLANCE, GLANCE_REGION, Service, TTL};

pub(crate) const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");
pub(crate) const READER: &str = "rita:demo:reader";

pub(crate) async fn record(service: &Service, body: Value) -> String {
    let headers = [("x-auth-token", ALICE)];
    let made = service.send(Method::POST, "/v2/images", &headers, body.to_string()).await.ok(201);
    assert_eq!(made.header("openstack-image-import-methods"), "glance-direct,web-download,glance-download");
    made.body["id"].as_str().unwrap().to_owned()
}

pub(crate) fn formats() -> Value {
    json!({"disk_format": "raw", "container_format": "bare"})
}

pub(crate) async fn put(service: &Service, token: &str, path: &str, bytes: &'static [u8]) -> Answer {
    service.send(Method::PUT, path, &[("x-auth-token", token), OCTETS], bytes).await
}

pub(crate) async fn import(service: &Service, token: &str, id: &str, body: Value) -> Answer {
    let path = format!("/v2/images/{id}/import");
    service.send(Method::POST, &path, &[("x-auth-token", token)], body.to_string()).await
}

pub(crate) async fn image(service: &Service, id: &str) -> image_tasks_domain::Image {
    service.store.get(id.parse().unwrap()).await.unwrap().unwrap()
}

/// What a worker would do with the newest task of the service.
pub(crate) async fn work(service: &Service, ends: Result<(), Failure>) -> TaskId {
    let (id, image, staged) = loop {
        let tasks = service.get(ALICE, "/v2/tasks?type=api_image_import&status=pending").await.ok(200);
        if let Some(id) = tasks.body["tasks"][0]["id"].as_str() {
            let task = service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body;
            let image: ImageId = task["input"]["image_id"].as_str().unwrap().parse().unwrap();
            let staged = task["input"]["staged"].as_str().map(|id| StagedBytes(id.parse().unwrap()));
            break (id.parse::<TaskId>().unwrap(), image, staged);
        }
        tokio::task::yield_now().await;
    };
    let now = service.clock.now();
    service.store.begin_filling(id, image, staged, now).await.unwrap();
    match ends {
        Err(failure) => service.store.fail(id, &failure, TTL, now).await.unwrap(),
        Ok(()) => {
            let publication = Publication {
                image,
                disk_format: "raw".into(),
                container_format: "bare".into(),
                size: 3,
                virtual_size: Some(3),
                hashes: None,
                hashes_follow: false,
                remark: None,
                found: Default::default(),
                properties: Default::default(),
                stored: StoredObject {
                    bucket: "images".into(),
                    key: image.object_key(id),
                    etag: "\"e\"".into(),
                    crc64nvme: "AAAAAAAAAAA=".into(),
                },
            };
            service.store.publish(id, &publication, &json!({"image_id": image}), TTL, now).await.unwrap();
        }
    }
    id
}

#[tokio::test]
async fn an_upload_is_answered_once_its_image_is_active() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let path = format!("/v2/images/{id}/file");
    let (answer, task) = tokio::join!(put(&service, ALICE, &path, b"abc"), work(&service, Ok(())));
    assert_eq!(answer.ok(204).body, Value::Null);
    let image = image(&service, &id).await;
    assert_eq!((image.status, image.size), (ImageStatus::Active, Some(3)));
    let staged = service.store.staged();
    assert_eq!(staged.values().map(Vec::as_slice).collect::<Vec<_>>(), [b"abc"]);
    let tasks = service.get(ALICE, &format!("/v2/images/{id}/tasks")).await.ok(200);
    assert_eq!(tasks.body["tasks"][0]["id"], task.to_string());
    assert_eq!(tasks.body["tasks"][0]["type"], "api_image_import");
    // It has its bytes.
    assert!(put(&service, ALICE, &path, b"abc").await.error(409).contains("active"));
    assert!(
        put(&service, ALICE, &format!("/v2/images/{id}/stage"), b"x").await.error(409).contains("active")
    );
}

#[tokio::test]
async fn an_upload_that_is_refused_says_why_and_leaves_the_record_queued() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let path = format!("/v2/images/{id}/file");
    let why = Failure::new(FailureCode::FormatMismatch, "it is qcow2, not raw as was said");
    let (answer, _) = tokio::join!(put(&service, ALICE, &path, b"QFI"), work(&service, Err(why)));
    assert_eq!(answer.error(400), "FormatMismatch: it is qcow2, not raw as was said");
    assert_eq!(image(&service, &id).await.status, ImageStatus::Queued);
    // Where the bytes didn't go, then where they are.
    let shown = async || service.get(ALICE, &format!("/v2/images/{id}")).await.ok(200).body;
    let (failed, stores) = ("os_glance_failed_import", "stores");
    assert_eq!((&shown().await[failed], &shown().await[stores]), (&json!("us-east-1"), &Value::Null));
    let (again, _) = tokio::join!(put(&service, ALICE, &path, b"abc"), work(&service, Ok(())));
    again.ok(204);
    assert_eq!((&shown().await[failed], &shown().await[stores]), (&Value::Null, &json!("us-east-1")));
}

#[tokio::test]
async fn an_upload_whose_import_takes_long_is_answered_before() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    put(&service, ALICE, &format!("/v2/images/{id}/file"), b"abc").await.ok(204);
    assert_eq!(image(&service, &id).await.status, ImageStatus::Queued);
    work(&service, Ok(())).await;
    assert_eq!(image(&service, &id).await.status, ImageStatus::Active);
}

#[tokio::test]
async fn what_is_staged_is_imported_when_that_is_asked_for() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let direct = json!({"method": {"name": "glance-direct"}});
    assert!(import(&service, ALICE, &id, direct.clone()).await.error(409).contains("stage its bytes first"));
    let stage = format!("/v2/images/{id}/stage");
    put(&service, ALICE, &stage, b"abc").await.ok(204);
    let staged = image(&service, &id).await;
    assert_eq!(staged.status, ImageStatus::Uploading);
    let key = staged.staged.unwrap().object_key(staged.id);
    assert_eq!(service.store.staged().keys().collect::<Vec<_>>(), [&key]);
    // Once is enough.
    put(&service, ALICE, &stage, b"other").await.error(409);
    assert_eq!(service.store.staged().len(), 1, "what is refused is not kept");
    let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}});
    import(&service, ALICE, &id, web).await.error(409);
    assert_eq!(import(&service, ALICE, &id, direct).await.ok(202).body, Value::Null);
    work(&service, Ok(())).await;
    assert_eq!(image(&service, &id).await.status, ImageStatus::Active);
}

#[tokio::test]
async fn a_download_into_a_record() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let web = |uri: &str| json!({"method": {"name": "web-download", "uri": uri}});
    for uri in ["http://169.254.169.254/latest", "s3://others/a", "file:///etc/passwd"] {
        assert!(import(&service, ALICE, &id, web(uri)).await.error(400).starts_with("method.uri: "), "{uri}");
    }
    let misspelt = json!({"method": {"name": "web-download", "url": "s3://sources/a"}});
    let told = "\"url\" is not known, did you mean uri?";
    assert!(import(&service, ALICE, &id, misspelt).await.error(400).contains(told));
    import(&service, ALICE, &id, web("s3://sources/a")).await.ok(202);
    let task = work(&service, Ok(())).await;
    let task = service.get(ALICE, &format!("/v2/tasks/{task}")).await.ok(200).body;
    assert_eq!(task["input"], json!({"image_id": id, "import_req": web("s3://sources/a")}));
    assert_eq!((&task["status"], &task["image_id"]), (&json!(TaskStatus::Success), &json!(id)));
    // Such tasks are made here alone.
    let asked = json!({"type": "api_image_import", "input": task["input"]});
    assert!(service.post(ALICE, &asked).await.error(400).contains("/import alone"));
}

#[tokio::test]
async fn the_bytes_of_another_image_come_into_a_record() {
    let service = Service::new();
    let other = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let of = |region: &str| {
        let method = json!({"name": "glance-download", "glance_region": region, "glance_image_id": other});
        json!({"method": method})
    };
    let methods = service.get(ALICE, "/v2/info/import").await.ok(200).body;
    assert_eq!(methods["import-methods"]["value"][2], "glance-download");
    // A region's image is copied by right of its project, a Glance elsewhere asks for the caller's token.
    for (region, kept) in [("eu-west-1", None), (GLANCE_REGION, Some(Secret::new(ALICE).unwrap()))] {
        let id = record(&service, formats()).await;
        import(&service, READER, &id, of(region)).await.error(403);
        import(&service, BOB, &id, of(region)).await.error(404);
        import(&service, ALICE, &id, of(region)).await.ok(202);
        let tasks = service.get(ALICE, "/v2/tasks?type=api_image_import&status=pending").await.ok(200).body;
        let task: TaskId = tasks["tasks"][0]["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(service.store.token(task, service.clock.now()).await.unwrap(), kept);
        let shown = service.get(ALICE, &format!("/v2/tasks/{task}")).await.ok(200).body;
        assert_eq!(shown["input"], json!({"image_id": id, "import_req": of(region)}));
        assert_eq!(work(&service, Ok(())).await, task);
        assert_eq!(service.store.token(task, service.clock.now()).await.unwrap(), None);
        assert!(import(&service, ALICE, &id, of(region)).await.error(409).contains("active"));
    }
    let id = record(&service, formats()).await;
    // An unknown region is the task's to refuse, as with Glance; nobody there gets a token.
    import(&service, ALICE, &id, of("mars")).await.ok(202);
    let tasks = service.get(ALICE, &format!("/v2/images/{id}/tasks")).await.ok(200).body;
    assert_eq!(
        (&tasks["tasks"][0]["status"], &tasks["tasks"][0]["image_id"]),
        (&json!("pending"), &json!(id))
    );
    let task: TaskId = tasks["tasks"][0]["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(service.store.token(task, service.clock.now()).await.unwrap(), None);
    let known = format!("us-east-1, eu-west-1, {GLANCE_REGION}");
    let misspelt = json!({"method": {"name": "glance-download", "region": "eu-west-1"}});
    let told = import(&service, ALICE, &id, misspelt).await;
    assert_eq!(told.error(400), format!("method.glance_region: is required: one of {known}"));
    let bare = record(&service, json!({})).await;
    import(&service, ALICE, &bare, of("eu-west-1")).await.error(409);
}

#[tokio::test]
async fn the_bytes_of_a_glance_elsewhere_need_a_token() {
    let mut service = Service::new();
    let id = record(&service, formats()).await;
    service.app.identity = image_tasks_api::Identity::Iam(None);
    let method = json!({"name": "glance-download", "glance_region": GLANCE_REGION, "glance_image_id": id});
    let body = json!({"method": method}).to_string();
    let mut request = http::Request::post(format!("/v2/images/{id}/import")).body(body.into()).unwrap();
    request.extensions_mut().insert(image_tasks_api::IamPrincipal {
        account_id: "demo".into(),
        arn: "arn:aws:iam::123456789012:user/alice".into(),
    });
    let refused = service.request(request).await;
    let told = format!("X-Auth-Token: is required to read {GLANCE}/v2/images/{id}: ");
    assert!(refused.error(400).starts_with(&told), "{refused:?}");
    assert!(service.executions.started().is_empty());
}

#[tokio::test]
async fn what_is_refused_of_an_upload() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let bare = record(&service, json!({})).await;
    let file = format!("/v2/images/{id}/file");
    for path in [file.clone(), format!("/v2/images/{id}/stage")] {
        put(&service, BOB, &path, b"abc").await.error(404);
        put(&service, READER, &path, b"abc").await.error(403);
        let plain = [("x-auth-token", ALICE), ("content-type", "text/plain")];
        let told = service.send(Method::PUT, &path, &plain, "abc").await;
        assert_eq!(told.error(415), "Content-Type must be application/octet-stream, not 'text/plain'");
        let large = vec![0; 4_400_001];
        let answer = service.send(Method::PUT, &path, &[("x-auth-token", ALICE), OCTETS], large).await;
        let told = answer.error(413);
        assert!(told.contains("POST .../upload begins") && told.contains("web-download"), "{told}");
    }
    let unset = put(&service, ALICE, &format!("/v2/images/{bare}/file"), b"abc").await;
    assert_eq!(unset.error(409), "container_format: has to be set before bytes come into the image");
    let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}});
    import(&service, ALICE, &bare, web.clone()).await.error(409);
    import(&service, READER, &id, web.clone()).await.error(403);
    import(&service, BOB, &id, web).await.error(404);
    assert_eq!(import(&service, ALICE, &id, json!({})).await.error(400), "method: is required");
    service.send(Method::POST, &file, &[("x-auth-token", ALICE)], "").await.error(405);
    assert!(service.store.staged().is_empty());
}

#[tokio::test]
async fn a_record_is_deleted_with_what_is_staged_for_it() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    put(&service, ADMIN, &format!("/v2/images/{id}/stage"), b"abc").await.ok(204);
    let path = format!("/v2/images/{id}");
    service.send(Method::DELETE, &path, &[("x-auth-token", ALICE)], "").await.ok(204);
    assert!(service.store.staged().is_empty());
    service.get(ALICE, &path).await.error(404);
}
