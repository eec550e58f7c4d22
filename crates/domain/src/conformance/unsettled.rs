//! What the sweep finds: tasks that are not ended or not settled, all of them, in order.

use serde_json::json;

use super::{HOUR, assert_conflict, at, failure, importing, pending, publication, stored};
use crate::image::Publication;
use crate::ports::{OpenTask, TaskLife, TaskStore};
use crate::task::{CLEAN_AFTER, Task, Unsettled};

/// Long before every other record of the suites.
const EARLY: i64 = -1_000_000;

pub(super) async fn finds_what_is_unsettled(store: &dyn TaskStore, life: &dyn TaskLife) {
    // Of three seconds, seven each, so that ids break ties.
    let mut tasks: Vec<Task> = (0..21).map(|n| pending("unsettled", EARLY + n / 7)).collect();
    for task in &tasks {
        store.create(task, None, None).await.expect("create");
    }
    tasks.sort_by_key(|task| (task.created_at, task.id));
    let open: Vec<OpenTask> = tasks.iter().map(|t| OpenTask { id: t.id, created_at: t.created_at }).collect();
    let found = async |before: i64, after: Option<usize>, limit: usize| {
        let after = after.map(|n| &open[n]);
        store.unsettled(at(EARLY + before), after, limit).await.expect("unsettled")
    };
    assert_eq!(found(100, None, 100).await, open, "oldest first");
    assert_eq!(found(1, None, 100).await, open[..7], "created before, not at");
    assert_eq!(found(0, None, 100).await, []);
    assert_eq!(found(2, Some(6), 100).await, open[7..14], "behind one, and before a time");
    assert_eq!(found(1, Some(6), 100).await, []);
    assert_eq!(found(1, None, 7).await, open[..7], "exactly as many as there are");
    for limit in [1, 4, 10] {
        let mut all: Vec<OpenTask> = Vec::new();
        loop {
            let page = store.unsettled(at(EARLY + 100), all.last(), limit).await.expect("page");
            let last = page.len() < limit;
            all.extend(page);
            if last {
                break;
            }
        }
        assert_eq!(all, open, "{limit} a page");
    }
    // One that began and goes on, and every end that there is.
    let [goes_on, ended, hashes, alone, failed, unbegun] = [0, 8, 9, 10, 11, 20].map(|n| &tasks[n]);
    for task in [goes_on, ended, hashes, alone, failed] {
        let image = importing("unsettled", 0);
        life.begin(task.id, &image, at(0)).await.expect("begin");
        let publication = Publication { hashes_follow: task.id == hashes.id, ..publication(image.id) };
        if task.id == ended.id || task.id == hashes.id {
            life.publish(task.id, &publication, &json!({}), HOUR, at(0)).await.expect("publish");
        }
    }
    life.succeed_alone(alone.id, &json!({}), HOUR, at(0)).await.expect("succeed");
    life.fail(failed.id, &failure(), HOUR, at(0)).await.expect("fail");
    life.fail_unbegun(unbegun.id, &failure(), HOUR, at(0)).await.expect("fail");
    let cleaning = |seconds| Some(Unsettled::Cleaning { after: at(seconds).plus(CLEAN_AFTER) });
    for (task, unsettled) in [
        (goes_on, None),
        (ended, cleaning(0)),
        (alone, cleaning(0)),
        (hashes, Some(Unsettled::Hashing { executions: 0 })),
        (failed, cleaning(0)),
        (unbegun, cleaning(0)),
    ] {
        assert_eq!(stored(store, task.id).await.unsettled, unsettled);
    }
    let without = |gone: &[&Task]| -> Vec<OpenTask> {
        open.iter().copied().filter(|open| gone.iter().all(|task| task.id != open.id)).collect()
    };
    assert_eq!(found(100, None, 100).await, open, "each end leaves something to do");

    counts_executions_that_hash(store, life, hashes, failed).await;
    for task in [goes_on, ended, failed] {
        assert_conflict(life.end_hashing(task.id, at(5)).await, "no hashes follow");
    }
    assert_conflict(life.end_hashing(pending("unsettled", 0).id, at(5)).await, "unknown");
    let before = stored(store, hashes.id).await;
    life.end_hashing(hashes.id, at(5)).await.expect("end hashing");
    assert_eq!(stored(store, hashes.id).await, Task { unsettled: cleaning(5), ..before });
    assert_conflict(life.end_hashing(hashes.id, at(6)).await, "they are made");
    assert_conflict(life.count_hashing(hashes.id, 2).await, "they are made");
    assert_eq!(found(100, None, 100).await, open, "it is to be cleaned");
    assert_conflict(life.settle(goes_on.id).await, "not ended");
    assert_conflict(life.settle(tasks[1].id).await, "not begun");
    assert_conflict(life.settle(pending("unsettled", 0).id).await, "unknown");
    // Again is the same as once.
    for task in [hashes, failed, failed, unbegun, ended, alone] {
        let before = stored(store, task.id).await;
        life.settle(task.id).await.expect("settle");
        assert_eq!(stored(store, task.id).await, Task { unsettled: None, ..before }, "nothing else changes");
    }
    assert_eq!(found(100, None, 100).await, without(&[ended, hashes, alone, failed, unbegun]));
    assert_conflict(life.count_hashing(hashes.id, 2).await, "settled");
}

async fn counts_executions_that_hash(
    store: &dyn TaskStore,
    life: &dyn TaskLife,
    hashes: &Task,
    failed: &Task,
) {
    assert_eq!(life.count_hashing(hashes.id, 0).await.expect("count"), 1);
    assert_conflict(life.count_hashing(hashes.id, 0).await, "somebody else counted");
    assert_conflict(life.count_hashing(hashes.id, 2).await, "not counted yet");
    assert_eq!(life.count_hashing(hashes.id, 1).await.expect("count"), 2);
    assert_eq!(stored(store, hashes.id).await.unsettled, Some(Unsettled::Hashing { executions: 2 }));
    assert_conflict(life.count_hashing(failed.id, 0).await, "not hashing");
    assert_conflict(life.count_hashing(pending("unsettled", 0).id, 0).await, "unknown");
}
