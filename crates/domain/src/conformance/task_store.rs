//! [`TaskStore`], but for its lists: tasks are made once, and read as they were written.

use serde_json::json;
use uuid::Uuid;

use super::{assert_conflict, at, lists, pending, unsettled};
use crate::ports::{Created, IdempotencyKey, ProgressStore, TaskLife, TaskStore};
use crate::progress::{Meter, Progress, Report, Step};
use crate::task::{Task, TaskId};

/// [`TaskStore`].
pub async fn task_store(store: &dyn TaskStore, life: &dyn TaskLife) {
    creates_once_and_reads_back(store).await;
    what_is_too_large_is_told(store).await;
    keys_are_remembered(store).await;
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

async fn what_is_too_large_is_told(store: &dyn TaskStore) {
    // Of what a POST may hold, all that isn't longer as it is stored.
    let fits = Task { input: json!({"x": "\u{1F4BF}".repeat(64 << 10)}), ..pending("sizes", 0) };
    assert_eq!(store.create(&fits, None, None).await.expect("256 KiB"), Created::New);
    assert_eq!(store.get(fits.id).await.expect("get"), Some(fits));
    // 120 KB as it was written: a number gets all its zeros.
    let numbers: Vec<f64> = vec![1e15; 30_000];
    let grows = Task { input: json!({"x": numbers}), ..pending("sizes", 0) };
    let created = store.create(&grows, None, None).await.expect("too large");
    assert!(matches!(created, Created::TooLarge { bytes, most } if bytes > most), "{created:?}");
    assert_eq!(store.get(grows.id).await.expect("get"), None);
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

/// [`ProgressStore`], of tasks of that store.
pub async fn progress_store(store: &dyn ProgressStore, tasks: &dyn TaskStore) {
    let [task, other] = [(); 2].map(|()| pending("progress", 0));
    let id = task.id;
    for task in [&task, &other] {
        assert_eq!(tasks.create(task, None, None).await.expect("create"), Created::New);
    }
    assert_eq!(store.shown(id).await.expect("shown"), Some(task.clone()), "nothing was told");
    let tib = 1 << 40;
    let report = Report::default().with_staging().with_done(Step::Staged, 5);
    store.tell(id, &report, at(0)).await.expect("tell");
    let report = Report::default().with_total(Step::Copied, tib).with_total(Step::Hashed, tib);
    store.tell(id, &report.with_done(Step::Copied, 1 << 33), at(1)).await.expect("totals and a count");
    let report = Report::default().with_done(Step::Copied, 7).with_done(Step::Hashed, 3).with_waits(true);
    store.tell(id, &report.with_total(Step::Hashed, tib - 1), at(2)).await.expect("counts and a total");
    store.tell(id, &Report::default(), at(3)).await.expect("nothing to tell");
    let expected = Progress {
        stages: true,
        waits: true,
        staged: Meter { done: 5, total: 0 },
        copied: Meter { done: (1 << 33) + 7, total: tib },
        hashed: Meter { done: 3, total: tib - 1 },
    };
    let told = Task { progress: expected, ..task };
    assert_eq!(
        store.shown(id).await.expect("shown"),
        Some(told),
        "counts add up, totals are the last ones told"
    );
    assert_eq!(store.shown(other.id).await.expect("shown"), Some(other), "each task has its own");
    let never = TaskId(Uuid::new_v4());
    store.tell(never, &Report::default(), at(0)).await.expect("tell");
    assert_eq!(store.shown(never).await.expect("shown"), None, "progress is no task");
}
