//! Why an export fails, in words.

use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::ports::ImageStore;
use image_tasks_domain::{ImageStatus, TaskStatus, Visibility};
use image_tasks_flows::ports::{ObjectRef, Objects};

use crate::export::{IMAGE, World, scenarios, task_id};
use crate::faults::{Fault, Kind};

#[tokio::test(start_paused = true)]
async fn causes_are_told() {
    let scenario = scenarios().remove(3);
    let image = || async {
        let world = scenario.world().await;
        let image = ImageStore::get(&world.stores.inner, IMAGE.parse().unwrap()).await.unwrap().unwrap();
        (world, image)
    };
    let told = |world: World| async move {
        world.run(task_id(1)).await;
        assert_eq!(world.others(), Vec::<String>::new());
        world.task(task_id(1)).await.message
    };
    let (world, mut found) = image().await;
    found.owner = "other".into();
    world.stores.inner.put_image(found.clone());
    assert_eq!(told(world).await, format!("ImageNotFound: there is no image {IMAGE}"));

    let (world, _) = image().await;
    found.visibility = Visibility::Public;
    world.stores.inner.put_image(found.clone());
    assert!(told(world).await.starts_with("NotOwner: "));

    let (world, mut found) = image().await;
    found.status = ImageStatus::Importing;
    world.stores.inner.put_image(found);
    let message = told(world).await;
    assert_eq!(
        message,
        format!("ImageNotActive: image {IMAGE} is importing; only an active image can be exported")
    );

    let (mut world, _) = image().await;
    world.rules.receivers = ExportPolicy::default();
    assert!(told(world).await.starts_with("BucketNotAllowed: bucket 'exports'"));

    let (world, found) = image().await;
    world
        .objects
        .delete(&ObjectRef { bucket: "images".into(), key: found.stored.clone().unwrap().key })
        .await
        .unwrap();
    assert!(told(world).await.starts_with("ImageNotFound: "));
}

/// What the receiving bucket answers, at whatever call.
#[tokio::test(start_paused = true)]
async fn what_the_receiving_bucket_says_is_told() {
    for scenario in scenarios() {
        let whole = scenario.world().await;
        whole.run(task_id(1)).await;
        for (kind, expected) in [
            (
                Kind::Fatal,
                "BucketNotAllowed: bucket 'exports' refuses this service; its policy must let exports in",
            ),
            (
                Kind::Elsewhere,
                "BucketNotFound: bucket 'exports' is not in the region that the operator named",
            ),
        ] {
            let mut told = 0;
            for call in 0..whole.faults.calls() {
                let world = scenario.world().await;
                world.faults.set(Some(Fault { call, after: false, kind }));
                world.run(task_id(1)).await;
                let message = world.task(task_id(1)).await.message;
                told += u32::from(message.starts_with(expected));
            }
            assert!(told > 1, "{}: {expected} is told at {told} calls", scenario.name);
        }
    }
}

/// An upload whose completion meets another write is lost (S3 API reference, `CompleteMultipartUpload`); whatever else meets
/// one is tried again.
#[tokio::test(start_paused = true)]
async fn another_write_that_comes_between_is_told_or_passes() {
    let mut told = 0;
    for scenario in scenarios() {
        let whole = scenario.world().await;
        whole.run(task_id(1)).await;
        for call in 0..whole.faults.calls() {
            for after in [false, true] {
                let world = scenario.world().await;
                world.faults.set(Some(Fault { call, after, kind: Kind::Conflict }));
                world.run(task_id(1)).await;
                let task = world.task(task_id(1)).await;
                if task.status == TaskStatus::Success {
                    continue;
                }
                assert!(!after, "{}: call {call} has taken effect: {}", scenario.name, task.message);
                let expected = "ObjectExists: somebody else wrote or deleted s3://exports/";
                assert!(task.message.starts_with(expected), "{}: {}", scenario.name, task.message);
                assert_eq!(world.others(), Vec::<String>::new(), "{}", scenario.name);
                told += 1;
            }
        }
    }
    assert!(told > 1, "told {told} times");
}
