//! Whole exports over stores in memory: every form, every failure cause, a fault at every call, two that race for one name.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use disk_image::AllocationWriter;
use futures::FutureExt as _;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::memory::{ManualClock, MemoryExecutions};
use image_tasks_domain::ports::{Clock, ImageStore, TaskStore};
use image_tasks_domain::{
    Failure, Image, ImageId, ImageStatus, Task, TaskId, TaskStatus, TaskType, Timestamp, Visibility,
};
use image_tasks_flows::bounds::{BlobCut, ExportCut};
use image_tasks_flows::events::Event;
use image_tasks_flows::ports::{Metadata, ObjectRef, Objects, Receivers};
use image_tasks_flows::{Deadline, Engine, ExportRules, Exports, Lifecycle, Settings};
use serde_json::{Value, json};

use crate::disks::{assert_same_disk, islands, qcow2};
use crate::execution::Execution;
use crate::faults::{Fault, Faults, Kind};
use crate::objects::{MemoryObjects, S3Limits};
use crate::stores::{Machines, Stores};
use crate::world::{flow_stores, pattern};

pub(crate) const IMAGE: &str = "7c1e2f3a-6d5c-4a3b-9a55-3d9c7d6f1a2b";
const MIB: usize = 1 << 20;

/// A few clusters are a blob, and S3 copies from two of them on.
pub(crate) const BLOBS: BlobCut =
    BlobCut { range: 1 << 20, part: 100_000, most: 6 << 16, most_clusters: 9, least: 1 << 16, made: 6 << 16 };

/// Small cuts, so that a few kilobytes are many parts.
pub(crate) const CUT: ExportCut =
    ExportCut { tiny: 100, copy_whole: 100, copy_part: 1000, part: 1000, blobs: BlobCut::S3 };

#[derive(Clone)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub format: &'static str,
    pub stored: Vec<u8>,
    /// Data of a raw image, where it has a map.
    pub data: Option<Vec<std::ops::Range<u64>>>,
    pub input: Value,
    pub cut: ExportCut,
}

pub(crate) struct World {
    pub faults: Arc<Faults>,
    pub stores: Arc<Stores>,
    pub objects: Arc<MemoryObjects>,
    pub machines: Arc<Machines>,
    /// Where exports may go, and how they are cut.
    pub rules: ExportRules,
    flow_stores: image_tasks_flows::Stores,
    pub clock: Arc<ManualClock>,
    pub lifecycle: Lifecycle,
    pub key: String,
    pub twice: bool,
    /// That a call of the function has.
    pub time: Duration,
}

pub(crate) fn task_id(n: u8) -> TaskId {
    TaskId(format!("0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a{n:02x}").parse().unwrap())
}

pub(crate) fn scenarios() -> Vec<Scenario> {
    let exports = |more: Value| {
        let mut input = json!({"image_uuid": IMAGE, "receiving_bucket": "exports"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    let large = vec![(0, pattern(3000)), (70 << 20, pattern(200_000)), ((130 << 20) - 600, pattern(600))];
    let small = vec![(1000, pattern(2000))];
    // Of five ranges: several blobs, none, a short one, and two, of which the last is cut short.
    let many = vec![(0, pattern(900_000)), (2 << 20, pattern(1000)), ((4 << 20) + 70_000, pattern(700_000))];
    let mut raw = vec![0; 16 * MIB + 100];
    raw[..5 * MIB + 100].copy_from_slice(&pattern(5 * MIB + 100));
    raw[16 * MIB..].copy_from_slice(&pattern(100));
    let runs = vec![0..5 * MIB as u64 + 100, 16 * MIB as u64..16 * MIB as u64 + 100];
    let all = ExportCut::default();
    let scenario = |name, format, stored: &[u8], input, cut| Scenario {
        name,
        format,
        stored: stored.to_vec(),
        data: None,
        input: exports(input),
        cut,
    };
    let raw_as = json!({"export_format": "raw"});
    vec![
        scenario("copied whole", "raw", &pattern(3000), raw_as.clone(), all),
        scenario("copied by parts", "raw", &pattern(3500), raw_as.clone(), CUT),
        scenario("qcow2 as it is", "qcow2", &qcow2(10_000, &small), json!({}), all),
        scenario("tiny qcow2", "raw", &pattern(3000), json!({}), all),
        scenario("tiny raw", "qcow2", &qcow2(10_240, &small), raw_as.clone(), all),
        scenario("raw by parts", "qcow2", &qcow2(4096, &small), raw_as, CUT),
        scenario("qcow2 by ranges", "qcow2", &qcow2(130 << 20, &large), json!({"compression": "zstd"}), all),
        scenario(
            "qcow2 by many blobs",
            "qcow2",
            &qcow2(5 << 20, &many),
            json!({"compression": "zstd"}),
            ExportCut { tiny: 100, blobs: BLOBS, ..all },
        ),
        Scenario {
            data: Some(runs),
            ..scenario("copied qcow2", "raw", &raw, json!({"compression": "none"}), all)
        },
    ]
}

impl Scenario {
    pub(crate) async fn world(&self) -> World {
        let faults = Arc::new(Faults::default());
        let stores = Arc::new(Stores::new(Arc::clone(&faults)));
        let objects = Arc::new(MemoryObjects::new(Arc::clone(&faults)));
        objects.set_limits(S3Limits::scaled(&[self.cut.part, self.cut.copy_part, self.cut.blobs.least]));
        let machines = Arc::new(Machines { faults: Arc::clone(&faults), inner: MemoryExecutions::default() });
        let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(1_795_000_000)));
        let settings = Settings {
            images_bucket: "images".into(),
            work_bucket: "work".into(),
            task_ttl: Duration::from_secs(48 * 3600),
        };
        let receivers = ExportPolicy { buckets: [("exports".to_owned(), None)].into() };
        let id: ImageId = IMAGE.parse().unwrap();
        let at = ObjectRef { bucket: "images".into(), key: id.object_key(task_id(99)) };
        let bytes = Bytes::from(self.stored.clone());
        let body = Box::pin(futures::stream::iter([Ok(bytes)]));
        let object = objects.put_stream(&at, self.stored.len() as u64, body, true).await.unwrap();
        if let Some(data) = &self.data {
            let mut map = AllocationWriter::new(self.stored.len() as u64);
            data.iter().for_each(|run| map.data(run.clone()));
            let beside = ObjectRef { bucket: "images".into(), key: format!("{}.allocation", at.key) };
            objects.put(&beside, Bytes::from(map.finish().encode())).await.unwrap();
        }
        let crc = base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            object.crc64nvme.unwrap().to_be_bytes(),
        );
        let (virtual_size, _) = islands(&self.stored, self.format);
        let now = clock.now();
        stores.inner.put_image(Image {
            id,
            owner: "demo".into(),
            name: Some("Grüße".into()),
            status: ImageStatus::Active,
            visibility: Visibility::Shared,
            disk_format: Some(self.format.into()),
            container_format: Some("bare".into()),
            size: Some(object.size),
            virtual_size: Some(virtual_size),
            checksum: Some("0".repeat(32)),
            os_hash_algo: Some("sha512".into()),
            os_hash_value: Some("0".repeat(128)),
            min_disk: 0,
            min_ram: 0,
            protected: false,
            os_hidden: false,
            tags: Vec::new(),
            properties: [("os_type".to_owned(), "linux".to_owned())].into(),
            created_at: now,
            updated_at: now,
            staged: None,
            import_failed: false,
            upload: None,
            members: Default::default(),
            stored: Some(StoredObject { bucket: at.bucket, key: at.key, etag: object.etag, crc64nvme: crc }),
        });
        let flow_stores = flow_stores(&stores, &objects, &clock, &settings);
        let rules = ExportRules { receivers: receivers.clone(), cut: self.cut };
        let lifecycle = Lifecycle {
            stores: flow_stores.clone(),
            receivers: objects.clone(),
            exports: receivers,
            executions: machines.clone(),
            swept_to: Mutex::default(),
        };
        let format = self.input["export_format"].as_str().unwrap_or("qcow2");
        let world = World {
            faults,
            stores,
            objects,
            machines,
            rules,
            flow_stores,
            clock,
            lifecycle,
            key: format!("projects/demo/{IMAGE}.{format}"),
            twice: false,
            time: Duration::from_secs(900),
        };
        world.post(task_id(1), self.input.clone(), "demo");
        world.faults.reset();
        world
    }
}

impl World {
    pub(crate) fn post(&self, id: TaskId, input: Value, owner: &str) {
        let now = Timestamp::from_epoch(1_795_000_000);
        self.stores.inner.put_task(Task {
            id,
            user_id: "alice".into(),
            request_id: "req-1".into(),
            ..Task::pending(TaskType::Export, owner, input, now)
        });
    }

    pub(crate) async fn task(&self, id: TaskId) -> Task {
        TaskStore::get(&self.stores.inner, id).await.unwrap().unwrap()
    }

    pub(crate) fn exported(&self) -> Option<Bytes> {
        self.objects.bytes("exports", &self.key)
    }

    /// All that isn't the image.
    pub(crate) fn others(&self) -> Vec<String> {
        self.objects.everything().into_iter().filter(|key| !key.starts_with("images/")).collect()
    }

    pub(crate) async fn run(&self, id: TaskId) {
        let execution = Execution {
            id,
            run: 0,
            phases: &|event| self.phase(event).boxed(),
            lifecycle: &self.lifecycle,
            faults: &self.faults,
            executions: &self.machines.inner,
            twice: self.twice,
        };
        execution.run().await;
    }

    pub(crate) async fn phase(&self, event: Value) -> Result<Value, Failure> {
        let deadline = Deadline::after(self.time);
        let exports = Exports { receivers: self.objects.clone(), rules: self.rules.clone() };
        Engine::exports(self.flow_stores.clone(), exports).handle(Event::try_from(event)?, deadline).await
    }

    /// The task has ended, the object is whole or not there, and nothing else is left.
    pub(crate) async fn check(&self, expected: Option<&Bytes>, context: &str) -> TaskStatus {
        let task = self.task(task_id(1)).await;
        match task.status {
            TaskStatus::Success => {
                assert_eq!(self.others(), [format!("exports/{}", self.key)], "{context}");
                let exported = self.exported().expect(context);
                if let Some(expected) = expected {
                    assert!(exported == expected, "{context}: other bytes");
                }
                let result = task.result.expect(context);
                assert_eq!(result["export_location"], format!("s3://exports/{}", self.key), "{context}");
                assert_eq!(result["size"], exported.len(), "{context}");
                let at = ObjectRef { bucket: "exports".into(), key: self.key.clone() };
                let metadata = self.objects.metadata(&at).await.unwrap().expect(context);
                assert_eq!(metadata["image-id"], IMAGE);
                assert_eq!(metadata["image-name"], "Gr\\u00fc\\u00dfe");
                assert_eq!(metadata["image-properties"], r#"{"os_type":"linux"}"#);
            }
            TaskStatus::Failure => {
                assert_eq!(self.others(), Vec::<String>::new(), "{context}: {}", task.message);
            }
            TaskStatus::Pending | TaskStatus::Processing => panic!("{context}: {task:?}"),
        }
        let image = ImageStore::get(&self.stores.inner, IMAGE.parse().unwrap()).await.unwrap();
        assert!(image.is_some(), "{context}: the image's record is not the task's to remove");
        task.status
    }
}

#[tokio::test(start_paused = true)]
async fn every_form_makes_the_same_disk() {
    for scenario in scenarios() {
        let world = scenario.world().await;
        world.run(task_id(1)).await;
        let name = scenario.name;
        assert_eq!(
            world.check(None, name).await,
            TaskStatus::Success,
            "{}",
            world.task(task_id(1)).await.message
        );
        let exported = world.exported().unwrap();
        let format = scenario.input["export_format"].as_str().unwrap_or("qcow2");
        assert_same_disk(&exported, format, &scenario.stored, scenario.format, name);
        let task = world.task(task_id(1)).await;
        assert_eq!(task.image_id, Some(IMAGE.parse().unwrap()), "{name}");
        if name == "copied qcow2" {
            assert!(exported.len() < scenario.stored.len(), "zeros are left out");
        }
        let as_stored = ["copied whole", "copied by parts", "qcow2 as it is"].contains(&name);
        assert_eq!(exported == scenario.stored, as_stored, "{name}");
        if as_stored {
            assert_eq!(world.objects.read_from("images", &format!("images/{IMAGE}")), 0, "{name}: S3 copies");
            assert_eq!(task.result.unwrap()["checksum"], "0".repeat(32), "{name}");
        }
    }
}

/// The issue's figure: of a raw image of 1 GiB less than 1% passes the workers. Here the bytes read and the bytes uploaded.
#[tokio::test(start_paused = true)]
async fn an_uncompressed_export_of_a_raw_image_is_copied_by_the_store() {
    let size = 96 * MIB;
    let mut scenario = scenarios().pop().unwrap();
    scenario.stored = pattern(size + 100);
    scenario.data = None;
    let world = scenario.world().await;
    world.run(task_id(1)).await;
    assert_eq!(world.check(None, "large").await, TaskStatus::Success);
    let read = world.objects.read_from("images", &format!("images/{IMAGE}"));
    let most = size as u64 / 100;
    assert!(read < most, "{read} bytes read of {size}");
    let sent = world.objects.largest_upload() as u64;
    assert!(sent < 6 * MIB as u64, "{sent} bytes sent: part 1, which is at least 5 MiB");
}

#[tokio::test(start_paused = true)]
async fn a_fault_anywhere_leaves_nothing_behind() {
    let mut survived = 0;
    for scenario in scenarios() {
        for twice in [false, true] {
            let mut world = scenario.world().await;
            world.twice = twice;
            world.run(task_id(1)).await;
            let calls = world.faults.calls();
            assert_eq!(world.check(None, scenario.name).await, TaskStatus::Success);
            let expected = world.exported().unwrap();
            // Repeats of the large scenario's calls add minutes and no new place.
            let step = if twice && scenario.stored.len() > MIB { 5 } else { 1 };
            for call in (0..calls).step_by(step) {
                for after in [false, true] {
                    for kind in [Kind::Transient, Kind::Fatal, Kind::Crash] {
                        let fault = Fault { call, after, kind };
                        let context = format!("{}, twice {twice}, {fault:?}", scenario.name);
                        let mut world = scenario.world().await;
                        world.twice = twice;
                        world.faults.set(Some(fault));
                        world.run(task_id(1)).await;
                        let status = world.check(Some(&expected), &context).await;
                        survived += u32::from(status == TaskStatus::Success);
                        if status == TaskStatus::Failure {
                            let message = world.task(task_id(1)).await.message;
                            assert_eq!(kind, Kind::Fatal, "{context}: {message}");
                        }
                    }
                }
            }
        }
    }
    assert!(survived > 500, "{survived}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_overwritten_and_one_of_two_wins() {
    for scenario in scenarios() {
        let name = scenario.name;
        let world = scenario.world().await;
        world.run(task_id(1)).await;
        let first = world.exported().unwrap();
        world.post(task_id(2), scenario.input.clone(), "demo");
        world.run(task_id(2)).await;
        let second = world.task(task_id(2)).await;
        assert_eq!(second.status, TaskStatus::Failure, "{name}");
        assert!(second.message.starts_with("ObjectExists: "), "{name}: {}", second.message);
        assert_eq!(world.check(Some(&first), name).await, TaskStatus::Success);

        let world = scenario.world().await;
        world.post(task_id(2), scenario.input.clone(), "demo");
        tokio::join!(world.run(task_id(1)), world.run(task_id(2)));
        let ends = [world.task(task_id(1)).await, world.task(task_id(2)).await];
        let won = ends.iter().filter(|task| task.status == TaskStatus::Success).count();
        assert_eq!(won, 1, "{name}: {} / {}", ends[0].message, ends[1].message);
        assert_eq!(world.others(), [format!("exports/{}", world.key)], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_object_stays() {
    for scenario in scenarios() {
        let world = scenario.world().await;
        let at = ObjectRef { bucket: "exports".into(), key: world.key.clone() };
        let store = world.objects.objects(None, &Metadata::new());
        store.put(&at, Bytes::from_static(b"mine")).await.unwrap();
        world.run(task_id(1)).await;
        let task = world.task(task_id(1)).await;
        assert!(
            task.message.starts_with("ObjectExists: s3://exports/"),
            "{}: {}",
            scenario.name,
            task.message
        );
        assert_eq!(world.exported().unwrap(), Bytes::from_static(b"mine"));
        assert_eq!(world.others().len(), 1, "{}", scenario.name);
    }
}
