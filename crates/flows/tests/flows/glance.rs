//! Clones from a Glance elsewhere: the way of an import, by what the record there says and with the caller's token.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use image_tasks_domain::clone_input::PROVENANCE;
use image_tasks_domain::copying::CopyRules;
use image_tasks_domain::ports::Clock;
use image_tasks_domain::regions::Regions;
use image_tasks_domain::{
    Failure, FailureCode, GlanceEndpoints, GlanceImage, Image, ImageStatus, Secret, TaskStatus, TaskType,
    Visibility,
};
use image_tasks_flows::ports::{Glances, RegionStore, RegionStores};
use image_tasks_flows::{Clones, Engine, GlanceImages, RegionImages};
use md5::Digest as _;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::import::gzip;
use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern};

const ENDPOINT: &str = "https://glance.example.org:9292";
/// The region that it is of.
pub(crate) const ELSEWHERE: &str = "RegionTwo";
pub(crate) const SOURCE: &str = "7b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
const TOKEN: &str = "gAAAAABk-not-to-be-seen";

fn url() -> String {
    format!("{ENDPOINT}/v2/images/{SOURCE}")
}

/// A Glance that has one image.
struct OneImage {
    faults: Arc<Faults>,
    record: Option<String>,
}

#[async_trait]
impl Glances for OneImage {
    async fn record(&self, image: &GlanceImage, token: &Secret) -> Result<Bytes, Failure> {
        assert_eq!(image.to_string(), url());
        self.faults
            .around(async {
                if token.expose() != TOKEN {
                    return Err(Failure::new(FailureCode::SourceDenied, "the record answered 401"));
                }
                let record = self.record.clone().map(Bytes::from);
                record.ok_or_else(|| Failure::new(FailureCode::ImageNotFound, "there is no such image"))
            })
            .await
    }
}

/// What that Glance says of these bytes.
fn record(bytes: &[u8]) -> Value {
    json!({
        "id": SOURCE, "status": "active", "name": "Debian", "owner": "theirs", "visibility": "public",
        "disk_format": "raw", "container_format": "bare", "size": bytes.len(), "min_disk": 3, "min_ram": 64,
        "checksum": hex(&md5::Md5::digest(bytes)), "os_hash_algo": "sha512",
        "os_hash_value": hex(&sha2::Sha512::digest(bytes)), "tags": ["stable"], "os_distro": "debian",
        "os_glance_importing_to_stores": "", "hw_disk_bus": "scsi",
    })
}

/// A pending clone of the script's bytes, whose record the test may change.
pub(crate) async fn world(script: Script, change: impl FnOnce(&mut Value)) -> World {
    let mut said = record(&script.bytes);
    change(&mut said);
    with_record(script, Some(said.to_string()), json!({})).await
}

async fn with_record(script: Script, record: Option<String>, input: Value) -> World {
    let mut world = World::new(Script::of(Vec::new()), json!({}), CUT).await;
    let script = Script { etag: String::new(), token: Some(TOKEN.into()), ..script };
    *world.sources.scripts.lock().unwrap() = [(format!("{}/file", url()), Arc::new(script))].into();
    let glances = Arc::new(OneImage { faults: Arc::clone(&world.faults), record });
    world.kind = clones(glances, &format!("{ELSEWHERE}={ENDPOINT}"));
    let mut task = world.task().await;
    (task.task_type, task.input) = (TaskType::Clone, json!({"source_image_url": url()}));
    task.input.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
    world.stores.inner.put_task(task);
    keep(&world, TOKEN);
    world
}

/// Clones from the endpoints that are listed.
fn clones(glances: Arc<OneImage>, listed: &str) -> Box<dyn Fn(&World) -> Engine + Send + Sync> {
    let endpoints = GlanceEndpoints::parse(listed).unwrap();
    Box::new(move |world| {
        let elsewhere =
            GlanceImages { endpoints: endpoints.clone(), glances: glances.clone(), remote: world.remote() };
        let regions = RegionImages {
            stores: Arc::new(NoRegions),
            regions: Regions::new("us-east-1", vec![]).unwrap(),
            rules: CopyRules::default(),
        };
        Engine::clones(world.flow_stores(), Clones { regions, elsewhere: Some(elsewhere) })
    })
}

struct NoRegions;

impl RegionStores for NoRegions {
    fn store(&self, _: &str) -> Option<RegionStore> {
        None
    }
}

fn keep(world: &World, token: &str) {
    let until = world.clock.now().plus(Duration::from_secs(3600));
    world.stores.inner.put_token(world.id, Secret::new(token).unwrap(), until);
}

async fn cloned(world: &World, bytes: &[u8], context: &str) -> Image {
    world.run().await;
    let message = world.task().await.message;
    assert_eq!(world.check_ended(bytes, context).await, TaskStatus::Success, "{context}: {message}");
    let token =
        image_tasks_domain::ports::Credentials::token(&world.stores.inner, world.id, world.clock.now());
    assert_eq!(token.await.unwrap(), None, "{context}: the token goes with the task");
    world.image().await.unwrap()
}

async fn fails(world: World, message: &str) {
    world.run().await;
    assert_eq!(world.check_ended(&[], message).await, TaskStatus::Failure);
    let told = world.task().await.message;
    assert!(told.starts_with(message), "{told}");
}

#[tokio::test(start_paused = true)]
async fn an_image_of_any_size_comes_as_it_is_with_what_its_record_says() {
    for len in [0, 1, 1999, 2000, 5500] {
        for (ranges, sized) in [(true, true), (false, true), (false, false)] {
            let context = format!("{len} bytes, ranges {ranges}, sized {sized}");
            let bytes = pattern(len);
            let script = Script { ranges, sized, ..Script::of(bytes.clone()) };
            let image = cloned(&world(script, |_| {}).await, &bytes, &context).await;
            assert_eq!((image.name.as_deref(), image.status), (Some("Debian"), ImageStatus::Active));
            assert_eq!((image.visibility, image.owner.as_str()), (Visibility::Shared, "demo"));
            assert_eq!((image.min_disk, image.min_ram, image.tags), (3, 64, vec!["stable".to_owned()]));
            assert_eq!(image.properties["os_distro"], "debian");
            assert_eq!(image.properties[PROVENANCE], url());
            assert_eq!(image.properties.len(), 3, "{:?}", image.properties);
            assert_eq!(image.disk_format.as_deref(), Some("raw"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn properties_are_the_callers_where_he_says_them_and_hashes_are_checked_only_where_told() {
    let bytes = pattern(3500);
    let own = json!({"image_properties": {"name": "mine", "hw_disk_bus": "virtio", "visibility": "private"}});
    let least = json!({"id": SOURCE, "status": "active", "disk_format": "raw", "os_hash_algo": "md5"});
    let world = with_record(Script::of(bytes.clone()), Some(least.to_string()), own).await;
    let image = cloned(&world, &bytes, "least").await;
    assert_eq!((image.name.as_deref(), image.visibility), (Some("mine"), Visibility::Private));
    assert_eq!(image.properties["hw_disk_bus"], "virtio");
    assert_eq!(image.container_format.as_deref(), Some("bare"));
    // No bits are changed, not even where an import would convert or unpack.
    let qcow2 = crate::disks::qcow2(1 << 20, &vec![(0, pattern(4096))]);
    let world = self::world(Script::of(qcow2.clone()), |record| record["disk_format"] = json!("qcow2")).await;
    let image = cloned(&world, &qcow2, "qcow2").await;
    assert_eq!((image.disk_format.as_deref(), image.virtual_size), (Some("qcow2"), Some(1 << 20)));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_the_records_are_refused_and_nothing_is_left() {
    let bytes = pattern(3500);
    let other: Vec<u8> = bytes.iter().rev().copied().collect();
    for ranges in [true, false] {
        let script = |bytes: &[u8]| Script { ranges, ..Script::of(bytes.to_vec()) };
        // Replaced by as many others, by fewer, by a stream of the same.
        let replaced = with_record(script(&other), Some(record(&bytes).to_string()), json!({})).await;
        fails(replaced, "ChecksumMismatch: checksum of the source is ").await;
        let no_md5 = world(script(&bytes), |record| {
            record["checksum"] = Value::Null;
            record["os_hash_value"] = json!("0".repeat(128));
        });
        fails(no_md5.await, "ChecksumMismatch: os_hash_value of the source is ").await;
        let shorter = with_record(script(&bytes[1..]), Some(record(&bytes).to_string()), json!({})).await;
        fails(shorter, "SourceChanged: ").await;
        fails(world(script(&gzip(&bytes)), |_| {}).await, "FormatMismatch: the image is a compressed stream")
            .await;
        let lies = world(script(&bytes), |record| record["disk_format"] = json!("qcow2"));
        fails(lies.await, "FormatMismatch: ").await;
    }
    let unsized_and_short = Script { ranges: false, sized: false, ..Script::of(bytes[1..].to_vec()) };
    let mut said = record(&bytes);
    (said["checksum"], said["os_hash_value"]) = (Value::Null, Value::Null);
    let world = with_record(unsized_and_short, Some(said.to_string()), json!({})).await;
    fails(world, "SourceUnreachable: the source said 3500 bytes and sent 3499").await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_cloned_is_told() {
    let script = || Script::of(pattern(3500));
    let status = |status: &str| {
        let status = json!(status);
        world(script(), move |record| record["status"] = status)
    };
    fails(status("queued").await, &format!("ImageNotActive: {} is \"queued\"", url())).await;
    fails(status("deactivated").await, "ImageNotActive: ").await;
    fails(with_record(script(), None, json!({})).await, "ImageNotFound: there is no such image").await;
    fails(with_record(script(), Some("<html>".into()), json!({})).await, "SourceInvalid: ").await;
    let size = world(script(), |record| record["size"] = json!(u64::MAX));
    fails(size.await, "SourceChanged: ").await;
    let huge =
        world(Script { sized: false, ranges: false, ..script() }, |record| record["size"] = json!(u64::MAX));
    fails(huge.await, "SourceTooLarge: ").await;
    let compressed = world(script(), |record| record["container_format"] = json!("compressed"));
    fails(compressed.await, "UnsupportedFormat: ").await;
    let extra = world(script(), |record| record["tags"] = json!([5]));
    fails(extra.await, &format!("SourceInvalid: {}: record.tags[0]: must be a string", url())).await;
    // An endpoint that the operator has taken out since.
    let mut narrowed = world(script(), |_| {}).await;
    let glances = Arc::new(OneImage { faults: Arc::clone(&narrowed.faults), record: None });
    narrowed.kind = clones(glances, "");
    fails(narrowed, "SourceForbidden: source_image_url: ").await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_good_or_no_longer_kept_is_told() {
    let wrong = world(Script::of(pattern(3500)), |_| {}).await;
    keep(&wrong, "another");
    fails(wrong, "SourceDenied: the record answered 401").await;
    let late = world(Script::of(pattern(3500)), |_| {}).await;
    late.clock.advance(Duration::from_secs(3600));
    fails(late, "SourceDenied: the token that came with the task is not kept any longer").await;
}

#[tokio::test(start_paused = true)]
async fn a_clone_stopped_at_any_call_leaves_nothing() {
    for ranges in [true, false] {
        let world = async || world(Script { ranges, ..Script::of(pattern(3500)) }, |_| {}).await;
        let whole = world().await;
        whole.run().await;
        for call in 1..whole.faults.calls() {
            let world = world().await;
            let gate = world.faults.stop_at(call);
            let stop = async {
                gate.reached().await;
                let detail = json!({"name": world.id, "status": "ABORTED"});
                world.invoke_lifecycle(json!({"detail": detail}), 1).await.unwrap();
                gate.open();
            };
            let ((), ()) = tokio::join!(world.run(), stop);
            world.check_ended(&pattern(3500), &format!("ranges {ranges}, stopped at call {call}")).await;
        }
    }
}

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_stands_in_no_plan_no_task_and_no_line_of_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let mut looked = 0;
    for (ranges, sound) in [(true, true), (false, true), (true, false)] {
        let world = async || {
            world(Script { ranges, ..Script::of(pattern(3500)) }, |record| {
                if !sound {
                    record["checksum"] = json!("0".repeat(32));
                }
            })
            .await
        };
        let whole = world().await;
        whole.run().await;
        for call in 1..whole.faults.calls() {
            let world = world().await;
            let gate = world.faults.stop_at(call);
            let look = async {
                gate.reached().await;
                for place in world.objects.everything() {
                    let (bucket, key) = place.split_once('/').unwrap();
                    // None of an upload that has not ended.
                    let bytes = world.objects.bytes(bucket, key).unwrap_or_default();
                    assert!(!String::from_utf8_lossy(&bytes).contains(TOKEN), "{place}");
                    looked += usize::from(key.ends_with("/record.json") || key.ends_with("/plan.json"));
                }
                assert!(!format!("{:?} {:?}", world.task().await, world.image().await).contains(TOKEN));
                gate.open();
            };
            let ((), ()) = tokio::join!(world.run(), look);
            assert!(!format!("{:?} {:?}", world.task().await, world.image().await).contains(TOKEN));
        }
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(looked > 50 && log.contains("task failed"), "{looked}: {log}");
    assert!(!log.contains(TOKEN));
}
