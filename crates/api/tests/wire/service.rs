//! The API over stores in memory, and a client of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use image_tasks_api::{App, IamPrincipal, Identity, Keystone, MappedPrincipals};
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::images::{ImageQuota, Images};
use image_tasks_domain::memory::{ManualClock, MemoryExecutions, MemoryIdentity, MemoryLinks, MemoryStore};
use image_tasks_domain::regions::{Region, Regions};
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::tasks::Tasks;
use image_tasks_domain::{GlanceEndpoints, Timestamp};
use serde_json::{Value, json};

use crate::contract::CONTRACT;

/// When the service's clock starts: 2026-11-18T11:06:40Z.
pub(crate) const NOW: i64 = 1_795_000_000;
/// From a task's end to its expiry.
pub(crate) const TTL: Duration = Duration::from_secs(48 * 3600);

/// Bytes of the largest image.
pub(crate) const MAX_IMAGE: u64 = 45 << 40;

/// Most images of a project.
pub(crate) const QUOTA: usize = 50;

pub(crate) const ALICE: &str = "alice:demo";
pub(crate) const BOB: &str = "bob:other";
pub(crate) const ADMIN: &str = "root:ops:admin";
/// Where tokens come from.
pub(crate) const KEYSTONE: &str = "https://keystone.example.org";
/// The AWS account that the service is in.
pub(crate) const ACCOUNT: &str = "123456789012";
/// A Glance elsewhere that images may be cloned from.
pub(crate) const GLANCE: &str = "https://glance.example.org:9292";
/// The region that it is of.
pub(crate) const GLANCE_REGION: &str = "RegionTwo";

pub(crate) struct Service {
    pub(crate) app: App,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) executions: Arc<MemoryExecutions>,
    pub(crate) clock: Arc<ManualClock>,
    /// What Keystone and the operator's map say, where callers are known by these.
    pub(crate) identity: Arc<MemoryIdentity>,
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}: {self:?}")).to_str().unwrap()
    }

    /// The `message` of an error, after the rest of it is seen to be as every error is.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> &str {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let title = self.status.canonical_reason().unwrap();
        assert_eq!(self.body["error"]["title"], title);
        assert_eq!(self.body["error"]["code"], format!("{status} {title}"));
        assert_eq!(self.header("content-type"), "application/json");
        self.body["error"]["message"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }
}

impl Service {
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let executions = Arc::new(MemoryExecutions::default());
        let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(NOW)));
        let tasks = Tasks {
            store: store.clone(),
            progress: store.clone(),
            life: store.clone(),
            images: store.clone(),
            executions: executions.clone(),
            clock: clock.clone(),
            sources: SourcePolicy { buckets: ["sources".to_owned()].into(), ..SourcePolicy::default() },
            regions: Regions::new("us-east-1", vec![region("us-east-1"), region("eu-west-1")]).unwrap(),
            receivers: ExportPolicy { buckets: [("exports".to_owned(), None)].into() },
            glances: GlanceEndpoints::parse(&format!("{GLANCE_REGION}={GLANCE}")).unwrap(),
            ttl: TTL,
            quota: ImageQuota::new(QUOTA),
        };
        let images = Images {
            store: store.clone(),
            links: Arc::new(MemoryLinks),
            bytes: store.clone(),
            tasks: store.clone(),
            clock: clock.clone(),
            quota: ImageQuota::new(QUOTA),
        };
        let app = App {
            staging: store.clone(),
            multipart: store.clone(),
            max_image_bytes: MAX_IMAGE,
            tasks,
            images,
            identity: Identity::Development,
            public_endpoint: Some("https://images.example".to_owned()),
        };
        Self { app, store, executions, clock, identity: Arc::default() }
    }

    /// The same, with callers known by tokens of Keystone.
    pub(crate) fn by_keystone() -> Self {
        let mut service = Self::new();
        let (tokens, clock) = (service.identity.clone(), service.clock.clone());
        let keystone = Keystone::new(tokens, clock, KEYSTONE, Duration::from_secs(60));
        service.app.identity = Identity::Keystone(Arc::new(keystone));
        service
    }

    /// The same, with callers known by principals that are mapped to projects.
    pub(crate) fn by_mapped_principals() -> Self {
        let mut service = Self::new();
        let principals = MappedPrincipals::new(service.identity.clone(), service.clock.clone());
        service.app.identity = Identity::Iam(Some(Arc::new(principals)));
        service
    }

    /// GET as a principal that API Gateway authenticated.
    pub(crate) async fn get_as(&self, arn: &str, path: &str) -> Answer {
        let mut request = Request::get(path).body(Bytes::new()).unwrap();
        request.extensions_mut().insert(principal(arn));
        self.request(request).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.request(request.body(body.into()).unwrap()).await
    }

    /// Every answer is held against what is documented.
    pub(crate) async fn request(&self, request: Request<Bytes>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.app.handle(request).await;
        let (parts, body) = response.into_parts();
        CONTRACT.check(&method, &path, &parts, &body);
        let request_id = parts.headers.get("x-openstack-request-id").expect("on every answer");
        let uuid = request_id.to_str().unwrap().strip_prefix("req-").expect("req-<uuid>");
        uuid.parse::<uuid::Uuid>().expect("req-<uuid>");
        let is_json = parts.headers.get("content-type").is_some_and(|media| media == "application/json");
        let body = match body.is_empty() {
            true => Value::Null,
            false if is_json => serde_json::from_slice(&body).unwrap(),
            false => String::from_utf8(body.into()).unwrap().into(),
        };
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(Method::GET, path, &[("x-auth-token", token)], "").await
    }

    pub(crate) async fn post(&self, token: &str, body: &Value) -> Answer {
        self.send(Method::POST, "/v2/tasks", &[("x-auth-token", token)], body.to_string()).await
    }

    /// A new task's id.
    pub(crate) async fn import(&self, token: &str) -> String {
        let made = self.post(token, &import()).await.ok(201);
        made.body["id"].as_str().unwrap().to_owned()
    }
}

/// As API Gateway tells it.
pub(crate) fn principal(arn: &str) -> IamPrincipal {
    IamPrincipal { account_id: ACCOUNT.to_owned(), arn: arn.to_owned() }
}

/// A region of the cloud that the service is in; it is us-east-1 itself.
fn region(name: &str) -> Region {
    Region {
        name: name.to_owned(),
        endpoint: format!("https://{name}.images.example"),
        images_bucket: "images-bucket".to_owned(),
        images_table: "images".to_owned(),
    }
}

/// An import that is taken.
pub(crate) fn import() -> Value {
    json!({"type": "import", "input": {"import_from": "https://example.com/a.qcow2"}})
}
