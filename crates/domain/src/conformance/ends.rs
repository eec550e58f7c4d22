//! [`TaskLife`] where others write too: somebody renames the image, a user cancels, a start fails.

use serde_json::json;
use uuid::Uuid;

use super::{HOUR, PutImage, assert_conflict, at, failure, importing, pending, publication, stored};
use crate::failure::Failure;
use crate::image::{Image, ImageId, ImageStatus, Publication};
use crate::ports::{ImageStore, TaskLife, TaskStore};
use crate::task::{CLEAN_AFTER, Task, TaskStatus, TaskType, Unsettled};

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

pub(super) async fn publishes_exactly_its_fields(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
    others: &dyn PutImage,
) {
    // What is asked for, what the disk needs, what is there then: GiB. A part of one counts whole.
    for (asked, bytes, min_disk) in [(0, 1, 1), (5, 5 << 30, 5), (5, (5 << 30) + 1, 6), (7, 5 << 30, 7)] {
        for hashes_follow in [false, true] {
            let task = pending("publish", 0);
            let image = importing("publish", 1);
            store.create(&task, None, None).await.expect("create");
            life.begin(task.id, &image, at(1)).await.expect("begin");
            // Changed by somebody else since, by a clock that is ahead.
            let mut image = Image {
                name: None,
                tags: vec!["new".to_owned()],
                properties: [("note", "kept"), ("architecture", "aarch64")].map(owned).into(),
                min_disk: asked,
                min_ram: 512,
                protected: true,
                disk_format: Some("raw".to_owned()),
                updated_at: at(9),
                ..image
            };
            others.put_image(&image).await;
            let mut publication = Publication { hashes_follow, ..publication(image.id) };
            publication.found = [("architecture", "x86_64"), ("hw_firmware_type", "uefi")].map(owned).into();
            if hashes_follow {
                (publication.hashes, publication.virtual_size) = (None, None);
                publication.size = bytes;
            } else {
                publication.virtual_size = Some(bytes);
            }
            life.publish(task.id, &publication, &json!({}), HOUR, at(2)).await.expect("publish");
            image.publish(&publication, at(2));
            assert_eq!((image.min_disk, image.updated_at), (min_disk, at(9)));
            assert_eq!(images.get(image.id).await.expect("get"), Some(image));
            let ended = stored(store, task.id).await;
            let unsettled = match hashes_follow {
                true => Unsettled::Hashing { executions: 0 },
                false => Unsettled::Cleaning { after: at(2).plus(CLEAN_AFTER) },
            };
            assert_eq!(ended.unsettled, Some(unsettled));
            assert!(ended.message.contains("architecture is \"aarch64\""), "{}", ended.message);
        }
    }
}

pub(super) async fn publishes_only_its_own_image(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
    others: &dyn PutImage,
) {
    let [task, other] = [pending("publish", 0), pending("publish", 0)];
    let [image, others_image] = [importing("publish", 1), importing("publish", 1)];
    for (task, image) in [(&task, &image), (&other, &others_image)] {
        store.create(task, None, None).await.expect("create");
        life.begin(task.id, image, at(1)).await.expect("begin");
    }
    let publish =
        async |image: ImageId| life.publish(task.id, &publication(image), &json!({}), HOUR, at(2)).await;
    assert_conflict(publish(others_image.id).await, "another task's image");
    assert_conflict(publish(ImageId(Uuid::new_v4())).await, "no image");
    assert_eq!(images.get(others_image.id).await.expect("get"), Some(others_image));
    for status in [ImageStatus::Queued, ImageStatus::Active] {
        let changed = Image { status, ..image.clone() };
        others.put_image(&changed).await;
        assert_conflict(publish(image.id).await, "its image is not importing");
        assert_eq!(images.get(image.id).await.expect("get"), Some(changed));
    }
    assert_eq!(stored(store, task.id).await.status, TaskStatus::Processing, "neither is written");
    others.put_image(&image).await;
    publish(image.id).await.expect("publish");

    // An export works on an image and makes none.
    let export = Task { task_type: TaskType::Export, ..pending("publish", 0) };
    let image = importing("publish", 1);
    store.create(&export, None, None).await.expect("create");
    life.begin_on(export.id, image.id, at(1)).await.expect("begin");
    others.put_image(&image).await;
    let published = life.publish(export.id, &publication(image.id), &json!({}), HOUR, at(2)).await;
    assert_conflict(published, "not the image's maker");
    assert_eq!(images.get(image.id).await.expect("get"), Some(image));
}

pub(super) async fn a_mark_keeps_a_task_from_success(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
) {
    for begun in [false, true] {
        let mut task = pending("cancel", 0);
        let image = importing("cancel", 1);
        store.create(&task, None, None).await.expect("create");
        if begun {
            life.begin(task.id, &image, at(1)).await.expect("begin");
            task.begin(Some(image.id), at(1)).expect("begin");
        }
        life.mark_cancelled(task.id, "alice").await.expect("mark");
        task.cancelled_by = Some("alice".to_owned());
        assert_eq!(stored(store, task.id).await, task, "the mark alone is written");

        assert_conflict(life.begin(task.id, &image, at(2)).await, "cancelled");
        assert_conflict(life.begin_on(task.id, image.id, at(2)).await, "cancelled");
        let published = life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(2)).await;
        assert_conflict(published, "cancelled");
        assert_conflict(life.succeed_alone(task.id, &json!({}), HOUR, at(2)).await, "cancelled");
        assert_eq!(stored(store, task.id).await, task);
        assert_eq!(images.get(image.id).await.expect("get"), begun.then_some(image.clone()));

        let why = task.cancellation().expect("it is cancelled");
        life.fail(task.id, &why, HOUR, at(2)).await.expect("a cancelled task fails");
        task.fail(&why, HOUR, at(2)).expect("fail");
        assert_eq!(stored(store, task.id).await, task);
        assert_eq!(task.message, "Cancelled: cancelled by alice");
        assert_eq!(images.get(image.id).await.expect("get"), None);
    }
}

pub(super) async fn a_mark_is_the_first_and_comes_before_the_end(store: &dyn TaskStore, life: &dyn TaskLife) {
    for end in ["publish", "succeed alone", "fail", "fail unbegun"] {
        for marked in [false, true] {
            let task = pending("cancel", 0);
            let image = importing("cancel", 1);
            store.create(&task, None, None).await.expect("create");
            if end != "fail unbegun" {
                life.begin(task.id, &image, at(1)).await.expect("begin");
            }
            if marked {
                life.mark_cancelled(task.id, "alice").await.expect("mark");
                life.mark_cancelled(task.id, "bob").await.expect("again");
                assert_eq!(stored(store, task.id).await.cancelled_by.as_deref(), Some("alice"), "{end}");
            }
            let ended = match end {
                "publish" => life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(2)).await,
                "succeed alone" => life.succeed_alone(task.id, &json!({}), HOUR, at(2)).await,
                "fail" => life.fail(task.id, &failure(), HOUR, at(2)).await,
                _ => life.fail_unbegun(task.id, &failure(), HOUR, at(2)).await,
            };
            let succeeds = matches!(end, "publish" | "succeed alone");
            assert_eq!(ended.is_ok(), !(marked && succeeds), "{end}, marked {marked}: {ended:?}");
            let late = life.mark_cancelled(task.id, "carol").await;
            assert_eq!(late.is_ok(), marked && succeeds, "{end}, marked {marked}: {late:?}");
            let mark = stored(store, task.id).await.cancelled_by;
            assert_eq!(mark.as_deref(), marked.then_some("alice"), "{end}");
        }
    }
}

pub(super) async fn fails_unbegun_only_what_has_not_begun(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
) {
    let mut task = pending("unbegun", 0);
    let image = importing("unbegun", 1);
    store.create(&task, None, None).await.expect("create");
    let why = Failure::transient("not started");
    life.fail_unbegun(task.id, &why, HOUR, at(1)).await.expect("pending");
    task.fail(&why, HOUR, at(1)).expect("fail");
    assert_eq!(stored(store, task.id).await, task);
    assert_conflict(life.fail_unbegun(task.id, &failure(), HOUR, at(2)).await, "failed already");
    // A start that comes later than that.
    assert_conflict(life.begin(task.id, &image, at(2)).await, "failed");
    assert_eq!(images.get(image.id).await.expect("get"), None);
    assert_eq!(stored(store, task.id).await, task);

    let mut task = pending("unbegun", 0);
    store.create(&task, None, None).await.expect("create");
    life.begin(task.id, &image, at(1)).await.expect("begin");
    task.begin(Some(image.id), at(1)).expect("begin");
    assert_conflict(life.fail_unbegun(task.id, &why, HOUR, at(2)).await, "begun");
    assert_eq!(stored(store, task.id).await, task);
    assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));
    life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(2)).await.expect("publish");
    assert_conflict(life.fail_unbegun(task.id, &why, HOUR, at(3)).await, "a success");
}
