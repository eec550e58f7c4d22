//! Clones over two regions in memory: what ends well, what fails, and that nothing is left whatever goes wrong where.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use image_tasks_domain::clone_input::PROVENANCE;
use image_tasks_domain::copying::CopyRules;
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::ports::ImageStore;
use image_tasks_domain::regions::{Region, Regions};
use image_tasks_domain::{Failure, Image, ImageId, ImageStatus, Task, TaskStatus, TaskType, Visibility};
use image_tasks_flows::events::Event;
use image_tasks_flows::ports::{ObjectRef, Objects as _, RegionStore, RegionStores};
use image_tasks_flows::{Clones, Deadline, Engine, RegionImages};
use serde_json::{Value, json};

use crate::faults::{Fault, Kind};
use crate::objects::MemoryObjects;
use crate::sources::Script;
use crate::stores::Stores;
use crate::world::{CUT, World, hex, pattern};

const HERE: &str = "us-east-1";
pub(crate) const THERE: &str = "eu-west-1";
const SOURCE: &str = "7b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
const RULES: CopyRules = CopyRules { whole: 1000, part: 1000 };
const MAP: &[u8] = b"where the data is";

/// Two regions over one store of objects, as S3 is one.
pub(crate) struct TwoRegions {
    pub world: World,
    there: Arc<Stores>,
    engine: Engine,
    bytes: Vec<u8>,
}

struct Known {
    here: Arc<Stores>,
    there: Arc<Stores>,
    objects: Arc<MemoryObjects>,
}

impl RegionStores for Known {
    fn store(&self, region: &str) -> Option<RegionStore> {
        let images = match region {
            HERE => self.here.clone(),
            THERE => self.there.clone(),
            _ => return None,
        };
        Some(RegionStore { images, objects: self.objects.clone() })
    }
}

fn source_object() -> ObjectRef {
    ObjectRef { bucket: "images-eu".into(), key: format!("images/{SOURCE}") }
}

fn source_image(bytes: &[u8], stored: StoredObject, now: image_tasks_domain::Timestamp) -> Image {
    Image {
        id: SOURCE.parse().unwrap(),
        owner: "demo".into(),
        name: Some("Debian".into()),
        status: ImageStatus::Active,
        visibility: Visibility::Private,
        disk_format: Some("raw".into()),
        container_format: Some("bare".into()),
        size: Some(bytes.len() as u64),
        virtual_size: Some(bytes.len() as u64),
        checksum: Some("0123".into()),
        os_hash_algo: Some("sha512".into()),
        os_hash_value: Some(hex(&bytes[..bytes.len().min(64)])),
        min_disk: 1,
        min_ram: 64,
        protected: false,
        os_hidden: false,
        tags: vec!["stable".into()],
        properties: [("os_distro".to_owned(), "debian".to_owned())].into(),
        created_at: now,
        updated_at: now,
        staged: None,
        import_failed: false,
        upload: None,
        members: Default::default(),
        stored: Some(stored),
    }
}

impl TwoRegions {
    pub(crate) async fn new(len: usize, input: Value) -> Self {
        let world = World::new(Script::of(Vec::new()), json!({}), CUT).await;
        let bytes = pattern(len);
        let objects = world.objects.clone();
        let stored = objects.put(&source_object(), Bytes::from(bytes.clone())).await.unwrap();
        let map = ObjectRef { key: format!("images/{SOURCE}.allocation"), ..source_object() };
        objects.put(&map, Bytes::from_static(MAP)).await.unwrap();
        let there = Arc::new(Stores::new(world.faults.clone()));
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
        let ObjectRef { bucket, key } = source_object();
        use base64::Engine as _;
        let crc64nvme = base64::prelude::BASE64_STANDARD.encode(crc.to_be_bytes());
        let record = StoredObject { bucket, key, etag: stored.etag, crc64nvme };
        let now = image_tasks_domain::ports::Clock::now(&*world.clock);
        there.inner.put_image(source_image(&bytes, record, now));
        let mut task = world.task().await;
        task.task_type = TaskType::Clone;
        task.input = json!({"source_region": THERE, "image_uuid": SOURCE});
        task.input.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
        world.stores.inner.put_task(task);
        let region = Region {
            name: THERE.into(),
            endpoint: "https://eu.example.com".into(),
            images_bucket: "images-eu".into(),
            images_table: "images".into(),
        };
        let known = Known { here: world.stores.clone(), there: there.clone(), objects: objects.clone() };
        let regions = RegionImages {
            stores: Arc::new(known),
            regions: Regions::new(HERE, vec![region]).unwrap(),
            rules: RULES,
        };
        let engine = Engine::clones(world.flow_stores(), Clones { regions, elsewhere: None });
        let start = world.faults.calls();
        assert_eq!(start, 2, "calls before the first invocation");
        Self { world, there, engine, bytes }
    }

    pub(crate) async fn change(&self, change: impl FnOnce(&mut Image)) {
        let mut image = self.source().await;
        change(&mut image);
        self.there.inner.put_image(image);
    }

    async fn source(&self) -> Image {
        ImageStore::get(&self.there.inner, SOURCE.parse().unwrap()).await.unwrap().unwrap()
    }

    /// The whole life of the task, to its end.
    pub(crate) async fn run(&self) -> Task {
        self.world.run_with(&|event| self.phase(event).boxed()).await;
        self.world.task().await
    }

    pub(crate) async fn phase(&self, event: Value) -> Result<Value, Failure> {
        self.engine.handle(Event::try_from(event)?, Deadline::after(self.world.time)).await
    }

    /// What there is beside the source.
    pub(crate) fn made(&self) -> Vec<String> {
        let mut everything = self.world.objects.everything();
        everything.retain(|key| !key.starts_with("images-eu/"));
        everything
    }

    /// The task has ended, the image is whole or gone, and nothing else is left.
    pub(crate) async fn check_ended(&self, context: &str) -> TaskStatus {
        let task = self.world.task().await;
        let image = self.world.image().await;
        match task.status {
            TaskStatus::Success => {
                let image = image.expect(context);
                assert_eq!(task.result, Some(json!({"image_id": image.id})), "{context}");
                let key = image.id.object_key(task.id);
                assert_eq!(
                    self.made(),
                    [format!("images/{key}"), format!("images/{key}.allocation")],
                    "{context}"
                );
                let bytes = |key: &str| self.world.objects.bytes("images", key).expect(context);
                assert!(bytes(&key) == self.bytes, "{context}: other bytes");
                assert_eq!(&bytes(&format!("{key}.allocation"))[..], MAP, "{context}");
                let source = self.source().await;
                assert_eq!((image.status, image.owner.as_str()), (ImageStatus::Active, "demo"), "{context}");
                assert_eq!(
                    (
                        image.size,
                        image.virtual_size,
                        &image.checksum,
                        &image.os_hash_algo,
                        &image.os_hash_value
                    ),
                    (
                        source.size,
                        source.virtual_size,
                        &source.checksum,
                        &source.os_hash_algo,
                        &source.os_hash_value
                    ),
                    "{context}"
                );
                let (stored, from) = (image.stored.unwrap(), source.stored.unwrap());
                assert_eq!((stored.crc64nvme, stored.key), (from.crc64nvme, key), "{context}");
            }
            TaskStatus::Failure => {
                assert_eq!(self.made(), Vec::<String>::new(), "{context}: {}", task.message);
                assert!(image.is_none(), "{context}");
            }
            other => panic!("{context}: {other:?}"),
        }
        // No byte of an image or of its map came through a worker.
        for key in [source_object().key, format!("{}.allocation", source_object().key)] {
            assert_eq!(self.world.objects.read_from("images-eu", &key), 0, "{context}");
        }
        assert_eq!(self.world.objects.largest_upload(), 0, "{context}");
        task.status
    }

    /// A run that must fail so.
    async fn fails(&self, message: &str) {
        let task = self.run().await;
        assert_eq!(task.message, message);
        assert_eq!(self.check_ended(message).await, TaskStatus::Failure);
    }
}

#[tokio::test(start_paused = true)]
async fn images_of_no_byte_and_of_more_parts_than_workers_come_over_whole() {
    for len in [0, 1, 999, 1000, 1001, 2000, 50_500] {
        let regions = TwoRegions::new(len, json!({})).await;
        regions.run().await;
        assert_eq!(regions.check_ended(&format!("{len} bytes")).await, TaskStatus::Success);
        let in_parts = if len > 1000 { len as u64 } else { 0 };
        assert_eq!(regions.world.task().await.progress.copied.total, in_parts);
        let image = regions.world.image().await.unwrap();
        assert_eq!(image.properties[PROVENANCE], format!("{THERE}/{SOURCE}"));
        assert_eq!(
            (image.name.as_deref(), image.properties["os_distro"].as_str()),
            (Some("Debian"), "debian")
        );
        assert_eq!(regions.world.objects.bytes("images-eu", &source_object().key).unwrap(), regions.bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_anywhere_leaves_nothing_behind() {
    let (mut runs, mut survived, mut denied, mut elsewhere) = (0, 0, 0, 0);
    for (len, twice) in [(900, false), (900, true), (3500, false), (3500, true)] {
        let mut regions = TwoRegions::new(len, json!({})).await;
        regions.world.twice = twice;
        regions.run().await;
        assert_eq!(regions.check_ended("no fault").await, TaskStatus::Success);
        for call in 2..regions.world.faults.calls() {
            for after in [false, true] {
                for kind in [Kind::Transient, Kind::Fatal, Kind::Elsewhere, Kind::Crash] {
                    let context =
                        format!("{len} bytes, twice {twice}, {kind:?} at call {call}, after: {after}");
                    let mut regions = TwoRegions::new(len, json!({})).await;
                    regions.world.twice = twice;
                    regions.world.faults.set(Some(Fault { call, after, kind }));
                    let task = regions.run().await;
                    denied +=
                        u32::from(task.message.starts_with("SourceDenied: region eu-west-1 does not let"));
                    elsewhere +=
                        u32::from(task.message.starts_with("WrongRegion: the images of region eu-west-1"));
                    assert!(!regions.world.faults.is_pending(), "{context}: the fault never came");
                    let status = regions.check_ended(&context).await;
                    assert!(
                        status == TaskStatus::Success || matches!(kind, Kind::Fatal | Kind::Elsewhere),
                        "{context} must pass"
                    );
                    runs += 1;
                    survived += u32::from(status == TaskStatus::Success);
                }
            }
        }
    }
    println!("{runs} runs with a fault each, {survived} of them ended well");
    assert!(runs > 500 && survived > runs / 3);
    // A look at the source, each copy, the map: each says whose fault it is.
    assert!(denied > 4 && elsewhere > 4, "{denied} denied, {elsewhere} elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_source_deleted_or_replaced_at_any_call_ends_in_one_of_two_ways() {
    for len in [900, 3500] {
        let regions = TwoRegions::new(len, json!({})).await;
        regions.run().await;
        let calls = regions.world.faults.calls();
        for deleted in [true, false] {
            let mut failed = 0;
            for call in 2..calls {
                let context = format!("{len} bytes, deleted: {deleted}, at call {call}");
                let regions = TwoRegions::new(len, json!({})).await;
                let gate = regions.world.faults.stop_at(call);
                let change = async {
                    gate.reached().await;
                    // Not through the gate itself: these calls count too, but later ones.
                    if deleted {
                        regions.world.objects.delete(&source_object()).await.unwrap();
                    } else {
                        let other = Bytes::from(vec![7; len]);
                        regions.world.objects.put(&source_object(), other).await.unwrap();
                    }
                    gate.open();
                };
                let (task, ()) = tokio::join!(regions.run(), change);
                if regions.check_ended(&context).await == TaskStatus::Failure {
                    let code = if deleted { "SourceNotFound: " } else { "SourceChanged: " };
                    assert!(task.message.starts_with(code), "{context}: {}", task.message);
                    failed += 1;
                }
            }
            assert!(failed > 5, "{len} bytes, deleted: {deleted}: {failed} failed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_stopped_at_any_call_leaves_nothing() {
    for len in [900, 3500] {
        let regions = TwoRegions::new(len, json!({})).await;
        regions.run().await;
        for call in 2..regions.world.faults.calls() {
            let context = format!("{len} bytes, stopped at call {call}");
            let regions = TwoRegions::new(len, json!({})).await;
            let gate = regions.world.faults.stop_at(call);
            let stop = async {
                gate.reached().await;
                let detail = json!({"name": regions.world.id, "status": "ABORTED"});
                regions.world.invoke_lifecycle(json!({"detail": detail}), 1).await.unwrap();
                gate.open();
            };
            // The worker goes on to its end.
            let (_, ()) = tokio::join!(regions.run(), stop);
            regions.check_ended(&context).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_seen_is_not_there() {
    let missing = format!("ImageNotFound: there is no image {SOURCE} in region {THERE}");
    for visibility in [Visibility::Private, Visibility::Shared] {
        let regions = TwoRegions::new(10, json!({})).await;
        regions.change(|image| (image.owner, image.visibility) = ("other".into(), visibility)).await;
        regions.fails(&missing).await;
    }
    let other = "8b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    let regions = TwoRegions::new(10, json!({"image_uuid": other})).await;
    regions.fails(&missing.replace(SOURCE, other)).await;
    for visibility in [Visibility::Public, Visibility::Community] {
        let regions = TwoRegions::new(10, json!({})).await;
        regions.change(|image| (image.owner, image.visibility) = ("other".into(), visibility)).await;
        regions.run().await;
        assert_eq!(regions.check_ended("visible").await, TaskStatus::Success);
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_copied_is_told() {
    let regions = TwoRegions::new(10, json!({})).await;
    regions.change(|image| image.status = ImageStatus::Queued).await;
    let told = format!("image {SOURCE} in region {THERE} is queued; only an active image can be cloned");
    regions.fails(&format!("ImageNotActive: {told}")).await;
    for len in [10, 3500] {
        let regions = TwoRegions::new(len, json!({})).await;
        regions.change(|image| image.stored.as_mut().unwrap().crc64nvme = "AAAAAAAAAAA=".into()).await;
        let told = "S3's checksum of the copy is not the source's: the source's record or bytes are damaged";
        regions.fails(&format!("ChecksumMismatch: {told}")).await;
    }
    let mut regions = TwoRegions::new(3500, json!({})).await;
    regions.world.time = Duration::ZERO;
    regions.fails("SourceTooSlow: S3 did not copy a single part in the time of one call").await;
}

#[tokio::test(start_paused = true)]
async fn the_same_bits_are_not_copied_twice_unless_asked() {
    let twin: ImageId = "9b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b".parse().unwrap();
    for (input, owner, copied) in [
        (json!({}), "demo", false),
        (json!({}), "other", true),
        (json!({"allow_duplicate": true}), "demo", true),
        (json!({"image_properties": {"name": "mine"}}), "demo", true),
    ] {
        for twice in [false, true] {
            let mut regions = TwoRegions::new(3500, input.clone()).await;
            regions.world.twice = twice;
            let source = regions.source().await;
            let here = Image { id: twin, owner: owner.into(), visibility: Visibility::Public, ..source };
            regions.world.stores.inner.put_image(here);
            let task = regions.run().await;
            assert_eq!(task.status, TaskStatus::Success, "{input} {owner}");
            if copied {
                assert_ne!(task.image_id, Some(twin), "{input} {owner}");
                regions.check_ended("copied").await;
            } else {
                assert_eq!(task.result, Some(json!({"image_id": twin})));
                assert_eq!(regions.made(), Vec::<String>::new());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_of_this_region_is_copied_too() {
    let regions = TwoRegions::new(3500, json!({"source_region": HERE})).await;
    regions.world.stores.inner.put_image(regions.source().await);
    regions.run().await;
    assert_eq!(regions.check_ended("same region").await, TaskStatus::Success);
}
