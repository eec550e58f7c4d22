//! [`TaskLife`]: task and image change together, and every end is final.

use serde_json::json;
use uuid::Uuid;

use super::{
    HOUR, PutImage, active, assert_conflict, at, ends, failure, importing, pending, publication, stored,
};
use crate::image::{Image, ImageStatus, Publication, StagedBytes};
use crate::ports::{ImageStore, TaskLife, TaskStore};
use crate::task::{Task, TaskId, TaskType};

/// [`TaskLife`].
pub async fn task_life(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
    others: &dyn PutImage,
) {
    succeeds_with_its_image(store, life, images).await;
    fails_without_its_image(store, life, images).await;
    works_on_an_image_that_is_there(store, life, images).await;
    fills_a_record_that_is_there(store, life, images, others).await;
    refuses_what_no_life_allows(store, life, images).await;
    ends::publishes_exactly_its_fields(store, life, images, others).await;
    ends::publishes_only_its_own_image(store, life, images, others).await;
    ends::a_mark_keeps_a_task_from_success(store, life, images).await;
    ends::a_mark_is_the_first_and_comes_before_the_end(store, life).await;
    ends::fails_unbegun_only_what_has_not_begun(store, life, images).await;
}

async fn succeeds_with_its_image(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    let mut task = pending("life", 0);
    task.message = "a remark".to_owned();
    let image = importing("life", 1);
    store.create(&task, None, None).await.expect("create");
    life.begin(task.id, &image, at(1)).await.expect("begin");
    task.begin(Some(image.id), at(1)).expect("begin");
    assert_eq!(stored(store, task.id).await, task);
    assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));
    assert_conflict(life.begin(task.id, &importing("life", 1), at(1)).await, "begun already");

    let publication = Publication { remark: Some("another".to_owned()), ..publication(image.id) };
    let image = active(image, 2);
    let result = json!({"image_id": image.id});
    life.publish(task.id, &publication, &result, HOUR, at(2)).await.expect("publish");
    task.succeed(result.clone(), HOUR, at(2)).expect("succeed");
    task.message = "a remark another".to_owned();
    assert_eq!(stored(store, task.id).await, task, "remarks stay, and one is added");
    assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));

    assert_conflict(life.publish(task.id, &publication, &result, HOUR, at(3)).await, "a success");
    assert_conflict(life.fail(task.id, &failure(), HOUR, at(3)).await, "a success");
    assert_eq!(stored(store, task.id).await, task, "end states are final");
    assert_eq!(images.get(image.id).await.expect("get"), Some(image), "an active image stays");
}

async fn fails_without_its_image(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    for begun in [false, true] {
        let mut task = pending("life", 0);
        let image = importing("life", 1);
        store.create(&task, None, None).await.expect("create");
        if begun {
            life.begin(task.id, &image, at(1)).await.expect("begin");
            task.begin(Some(image.id), at(1)).expect("begin");
        }
        life.fail(task.id, &failure(), HOUR, at(2)).await.expect("fail");
        task.fail(&failure(), HOUR, at(2)).expect("fail");
        assert_eq!(stored(store, task.id).await, task);
        assert_eq!(images.get(image.id).await.expect("get"), None, "nothing is left of its image");
        assert_conflict(life.fail(task.id, &failure(), HOUR, at(3)).await, "failed already");
        assert_conflict(life.begin(task.id, &image, at(3)).await, "failed already");
        let late = life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(3)).await;
        assert_conflict(late, "failed");
        assert_eq!(stored(store, task.id).await, task, "end states are final");
        assert_eq!(images.get(image.id).await.expect("get"), None, "and leave nothing");
    }
}

async fn fills_a_record_that_is_there(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
    others: &dyn PutImage,
) {
    let staged = Some(StagedBytes(Uuid::new_v4()));
    let task = async || {
        let task = Task { task_type: TaskType::ApiImageImport, ..pending("life", 0) };
        store.create(&task, None, None).await.expect("create");
        task.id
    };
    let record = async |status: ImageStatus, staged: Option<StagedBytes>| {
        let image = Image { status, staged, ..importing("life", 1) };
        others.put_image(&image).await;
        image
    };
    // What is staged comes in with the task that names it alone; into an empty record anything does.
    for (status, waits, brought, may) in [
        (ImageStatus::Queued, None, None, true),
        (ImageStatus::Queued, None, staged, true),
        (ImageStatus::Uploading, staged, staged, true),
        (ImageStatus::Uploading, staged, None, false),
        (ImageStatus::Uploading, staged, Some(StagedBytes(Uuid::new_v4())), false),
        (ImageStatus::Importing, None, None, false),
        (ImageStatus::Active, None, staged, false),
        (ImageStatus::PendingDelete, None, None, false),
    ] {
        let (id, image) = (task().await, record(status, waits).await);
        let begun = life.begin_filling(id, image.id, brought, at(3)).await;
        let now = images.get(image.id).await.expect("get").expect("a record");
        if may {
            begun.expect("begin");
            let filled =
                Image { status: ImageStatus::Importing, staged: brought, updated_at: at(3), ..image };
            assert_eq!(now, filled, "{status:?}");
            assert_eq!(stored(store, id).await.image_id, Some(now.id));
            assert_conflict(life.begin_filling(id, now.id, brought, at(3)).await, "begun already");
        } else {
            assert_conflict(begun, "not to be filled");
            assert_eq!(now, image, "{status:?}");
            assert_eq!(stored(store, id).await.image_id, None);
        }
    }
    let id = task().await;
    assert_conflict(life.begin_filling(id, importing("life", 1).id, None, at(3)).await, "no record");
    // A failure leaves the record without bytes, a success makes it active.
    for succeeds in [false, true] {
        let (id, image) = (task().await, record(ImageStatus::Uploading, staged).await);
        life.begin_filling(id, image.id, staged, at(3)).await.expect("begin");
        let expected = if succeeds {
            life.publish(id, &publication(image.id), &json!({}), HOUR, at(4)).await.expect("publish");
            active(Image { staged: None, ..image }, 4)
        } else {
            life.fail(id, &failure(), HOUR, at(4)).await.expect("fail");
            Image {
                status: ImageStatus::Queued,
                staged: None,
                import_failed: true,
                updated_at: at(4),
                ..image
            }
        };
        assert_eq!(images.get(expected.id).await.expect("get"), Some(expected));
    }
    // The failure of another one that was to fill it, and never began, leaves it to the one at work.
    let (id, image) = (task().await, record(ImageStatus::Queued, None).await);
    life.begin_filling(id, image.id, None, at(3)).await.expect("begin");
    let input = json!({"image_id": image.id, "import_req": {}});
    let late = Task { task_type: TaskType::ApiImageImport, input, ..pending("life", 0) };
    store.create(&late, None, None).await.expect("create");
    life.fail(late.id, &failure(), HOUR, at(4)).await.expect("fail");
    let kept = images.get(image.id).await.expect("get").map(|image| image.status);
    assert_eq!(kept, Some(ImageStatus::Importing));
    // One whose record is gone meanwhile fails all the same.
    let (id, image) = (task().await, record(ImageStatus::Queued, None).await);
    life.begin_filling(id, image.id, None, at(3)).await.expect("begin");
    others.put_image(&Image { status: ImageStatus::PendingDelete, ..image.clone() }).await;
    life.fail(id, &failure(), HOUR, at(4)).await.expect("fail");
    let kept = images.get(image.id).await.expect("get").map(|image| image.status);
    assert_eq!(kept, Some(ImageStatus::PendingDelete));
}

async fn works_on_an_image_that_is_there(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    images: &dyn ImageStore,
) {
    // An image that another task makes is not the export's to remove.
    let maker = pending("life", 0);
    let image = importing("life", 1);
    store.create(&maker, None, None).await.expect("create");
    life.begin(maker.id, &image, at(1)).await.expect("begin");
    for succeeds in [false, true] {
        let mut task = Task { task_type: TaskType::Export, ..pending("life", 0) };
        let result = json!({"export_location": "s3://b/k"});
        store.create(&task, None, None).await.expect("create");
        assert_conflict(life.succeed_alone(task.id, &result, HOUR, at(1)).await, "pending");
        life.begin_on(task.id, image.id, at(1)).await.expect("begin");
        assert_conflict(life.begin_on(task.id, image.id, at(1)).await, "begun already");
        task.begin(Some(image.id), at(1)).expect("begin");
        if succeeds {
            life.succeed_alone(task.id, &result, HOUR, at(2)).await.expect("succeed");
            task.succeed(result, HOUR, at(2)).expect("succeed");
        } else {
            life.fail(task.id, &failure(), HOUR, at(2)).await.expect("fail");
            task.fail(&failure(), HOUR, at(2)).expect("fail");
        }
        assert_eq!(stored(store, task.id).await, task);
        assert_conflict(life.succeed_alone(task.id, &json!({}), HOUR, at(3)).await, "final");
        assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));
    }
    // A clone makes an image, or finds one: that one stays whatever becomes of the clone.
    let found = active(image, 2);
    life.publish(maker.id, &publication(found.id), &json!({}), HOUR, at(2)).await.expect("publish");
    let clone = Task { task_type: TaskType::Clone, ..pending("life", 0) };
    store.create(&clone, None, None).await.expect("create");
    life.begin_on(clone.id, found.id, at(1)).await.expect("begin");
    life.fail(clone.id, &failure(), HOUR, at(2)).await.expect("fail");
    assert_eq!(images.get(found.id).await.expect("get"), Some(found));
}

async fn refuses_what_no_life_allows(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    let unknown = TaskId(Uuid::new_v4());
    let image = importing("life", 1);
    assert_conflict(life.begin(unknown, &image, at(1)).await, "unknown");
    assert_conflict(life.publish(unknown, &publication(image.id), &json!({}), HOUR, at(1)).await, "unknown");
    assert_conflict(life.fail(unknown, &failure(), HOUR, at(1)).await, "unknown");
    assert_conflict(life.fail_unbegun(unknown, &failure(), HOUR, at(1)).await, "unknown");
    assert_conflict(life.mark_cancelled(unknown, "alice").await, "unknown");
    assert_eq!(images.get(image.id).await.expect("get"), None);
    assert_eq!(store.get(unknown).await.expect("get"), None);

    let task = pending("life", 0);
    store.create(&task, None, None).await.expect("create");
    let early = life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(1)).await;
    assert_conflict(early, "pending");

    let other = pending("life", 0);
    store.create(&other, None, None).await.expect("create");
    life.begin(other.id, &image, at(1)).await.expect("begin");
    assert_conflict(life.begin(task.id, &image, at(1)).await, "the image's id is taken");
    assert_eq!(stored(store, task.id).await, task, "neither is written");
}
