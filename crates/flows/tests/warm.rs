//! A process that has done a thousand imports and a thousand exports holds no more than one that has done a few: a test binary
//! of its own, with one test, since the allocator counts for the whole program.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use disk_image::ByteRange;
use disk_image_fixtures::{Sparse, nested};
use futures::TryStreamExt as _;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::memory::{ManualClock, MemoryStore};
use image_tasks_domain::ports::TaskStore;
use image_tasks_domain::source::{SourceLocation, SourcePolicy};
use image_tasks_domain::{Failure, Login, Task, TaskStatus, TaskType, Timestamp};
use image_tasks_flows::bounds::{Cut, ExportCut, Relay};
use image_tasks_flows::events::{Event, Phase};
use image_tasks_flows::ports::*;
use image_tasks_flows::{
    Deadline, Engine, ExportRules, Exports, ImportPolicy, Imports, Remote, Reporter, Settings, Stores,
};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Imports, and as many exports.
const TASKS: usize = 1000;
/// After so many, whatever is made once is there.
const WARM: usize = 200;
/// What a thread of the runtime that comes or goes makes of difference. A task that left one entry in a map would add more.
const SLACK: usize = 16 << 10;

fn body(bytes: Bytes) -> Body {
    Box::pin(futures::stream::iter([Ok(bytes)]))
}

fn slice(bytes: &Bytes, range: ByteRange) -> Bytes {
    bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
}

/// The image that is imported next.
#[derive(Default)]
struct Next(Mutex<Bytes>);

struct Served {
    bytes: Bytes,
    info: SourceInfo,
}

#[async_trait]
impl Sources for Next {
    async fn open(
        &self,
        _: &SourceLocation,
        _: Option<&Login>,
        _: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        let bytes = self.0.lock().unwrap().clone();
        let info = SourceInfo {
            size: Some(bytes.len() as u64),
            ranges: true,
            pin: SourcePin { etag: Some("\"e\"".into()), ..SourcePin::default() },
        };
        Ok(Box::new(Served { bytes, info }))
    }
}

#[async_trait]
impl Source for Served {
    fn info(&self) -> &SourceInfo {
        &self.info
    }
    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        Ok(body(slice(&self.bytes, range)))
    }
    async fn stream(&self) -> Result<Body, Failure> {
        Ok(body(self.bytes.clone()))
    }
}

/// Objects that are made in one request.
#[derive(Default, Clone)]
struct SmallObjects {
    stored: Arc<Mutex<BTreeMap<String, (Bytes, Metadata)>>>,
    /// Of what is made.
    metadata: Metadata,
}

fn name(at: &ObjectRef) -> String {
    format!("{}/{}", at.bucket, at.key)
}

fn info(bytes: &Bytes) -> ObjectInfo {
    let crc = crc_fast::checksum(Crc64Nvme, bytes);
    ObjectInfo { size: bytes.len() as u64, etag: crc.to_string(), crc64nvme: Some(crc) }
}

fn in_parts<T>() -> ObjectResult<T> {
    Err(ObjectError::Fault("an object of so few bytes is made in one request".into()))
}

impl SmallObjects {
    fn of(&self, at: &ObjectRef) -> Option<Bytes> {
        self.stored.lock().unwrap().get(&name(at)).map(|(bytes, _)| bytes.clone())
    }

    fn store(&self, at: &ObjectRef, bytes: Bytes, new: bool) -> ObjectResult<ObjectInfo> {
        if new && self.of(at).is_some() {
            return Err(ObjectError::Precondition(name(at).into()));
        }
        let info = info(&bytes);
        self.stored.lock().unwrap().insert(name(at), (bytes, self.metadata.clone()));
        Ok(info)
    }

    fn found(&self, at: &ObjectRef) -> ObjectResult<Bytes> {
        self.of(at).ok_or_else(|| ObjectError::NotFound(name(at).into()))
    }
}

impl Receivers for SmallObjects {
    fn objects(&self, _: Option<&str>, metadata: &Metadata) -> Arc<dyn Objects> {
        Arc::new(Self { metadata: metadata.clone(), ..self.clone() })
    }
}

#[async_trait]
impl Objects for SmallObjects {
    async fn head(&self, at: &ObjectRef) -> ObjectResult<Option<ObjectInfo>> {
        Ok(self.of(at).as_ref().map(info))
    }
    async fn metadata(&self, at: &ObjectRef) -> ObjectResult<Option<Metadata>> {
        Ok(self.stored.lock().unwrap().get(&name(at)).map(|(_, metadata)| metadata.clone()))
    }
    async fn read(&self, at: &ObjectRef, _: Option<&str>, range: ByteRange) -> ObjectResult<Body> {
        Ok(body(slice(&self.found(at)?, range)))
    }
    async fn get(&self, at: &ObjectRef) -> ObjectResult<Option<Bytes>> {
        Ok(self.of(at))
    }
    async fn put(&self, at: &ObjectRef, bytes: Bytes) -> ObjectResult<ObjectInfo> {
        self.store(at, bytes, false)
    }
    async fn put_stream(&self, at: &ObjectRef, _: u64, body: Body, new: bool) -> ObjectResult<ObjectInfo> {
        let chunks: Vec<Bytes> = body.try_collect().await.map_err(ObjectError::Body)?;
        self.store(at, chunks.concat().into(), new)
    }
    async fn create_upload(&self, _: &ObjectRef) -> ObjectResult<UploadId> {
        in_parts()
    }
    async fn upload_part(
        &self,
        _: &ObjectRef,
        _: &UploadId,
        _: u32,
        _: u64,
        _: Body,
    ) -> ObjectResult<StoredPart> {
        in_parts()
    }
    async fn copy_part(
        &self,
        _: &ObjectRef,
        _: &UploadId,
        _: u32,
        _: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart> {
        in_parts()
    }
    async fn copy(&self, at: &ObjectRef, from: &ObjectRef, _: &str, new: bool) -> ObjectResult<ObjectInfo> {
        self.store(at, self.found(from)?, new)
    }
    async fn parts(&self, _: &ObjectRef, _: &UploadId) -> ObjectResult<Vec<StoredPart>> {
        in_parts()
    }
    async fn complete(
        &self,
        _: &ObjectRef,
        _: &UploadId,
        _: &[StoredPart],
        _: u64,
        _: bool,
    ) -> ObjectResult<ObjectInfo> {
        in_parts()
    }
    async fn abort(&self, _: &ObjectRef, _: &UploadId) -> ObjectResult<()> {
        in_parts()
    }
    async fn uploads(&self, _: &str, _: &str) -> ObjectResult<Vec<(ObjectRef, UploadId)>> {
        Ok(Vec::new())
    }
    async fn delete(&self, at: &ObjectRef) -> ObjectResult<()> {
        self.stored.lock().unwrap().remove(&name(at));
        Ok(())
    }
    async fn delete_prefix(&self, bucket: &str, prefix: &str) -> ObjectResult<()> {
        let prefix = format!("{bucket}/{prefix}");
        self.stored.lock().unwrap().retain(|name, _| !name.starts_with(&prefix));
        Ok(())
    }
}

/// A process of each function, and what it runs on.
struct Warm {
    store: Arc<MemoryStore>,
    objects: SmallObjects,
    source: Arc<Next>,
    imports: Engine,
    exports: Engine,
    now: Timestamp,
}

impl Warm {
    fn new() -> Self {
        let now = Timestamp::from_epoch(1_795_000_000);
        let (store, objects, source) =
            (Arc::new(MemoryStore::default()), SmallObjects::default(), Arc::new(Next::default()));
        let stores = Stores {
            tasks: store.clone(),
            progress: Reporter::new(store.clone()),
            images: store.clone(),
            life: store.clone(),
            objects: Arc::new(objects.clone()),
            clock: Arc::new(ManualClock::at(now)),
            settings: Settings {
                images_bucket: "images".into(),
                work_bucket: "work".into(),
                task_ttl: Duration::from_secs(1),
            },
        };
        let policy = ImportPolicy {
            sources: SourcePolicy::default(),
            max_image_bytes: 1 << 30,
            output: OutputFormat::AsIs,
            hash_before_active: 1 << 30,
            cut: Cut::default(),
            relay: Relay::default(),
            source_wait: Duration::from_secs(300),
        };
        let remote = Remote { sources: source.clone(), policy, credentials: store.clone() };
        let receivers = ExportPolicy { buckets: [("exports".to_owned(), None)].into() };
        let rules = ExportRules { receivers, cut: ExportCut::default() };
        Self {
            imports: Engine::imports(stores.clone(), Imports { remote }),
            exports: Engine::exports(stores, Exports { receivers: Arc::new(objects.clone()), rules }),
            store,
            objects,
            source,
            now,
        }
    }

    /// A task from its start to its end, in one call; its record is taken away.
    async fn done(&self, engine: &Engine, task_type: TaskType, input: Value) -> Task {
        let task = Task::pending(task_type, "demo", input, self.now);
        let (id, context) = (task.id, task.input.to_string());
        self.store.put_task(task);
        let event = Event { task_id: id, phase: Phase::Plan };
        let answer = engine.handle(event, Deadline::after(Duration::from_secs(600))).await;
        assert_eq!(answer, Ok(json!({"next": "done"})), "{context}");
        let task = TaskStore::get(&*self.store, id).await.unwrap().unwrap();
        assert_eq!(task.status, TaskStatus::Success, "{context}: {}", task.message);
        self.store.remove_task(id);
        task
    }

    /// An image comes, goes out, and is deleted.
    async fn there_and_back(&self, (format, bytes): &(&str, Bytes), wanted: Option<&str>, form: &Value) {
        *self.source.0.lock().unwrap() = bytes.clone();
        let mut input = json!({"import_from": "http://example.com/image", "import_from_format": format});
        if let Some(wanted) = wanted {
            input["image_properties"] = json!({"disk_format": wanted});
        }
        let image = self.done(&self.imports, TaskType::Import, input).await.image_id.unwrap();
        let mut input = json!({"image_uuid": image, "receiving_bucket": "exports"});
        input.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
        self.done(&self.exports, TaskType::Export, input).await;
        self.store.remove_image(image);
        let objects = std::mem::take(&mut *self.objects.stored.lock().unwrap());
        assert!(objects.keys().any(|name| name.starts_with("exports/")), "{:?}", objects.keys());
        assert!(!objects.keys().any(|name| name.starts_with("work/")), "{:?}", objects.keys());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_process_does_not_grow() {
    // Two clusters of data, between zeros.
    let mut disk = vec![0; 1 << 20];
    for (n, byte) in disk[200_000..300_000].iter_mut().enumerate() {
        *byte = u8::try_from(n * n % 251).unwrap();
    }
    let bytes = |file: &Sparse| Bytes::from(file.read(ByteRange { start: 0, end: file.len() }));
    let made = nested::disks(&disk).into_iter().map(|image| (image.format.name(), bytes(&image.file)));
    let images: Vec<_> = made.chain([("raw", Bytes::from(disk.clone()))]).collect();
    let forms = ["zlib", "zstd", "none"].map(|codec| json!({"compression": codec}));
    let forms = [&forms[..], &[json!({"export_format": "raw"})]].concat();
    let warm = Warm::new();
    let mut held = Vec::new();
    for n in 0..TASKS {
        if n == WARM {
            HEAP.reset_peak_usage();
        }
        if n % 100 == 0 {
            held.push(HEAP.current_usage());
        }
        let wanted = [None, Some("raw"), Some("qcow2")][n / images.len() % 3];
        warm.there_and_back(&images[n % images.len()], wanted, &forms[n % forms.len()]).await;
    }
    held.push(HEAP.current_usage());
    println!(
        "{TASKS} imports of {} kinds, {TASKS} exports; held after each hundred: {held:?} bytes",
        images.len()
    );
    println!("{} KiB at most, once warm", HEAP.peak_usage() >> 10);
    let (warm, end) = (held[WARM / 100], held[TASKS / 100]);
    assert!(end <= warm + SLACK, "{warm} bytes after {WARM} imports and exports, {end} after {TASKS}");
}
