//! [`TaskStore`], but for its lists: tasks are made once, and read as they were written.

use uuid::Uuid;

use super::{HOUR, assert_conflict, at, failure, importing, lists, pending, stored, unsettled};
use crate::ports::{Created, IdempotencyKey, TaskLife, TaskStore};
use crate::progress::{Meter, Progress, Step};
use crate::task::TaskId;

/// [`TaskStore`].
pub async fn task_store(store: &dyn TaskStore, life: &dyn TaskLife) {
    creates_once_and_reads_back(store).await;
    keys_are_remembered(store).await;
    counts_work_only_while_processing(store, life).await;
    unsettled::finds_what_is_unsettled(store, life).await;
    lists::lists_in_every_order(store, life).await;
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
    let remembered = async |owner: &str, name: &str, body: &str, seconds| {
        store.remembered(&key(owner, name, body), at(seconds)).await.expect("remembered")
    };
    assert_eq!(remembered("keys", odd, "x", 0).await, None);
    assert_eq!(store.create(&first, Some(&key("keys", odd, "x")), None).await.expect("first"), Created::New);
    let repeated = store.create(&again, Some(&key("keys", odd, "x")), None).await.expect("again");
    assert_eq!(repeated, Created::Before(first.id));
    let other_body = store.create(&again, Some(&key("keys", odd, "y")), None).await.expect("other body");
    assert_eq!(other_body, Created::OtherBody);
    assert_eq!(store.get(again.id).await.expect("get"), None, "a repeat writes nothing");
    let day = 24 * 3600;
    assert_eq!(remembered("keys", odd, "x", 1).await, Some(Created::Before(first.id)));
    assert_eq!(remembered("keys", odd, "y", day - 1).await, Some(Created::OtherBody));
    assert_eq!(remembered("keys", odd, "x", day).await, None, "forgotten, deleted or not");
    assert_eq!(remembered("others", odd, "x", 1).await, None);
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
    assert_eq!(stored(store, task.id).await.progress, expected, "counts stay");

    life.fail(task.id, &failure(), HOUR, at(2)).await.expect("fail");
    assert_conflict(store.set_work(task.id, &work).await, "ended");
    assert_conflict(store.advance(task.id, Step::Copied, 1).await, "ended");
}
