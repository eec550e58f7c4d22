//! What every implementation of a port must do: one suite per port.
//!
//! A suite panics at the first promise that isn't kept. It wants empty tables
//! (an admin's view shows everything in them) and leaves its records behind.
#![expect(clippy::expect_used, reason = "a broken promise is told by a panic: these are tests")]

mod credentials;
mod images;

pub use credentials::credentials;
pub use images::image_store;

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::failure::{Failure, FailureCode};
use crate::image::{Image, ImageId, ImageStatus, StoredObject, Visibility};
use crate::ports::{
    Created, IdempotencyKey, ImageStore, StoreError, StoreResult, TaskLife, TaskQuery, TaskSort, TaskStore,
};
use crate::progress::{Meter, Progress, Step};
use crate::task::{Task, TaskId, TaskStatus, TaskType};
use crate::time::Timestamp;

/// The second at which the suites' records begin to be made.
const START: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(START + seconds)
}

/// A pending task of that project, accepted that many seconds after the suites' start.
pub fn pending(owner: &str, seconds: i64) -> Task {
    Task {
        id: TaskId(Uuid::new_v4()),
        task_type: TaskType::Import,
        status: TaskStatus::Pending,
        owner: owner.to_owned(),
        user_id: "alice".to_owned(),
        request_id: "req-1".to_owned(),
        input: json!({"import_from": "https://example.com/a", "größe": [1, 2.5, null, {"": "\u{1F4BF}\u{0}"}]}),
        result: None,
        message: String::new(),
        created_at: at(seconds),
        updated_at: at(seconds),
        expires_at: None,
        image_id: None,
        progress: Progress::default(),
    }
}

/// An image of that project at the start of its import.
pub fn importing(owner: &str, seconds: i64) -> Image {
    Image {
        id: ImageId(Uuid::new_v4()),
        owner: owner.to_owned(),
        name: Some("Debian \u{1F300}".to_owned()),
        status: ImageStatus::Importing,
        visibility: Visibility::Shared,
        disk_format: None,
        container_format: Some("bare".to_owned()),
        size: None,
        virtual_size: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        min_disk: 1,
        min_ram: 0,
        protected: false,
        os_hidden: true,
        tags: vec!["a".to_owned(), "b".to_owned()],
        properties: [("os_distro".to_owned(), "debian".to_owned()), ("empty".to_owned(), String::new())]
            .into(),
        created_at: at(seconds),
        updated_at: at(seconds),
        stored: None,
    }
}

/// The image as its import leaves it.
pub fn active(mut image: Image) -> Image {
    image.status = ImageStatus::Active;
    image.disk_format = Some("qcow2".to_owned());
    image.size = Some(5 << 40);
    image.virtual_size = Some(u64::MAX >> 1);
    image.checksum = Some("d41d8cd98f00b204e9800998ecf8427e".to_owned());
    image.os_hash_algo = Some("sha512".to_owned());
    image.os_hash_value = Some("0".repeat(128));
    image.stored = Some(StoredObject {
        bucket: "images".to_owned(),
        key: image.id.object_key(),
        etag: "\"e-1\"".to_owned(),
        crc64nvme: "AAAAAAAAAAA=".to_owned(),
    });
    image
}

fn failure() -> Failure {
    Failure::new(FailureCode::SourceNotFound, "https://example.com/a answered 404")
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: StoreResult<T>, why: &str) {
    assert!(matches!(result, Err(StoreError::Conflict)), "{why}: {result:?}");
}

/// [`TaskStore`].
pub async fn task_store(store: &dyn TaskStore, life: &dyn TaskLife) {
    creates_once_and_reads_back(store).await;
    keys_are_remembered(store).await;
    counts_work_only_while_processing(store, life).await;
    finds_what_is_unfinished(store, life).await;
    lists_in_every_order(store, life).await;
}

async fn creates_once_and_reads_back(store: &dyn TaskStore) {
    let task = pending("create", 0);
    assert_eq!(store.get(task.id).await.expect("get"), None);
    assert_eq!(store.create(&task, None, None).await.expect("create"), Created::New);
    assert_eq!(store.get(task.id).await.expect("get"), Some(task.clone()));
    assert_conflict(store.create(&task, None, None).await, "an id is used once");
}

async fn keys_are_remembered(store: &dyn TaskStore) {
    let key = |owner: &str, key: &str, body: &str| IdempotencyKey {
        owner: owner.to_owned(),
        key: key.to_owned(),
        body_sha256: body.to_owned(),
    };
    let first = pending("keys", 0);
    let again = pending("keys", 1);
    let odd = "a#b \u{7e} key/with:odd%23characters";
    assert_eq!(store.create(&first, Some(&key("keys", odd, "x")), None).await.expect("first"), Created::New);
    let repeated = store.create(&again, Some(&key("keys", odd, "x")), None).await.expect("again");
    assert_eq!(repeated, Created::Before(first.id));
    let other_body = store.create(&again, Some(&key("keys", odd, "y")), None).await.expect("other body");
    assert_eq!(other_body, Created::OtherBody);
    assert_eq!(store.get(again.id).await.expect("get"), None, "a repeat writes nothing");
    // Another tenant's key is another key, also where owner and key joined would read the same.
    for (owner, name) in [("others", odd), ("keys#a", "b"), ("keys", "a#b")] {
        let created =
            store.create(&pending(owner, 0), Some(&key(owner, name, "y")), None).await.expect("create");
        assert_eq!(created, Created::New, "{owner} {name}");
    }
    let next_day = pending("keys", 24 * 3600 + 1);
    let created = store.create(&next_day, Some(&key("keys", odd, "z")), None).await.expect("next day");
    assert_eq!(created, Created::New, "a key is forgotten after 24 hours, deleted or not");
}

async fn counts_work_only_while_processing(store: &dyn TaskStore, life: &dyn TaskLife) {
    let task = pending("work", 0);
    let work = Progress {
        stages: true,
        staged: Meter { done: 9, total: 0 },
        copied: Meter { done: 9, total: 1 << 40 },
        hashed: Meter { done: 9, total: 1 << 40 },
    };
    store.create(&task, None, None).await.expect("create");
    assert_conflict(store.set_work(task.id, &work).await, "pending");
    assert_conflict(store.advance(task.id, Step::Copied, 1).await, "pending");
    assert_conflict(store.advance(TaskId(Uuid::new_v4()), Step::Copied, 1).await, "unknown");

    life.begin(task.id, &importing("work", 1), at(1)).await.expect("begin");
    store.set_work(task.id, &work).await.expect("set_work");
    for (step, bytes) in [(Step::Staged, 5), (Step::Copied, 1 << 33), (Step::Copied, 7), (Step::Hashed, 3)] {
        store.advance(task.id, step, bytes).await.expect("advance");
    }
    store.set_work(task.id, &work).await.expect("set_work again");
    let expected = Progress {
        stages: true,
        staged: Meter { done: 5, total: 0 },
        copied: Meter { done: (1 << 33) + 7, total: 1 << 40 },
        hashed: Meter { done: 3, total: 1 << 40 },
    };
    assert_eq!(store.get(task.id).await.expect("get").expect("task").progress, expected, "counts stay");

    life.fail(task.id, &failure(), HOUR, at(2)).await.expect("fail");
    assert_conflict(store.set_work(task.id, &work).await, "ended");
    assert_conflict(store.advance(task.id, Step::Copied, 1).await, "ended");
}

async fn finds_what_is_unfinished(store: &dyn TaskStore, life: &dyn TaskLife) {
    // Long before every other record of the suites.
    let mut tasks: Vec<Task> = (0..9).map(|n| pending("unfinished", n - 1_000_000)).collect();
    for task in &tasks {
        store.create(task, None, None).await.expect("create");
    }
    let ended = tasks.remove(4);
    life.fail(ended.id, &failure(), HOUR, at(0)).await.expect("fail");
    life.begin(tasks[2].id, &importing("unfinished", 0), at(0)).await.expect("begin");
    let ids: Vec<TaskId> = tasks.iter().map(|t| t.id).collect();
    let found = |before: i64, limit| store.unfinished(at(before - 1_000_000), limit);
    assert_eq!(found(100, 100).await.expect("all"), ids, "oldest first, ended ones left out");
    assert_eq!(found(100, 3).await.expect("limit"), ids[..3]);
    assert_eq!(found(2, 100).await.expect("before"), ids[..2], "created before, not at");
    assert_eq!(found(0, 100).await.expect("none"), []);
}

async fn lists_in_every_order(store: &dyn TaskStore, life: &dyn TaskLife) {
    let mut tasks = Vec::new();
    for n in 0..24_i64 {
        let owner = if n % 3 == 0 { "list-b" } else { "list-a" };
        // Pairs share their second, so that ties are broken by id.
        let mut task = pending(owner, 1000 + n / 2);
        store.create(&task, None, None).await.expect("create");
        // Ends at odd times, some of them the same, so that orders by updated_at and expires_at differ from creation's.
        let now = at(2000 + (n * 7) % 13);
        match n % 4 {
            0 => {}
            1 => {
                let image = importing(owner, 0);
                life.begin(task.id, &image, now).await.expect("begin");
                task.begin(Some(image.id), now).expect("begin");
            }
            // Some expire before the time of the lists, 4000.
            _ => {
                let ttl = Duration::from_secs(if n % 8 == 2 { 10 } else { 7200 });
                life.fail(task.id, &failure(), ttl, now).await.expect("fail");
                task.fail(&failure(), ttl, now).expect("fail");
            }
        }
        tasks.push(task);
    }
    let sorts = [
        TaskSort::CreatedAt,
        TaskSort::UpdatedAt,
        TaskSort::ExpiresAt,
        TaskSort::Id,
        TaskSort::Type,
        TaskSort::Status,
        TaskSort::Owner,
    ];
    for sort in sorts {
        for descending in [false, true] {
            for (owner, status) in [
                (Some("list-a"), None),
                (Some("list-a"), Some(TaskStatus::Failure)),
                (Some("list-b"), Some(TaskStatus::Pending)),
                (Some("nobody"), None),
            ] {
                for limit in [1, 4, 100] {
                    pages_are_whole(store, &tasks, sort, descending, owner, status, limit).await;
                }
            }
        }
    }
    // Over all owners there may be more than this suite's own: their order and completeness are what counts.
    for sort in sorts {
        for descending in [false, true] {
            let all = walk(store, &query(sort, descending, None, None, 7)).await;
            let mut sorted = all.clone();
            sort_tasks(&mut sorted, sort, descending);
            assert_eq!(ids(&all), ids(&sorted), "everybody's by {sort:?}, descending {descending}");
            for task in tasks.iter().filter(|t| !t.is_expired(at(4000))) {
                assert_eq!(all.iter().filter(|t| t.id == task.id).count(), 1, "everybody's by {sort:?}");
            }
        }
    }
    let one =
        TaskQuery { id: Some(tasks[1].id), ..query(TaskSort::CreatedAt, true, Some("list-a"), None, 5) };
    let page = store.list(&one).await.expect("by id");
    assert_eq!((ids(&page.tasks), page.more), (vec![tasks[1].id], false));
    let foreign = TaskQuery { owner: Some("list-b".to_owned()), ..one };
    assert_eq!(store.list(&foreign).await.expect("by id").tasks, []);
}

async fn pages_are_whole(
    store: &dyn TaskStore,
    tasks: &[Task],
    sort: TaskSort,
    descending: bool,
    owner: Option<&str>,
    status: Option<TaskStatus>,
    limit: usize,
) {
    let mut expected: Vec<Task> = tasks
        .iter()
        .filter(|t| owner.is_none_or(|owner| owner == t.owner))
        .filter(|t| status.is_none_or(|status| status == t.status))
        .filter(|t| !t.is_expired(at(4000)))
        .cloned()
        .collect();
    sort_tasks(&mut expected, sort, descending);
    let found = walk(store, &query(sort, descending, owner, status, limit)).await;
    let what = format!("{owner:?} {status:?} by {sort:?}, descending {descending}, {limit} a page");
    assert_eq!(ids(&found), ids(&expected), "{what}");
    for (found, expected) in found.iter().zip(&expected) {
        let shown =
            |t: &Task| (t.status, t.owner.clone(), t.user_id.clone(), t.request_id.clone(), t.image_id);
        let times = |t: &Task| (t.created_at, t.updated_at, t.expires_at);
        assert_eq!((shown(found), times(found)), (shown(expected), times(expected)), "{what}");
    }
}

fn query(
    sort: TaskSort,
    descending: bool,
    owner: Option<&str>,
    status: Option<TaskStatus>,
    limit: usize,
) -> TaskQuery {
    TaskQuery {
        owner: owner.map(str::to_owned),
        task_type: Some(TaskType::Import),
        status,
        id: None,
        sort,
        descending,
        limit,
        after: None,
        now: at(4000),
    }
}

/// Every page, each begun behind the last task of the one before.
async fn walk(store: &dyn TaskStore, first: &TaskQuery) -> Vec<Task> {
    let mut query = first.clone();
    let mut all = Vec::new();
    loop {
        let page = store.list(&query).await.expect("page");
        assert!(page.tasks.len() <= query.limit, "a page holds at most its limit");
        assert!(!page.more || !page.tasks.is_empty(), "a page that is followed by another isn't empty");
        all.extend(page.tasks);
        if !page.more {
            return all;
        }
        let last = all.last().expect("a page with more has tasks").id;
        query.after = store.get(last).await.expect("marker");
    }
}

fn sort_tasks(tasks: &mut [Task], sort: TaskSort, descending: bool) {
    tasks.sort_by(|a, b| {
        let ascending = sort.compare(a, b);
        if descending { ascending.reverse() } else { ascending }
    });
}

fn ids(tasks: &[Task]) -> Vec<TaskId> {
    tasks.iter().map(|t| t.id).collect()
}

/// [`TaskLife`].
pub async fn task_life(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    succeeds_with_its_image(store, life, images).await;
    fails_without_its_image(store, life, images).await;
    works_on_an_image_that_is_there(store, life, images).await;
    refuses_what_no_life_allows(store, life, images).await;
}

async fn succeeds_with_its_image(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    let mut task = pending("life", 0);
    task.message = "a remark".to_owned();
    let image = importing("life", 1);
    store.create(&task, None, None).await.expect("create");
    life.begin(task.id, &image, at(1)).await.expect("begin");
    task.begin(Some(image.id), at(1)).expect("begin");
    assert_eq!(store.get(task.id).await.expect("get"), Some(task.clone()));
    assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));
    assert_conflict(life.begin(task.id, &importing("life", 1), at(1)).await, "begun already");

    let image = active(image);
    let result = json!({"image_id": image.id});
    life.succeed(task.id, &image, &result, HOUR, at(2)).await.expect("succeed");
    task.succeed(result.clone(), HOUR, at(2)).expect("succeed");
    assert_eq!(store.get(task.id).await.expect("get"), Some(task.clone()), "remarks stay");
    assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));

    assert_conflict(life.succeed(task.id, &image, &result, HOUR, at(3)).await, "a success");
    assert_conflict(life.fail(task.id, &failure(), HOUR, at(3)).await, "a success");
    assert_eq!(store.get(task.id).await.expect("get"), Some(task), "end states are final");
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
        assert_eq!(store.get(task.id).await.expect("get"), Some(task.clone()));
        assert_eq!(images.get(image.id).await.expect("get"), None, "nothing is left of its image");
        assert_conflict(life.fail(task.id, &failure(), HOUR, at(3)).await, "failed already");
        assert_conflict(life.begin(task.id, &image, at(3)).await, "failed already");
        assert_conflict(life.succeed(task.id, &active(image), &json!({}), HOUR, at(3)).await, "failed");
        assert_eq!(store.get(task.id).await.expect("get"), Some(task), "end states are final");
    }
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
        assert_eq!(store.get(task.id).await.expect("get"), Some(task.clone()));
        assert_conflict(life.succeed_alone(task.id, &json!({}), HOUR, at(3)).await, "final");
        assert_eq!(images.get(image.id).await.expect("get"), Some(image.clone()));
    }
    // A clone makes an image, or finds one: that one stays whatever becomes of the clone.
    let found = active(image);
    life.succeed(maker.id, &found, &json!({}), HOUR, at(2)).await.expect("succeed");
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
    assert_conflict(life.succeed(unknown, &active(image.clone()), &json!({}), HOUR, at(1)).await, "unknown");
    assert_conflict(life.fail(unknown, &failure(), HOUR, at(1)).await, "unknown");
    assert_eq!(images.get(image.id).await.expect("get"), None);
    assert_eq!(store.get(unknown).await.expect("get"), None);

    let task = pending("life", 0);
    store.create(&task, None, None).await.expect("create");
    let early = life.succeed(task.id, &active(image.clone()), &json!({}), HOUR, at(1)).await;
    assert_conflict(early, "pending");

    let other = pending("life", 0);
    store.create(&other, None, None).await.expect("create");
    life.begin(other.id, &image, at(1)).await.expect("begin");
    assert_conflict(life.begin(task.id, &image, at(1)).await, "the image's id is taken");
    assert_eq!(store.get(task.id).await.expect("get"), Some(task), "neither is written");
}
