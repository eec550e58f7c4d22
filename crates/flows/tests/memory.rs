//! The heap's peak of an import worker, for a small image and for one of a tebibyte: a test binary of its own, with one test,
//! since the allocator counts for the whole program.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk_image::ByteRange;
use disk_image::write::qcow2::{BlobWriter, Codec, Geometry};
use disk_image::write::rope::Rope;
use futures::StreamExt as _;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::memory::{ManualClock, MemoryStore};
use image_tasks_domain::source::{SourceLocation, SourcePolicy};
use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{Failure, Login, Task, TaskId, TaskType, Timestamp};
use image_tasks_flows::bounds::{
    BlobCut, Cut, HASH_AHEAD, HASH_CHUNK, HASH_QUEUE, HASH_READ, HASH_WORKERS, PARTS_AT_ONCE, PROBE_BYTES,
    READS_AT_ONCE, Relay, WINDOW,
};
use image_tasks_flows::events::{Event, Phase, Round, RoundItem, VERSION};
use image_tasks_flows::ports::*;
use image_tasks_flows::{Deadline, Engine, ImportPolicy, Imports, Remote, Reporter, Settings, Stores};
use peak_alloc::PeakAlloc;
use serde_json::json;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: u64 = 1 << 20;
/// As large as what a network read gives.
const CHUNK: u64 = 64 << 10;

fn stream(file: Arc<File>, range: ByteRange) -> Body {
    let starts = (range.start..range.end).step_by(usize::try_from(CHUNK).unwrap());
    Box::pin(futures::stream::iter(starts.map(move |start| {
        let len = CHUNK.min(range.end - start);
        let mut chunk = vec![0; usize::try_from(len).unwrap()];
        file.read_exact_at(&mut chunk, start).unwrap();
        Ok(Bytes::from(chunk))
    })))
}

/// A source that is a file.
struct FileSources(PathBuf);

struct FileSource {
    file: Arc<File>,
    info: SourceInfo,
}

#[async_trait]
impl Sources for FileSources {
    async fn open(
        &self,
        _: &SourceLocation,
        _: Option<&Login>,
        _: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        let file = File::open(&self.0).unwrap();
        let size = Some(file.metadata().unwrap().len());
        let info = SourceInfo {
            size,
            ranges: true,
            pin: SourcePin { etag: Some("\"e\"".into()), ..SourcePin::default() },
        };
        Ok(Box::new(FileSource { file: Arc::new(file), info }))
    }
}

#[async_trait]
impl Source for FileSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }
    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        Ok(stream(Arc::clone(&self.file), range))
    }
    async fn stream(&self) -> Result<Body, Failure> {
        self.read(ByteRange { start: 0, end: self.info.size.unwrap() }).await
    }
}

/// Objects as files; parts of uploads are counted and dropped, so a completed object is a hole of its size.
struct FileObjects {
    dir: PathBuf,
    uploads: Mutex<BTreeMap<String, BTreeMap<u32, u64>>>,
}

impl FileObjects {
    fn path(&self, at: &ObjectRef) -> PathBuf {
        self.dir.join(format!("{}-{}", at.bucket, at.key.replace('/', "-")))
    }

    fn info(size: u64) -> ObjectInfo {
        ObjectInfo { size, etag: "\"e\"".into(), crc64nvme: Some(0) }
    }

    fn part(&self, upload: &str, number: u32, size: u64) -> StoredPart {
        self.uploads.lock().unwrap().entry(upload.to_owned()).or_default().insert(number, size);
        StoredPart { number, size, etag: String::new(), crc64nvme: 0 }
    }
}

#[async_trait]
impl Objects for FileObjects {
    async fn head(&self, at: &ObjectRef) -> ObjectResult<Option<ObjectInfo>> {
        Ok(std::fs::metadata(self.path(at)).ok().map(|found| Self::info(found.len())))
    }
    async fn metadata(&self, _: &ObjectRef) -> ObjectResult<Option<Metadata>> {
        Ok(None)
    }
    async fn read(&self, at: &ObjectRef, _: Option<&str>, range: ByteRange) -> ObjectResult<Body> {
        Ok(stream(Arc::new(File::open(self.path(at)).unwrap()), range))
    }
    async fn get(&self, at: &ObjectRef) -> ObjectResult<Option<Bytes>> {
        Ok(std::fs::read(self.path(at)).ok().map(Bytes::from))
    }
    async fn put(&self, at: &ObjectRef, bytes: Bytes) -> ObjectResult<ObjectInfo> {
        std::fs::write(self.path(at), &bytes).unwrap();
        Ok(Self::info(bytes.len() as u64))
    }
    async fn put_stream(
        &self,
        at: &ObjectRef,
        len: u64,
        mut body: Body,
        _: bool,
    ) -> ObjectResult<ObjectInfo> {
        let mut file = File::create(self.path(at)).unwrap();
        while let Some(chunk) = body.next().await {
            file.write_all(&chunk.unwrap()).unwrap();
        }
        Ok(Self::info(len))
    }
    async fn create_upload(&self, at: &ObjectRef) -> ObjectResult<UploadId> {
        Ok(UploadId(at.key.clone()))
    }
    async fn upload_part(
        &self,
        at: &ObjectRef,
        upload: &UploadId,
        number: u32,
        len: u64,
        mut body: Body,
    ) -> ObjectResult<StoredPart> {
        // The judge looks at the head of what is made.
        let mut head = (number == 1).then(|| File::create(self.path(at).with_extension("part")).unwrap());
        let mut came = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.unwrap();
            if let Some(head) = &mut head {
                head.write_all(&chunk).unwrap();
            }
            came += chunk.len() as u64;
            // As a socket does.
            tokio::task::yield_now().await;
        }
        assert_eq!(came, len);
        Ok(self.part(&upload.0, number, len))
    }
    async fn copy_part(
        &self,
        _: &ObjectRef,
        upload: &UploadId,
        number: u32,
        copied: CopiedRange<'_>,
    ) -> ObjectResult<StoredPart> {
        Ok(self.part(&upload.0, number, copied.range.len()))
    }
    async fn copy(&self, _: &ObjectRef, _: &ObjectRef, _: &str, _: bool) -> ObjectResult<ObjectInfo> {
        Err(ObjectError::Fault("not part of this test".into()))
    }
    async fn parts(&self, _: &ObjectRef, upload: &UploadId) -> ObjectResult<Vec<StoredPart>> {
        let held = self.uploads.lock().unwrap().get(&upload.0).cloned().unwrap_or_default();
        let stored = |(number, size)| StoredPart { number, size, etag: String::new(), crc64nvme: 0 };
        Ok(held.into_iter().map(stored).collect())
    }
    async fn complete(
        &self,
        at: &ObjectRef,
        _: &UploadId,
        parts: &[StoredPart],
        _: u64,
        _: bool,
    ) -> ObjectResult<ObjectInfo> {
        let size = parts.iter().map(|part| part.size).sum();
        let _ = std::fs::rename(self.path(at).with_extension("part"), self.path(at));
        File::options().create(true).append(true).open(self.path(at)).unwrap().set_len(size).unwrap();
        Ok(Self::info(size))
    }
    async fn abort(&self, _: &ObjectRef, _: &UploadId) -> ObjectResult<()> {
        Ok(())
    }
    async fn uploads(&self, _: &str, _: &str) -> ObjectResult<Vec<(ObjectRef, UploadId)>> {
        Ok(Vec::new())
    }
    async fn delete(&self, _: &ObjectRef) -> ObjectResult<()> {
        Ok(())
    }
    async fn delete_prefix(&self, _: &str, _: &str) -> ObjectResult<()> {
        Ok(())
    }
}

struct Worker {
    engine: Engine,
    objects: Arc<FileObjects>,
    id: TaskId,
}

impl Worker {
    fn new(source: &Path, dir: &Path, format: &str, wanted: &str) -> Self {
        std::fs::create_dir(dir).unwrap();
        let store = Arc::new(MemoryStore::default());
        let objects = Arc::new(FileObjects { dir: dir.to_owned(), uploads: Mutex::default() });
        let id = TaskId("0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b".parse().unwrap());
        let now = Timestamp::from_epoch(1_795_000_000);
        let input = json!({
            "import_from": "http://example.com/image", "import_from_format": format,
            "image_properties": {"disk_format": wanted},
        });
        store.put_task(Task { id, ..Task::pending(TaskType::Import, "demo", input, now) });
        let settings = Settings {
            images_bucket: "images".into(),
            work_bucket: "work".into(),
            task_ttl: Duration::from_secs(1),
        };
        let policy = ImportPolicy {
            sources: SourcePolicy::default(),
            max_image_bytes: 1 << 40,
            output: OutputFormat::AsIs,
            hash_before_active: 1 << 40,
            cut: Cut::default(),
            relay: Relay::default(),
            source_wait: Duration::from_secs(300),
        };
        let sources = Arc::new(FileSources(source.to_owned()));
        let stores = Stores {
            tasks: store.clone(),
            progress: Reporter::new(store.clone()),
            images: store.clone(),
            life: store.clone(),
            objects: objects.clone(),
            clock: Arc::new(ManualClock::at(now)),
            settings,
        };
        let remote = Remote { sources, policy, credentials: store };
        Self { engine: Engine::imports(stores, Imports { remote }), objects, id }
    }

    async fn phase(&self, phase: Phase, seconds: u64) -> (usize, serde_json::Value) {
        let event = Event { task_id: self.id, phase };
        let (most, answer) =
            peak(self.engine.handle(event, Deadline::after(Duration::from_secs(seconds)))).await;
        (most, answer.unwrap_or_else(|failure| json!(failure.to_string())))
    }

    /// Peaks of planning, of making the piece that holds byte `at` of the disk and the next one (and of a qcow2's parts), of
    /// what one call finishes, and of a turn in a relay.
    async fn peaks(&self, at: u64) -> [usize; 4] {
        let (plan, next) = self.phase(Phase::Plan, 600).await;
        let Some(items) = next["items"].as_array() else { panic!("more than one call is needed: {next}") };
        let pieces = u32::try_from(items.last().unwrap()["last"].as_u64().unwrap()).unwrap();
        let plan_json =
            std::fs::read(self.objects.dir.join(format!("work-work-{}-plan.json", self.id))).unwrap();
        let saved: serde_json::Value = serde_json::from_slice(&plan_json).unwrap();
        let form = saved["recipe"].as_object().unwrap().values().next().unwrap();
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        if let (Some(cut), None) = (form.get("cut"), form.get("codec")) {
            let (size, part_size) = (number(&cut["size"]), number(&cut["part_size"]));
            let first = u32::try_from(at / part_size).unwrap() + 1;
            let transfer = self.transfer(first).await;
            // The other parts, without moving them.
            for number in 1..=pieces {
                self.objects.part(
                    saved["upload"].as_str().unwrap(),
                    number,
                    part_size.min(size - u64::from(number - 1) * part_size),
                );
            }
            // In the time for a part of the hash: the rest is a relay's.
            let (finish, next) = self.phase(Phase::Next, 2).await;
            let pieces = Batch { first: 1, last: u32::try_from(size.div_ceil(HASH_CHUNK)).unwrap() };
            assert_eq!(next["items"][0], json!(RoundItem { round: Round::Hash, pieces }), "{next}");
            // Its chunk, and the next one, whose turn doesn't come.
            let item = RoundItem { round: Round::Hash, pieces };
            let (hash, left) = self.phase(Phase::Round { item }, 5).await;
            assert_eq!(left["remaining"]["first"], json!(1 + HASH_WORKERS), "{left}");
            return [plan, transfer, finish, hash];
        }
        let (size, cut) = (number(&form["size"]), BlobCut::S3);
        let first = (1..=pieces).find(|piece| cut.range(size, *piece).unwrap().end > at).unwrap();
        let transfer = self.transfer(first).await;
        // The others hold nothing.
        for piece in (1..=pieces).filter(|piece| !(first..first + 2).contains(piece)) {
            let range = cut.range(size, piece).unwrap();
            let mut writer = BlobWriter::new(Geometry::new(size, Codec::None).unwrap(), range.start).unwrap();
            writer.zeros(range.end - range.start, &mut Rope::default()).unwrap();
            let summary = writer.finish(&mut Rope::default()).unwrap().summary();
            let record = json!({"version": VERSION, "summary": summary, "stored": null});
            let at = self.objects.dir.join(format!("work-work-{}-blob-{}.json", self.id, range.start));
            std::fs::write(at, record.to_string()).unwrap();
        }
        let (listed, next) = self.phase(Phase::Next, 600).await;
        let Some(items) = next["items"].as_array() else { panic!("a round of its own: {next}") };
        let last = u32::try_from(items.last().unwrap()["last"].as_u64().unwrap()).unwrap();
        let sealed = self.round(Round::Seal, 1, last).await;
        let (finish, next) = self.phase(Phase::Next, 600).await;
        // The file is as long as what it holds.
        assert_eq!(next, json!({"next": "done"}));
        [plan, transfer.max(listed).max(sealed), finish, 0]
    }

    async fn transfer(&self, first: u32) -> usize {
        self.round(Round::Move, first, first + 1).await
    }

    async fn round(&self, round: Round, first: u32, last: u32) -> usize {
        let item = RoundItem { round, pieces: Batch { first, last } };
        let (most, left) = self.phase(Phase::Round { item }, 600).await;
        assert_eq!(left, json!({"remaining": null}));
        most
    }
}

/// The most bytes on the heap during `work`, beyond those there before.
async fn peak<T>(work: impl Future<Output = T>) -> (usize, T) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let done = work.await;
    (HEAP.peak_usage() - before, done)
}

/// A sparse disk with 128 MiB of data on each side of `at`.
fn disk(path: &Path, size: u64, at: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for n in 0..256 {
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(MIB as usize / 8)
        .flatten()
        .collect();
        file.write_all_at(&noise, at + n * MIB - 128 * MIB).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_follow_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut peaks = BTreeMap::new();
    for (name, size, at) in [("2 GiB", 2 << 30, 1 << 30), ("1 TiB", 1 << 40, 1 << 39)] {
        let raw = dir.path().join(name);
        disk(&raw, size, at);
        let made = |format: &str, options: &[&str]| {
            let made = dir.path().join(format!("{name}.{format}"));
            let mut run = Command::new("qemu-img");
            run.args(["convert", "-f", "raw", "-O", format]).args(options).args([&raw, &made]);
            let done = run.output().unwrap();
            assert!(done.status.success(), "{done:?}");
            made
        };
        let mut images = Vec::new();
        images.push(("raw", raw.clone(), "raw"));
        images.push(("qcow2", made("qcow2", &["-c", "-o", "compression_type=zstd"]), "raw"));
        images.push(("vhdx", made("vhdx", &[]), "qcow2"));
        // Nobody knows where a raw source has zeros: two ranges, of a tebibyte 8 GiB, are read.
        images.push(("raw", raw, "qcow2"));
        for (format, source, wanted) in images {
            let objects = dir.path().join(format!("{name}-{format}-{wanted}-objects"));
            let found = Worker::new(&source, &objects, format, wanted).peaks(at - 1).await;
            println!(
                "{format} of {name} as {wanted}: plan, transfer, finish, hash {:?} MiB",
                found.map(|n| n as u64 / MIB)
            );
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            println!(
                "{}, of the whole test so far",
                status.lines().find(|l| l.starts_with("VmHWM")).unwrap()
            );
            peaks.insert((format, wanted, name), found);
        }
    }
    for ((format, wanted, name), [plan, transfer, finish, hash]) in &peaks {
        let image = format!("{format} of {name} as {wanted}");
        let small = peaks[&(*format, *wanted, "2 GiB")][1];
        let blob_part = if *wanted == "raw" { 0 } else { BlobCut::S3.part as usize };
        // Within a tenth, and 2 MiB for what doesn't count beside a runtime.
        let most = small + small / 10 + 2 * MIB as usize;
        assert!(*transfer <= most, "{image}: {transfer} bytes, {small} for 2 GiB");
        // What the module of bounds says, and 4 MiB for the sidecar's index and what is being written.
        for (phase, found, most) in [
            ("plan", plan, PROBE_BYTES),
            ("transfer", transfer, PARTS_AT_ONCE * ((1 + READS_AT_ONCE) * WINDOW + 2 * blob_part)),
            ("finish", finish, (HASH_AHEAD + HASH_QUEUE + 2) * HASH_READ as usize),
            ("hash", hash, (HASH_CHUNK + HASH_READ) as usize),
        ] {
            assert!(*found <= most + 4 * MIB as usize, "{phase}, {image}: {found} bytes");
        }
    }
}
