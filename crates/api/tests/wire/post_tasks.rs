//! `POST /v2/tasks`: what is taken, what is refused and how.

use http::Method;
use image_tasks_domain::memory::{MemoryExecutions, MemoryStore};
use image_tasks_domain::ports::{ExecutionStatus, Executions, StoreResult, TaskLife as _};
use image_tasks_domain::{Failure, Image, Task, TaskId, Timestamp};
use serde_json::{Value, json};

use crate::service::{ADMIN, ALICE, BOB, NOW, Service, import};

#[tokio::test]
async fn a_task_is_made_and_started() {
    let service = Service::new();
    let made = service.post(ALICE, &import()).await.ok(201);
    let id = made.body["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("https://images.example/v2/tasks/{id}"));
    assert_eq!(made.body["request_id"], made.header("x-openstack-request-id"));
    assert_eq!(
        made.body,
        json!({
            "id": id, "type": "import", "status": "pending", "owner": "demo", "user_id": "alice",
            "request_id": made.header("x-openstack-request-id"),
            "input": {"import_from": "https://example.com/a.qcow2"}, "result": null, "message": "", "progress": 0,
            "created_at": "2026-11-18T11:06:40Z", "updated_at": "2026-11-18T11:06:40Z",
            "self": format!("/v2/tasks/{id}"), "schema": "/v2/schemas/task",
        })
    );
    let started: Vec<String> = service.executions.started().iter().map(ToString::to_string).collect();
    assert_eq!(started, [id]);
    assert_eq!(service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body, made.body);
}

#[tokio::test]
async fn without_a_configured_endpoint_the_location_is_where_the_client_asked() {
    let mut service = Service::new();
    service.app.public_endpoint = None;
    let headers = [("x-auth-token", ALICE), ("host", "127.0.0.1:9292"), ("x-forwarded-proto", "http")];
    let made = service.send(Method::POST, "/v2/tasks", &headers, import().to_string()).await.ok(201);
    assert!(made.header("location").starts_with("http://127.0.0.1:9292/v2/tasks/"));
}

/// Bodies that are refused before the type's own input is looked at: body, part of the message.
const BODIES: &[(&str, &str)] = &[
    ("", "A request body is required"),
    ("{", "not valid JSON"),
    ("\u{feff}{}", "not valid JSON"),
    ("not json", "not valid JSON"),
    ("[]", "must be a JSON object, not an array"),
    ("\"x\"", "must be a JSON object, not a string"),
    ("5", "must be a JSON object, not a number"),
    ("null", "must be a JSON object, not null"),
    ("{}", "type: is required"),
    (r#"{"input": {}}"#, "type: is required"),
    (r#"{"typ": "import", "input": {}}"#, "type: is required; \"typ\" is not known, did you mean type?"),
    (r#"{"type": "import"}"#, "input: is required"),
    (
        r#"{"type": "import", "inputs": {}}"#,
        "input: is required; \"inputs\" is not known, did you mean input?",
    ),
    (r#"{"type": "bogus"}"#, "input: is required"),
    (r#"{"type": "bogus", "input": {}}"#, "type: must be one of import"),
    (r#"{"type": "", "input": {}}"#, "type: must be one of import"),
    (r#"{"type": "bogus", "input": 5, "extra": 1}"#, "type: must be one of import"),
    (r#"{"type": 5, "input": {}}"#, "type: must be a string, not a number"),
    (r#"{"type": null, "input": {}}"#, "type: must be a string, not null"),
    (r#"{"type": ["import"], "input": {}}"#, "type: must be a string, not an array"),
    (r#"{"type": "import", "input": 5, "extra": 1}"#, "\"extra\": is not a property of a task"),
    (
        r#"{"type": "import", "input": {"import_from": 5}, "extra": 1}"#,
        "\"extra\": is not a property of a task",
    ),
    (r#"{"type": "import", "input": null}"#, "input: must be an object, not null"),
    (r#"{"type": "import", "input": []}"#, "input: must be an object, not an array"),
    (r#"{"type": "import", "input": "x"}"#, "input: must be an object, not a string"),
    (r#"{"type": "import", "input": {"import_from": 5}, "status": "sleeping"}"#, "status: is read-only"),
    (r#"{"type": "import", "input": {}, "id": "x"}"#, "id: is read-only"),
    (r#"{"type": "import", "input": {}, "owner": 5}"#, "owner: is read-only"),
    (r#"{"type": "import", "input": {}, "result": "x"}"#, "result: is read-only"),
    (r#"{"type": "import", "input": {}, "expires_at": 5}"#, "expires_at: is read-only"),
    (r#"{"type": "import", "input": {}, "progress": 101}"#, "progress: is read-only"),
    (r#"{"type": "import", "input": {}, "created_at": null}"#, "created_at: is read-only"),
];

/// Inputs of an import that are refused: input, part of the message.
fn inputs() -> Vec<(Value, &'static str)> {
    let url = "https://example.com/a";
    let image = |properties: Value| json!({"import_from": url, "image_properties": properties});
    vec![
        (
            json!({}),
            "import_from: is required: http://, https://, s3://bucket/key, container/object, oci://registry/repository:tag",
        ),
        (json!({"import_frm": url}), "\"import_frm\" is not known, did you mean import_from?"),
        (json!({"import_from": 5}), "import_from: must be a string, not a number"),
        (json!({"import_from": null}), "import_from: must be a string, not null"),
        (json!({"import_from": {"url": url}}), "import_from: must be a string, not an object"),
        (json!({"import_from": ""}), "import_from: it is none of http://"),
        (json!({"import_from": "a.qcow2"}), "import_from: it is none of http://"),
        (
            json!({"import_from": "file:///etc/passwd"}),
            "scheme 'file' is not supported; supported are http://, https://",
        ),
        (json!({"import_from": "ftp://example.com/a"}), "scheme 'ftp' is not supported"),
        (json!({"import_from": "swift://example.com/a"}), "scheme 'swift' is not supported"),
        (json!({"import_from": "s3://elsewhere/a"}), "import_from: bucket 'elsewhere' is not among those"),
        (json!({"import_from": "elsewhere/a"}), "import_from: bucket 'elsewhere' is not among those"),
        (json!({"import_from": "s3://sources/"}), "import_from: "),
        (json!({"import_from": "http://"}), "import_from: it names no host"),
        (json!({"import_from": "http://user:secret@example.com/a"}), "import_from: user names and passwords"),
        (json!({"import_from": "http://127.0.0.1/a"}), "import_from: "),
        (json!({"import_from": "http://0x7f000001/a"}), "import_from: "),
        (json!({"import_from": "http://169.254.169.254/latest/meta-data"}), "import_from: "),
        (json!({"import_from": "http://[::1]/a"}), "import_from: "),
        (json!({"import_from": "http://example.com:22/a"}), "import_from: "),
        (
            json!({"import_from": url, "import_from_format": "docx"}),
            "import_from_format: must be one of raw, qcow2",
        ),
        (
            json!({"import_from": url, "import_from_format": 5}),
            "import_from_format: must be a string, not a number",
        ),
        (json!({"import_from": url, "checksum": "5"}), "checksum: must be 32 hexadecimal digits"),
        (json!({"import_from": url, "os_hash_value": "5"}), "os_hash_value: must be 128 hexadecimal digits"),
        (json!({"import_from": url, "os_hash_algo": "crc32"}), "os_hash_algo: must be one of sha512"),
        (
            json!({"import_from": url, "image_properties": []}),
            "image_properties: must be an object, not an array",
        ),
        (image(json!({"name": 5})), "image_properties.name: must be a string, not a number"),
        (image(json!({"disk_format": "docx"})), "image_properties.disk_format: must be one of raw, qcow2"),
        (image(json!({"container_format": "zip"})), "image_properties.container_format: must be one of bare"),
        (image(json!({"visibility": "all"})), "image_properties.visibility: must be one of public"),
        (image(json!({"min_disk": -1})), "image_properties.min_disk: must be a whole number from 0"),
        (image(json!({"min_ram": "1"})), "image_properties.min_ram: must be a whole number, not a string"),
        (
            image(json!({"protected": "yes"})),
            "image_properties.protected: must be true or false, not a string",
        ),
        (image(json!({"os_hidden": 0})), "image_properties.os_hidden: must be true or false, not a number"),
        (image(json!({"tags": "x"})), "image_properties.tags: must be an array of strings"),
        (image(json!({"tags": [5]})), "image_properties.tags[0]: must be a string"),
        (image(json!({"status": "active"})), "image_properties.status: is decided by the service"),
        (image(json!({"os_glance_x": "y"})), "image_properties.os_glance_x: can't be set"),
        (image(json!({"os_distro": 5})), "image_properties.os_distro: must be a string, not a number"),
        (image(json!({"id": "x"})), "image_properties.id: must be a lower-case UUID"),
    ]
}

#[tokio::test]
async fn bad_bodies_are_refused_by_name() {
    let service = Service::new();
    for (body, part) in BODIES {
        let refused = service.send(Method::POST, "/v2/tasks", &[("x-auth-token", ALICE)], *body).await;
        assert!(refused.error(400).contains(part), "{body}: {}", refused.error(400));
    }
    let deep = format!(r#"{{"type":"import","input":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let refused = service.send(Method::POST, "/v2/tasks", &[("x-auth-token", ALICE)], deep).await;
    assert!(refused.error(400).contains("not valid JSON"));
    let refused = service.send(Method::POST, "/v2/tasks", &[("x-auth-token", ALICE)], vec![0xff, 0xfe]).await;
    assert!(refused.error(400).contains("not valid JSON"));
    assert_eq!(service.executions.started(), []);
}

#[tokio::test]
async fn bad_inputs_are_refused_by_name() {
    let service = Service::new();
    for (input, part) in inputs() {
        let refused = service.post(ALICE, &json!({"type": "import", "input": input})).await;
        assert!(refused.error(400).contains(part), "{input}: {}", refused.error(400));
    }
    assert_eq!(service.executions.started(), []);
}

#[tokio::test]
async fn a_body_has_a_largest_size() {
    let service = Service::new();
    let huge = json!({"type": "import", "input": {"import_from": "x".repeat(256 << 10)}});
    let refused = service.post(ALICE, &huge).await;
    assert!(refused.error(413).contains("at most 262144 are taken"));
    // 120 KB as they are sent, and 540 KB as they are stored.
    let numbers = format!("[{}0]", "1e15,".repeat(30_000));
    let body = format!(
        r#"{{"type":"import","input":{{"import_from":"https://example.com/a.qcow2","x":{numbers}}}}}"#
    );
    let refused = service.send(Method::POST, "/v2/tasks", &[("x-auth-token", ALICE)], body).await;
    assert!(refused.error(413).contains("as it is stored"), "{refused:?}");
}

#[tokio::test]
async fn identity_comes_before_everything_and_policy_before_the_body() {
    let service = Service::new();
    for token in [None, Some("nonsense"), Some("")] {
        let headers: Vec<_> = token.map(|t| ("x-auth-token", t)).into_iter().collect();
        let refused = service.send(Method::POST, "/v2/tasks", &headers, "{").await;
        assert_eq!(refused.error(401), "The request requires user authentication");
        assert!(refused.header("www-authenticate").contains("X-Auth-Token"));
    }
    let refused = service.send(Method::POST, "/v2/tasks", &[("x-auth-token", "eve:demo:reader")], "{").await;
    assert_eq!(refused.error(403), "Creating and cancelling tasks needs the role member or admin");
}

#[tokio::test]
async fn what_only_some_may_ask_for() {
    let service = Service::new();
    let with = |properties: Value| json!({"type": "import", "input": {"import_from": "https://example.com/a", "image_properties": properties}});
    let refused = service.post(ALICE, &with(json!({"visibility": "public"}))).await;
    assert!(refused.error(403).starts_with("image_properties.visibility: only an admin"));
    service.post(ADMIN, &with(json!({"visibility": "public"}))).await.ok(201);
    let refused = service.post(ALICE, &with(json!({"owner": "other"}))).await;
    assert!(refused.error(403).starts_with("image_properties.owner: "));
    service.post(ALICE, &with(json!({"owner": "demo", "visibility": "community"}))).await.ok(201);
}

#[tokio::test]
async fn an_image_id_that_is_taken() {
    let service = Service::new();
    let image = crate::images::image("other");
    let body = json!({"type": "import", "input": {
        "import_from": "https://example.com/a", "image_properties": {"id": image.id},
    }});
    service.post(ALICE, &body).await.ok(201);
    service.store.put_image(image);
    assert!(service.post(ALICE, &body).await.error(409).contains("exists already"));
}

#[tokio::test]
async fn what_a_client_sends_back_of_a_task_is_ignored() {
    let service = Service::new();
    let made = service.post(ALICE, &import()).await.ok(201);
    let mut sent = made.body.clone();
    sent["status"] = json!("success");
    sent["owner"] = json!("other");
    sent["expires_at"] = Value::Null;
    let again = service.post(ALICE, &sent).await.ok(201);
    assert_ne!(again.body["id"], made.body["id"]);
    assert_eq!((&again.body["status"], &again.body["owner"]), (&json!("pending"), &json!("demo")));
}

#[tokio::test]
async fn any_content_type_will_do() {
    let service = Service::new();
    for content_type in ["application/octet-stream", "text/plain", "application/json; charset=utf-8"] {
        let headers = [("x-auth-token", ALICE), ("content-type", content_type)];
        service.send(Method::POST, "/v2/tasks", &headers, import().to_string()).await.ok(201);
    }
}

#[tokio::test]
async fn misspelt_keys_are_told_in_the_message() {
    let service = Service::new();
    let mut body = import();
    body["input"]["import_from_fromat"] = json!("qcow2");
    body["input"]["note"] = json!("for the record");
    let made = service.post(ALICE, &body).await.ok(201);
    assert_eq!(
        made.body["message"],
        "input.import_from_fromat is not known and was ignored; did you mean import_from_format?"
    );
    assert_eq!(made.body["input"], body["input"]);
}

#[tokio::test]
async fn the_same_request_again() {
    let service = Service::new();
    let send = async |token: &str, key: &str, body: &Value| {
        let headers = [("x-auth-token", token), ("idempotency-key", key)];
        service.send(Method::POST, "/v2/tasks", &headers, body.to_string()).await
    };
    let first = send(ALICE, "k-1", &import()).await.ok(201);
    let again = send(ALICE, "k-1", &import()).await.ok(201);
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(service.executions.started().len(), 1);

    let other = json!({"type": "import", "input": {"import_from": "https://example.com/b"}});
    assert!(send(ALICE, "k-1", &other).await.error(409).contains("another request body"));
    for (token, key) in [(ALICE, "k-2"), (BOB, "k-1")] {
        assert_ne!(send(token, key, &import()).await.ok(201).body["id"], first.body["id"]);
    }
    for bad in ["", "ü", &"k".repeat(256)] {
        assert!(send(ALICE, bad, &import()).await.error(400).starts_with("Idempotency-Key: "), "{bad}");
    }

    service.clock.advance(std::time::Duration::from_secs(24 * 3600));
    assert_ne!(send(ALICE, "k-1", &import()).await.ok(201).body["id"], first.body["id"]);
}

#[tokio::test]
async fn a_repeat_starts_what_the_first_request_could_not() {
    let service = Service::new();
    let headers = [("x-auth-token", ALICE), ("idempotency-key", "k")];
    let first = service.send(Method::POST, "/v2/tasks", &headers, import().to_string()).await.ok(201);
    // As if the first one had died between the task's write and its start.
    let fresh = Service { executions: std::sync::Arc::default(), ..Service::new() };
    let mut app = service.app.clone();
    app.tasks.executions = fresh.executions.clone();
    let revived = Service { app, executions: fresh.executions, ..service };
    let again = revived.send(Method::POST, "/v2/tasks", &headers, import().to_string()).await.ok(201);
    assert_eq!(again.body["id"], first.body["id"]);
    assert_eq!(revived.executions.started().len(), 1);
}

#[tokio::test]
async fn a_task_that_can_not_be_started_has_failed() {
    let service = Service::new();
    service.executions.set_refusing(true);
    let made = service.post(ALICE, &import()).await.ok(201);
    assert_eq!(made.body["status"], "failure");
    let message = made.body["message"].as_str().unwrap();
    assert!(message.starts_with("StartFailed: the work could not be started"), "{message}");
    assert!(message.contains(made.header("x-openstack-request-id")), "{message}");
    assert_eq!(made.body["expires_at"], "2026-11-20T11:06:40Z");
    let path = made.body["self"].as_str().unwrap();
    assert_eq!(service.get(ALICE, path).await.ok(200).body, made.body);
}

#[tokio::test]
async fn a_start_whose_answer_is_lost_fails_nothing() {
    for begun in [false, true] {
        let mut service = Service::new();
        service.executions.set_answers_lost(true);
        let image = crate::images::importing("demo");
        if begun {
            let image = image.clone();
            let (inner, store) = (service.executions.clone(), service.store.clone());
            service.app.tasks.executions = std::sync::Arc::new(Begins { inner, store, image });
        }
        let made = service.post(ALICE, &import()).await.ok(201);
        assert_eq!(service.executions.started().len(), 1);
        let path = made.body["self"].as_str().unwrap();
        let now = service.get(ALICE, path).await.ok(200).body;
        assert_eq!(now["status"], if begun { "processing" } else { "pending" });
        assert_eq!((&now["message"], now.get("expires_at")), (&json!(""), None));
    }
}

/// Executions whose work begins before the answer to their start is lost, and which no status shows yet.
struct Begins {
    inner: std::sync::Arc<MemoryExecutions>,
    store: std::sync::Arc<MemoryStore>,
    image: Image,
}

#[async_trait::async_trait]
impl Executions for Begins {
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()> {
        self.store.begin(task.id, &self.image, task.created_at).await?;
        self.inner.start(task, run).await
    }

    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        self.inner.stop(task, why).await
    }

    async fn status(&self, _: &Task, _: u32) -> StoreResult<ExecutionStatus> {
        Ok(ExecutionStatus::NotFound)
    }
}

#[tokio::test]
async fn a_task_stays_pending_while_nobody_knows_whether_it_runs() {
    let service = Service::new();
    service.executions.set_unreachable(true);
    let made = service.post(ALICE, &import()).await.ok(201);
    assert_eq!((&made.body["status"], &made.body["message"]), (&json!("pending"), &json!("")));
    let path = made.body["self"].as_str().unwrap();
    assert_eq!(service.get(ALICE, path).await.ok(200).body, made.body);
}

#[tokio::test]
async fn a_repeat_gets_its_task_though_a_check_fails_now() {
    let mut service = Service::new();
    let send = async |service: &Service, key: &str, body: &Value| {
        let headers = [("x-auth-token", ALICE), ("idempotency-key", key)];
        service.send(Method::POST, "/v2/tasks", &headers, body.to_string()).await
    };
    let image = crate::images::importing("demo");
    let body = json!({"type": "import", "input": {
        "import_from": "s3://sources/a", "image_properties": {"id": image.id},
    }});
    let first = send(&service, "k-1", &body).await.ok(201).body;
    let id: TaskId = first["id"].as_str().unwrap().parse().unwrap();
    // The task's own image has the id now.
    service.store.begin(id, &image, Timestamp::from_epoch(NOW + 1)).await.unwrap();
    let again = send(&service, "k-1", &body).await.ok(201).body;
    assert_eq!((&again["id"], &again["status"]), (&json!(id), &json!("processing")));
    assert!(send(&service, "k-2", &body).await.error(409).contains("exists already"));
    assert!(service.post(ALICE, &body).await.error(409).contains("exists already"));
    let mut other = body.clone();
    other["input"]["image_properties"]["name"] = json!("other");
    assert!(send(&service, "k-1", &other).await.error(409).contains("another request body"));
    // The operator takes the source's bucket away.
    service.app.tasks.sources.buckets.clear();
    assert_eq!(send(&service, "k-1", &body).await.ok(201).body["id"], json!(id));
    send(&service, "k-3", &body).await.error(400);
    assert_eq!(service.executions.started(), [id]);
    // Past the day the key is no more than any other.
    service.clock.advance(std::time::Duration::from_secs(24 * 3600));
    send(&service, "k-1", &body).await.error(400);
}

#[tokio::test]
async fn other_methods_are_named() {
    let service = Service::new();
    let id = service.import(ALICE).await;
    let task = format!("/v2/tasks/{id}");
    for (method, path, allow) in [
        (Method::PUT, "/v2/tasks", "GET, POST"),
        (Method::DELETE, "/v2/tasks", "GET, POST"),
        (Method::DELETE, task.as_str(), "GET"),
        (Method::PATCH, task.as_str(), "GET"),
        (Method::POST, task.as_str(), "GET"),
        (Method::POST, "/v2/schemas/task", "GET"),
        (Method::POST, "/", "GET"),
    ] {
        let refused = service.send(method.clone(), path, &[("x-auth-token", ALICE)], "{}").await;
        assert!(refused.error(405).contains(method.as_str()), "{method} {path}");
        assert_eq!(refused.header("allow"), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn a_project_exports_to_no_key_of_another() {
    let service = Service::new();
    let id = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let to = |key: &str| {
        let to = format!("s3://exports/{key}");
        json!({"type": "export", "input": {"image_uuid": id, "export_to": to}})
    };
    let another = service.post(ALICE, &to(&format!("projects/other/{id}.qcow2"))).await;
    let told = "export_to: below projects/ only keys below projects/demo/ are this project's";
    assert_eq!(another.error(400), told);
    service.post(ALICE, &to(&format!("projects/demo/{id}.qcow2"))).await.ok(201);
    service.post(ALICE, &to("anything/else.qcow2")).await.ok(201);
}
