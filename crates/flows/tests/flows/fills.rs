//! Bytes that come into an image's record which is there: uploads, and downloads into it.

use bytes::Bytes;
use image_tasks_domain::image_import::ImageImport;
use image_tasks_domain::ports::{Clock as _, ImageStore as _};
use image_tasks_domain::{Image, ImageId, ImageStatus, StagedBytes, Task, TaskStatus, TaskType};
use image_tasks_flows::ports::{ObjectRef, Objects as _};
use serde_json::{Value, json};

use crate::faults::{Fault, Kind};
use crate::sources::Script;
use crate::world::{CUT, URL, World, pattern};

const IMAGE: ImageId = ImageId(uuid::Uuid::from_u128(7));
const STAGED: StagedBytes = StagedBytes(uuid::Uuid::from_u128(8));

/// A record that waits for its upload, and the task that brings that in.
async fn upload(bytes: &[u8], disk_format: &str) -> World {
    let world = filling(bytes, disk_format, &ImageImport::direct(), Some(STAGED)).await;
    let script = world.script();
    world.sources.scripts.lock().unwrap().insert("the upload".to_owned(), script);
    let at = ObjectRef { bucket: "work".into(), key: STAGED.object_key(IMAGE) };
    world.objects.put(&at, Bytes::copy_from_slice(bytes)).await.unwrap();
    world
}

async fn filling(bytes: &[u8], disk_format: &str, request: &Value, staged: Option<StagedBytes>) -> World {
    let world = World::new(Script::of(bytes.to_vec()), json!({}), CUT).await;
    let now = world.clock.now();
    world.stores.inner.put_image(Image {
        status: if staged.is_some() { ImageStatus::Uploading } else { ImageStatus::Queued },
        disk_format: Some(disk_format.into()),
        container_format: Some("bare".into()),
        name: Some("mine".into()),
        staged,
        ..Image::queued(IMAGE, "demo", now)
    });
    let input = ImageImport::input(IMAGE, request, staged);
    world
        .stores
        .inner
        .put_task(Task { id: world.id, ..Task::pending(TaskType::ApiImageImport, "demo", input, now) });
    world
}

async fn record(world: &World) -> Image {
    world.stores.inner.get(IMAGE).await.unwrap().unwrap()
}

/// The record is without bytes again, and nothing else is left.
async fn check_given_up(world: &World, context: &str) {
    let record = record(world).await;
    let name = record.name.as_deref();
    assert_eq!((record.status, record.staged, name), (ImageStatus::Queued, None, Some("mine")), "{context}");
    assert_eq!(world.objects.everything(), Vec::<String>::new(), "{context}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_becomes_the_images_bytes_and_is_removed_from_staging() {
    let bytes = pattern(5000);
    let world = upload(&bytes, "raw").await;
    world.run().await;
    assert_eq!(world.check_ended(&bytes, "upload").await, TaskStatus::Success);
    let record = record(&world).await;
    assert_eq!((record.status, record.staged), (ImageStatus::Active, None));
    assert_eq!((record.name.as_deref(), record.disk_format.as_deref()), (Some("mine"), Some("raw")));
}

#[tokio::test(start_paused = true)]
async fn a_download_comes_into_a_record_too() {
    let bytes = pattern(5000);
    let request = json!({"method": {"name": "web-download", "uri": URL}});
    let world = filling(&bytes, "raw", &request, None).await;
    world.run().await;
    assert_eq!(world.check_ended(&bytes, "download").await, TaskStatus::Success);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_what_the_record_says_leave_it_without_bytes() {
    let world = upload(&pattern(5000), "qcow2").await;
    world.run().await;
    let task = world.task().await;
    assert!(task.message.starts_with("FormatMismatch: "), "{}", task.message);
    check_given_up(&world, "another format").await;
}

#[tokio::test(start_paused = true)]
async fn wherever_it_fails_the_record_is_whole_or_without_bytes() {
    let bytes = pattern(2500);
    let calls = {
        let world = upload(&bytes, "raw").await;
        world.run().await;
        world.faults.calls()
    };
    for call in 0..calls {
        for (after, kind) in [(false, Kind::Fatal), (true, Kind::Crash), (false, Kind::Transient)] {
            let world = upload(&bytes, "raw").await;
            world.faults.set(Some(Fault { call, after, kind }));
            world.run().await;
            let context = format!("call {call}, after: {after}, {kind:?}");
            match world.task().await.status {
                TaskStatus::Success => drop(world.check_ended(&bytes, &context).await),
                // Of a task that never began the upload still waits.
                TaskStatus::Failure if world.task().await.image_id.is_none() => {
                    assert_eq!(record(&world).await.staged, Some(STAGED), "{context}");
                    let upload = format!("work/{}", STAGED.object_key(IMAGE));
                    assert_eq!(world.objects.everything(), [upload], "{context}");
                }
                TaskStatus::Failure => check_given_up(&world, &context).await,
                other => panic!("{context}: {other:?}"),
            }
        }
    }
}

/// The second of two tasks for one upload must not take away what the first brings in.
#[tokio::test(start_paused = true)]
async fn a_task_that_comes_second_takes_nothing_away() {
    let bytes = pattern(5000);
    let world = upload(&bytes, "raw").await;
    let mut busy = record(&world).await;
    busy.status = ImageStatus::Importing;
    world.stores.inner.put_image(busy.clone());
    world.run().await;
    let task = world.task().await;
    assert!(task.message.starts_with("ImageNotQueued: "), "{}", task.message);
    assert_eq!(record(&world).await, busy);
    assert_eq!(world.objects.everything(), [format!("work/{}", STAGED.object_key(IMAGE))]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_deleted_meanwhile_ends_its_task() {
    let world = upload(&pattern(5000), "raw").await;
    world.stores.inner.remove_image(IMAGE);
    world.run().await;
    let task = world.task().await;
    assert!(task.message.starts_with("ImageNotQueued: "), "{}", task.message);
}
