//! `glance-download`: a record that is there is filled with the bytes of another image, of a region or of a Glance elsewhere.

use image_tasks_domain::image_import::ImageImport;
use image_tasks_domain::ports::{Clock as _, ImageStore as _};
use image_tasks_domain::{Image, ImageId, ImageStatus, TaskStatus, TaskType};
use serde_json::{Value, json};

use crate::clone::{THERE, TwoRegions};
use crate::faults::{Fault, Kind};
use crate::glance::{self, ELSEWHERE, SOURCE};
use crate::sources::Script;
use crate::world::{World, pattern};

const IMAGE: ImageId = ImageId(uuid::Uuid::from_u128(7));

/// A record that waits, and the world's task made one that fills it with the region's image.
async fn fill(world: &World, region: &str) {
    let said =
        [("os_distro", "mine"), ("own", "kept")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    world.stores.inner.put_image(Image {
        disk_format: Some("qcow2".into()),
        container_format: Some("bare".into()),
        name: Some("mine".into()),
        properties: said.into(),
        ..Image::queued(IMAGE, "demo", world.clock.now())
    });
    let method = json!({"name": "glance-download", "glance_region": region, "glance_image_id": SOURCE});
    let mut task = world.task().await;
    task.task_type = TaskType::ApiImageImport;
    task.input = ImageImport::input(IMAGE, &json!({"method": method}), None);
    world.stores.inner.put_task(task);
}

async fn from_glance(script: Script, change: impl FnOnce(&mut Value)) -> World {
    let world = glance::world(script, change).await;
    fill(&world, ELSEWHERE).await;
    world
}

async fn from_region(len: usize) -> TwoRegions {
    let regions = TwoRegions::new(len, json!({})).await;
    fill(&regions.world, THERE).await;
    regions
}

async fn record(world: &World) -> Image {
    world.stores.inner.get(IMAGE).await.unwrap().unwrap()
}

/// What the record says beside its bytes: its own words, but for what comes with these.
fn check_record(record: &Image, properties: &[(&str, &str)]) {
    assert_eq!((record.status, record.name.as_deref()), (ImageStatus::Active, Some("mine")));
    assert_eq!((record.disk_format.as_deref(), record.tags.len()), (Some("raw"), 0));
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    assert_eq!(record.properties, properties.collect());
}

/// The record is without bytes as before. `begun`: and says that an import failed.
async fn check_queued(world: &World, begun: bool, context: &str) {
    let record = record(world).await;
    let said = (record.name.as_deref(), record.disk_format.as_deref(), record.properties.len());
    assert_eq!(said, (Some("mine"), Some("qcow2"), 2), "{context}");
    assert_eq!((record.status, record.import_failed), (ImageStatus::Queued, begun), "{context}");
}

async fn fails(world: World, message: &str) {
    world.run().await;
    let told = world.task().await.message;
    assert!(told.starts_with(message), "{told}");
    check_queued(&world, true, message).await;
    assert_eq!(world.objects.everything(), [""; 0], "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_record_gets_the_bytes_of_a_glance_elsewhere_and_what_says_how_they_run() {
    for (ranges, len) in [(true, 900), (true, 5500), (false, 5500)] {
        let bytes = pattern(len);
        let world = from_glance(Script { ranges, ..Script::of(bytes.clone()) }, |_| {}).await;
        world.run().await;
        let context = format!("{len} bytes, ranges {ranges}: {}", world.task().await.message);
        assert_eq!(world.check_ended(&bytes, &context).await, TaskStatus::Success);
        let properties = [("hw_disk_bus", "scsi"), ("os_distro", "debian"), ("own", "kept")];
        check_record(&record(&world).await, &properties);
        let token =
            image_tasks_domain::ports::Credentials::token(&world.stores.inner, world.id, world.clock.now());
        assert_eq!(token.await.unwrap(), None, "it goes with the task");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_gets_the_bytes_of_a_regions_image_without_a_worker_reading_them() {
    for len in [0, 900, 3500] {
        let regions = from_region(len).await;
        let task = regions.run().await;
        let context = format!("{len} bytes: {}", task.message);
        assert_eq!(regions.check_ended(&context).await, TaskStatus::Success);
        check_record(&record(&regions.world).await, &[("os_distro", "debian"), ("own", "kept")]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_had_leaves_the_record_waiting_and_says_so() {
    let script = || Script::of(pattern(3500));
    let queued = from_glance(script(), |record| record["status"] = json!("queued"));
    fails(queued.await, "ImageNotActive: ").await;
    let other = from_glance(script(), |record| record["disk_format"] = json!("qcow2"));
    fails(other.await, "FormatMismatch: ").await;
    let damaged = from_glance(script(), |record| record["checksum"] = json!("0".repeat(32)));
    fails(damaged.await, "ChecksumMismatch: ").await;
    let full = from_glance(script(), |record| {
        for n in 0..126 {
            record[format!("hw_{n}")] = json!("x");
        }
    });
    fails(full.await, "SourceInvalid: record.*: 129 extra properties").await;

    // Not this project's, and not shared.
    let regions = from_region(900).await;
    regions.change(|image| image.owner = "other".into()).await;
    let task = regions.run().await;
    assert_eq!(task.message, format!("ImageNotFound: there is no image {SOURCE} in region {THERE}"));
    check_queued(&regions.world, true, "not to be seen").await;
    assert_eq!(regions.made(), [""; 0]);

    // A region that the operator has taken out since.
    let narrowed = from_glance(script(), |_| {}).await;
    fill(&narrowed, "RegionThree").await;
    narrowed.run().await;
    assert!(
        narrowed.task().await.message.starts_with("SourceForbidden: method.glance_region: must be one of")
    );
    check_queued(&narrowed, false, "never begun").await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_has_its_bytes_is_left_alone() {
    let world = from_glance(Script::of(pattern(900)), |_| {}).await;
    let active = Image { status: ImageStatus::Active, ..record(&world).await };
    world.stores.inner.put_image(active.clone());
    world.run().await;
    assert!(world.task().await.message.starts_with("ImageNotQueued: "));
    assert_eq!(record(&world).await, active);
}

#[tokio::test(start_paused = true)]
async fn wherever_it_fails_the_record_is_whole_or_without_bytes() {
    let faults = || {
        let kinds = [Kind::Transient, Kind::Fatal, Kind::Crash];
        kinds.into_iter().flat_map(|kind| [(false, kind), (true, kind)])
    };
    let bytes = pattern(3500);
    let script = |ranges| Script { ranges, ..Script::of(bytes.clone()) };
    for ranges in [true, false] {
        let whole = from_glance(script(ranges), |_| {}).await;
        whole.run().await;
        for call in 0..whole.faults.calls() {
            for (after, kind) in faults() {
                let context = format!("ranges {ranges}, {kind:?} at call {call}, after: {after}");
                let world = from_glance(script(ranges), |_| {}).await;
                world.faults.set(Some(Fault { call, after, kind }));
                world.run().await;
                match world.task().await {
                    task if task.status == TaskStatus::Success => {
                        world.check_ended(&bytes, &context).await;
                    }
                    task => {
                        check_queued(&world, task.image_id.is_some(), &context).await;
                        assert_eq!(world.objects.everything(), [""; 0], "{context}");
                    }
                }
            }
        }
    }
    let whole = from_region(3500).await;
    whole.run().await;
    for call in 2..whole.world.faults.calls() {
        for (after, kind) in faults() {
            let context = format!("a region's, {kind:?} at call {call}, after: {after}");
            let regions = from_region(3500).await;
            regions.world.faults.set(Some(Fault { call, after, kind }));
            match regions.run().await {
                task if task.status == TaskStatus::Success => {
                    regions.check_ended(&context).await;
                }
                task => {
                    check_queued(&regions.world, task.image_id.is_some(), &context).await;
                    assert_eq!(regions.made(), [""; 0], "{context}");
                }
            }
        }
    }
}
