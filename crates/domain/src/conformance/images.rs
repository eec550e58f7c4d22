//! [`ImageStore`]: what is there, in order.

use serde_json::json;
use uuid::Uuid;

use super::{HOUR, active, at, importing, pending, publication};
use crate::image::{Image, ImageHashes, ImageId, Publication, Visibility};
use crate::ports::{ImageQuery, ImageStore, StoreError, TaskLife, TaskStore};

/// [`ImageStore`]; images come into it by [`TaskLife`].
pub async fn image_store(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    let mut made = Vec::new();
    for n in 0..12_i64 {
        let owner = if n % 2 == 0 { "images-a" } else { "images-b" };
        let task = pending(owner, 0);
        let mut image = importing(owner, 5000 + n / 3);
        if n % 4 < 2 {
            image.visibility = Visibility::Public;
        }
        store.create(&task, None, None).await.expect("create");
        life.begin(task.id, &image, at(1)).await.expect("begin");
        if n % 3 != 0 {
            life.publish(task.id, &publication(image.id), &json!({}), HOUR, at(2)).await.expect("publish");
            image = active(image, 2);
        }
        made.push(image);
    }
    assert_eq!(images.get(ImageId(Uuid::new_v4())).await.expect("get"), None);
    made.sort_by_key(|image| std::cmp::Reverse((image.created_at, image.id)));
    for visible_to in [Some("images-a"), Some("images-b"), Some("nobody"), None] {
        for limit in [1, 5, 100] {
            let seen: Vec<Image> = made
                .iter()
                .filter(|i| visible_to.is_none_or(|p| i.owner == p || i.visibility == Visibility::Public))
                .cloned()
                .collect();
            let found = walk_images(images, visible_to, limit).await;
            // Over all owners there may be more than this suite's own.
            let own: Vec<Image> = found.into_iter().filter(|i| i.owner.starts_with("images-")).collect();
            assert_eq!(own, seen, "{visible_to:?}, {limit} a page");
        }
    }
    hashes_arrive_late(store, life, images).await;
}

/// Hashes that come after an image has become active are added to exactly the bytes that were hashed.
async fn hashes_arrive_late(store: &dyn TaskStore, life: &dyn TaskLife, images: &dyn ImageStore) {
    let hashes = ImageHashes { md5: "0123".to_owned(), sha512: "4567".to_owned() };
    let (task, mut image) = (pending("hashes", 0), importing("hashes", 0));
    store.create(&task, None, None).await.expect("create");
    life.begin(task.id, &image, at(1)).await.expect("begin");
    let publication = Publication { hashes: None, hashes_follow: true, ..publication(image.id) };
    let etag = publication.stored.etag.clone();
    let early = images.set_hashes(image.id, &etag, &hashes, at(2)).await;
    assert!(matches!(early, Err(StoreError::Conflict)), "not before it is active: {early:?}");
    life.publish(task.id, &publication, &json!({}), HOUR, at(3)).await.expect("publish");
    for (id, etag) in [(image.id, "\"other\""), (ImageId(Uuid::new_v4()), etag.as_str())] {
        let other = images.set_hashes(id, etag, &hashes, at(4)).await;
        assert!(matches!(other, Err(StoreError::Conflict)), "{id} {etag}: {other:?}");
    }
    // Again is the same as once.
    for _ in 0..2 {
        images.set_hashes(image.id, &etag, &hashes, at(5)).await.expect("set");
    }
    image.publish(&publication, at(3));
    assert_eq!(image.hashes(), None);
    image.set_hashes(hashes.clone());
    assert_eq!(image.hashes(), Some(hashes));
    image.updated_at = at(5);
    assert_eq!(images.get(image.id).await.expect("get"), Some(image));
}

async fn walk_images(images: &dyn ImageStore, visible_to: Option<&str>, limit: usize) -> Vec<Image> {
    let mut query = ImageQuery { visible_to: visible_to.map(str::to_owned), limit, after: None };
    let mut all: Vec<Image> = Vec::new();
    loop {
        let page = images.list(&query).await.expect("page");
        assert!(page.images.len() <= limit, "a page holds at most its limit");
        assert!(!page.more || !page.images.is_empty(), "a page that is followed by another isn't empty");
        all.extend(page.images);
        if !page.more {
            return all;
        }
        query.after = all.last().cloned();
    }
}
