//! Images as callers change and list them.

use async_trait::async_trait;

use super::{ImagePage, ImageStore, StoreResult};
use crate::image::{Image, ImageId, StagedBytes};
use crate::images::{ImageSearch, Usage};
use crate::task::Task;

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundImages {
    /// The page. It may end before its limit where an answer can't hold more, and is never empty if more follow.
    pub page: ImagePage,
    /// Items the store read for it.
    pub items_read: usize,
    /// Whether all was looked at that could be on the page. Else there was too much, and the page means nothing.
    pub whole: bool,
}

/// Records of images as callers change them.
///
/// Invariants:
/// - A record changes by what differs, under the condition that this is still as it was read. So changes of different
///   attributes at the same time all survive, the end of a task too.
/// - An id that was an image's once is never another's: what is left of a removed record is its id.
#[async_trait]
pub trait ImageRecords: ImageStore {
    /// Writes a new record. Conflict where the id is an image's, or was.
    async fn add(&self, image: &Image) -> StoreResult<()>;
    /// One state of a record in place of another. Conflict unless what differs is as it was, and with it `status`,
    /// `owner`, `visibility` and `protected`, by which it is judged who may change what.
    async fn replace(&self, was: &Image, is: &Image) -> StoreResult<()>;
    /// Takes a record away for good. Conflict unless `status`, `owner`, `visibility` and `protected` are as they were.
    async fn remove(&self, was: &Image) -> StoreResult<()>;
    /// Whether the id is an image's, or was.
    async fn is_taken(&self, id: ImageId) -> StoreResult<bool>;
    /// A page of a list.
    async fn find(&self, search: &ImageSearch) -> StoreResult<FoundImages>;
    /// How many images a project has, counted no further than to `most`.
    async fn count(&self, project: &str, most: usize) -> StoreResult<usize>;
    /// What a project uses.
    async fn usage(&self, project: &str) -> StoreResult<Usage>;
}

/// Tasks by their image.
#[async_trait]
pub trait ImageTasks: Send + Sync {
    /// Tasks that make this image or work on it, once bound to it: the newest `most`, newest first, expired ones too.
    async fn tasks_of(&self, image: ImageId, most: usize) -> StoreResult<Vec<Task>>;
}

/// Bytes on their way into images.
#[async_trait]
pub trait Staging: Send + Sync {
    /// Keeps an upload.
    async fn put(&self, image: ImageId, staged: StagedBytes, bytes: Vec<u8>) -> StoreResult<()>;
    /// Removes it. Again is the same as once.
    async fn remove(&self, image: ImageId, staged: StagedBytes) -> StoreResult<()>;
}

/// The bytes of images, for who removes them.
#[async_trait]
pub trait ImageBytes: Send + Sync {
    /// Removes an image's object and what lies beside it, what is staged for it, and an upload that is under way. Again
    /// is the same as once.
    async fn remove_bytes(&self, image: &Image) -> StoreResult<()>;
}
