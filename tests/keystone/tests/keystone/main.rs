//! The API in this process, over stores in memory, with callers by tokens of a real Keystone.

#![expect(clippy::unwrap_used, reason = "what isn't there is a failed test")]

mod waits;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use image_tasks_api::{App, Identity, Keystone};
use image_tasks_aws::SystemClock;
use image_tasks_domain::images::{ImageQuota, Images};
use image_tasks_domain::memory::{MemoryExecutions, MemoryLinks, MemoryStore};
use image_tasks_domain::tasks::Tasks;
use image_tasks_test_keystone::{Cloud, Server, Wanted};
use reqwest::Method;
use serde_json::{Value, json};

/// Enough for an answer, however busy this machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service, once with a memory of a minute and once without any.
struct Service {
    remembers: App,
    asks: App,
    store: Arc<MemoryStore>,
    keystone: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Service {
    fn new(keystone: &str) -> Self {
        let store = Arc::new(MemoryStore::default());
        let app = |seconds| {
            let clock = Arc::new(SystemClock);
            let tokens = Arc::new(image_tasks_aws::Keystone::new(keystone, PATIENCE).unwrap());
            let known = Keystone::new(tokens, clock.clone(), keystone, Duration::from_secs(seconds));
            let tasks = Tasks {
                store: store.clone(),
                progress: store.clone(),
                life: store.clone(),
                images: store.clone(),
                executions: Arc::new(MemoryExecutions::default()),
                clock: clock.clone(),
                sources: Default::default(),
                receivers: Default::default(),
                regions: Default::default(),
                glances: Default::default(),
                ttl: Duration::from_secs(3600),
                quota: ImageQuota::new(100),
            };
            let images = Images {
                store: store.clone(),
                links: Arc::new(MemoryLinks),
                bytes: store.clone(),
                tasks: store.clone(),
                clock,
                quota: ImageQuota::new(100),
            };
            App {
                staging: store.clone(),
                multipart: store.clone(),
                max_image_bytes: 1 << 40,
                tasks,
                images,
                identity: Identity::Keystone(Arc::new(known)),
                public_endpoint: None,
            }
        };
        Self { remembers: app(60), asks: app(0), keystone: keystone.to_owned(), store }
    }

    async fn post(&self, token: &str) -> Answer {
        let body = json!({"type": "import", "input": {"import_from": "https://example.com/a.qcow2"}});
        let request = Request::post("/v2/tasks").header("x-auth-token", token);
        ask(&self.asks, request.body(body.to_string().into()).unwrap()).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        get(&self.asks, token, path).await
    }

    /// Seen by that token: refused, with the way to another one.
    #[track_caller]
    fn refuses(&self, answer: Answer) {
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.headers["www-authenticate"], format!("Keystone uri=\"{}\"", self.keystone));
    }
}

async fn get(app: &App, token: &str, path: &str) -> Answer {
    let request = Request::get(path).header("x-auth-token", token);
    ask(app, request.body(Bytes::new()).unwrap()).await
}

async fn ask(app: &App, request: Request<Bytes>) -> Answer {
    let (parts, body) = app.handle(request).await.into_parts();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

#[tokio::test]
#[ignore = "run by `cargo local conformance`"]
async fn tokens_of_a_real_keystone() {
    let cloud = Cloud::new();
    let (server, brief) = tokio::join!(cloud.serve("main", 3600), cloud.serve("brief", 3));
    let service = Service::new(&server.url);
    let (unscoped, system) =
        tokio::join!(server.token("admin", Wanted::Unscoped), server.token("admin", Wanted::System));
    let ops = server.id(&system, "/projects", "admin").await;
    let admin = server.token("admin", Wanted::Project(&ops)).await;
    let (demo, other) = (server.project(&admin, "demo").await, server.project(&admin, "other").await);
    let alice = server.user(&admin, "alice", &demo, "member").await;
    server.user(&admin, "rita", &demo, "reader").await;
    server.user(&admin, "bob", &other, "member").await;

    roles_decide(&server, &service, &admin, [&alice, &demo, &other]).await;

    for (token, word) in
        [(unscoped, "unscoped"), (system, "of the system"), (domain(&server, &admin).await, "of a domain")]
    {
        let refused = service.get(&token, "/v2/tasks").await;
        assert_eq!(refused.status, 403, "{word}: {refused:?}");
        assert!(refused.body["error"]["message"].as_str().unwrap().contains(word), "{refused:?}");
    }

    let good = server.token("alice", Wanted::Project(&demo)).await;
    let cut = good[..good.len() - 1].to_owned();
    for bad in ["nonsense", "alice:demo", &cut, &format!("{good}x"), &"x".repeat(4096), &"x".repeat(8192)] {
        service.refuses(service.get(bad, "/v2/tasks").await);
    }

    application_credentials(&server, &service, [&alice, &demo]).await;

    // It ends on its own, by the server whose tokens do so soon; the database and the keys are the same.
    let ended = brief.token("alice", Wanted::Project(&demo)).await;
    server.expiry(&ended).await;
    service.refuses(service.get(&ended, "/v2/tasks").await);
    drop(brief);

    // What is remembered for a minute is what a revoked token may still do.
    let revoked = server.token("alice", Wanted::Project(&demo)).await;
    assert_eq!(get(&service.remembers, &revoked, "/v2/tasks").await.status, 200);
    server.revoke(&revoked).await;
    assert_eq!(get(&service.remembers, &revoked, "/v2/tasks").await.status, 200);
    service.refuses(service.get(&revoked, "/v2/tasks").await);

    assert_eq!(get(&service.remembers, &good, "/v2/tasks").await.status, 200);
    drop(server);
    let unknown = service.get(&good, "/v2/tasks").await;
    assert_eq!(
        (unknown.status, &unknown.headers["retry-after"]),
        (503, &"5".parse().unwrap()),
        "{unknown:?}"
    );
    assert!(!unknown.headers.contains_key("www-authenticate"));
    assert_eq!(get(&service.remembers, &good, "/v2/tasks").await.status, 200);
}

/// A member, a reader, an admin, and a member of another project.
async fn roles_decide(server: &Server, service: &Service, admin: &str, ids: [&str; 3]) {
    let [alice, demo, other] = ids;
    let member = server.token("alice", Wanted::Project(demo)).await;
    let reader = server.token("rita", Wanted::Project(demo)).await;
    let stranger = server.token("bob", Wanted::Project(other)).await;
    let made = service.post(&member).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!((&made.body["owner"], &made.body["user_id"]), (&json!(demo), &json!(alice)));
    let task = format!("/v2/tasks/{}", made.body["id"].as_str().unwrap());
    for (who, token, seen, posted) in
        [("reader", &*reader, 200, 403), ("admin", admin, 200, 201), ("stranger", &stranger, 404, 201)]
    {
        let answers = (service.get(token, &task).await.status, service.post(token).await.status);
        assert_eq!(answers, (seen, posted), "{who}");
    }
}

/// The admin's token of the default domain.
async fn domain(server: &Server, admin: &str) -> String {
    let (user, role) = (server.id(admin, "/users", "admin").await, server.id(admin, "/roles", "admin").await);
    let path = format!("/domains/default/users/{user}/roles/{role}");
    server.call(admin, Method::PUT, &path, None).await;
    server.token("admin", Wanted::Domain).await
}

/// They act for their project; but not those with rules that nobody here would hold.
async fn application_credentials(server: &Server, service: &Service, ids: [&str; 2]) {
    let [alice, demo] = ids;
    let token = server.token("alice", Wanted::Project(demo)).await;
    let rules = json!([{"service": "image", "method": "GET", "path": "/v2/images"}]);
    for (name, rules, status) in [("plain", Value::Null, 200), ("ruled", rules, 401)] {
        let mut credential = json!({"name": name, "secret": "s3cret"});
        if !rules.is_null() {
            credential["access_rules"] = rules;
        }
        let path = format!("/users/{alice}/application_credentials");
        let body = json!({"application_credential": credential});
        let made = server.call(&token, Method::POST, &path, Some(body)).await;
        let id = made["application_credential"]["id"].as_str().unwrap();
        let token = server.token_of_credential(id, "s3cret").await;
        assert_eq!(service.get(&token, "/v2/tasks").await.status, status, "{name}");
    }
}
