//! Changes that meet each other.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::ImageHashes;
use crate::conformance::{importing, pending, publication};
use crate::memory::{ManualClock, MemoryLinks, MemoryStore};
use crate::ports::{FoundImages, ImageQuery, ImageStore, StoreResult, TaskLife as _, TaskStore as _};
use crate::time::Timestamp;

const ROUNDS: i64 = 1000;

fn caller(project: &str) -> Caller {
    Caller { user: "alice".into(), project: project.into(), roles: vec!["member".into()] }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(1_800_000_000 + seconds)
}

/// A store where everybody else gets on between two calls.
struct Interleaved(Arc<MemoryStore>);

#[async_trait]
impl ImageStore for Interleaved {
    async fn get(&self, id: ImageId) -> StoreResult<Option<Image>> {
        let found = ImageStore::get(&*self.0, id).await;
        tokio::task::yield_now().await;
        found
    }
    async fn list(&self, query: &ImageQuery) -> StoreResult<ImagePage> {
        ImageStore::list(&*self.0, query).await
    }
    async fn set_hashes(
        &self,
        id: ImageId,
        etag: &str,
        hashes: &ImageHashes,
        now: Timestamp,
    ) -> StoreResult<()> {
        self.0.set_hashes(id, etag, hashes, now).await
    }
}

#[async_trait]
impl ImageRecords for Interleaved {
    async fn add(&self, image: &Image) -> StoreResult<()> {
        self.0.add(image).await
    }
    async fn replace(&self, was: &Image, is: &Image) -> StoreResult<()> {
        tokio::task::yield_now().await;
        self.0.replace(was, is).await
    }
    async fn remove(&self, was: &Image) -> StoreResult<()> {
        self.0.remove(was).await
    }
    async fn is_taken(&self, id: ImageId) -> StoreResult<bool> {
        self.0.is_taken(id).await
    }
    async fn find(&self, search: &ImageSearch) -> StoreResult<FoundImages> {
        self.0.find(search).await
    }
    async fn count(&self, project: &str, most: usize) -> StoreResult<usize> {
        self.0.count(project, most).await
    }
    async fn usage(&self, project: &str) -> StoreResult<Usage> {
        self.0.usage(project).await
    }
}

fn images(store: &Arc<MemoryStore>) -> Images {
    Images {
        store: Arc::new(Interleaved(Arc::clone(store))),
        links: Arc::new(MemoryLinks),
        bytes: store.clone(),
        tasks: store.clone(),
        quota: ImageQuota::new(10),
        clock: Arc::new(ManualClock::at(at(5))),
    }
}

fn patch(body: serde_json::Value) -> Patch {
    Patch::parse(&body, Dialect::V21).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_meets_at_one_image_all_survives() {
    let store = Arc::new(MemoryStore::default());
    let images = images(&store);
    let mut met = 0;
    for round in 0..ROUNDS {
        let (task, image) = (pending("demo", round), importing("demo", 0));
        store.create(&task, None, None).await.unwrap();
        store.begin(task.id, &image, at(1)).await.unwrap();
        let (images, id) = (images.clone(), image.id.to_string());
        let one = tokio::spawn({
            let (images, id) = (images.clone(), id.clone());
            let change = patch(json!([
                {"op": "replace", "path": "/name", "value": "one"}, {"op": "add", "path": "/one", "value": "1"},
            ]));
            async move { images.patch(&caller("demo"), &id, &change).await }
        });
        let two = tokio::spawn({
            let (images, id) = (images.clone(), id.clone());
            let change = patch(json!([
                {"op": "replace", "path": "/min_ram", "value": 2}, {"op": "add", "path": "/two", "value": "2"},
            ]));
            async move { images.patch(&caller("demo"), &id, &change).await }
        });
        let share = tokio::spawn({
            let (images, id) = (images.clone(), id.clone());
            async move { images.share(&caller("demo"), &id, "other").await }
        });
        let tag = tokio::spawn(async move { images.tag(&caller("demo"), &id, "new").await });
        let end = tokio::spawn({
            let (store, publication) = (Arc::clone(&store), publication(image.id));
            async move {
                tokio::task::yield_now().await;
                store.publish(task.id, &publication, &json!({}), Duration::from_secs(9), at(4)).await
            }
        });
        met += i32::from(one.await.unwrap().unwrap().status == ImageStatus::Active);
        two.await.unwrap().unwrap();
        share.await.unwrap().unwrap();
        tag.await.unwrap().unwrap();
        end.await.unwrap().unwrap();
        let found = ImageStore::get(&*store, image.id).await.unwrap().unwrap();
        let mut wanted = Image { name: Some("one".into()), min_ram: 2, ..image };
        wanted.tags.push("new".to_owned());
        wanted.properties.extend([("one".to_owned(), "1".to_owned()), ("two".to_owned(), "2".to_owned())]);
        wanted.publish(&publication(wanted.id), at(4));
        (wanted.members, wanted.updated_at) = (found.members.clone(), at(5));
        assert_eq!(found, wanted, "round {round}");
        assert_eq!(found.members.keys().collect::<Vec<_>>(), ["other"], "round {round}");
    }
    assert!(met > 0, "a patch that met the task's end was among them");
}

#[tokio::test]
async fn who_deletes_while_others_change_deletes() {
    let store = Arc::new(MemoryStore::default());
    let images = images(&store);
    let mut image = importing("demo", 0);
    image.publish(&publication(image.id), at(1));
    store.put_image(image.clone());
    let id = image.id.to_string();
    let rename = patch(json!([{"op": "replace", "path": "/name", "value": "late"}]));
    let caller = caller("demo");
    let (deleted, renamed) = tokio::join!(images.delete(&caller, &id), images.patch(&caller, &id, &rename));
    deleted.unwrap();
    // Before, after, or while it was leaving.
    assert!(
        matches!(renamed, Ok(_) | Err(Rejection::NotFound { .. } | Rejection::Conflict(_))),
        "{renamed:?}"
    );
    assert_eq!(ImageStore::get(&*store, image.id).await.unwrap(), None);
    assert!(store.is_taken(image.id).await.unwrap());
}

#[tokio::test]
async fn one_process_alone_keeps_to_the_quota_however_seldom_it_counts() {
    for most in [0, 1, 2, 10, 100] {
        let (store, quota) = (MemoryStore::default(), ImageQuota::new(most));
        for _ in 0..most {
            quota.check(&store, "demo", at(0)).await.unwrap();
            store.put_image(importing("demo", 1));
        }
        assert!(matches!(quota.check(&store, "demo", at(0)).await, Err(Rejection::TooLarge(_))), "{most}");
        quota
            .check(&store, "other", at(0))
            .await
            .map_or_else(|_| assert_eq!(most, 0), |()| assert!(most > 0));
    }
}

#[tokio::test]
async fn what_others_made_is_counted_when_the_room_or_the_time_is_over() {
    const MOST: usize = 100;
    for (seconds, without_a_count) in [(9, 25), (10, 0)] {
        let (store, quota) = (MemoryStore::default(), ImageQuota::new(MOST));
        quota.check(&store, "demo", at(0)).await.unwrap();
        for _ in 0..MOST {
            store.put_image(importing("demo", 1));
        }
        for n in 0..without_a_count {
            assert!(quota.check(&store, "demo", at(seconds)).await.is_ok(), "{n} at {seconds} s");
        }
        assert!(quota.check(&store, "demo", at(seconds)).await.is_err(), "{seconds} s");
    }
}
