//! What every implementation of a port must do: one suite per port.
//!
//! A suite panics at the first promise that isn't kept. It wants empty tables
//! (an admin's view shows everything in them) and leaves its records behind.
#![expect(clippy::expect_used, reason = "a broken promise is told by a panic: these are tests")]

mod credentials;
mod ends;
mod images;
mod lists;
mod multipart;
mod records;
mod task_life;
mod task_store;
mod unsettled;

pub use credentials::credentials;
pub use images::image_store;
pub use multipart::{PutPart, multipart_uploads};
pub use records::{image_records, image_tasks};
pub use task_life::task_life;
pub use task_store::{progress_store, task_store};

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use crate::failure::{Failure, FailureCode};
use crate::image::{Image, ImageHashes, ImageId, Publication, StoredObject};
use crate::ports::{StoreError, StoreResult, TaskStore};
use crate::task::{Task, TaskId, TaskType};
use crate::time::Timestamp;

/// The second at which the suites' records begin to be made.
const START: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(START + seconds)
}

/// A pending task of that project, accepted that many seconds after the suites' start.
pub fn pending(owner: &str, seconds: i64) -> Task {
    let input =
        json!({"import_from": "https://example.com/a", "größe": [1, 2.5, null, {"": "\u{1F4BF}\u{0}"}]});
    Task {
        user_id: "alice".to_owned(),
        request_id: "req-1".to_owned(),
        ..Task::pending(TaskType::Import, owner, input, at(seconds))
    }
}

/// An image of that project at the start of its import.
pub fn importing(owner: &str, seconds: i64) -> Image {
    Image {
        name: Some("Debian \u{1F300}".to_owned()),
        container_format: Some("bare".to_owned()),
        min_disk: 1,
        os_hidden: true,
        tags: vec!["a".to_owned(), "b".to_owned()],
        properties: [("os_distro".to_owned(), "debian".to_owned()), ("empty".to_owned(), String::new())]
            .into(),
        ..Image::importing(ImageId(Uuid::new_v4()), owner, at(seconds))
    }
}

/// What an image becomes active with.
pub fn publication(image: ImageId) -> Publication {
    Publication {
        image,
        disk_format: "qcow2".to_owned(),
        container_format: "ova".to_owned(),
        size: 5 << 40,
        virtual_size: Some(u64::MAX >> 1),
        hashes: Some(ImageHashes {
            md5: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            sha512: "0".repeat(128),
        }),
        hashes_follow: false,
        remark: None,
        found: Default::default(),
        properties: Default::default(),
        stored: StoredObject {
            bucket: "images".to_owned(),
            key: image.object_key(TaskId(Uuid::from_u128(1))),
            etag: "\"e-1\"".to_owned(),
            crc64nvme: "AAAAAAAAAAA=".to_owned(),
        },
    }
}

/// The image as its import leaves it, that many seconds after the suites' start.
pub fn active(mut image: Image, seconds: i64) -> Image {
    let publication = publication(image.id);
    image.publish(&publication, at(seconds));
    image
}

fn failure() -> Failure {
    Failure::new(FailureCode::SourceNotFound, "https://example.com/a answered 404")
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: StoreResult<T>, why: &str) {
    assert!(matches!(result, Err(StoreError::Conflict)), "{why}: {result:?}");
}

/// Somebody else who writes an image's record, past the ports.
#[async_trait]
pub trait PutImage: Send + Sync {
    /// Writes it over what there is.
    async fn put_image(&self, image: &Image);
}

async fn stored(store: &dyn TaskStore, id: TaskId) -> Task {
    store.get(id).await.expect("get").expect("the task is there")
}
