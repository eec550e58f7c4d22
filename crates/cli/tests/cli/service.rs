//! The service, and a run of the command against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use image_tasks_api::{App, IamPrincipal, Identity};
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::image::MultipartUpload;
use image_tasks_domain::images::{ImageQuota, Images};
use image_tasks_domain::memory::{ManualClock, MemoryExecutions, MemoryStore};
use image_tasks_domain::ports::{
    ImageLinks, Joined, MultipartUploads, StagedObject, StagedPart, StoreResult, TaskStore,
};
use image_tasks_domain::regions::{Region, Regions};
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::tasks::Tasks;
use image_tasks_domain::transfer::PartRange;
use image_tasks_domain::{GlanceEndpoints, Image, ImageId, StagedBytes, Task, Timestamp};
use image_tasks_local::SourceServer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

pub(crate) const NOW: i64 = 1_795_000_000;
pub(crate) const TTL: Duration = Duration::from_secs(48 * 3600);
pub(crate) const ALICE: &str = "alice:demo";

/// Gives out addresses on the server of bytes, each time another, as S3's are.
struct Links {
    server: SocketAddr,
    given: AtomicU64,
}

#[async_trait]
impl ImageLinks for Links {
    async fn download_url(&self, image: &Image, _: Duration) -> StoreResult<String> {
        let n = self.given.fetch_add(1, Ordering::SeqCst);
        Ok(format!("http://{}/{}?X-Amz-Signature={n}", self.server, image.id))
    }
}

/// Staging whose URLs lead to this server.
struct StagedParts {
    store: Arc<MemoryStore>,
    server: SocketAddr,
}

const STAGING: &str = "https://staging.example/";

#[async_trait]
impl MultipartUploads for StagedParts {
    async fn begin_upload(&self, image: ImageId, staged: StagedBytes) -> StoreResult<String> {
        self.store.begin_upload(image, staged).await
    }

    async fn part_url(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        part: PartRange,
        valid_for: Duration,
    ) -> StoreResult<String> {
        let url = self.store.part_url(image, upload, part, valid_for).await?;
        Ok(url.replace(STAGING, &format!("http://{}/bytes/", self.server)))
    }

    async fn parts(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<Vec<StagedPart>>> {
        self.store.parts(image, upload).await
    }

    async fn join(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        parts: &[StagedPart],
        crc64nvme: Option<&str>,
    ) -> StoreResult<Joined> {
        self.store.join(image, upload, parts, crc64nvme).await
    }

    async fn joined(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<StagedObject>> {
        self.store.joined(image, upload).await
    }

    async fn abort(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<()> {
        self.store.abort(image, upload).await
    }
}

/// How the server takes parts.
#[derive(Default)]
struct Puts {
    /// Numbers of parts that came whole.
    whole: Vec<u32>,
    /// Those that are never answered.
    held: BTreeSet<u32>,
    /// Statuses that the next ones get instead.
    faults: VecDeque<u16>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// Tokens that the next logins give.
pub(crate) type Logins = VecDeque<&'static str>;

struct Shared {
    app: App,
    store: Arc<MemoryStore>,
    address: SocketAddr,
    seen: Mutex<Vec<Seen>>,
    puts: Mutex<Puts>,
    /// Statuses that the next requests get instead.
    faults: Mutex<VecDeque<u16>>,
    logins: Mutex<Logins>,
}

/// The service.
pub(crate) struct Server {
    shared: Arc<Shared>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) executions: Arc<MemoryExecutions>,
    /// Where the bytes are.
    pub(crate) bytes: SourceServer,
    /// Where the command runs; its home too.
    pub(crate) directory: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Identity::Development).await
    }

    pub(crate) async fn with(identity: Identity) -> Self {
        let bytes = SourceServer::start().await.unwrap();
        let store = Arc::new(MemoryStore::default());
        let executions = Arc::new(MemoryExecutions::default());
        let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(NOW)));
        let region = |name: &str| Region {
            name: name.to_owned(),
            endpoint: format!("https://{name}.images.example"),
            images_bucket: "images".to_owned(),
            images_table: "images".to_owned(),
        };
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
            glances: GlanceEndpoints::parse("https://glance.example.org").unwrap(),
            ttl: TTL,
            quota: ImageQuota::new(5000),
        };
        let images = Images {
            store: store.clone(),
            links: Arc::new(Links { server: bytes.address(), given: AtomicU64::new(0) }),
            bytes: store.clone(),
            tasks: store.clone(),
            clock,
            quota: ImageQuota::new(5000),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = App {
            staging: store.clone(),
            multipart: Arc::new(StagedParts { store: store.clone(), server: address }),
            max_image_bytes: 1 << 40,
            tasks,
            images,
            identity,
            public_endpoint: None,
        };
        let shared = Arc::new(Shared {
            app,
            store: store.clone(),
            address,
            seen: Mutex::default(),
            puts: Mutex::default(),
            faults: Mutex::default(),
            logins: Mutex::default(),
        });
        tokio::spawn(serve(listener, shared.clone()));
        Self { shared, store, executions, bytes, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Requests of that method and path.
    pub(crate) fn seen_of(&self, method: &Method, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method == *method && seen.path == path).collect()
    }

    /// A record without bytes, made by another client; its id.
    pub(crate) async fn make_image(&self, record: &Value) -> String {
        let made = self.post("/v2/images", record).await;
        made["id"].as_str().unwrap().to_owned()
    }

    /// Another client's upload.
    pub(crate) async fn begin_upload(&self, image: &str, size: u64) {
        let begun = self.post(&format!("/v2/images/{image}/upload"), &json!({"size": size})).await;
        assert_eq!(begun["part_count"], 1, "{begun}");
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let request = Request::post(path).header("x-auth-token", ALICE).body(Bytes::from(body.to_string()));
        serde_json::from_slice(self.shared.app.handle(request.unwrap()).await.body()).unwrap()
    }

    /// Numbers of the parts that came, in the order in which they were whole.
    pub(crate) fn parts(&self) -> Vec<u32> {
        self.shared.puts.lock().unwrap().whole.clone()
    }

    /// Of these parts none is answered from now on.
    pub(crate) fn hold_parts(&self, numbers: &[u32]) {
        self.shared.puts.lock().unwrap().held = numbers.iter().copied().collect();
    }

    pub(crate) fn fail_next_parts(&self, statuses: &[u16]) {
        self.shared.puts.lock().unwrap().faults.extend(statuses);
    }

    pub(crate) fn fail_next(&self, statuses: &[u16]) {
        self.shared.faults.lock().unwrap().extend(statuses);
    }

    pub(crate) fn logins(&self, tokens: &[&'static str]) {
        self.shared.logins.lock().unwrap().extend(tokens);
    }

    /// The command as Alice of the project demo, who has a token.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare_command(arguments);
        command.env("IMAGE_TASKS_ENDPOINT", self.url()).env("OS_TOKEN", ALICE);
        command
    }

    /// The command in an environment that says nothing.
    pub(crate) fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-tasks"));
        command.args(arguments).env_clear().current_dir(&self.directory).env("HOME", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Run {
        self.spawn(arguments).wait_with_output().await.unwrap().into()
    }

    /// The first task that is asked for.
    pub(crate) async fn task(&self) -> Task {
        self.first(|_| true).await
    }

    /// The first that has not ended.
    pub(crate) async fn open_task(&self) -> Task {
        self.first(|task| !task.status.is_end()).await
    }

    async fn first(&self, wanted: impl Fn(&Task) -> bool) -> Task {
        loop {
            for id in self.executions.started() {
                let task = TaskStore::get(&*self.store, id).await.unwrap().unwrap();
                if wanted(&task) {
                    return task;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a request was seen more often than so many times.
    pub(crate) async fn asked_beyond(&self, count: usize, method: &Method, path: &str) {
        while self.seen_of(method, path).len() <= count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }

    pub(crate) fn last_words(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(&shared, request).await) }
            });
            // A client that leaves early is an error here and no news.
            let _left = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    // A client that is interrupted leaves in the middle of a part.
    let Ok(body) = body.collect().await else { return Response::default() };
    let body = body.to_bytes();
    if let Some(path) = head.uri.path_and_query().and_then(|path| path.as_str().strip_prefix("/bytes/")) {
        assert!(!head.headers.contains_key("x-auth-token"), "a credential left the service");
        return part(shared, &format!("{STAGING}{path}"), body).await;
    }
    shared.seen.lock().unwrap().push(Seen {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        headers: head.headers.clone(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    if let Some(status) = shared.faults.lock().unwrap().pop_front() {
        let body = json!({"error": {"message": "A store can't be reached now", "code": status}});
        return Response::builder().status(status).body(Full::from(body.to_string())).unwrap();
    }
    match head.uri.path() {
        "/keystone/v3/auth/tokens" => login(shared),
        "/v2/info/regions" => Response::new(Full::from(regions().to_string())),
        _ => images(shared, head, body).await,
    }
}

/// What S3 does with a part.
async fn part(shared: &Shared, url: &str, body: Bytes) -> Response<Full<Bytes>> {
    let number = url::Url::parse(url).unwrap();
    let number = number.query_pairs().find(|(name, _)| name == "partNumber").unwrap().1.parse().unwrap();
    let (fault, is_held) = {
        let mut puts = shared.puts.lock().unwrap();
        (puts.faults.pop_front(), puts.held.contains(&number))
    };
    if is_held {
        std::future::pending::<()>().await;
    }
    let refused = |status: u16| Response::builder().status(status).body(Full::default()).unwrap();
    match (fault, shared.store.put_part(url, body.to_vec())) {
        (Some(status), _) => refused(status),
        (None, None) => refused(403),
        (None, Some(etag)) => {
            shared.puts.lock().unwrap().whole.push(number);
            Response::builder().header("etag", etag).body(Full::default()).unwrap()
        }
    }
}

async fn images(shared: &Shared, head: Parts, body: Bytes) -> Response<Full<Bytes>> {
    let signed = head.headers.get("authorization").and_then(|value| value.to_str().ok()?.split(' ').next());
    let is_signed = signed == Some("AWS4-HMAC-SHA256");
    let mut request = Request::from_parts(head, body);
    if is_signed {
        // As API Gateway tells who signed.
        let arn = "arn:aws:iam::123456789012:user/alice".to_owned();
        request.extensions_mut().insert(IamPrincipal { account_id: "123456789012".to_owned(), arn });
    }
    shared.app.handle(request).await.map(Full::from)
}

/// Keystone's answer: a token, and the service in two regions, of which one is elsewhere.
fn login(shared: &Shared) -> Response<Full<Bytes>> {
    let Some(token) = shared.logins.lock().unwrap().pop_front() else {
        let refusal =
            json!({"error": {"code": 401, "message": "The request you have made requires authentication."}});
        return Response::builder().status(401).body(Full::from(refusal.to_string())).unwrap();
    };
    let endpoint = |region: &str, url: String| {
        json!({
            "interface": "public", "region": region, "region_id": region, "url": url,
        })
    };
    let endpoints = [
        endpoint("elsewhere", "http://127.0.0.1:9".to_owned()),
        endpoint("here", format!("http://{}/v2/", shared.address)),
    ];
    let body = json!({"token": {"catalog": [{"type": "image", "endpoints": endpoints}]}});
    let answer = Response::builder().status(201).header("x-subject-token", token);
    answer.body(Full::from(body.to_string())).unwrap()
}

/// `GET /v2/info/regions` as the service answers it.
fn regions() -> Value {
    json!({"regions": [
        {"id": "us-east-1", "endpoint": "https://us.images.example", "here": true},
        {"id": "eu-west-1", "endpoint": "https://eu.images.example", "here": false},
    ]})
}

/// Variables of a login at this server's Keystone.
pub(crate) fn keystone(server: &Server) -> BTreeMap<&'static str, String> {
    [
        ("OS_AUTH_URL", format!("{}/keystone/v3", server.url())),
        ("OS_USERNAME", "alice".to_owned()),
        ("OS_PASSWORD", "correct horse".to_owned()),
        ("OS_PROJECT_NAME", "demo".to_owned()),
        ("OS_REGION_NAME", "here".to_owned()),
    ]
    .into()
}
