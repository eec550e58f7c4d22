//! [`ImageStore`]: what is there, in order.

use serde_json::json;
use uuid::Uuid;

use super::{HOUR, active, at, importing, pending};
use crate::image::{Image, ImageId, Visibility};
use crate::ports::{ImageQuery, ImageStore, TaskLife, TaskStore};

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
            image = active(image);
            life.succeed(task.id, &image, &json!({}), HOUR, at(2)).await.expect("succeed");
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
