//! [`Credentials`]: kept with the task, gone with its end.

use std::time::Duration;

use serde_json::json;

use super::{HOUR, assert_conflict, at, failure, importing, pending, publication};
use crate::ports::{Created, Credentials, IdempotencyKey, TOKEN_LIFE, TaskLife, TaskStore};
use crate::secret::Secret;
use crate::task::{Task, TaskType};

fn token(text: &str) -> Secret {
    Secret::new(text).expect("a token")
}

/// [`Credentials`].
pub async fn credentials(store: &dyn TaskStore, life: &dyn TaskLife, kept: &dyn Credentials) {
    is_kept_apart_and_for_its_time(store, kept).await;
    is_written_with_the_task_or_not_at_all(store, kept).await;
    goes_with_the_tasks_end(store, life, kept).await;
}

async fn is_kept_apart_and_for_its_time(store: &dyn TaskStore, kept: &dyn Credentials) {
    let (task, other) = (pending("tokens", 0), pending("tokens", 0));
    // As long as any is taken.
    let secret = token(&"t".repeat(8192));
    store.create(&task, None, Some(&secret)).await.expect("create");
    store.create(&other, None, None).await.expect("create");
    assert_eq!(store.get(task.id).await.expect("get"), Some(task.clone()), "the task is as without it");
    assert_eq!(kept.token(task.id, at(0)).await.expect("token"), Some(secret.clone()));
    assert_eq!(kept.token(other.id, at(0)).await.expect("token"), None);
    let end = task.created_at.plus(TOKEN_LIFE);
    let before = task.created_at.plus(TOKEN_LIFE - Duration::from_secs(1));
    assert_eq!(kept.token(task.id, before).await.expect("token"), Some(secret));
    assert_eq!(kept.token(task.id, end).await.expect("token"), None, "forgotten, deleted or not");
}

async fn is_written_with_the_task_or_not_at_all(store: &dyn TaskStore, kept: &dyn Credentials) {
    let key = IdempotencyKey { owner: "tokens".into(), key: "k".into(), body_sha256: "x".into() };
    let (first, again) = (pending("tokens", 0), pending("tokens", 1));
    let (one, two) = (token("one"), token("two"));
    assert_eq!(store.create(&first, Some(&key), Some(&one)).await.expect("first"), Created::New);
    let repeated = store.create(&again, Some(&key), Some(&two)).await.expect("again");
    assert_eq!(repeated, Created::Before(first.id));
    let other = IdempotencyKey { body_sha256: "y".into(), ..key };
    assert_eq!(store.create(&again, Some(&other), Some(&two)).await.expect("other"), Created::OtherBody);
    assert_eq!(kept.token(again.id, at(1)).await.expect("token"), None, "a repeat writes nothing");
    assert_conflict(store.create(&first, None, Some(&two)).await, "an id is used once");
    assert_eq!(kept.token(first.id, at(1)).await.expect("token"), Some(one), "the first one's stays");
}

async fn goes_with_the_tasks_end(store: &dyn TaskStore, life: &dyn TaskLife, kept: &dyn Credentials) {
    for end in ["publish", "succeed alone", "fail", "fail unbegun"] {
        let mut task = pending("tokens", 0);
        if end == "succeed alone" {
            task = Task { task_type: TaskType::Export, ..task };
        }
        let image = importing("tokens", 1);
        store.create(&task, None, Some(&token("secret"))).await.expect("create");
        match end {
            "fail unbegun" => {}
            "succeed alone" => life.begin_on(task.id, image.id, at(1)).await.expect("begin"),
            _ => life.begin(task.id, &image, at(1)).await.expect("begin"),
        }
        // A write that doesn't end the task leaves it.
        let other = publication(importing("tokens", 1).id);
        assert_conflict(life.publish(task.id, &other, &json!({}), HOUR, at(2)).await, end);
        assert!(kept.token(task.id, at(1)).await.expect("token").is_some(), "{end}: at work");
        match end {
            "publish" => life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(2)).await,
            "succeed alone" => life.succeed_alone(task.id, &json!({}), HOUR, at(2)).await,
            "fail" => life.fail(task.id, &failure(), HOUR, at(2)).await,
            _ => life.fail_unbegun(task.id, &failure(), HOUR, at(2)).await,
        }
        .expect(end);
        assert_eq!(kept.token(task.id, at(2)).await.expect("token"), None, "{end}");
    }
}
