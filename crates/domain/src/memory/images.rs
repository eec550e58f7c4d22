//! Records of images in memory, as callers change and list them.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::image::{Image, ImageId, ImageStatus, StagedBytes};
use crate::images::{ImageSearch, Page, Usage};
use crate::ports::{FoundImages, ImageBytes, ImageRecords, ImageTasks, Staging, StoreError, StoreResult};
use crate::task::Task;

#[async_trait]
impl ImageRecords for MemoryStore {
    async fn add(&self, image: &Image) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.is_taken(image.id) {
            return Err(StoreError::Conflict);
        }
        tables.images.insert(image.id, image.clone());
        Ok(())
    }

    async fn replace(&self, was: &Image, is: &Image) -> StoreResult<()> {
        let mut tables = self.tables();
        let stored = tables.images.get_mut(&was.id).ok_or(StoreError::Conflict)?;
        if !judged_alike(stored, was) {
            return Err(StoreError::Conflict);
        }
        // What differs, and nothing else.
        let mut next = stored.clone();
        macro_rules! change {
            ($($field:ident),*) => {$(
                if was.$field != is.$field {
                    if stored.$field != was.$field {
                        return Err(StoreError::Conflict);
                    }
                    next.$field.clone_from(&is.$field);
                }
            )*};
        }
        change!(
            owner,
            name,
            status,
            visibility,
            disk_format,
            container_format,
            size,
            virtual_size,
            checksum,
            os_hash_algo,
            os_hash_value,
            min_disk,
            min_ram,
            protected,
            os_hidden,
            tags,
            properties,
            created_at,
            updated_at,
            stored,
            staged,
            upload,
            members
        );
        *stored = next;
        Ok(())
    }

    async fn remove(&self, was: &Image) -> StoreResult<()> {
        let mut tables = self.tables();
        let stored = tables.images.get(&was.id).ok_or(StoreError::Conflict)?;
        if !judged_alike(stored, was) {
            return Err(StoreError::Conflict);
        }
        tables.images.remove(&was.id);
        tables.removed.insert(was.id);
        Ok(())
    }

    async fn is_taken(&self, id: ImageId) -> StoreResult<bool> {
        Ok(self.tables().is_taken(id))
    }

    async fn find(&self, search: &ImageSearch) -> StoreResult<FoundImages> {
        let mut page = Page::new(search);
        let tables = self.tables();
        for image in tables.images.values() {
            page.offer(image.clone());
        }
        Ok(FoundImages { page: page.finish(), items_read: tables.images.len(), whole: true })
    }

    async fn count(&self, project: &str, most: usize) -> StoreResult<usize> {
        Ok(self.usage(project).await?.images.min(most))
    }

    async fn usage(&self, project: &str) -> StoreResult<Usage> {
        let mut usage = Usage::default();
        for image in self.tables().images.values().filter(|image| image.owner == project) {
            usage.images += 1;
            usage.importing += usize::from(image.status == ImageStatus::Importing);
            usage.bytes += image.size.unwrap_or(0);
        }
        Ok(usage)
    }
}

#[async_trait]
impl ImageTasks for MemoryStore {
    async fn tasks_of(&self, image: ImageId, most: usize) -> StoreResult<Vec<Task>> {
        let tables = self.tables();
        let mut tasks: Vec<_> = tables.tasks.values().filter(|task| task.of_image() == Some(image)).collect();
        tasks.sort_by_key(|task| std::cmp::Reverse((task.created_at, task.id)));
        Ok(tasks.into_iter().take(most).cloned().collect())
    }
}

/// Whether what decides who may change an image is the same.
fn judged_alike(a: &Image, b: &Image) -> bool {
    (a.status, &a.owner, a.visibility, a.protected) == (b.status, &b.owner, b.visibility, b.protected)
}

#[async_trait]
impl ImageBytes for MemoryStore {
    /// There are none in memory; whose they would be is kept, for tests to look at.
    async fn remove_bytes(&self, image: &Image) -> StoreResult<()> {
        let mut tables = self.tables();
        if tables.unremovable {
            return Err(StoreError::Unavailable("a test says so".into()));
        }
        tables.removed_bytes.extend(image.stored.as_ref().map(|stored| stored.key.clone()));
        if let Some(staged) = image.staged {
            tables.staged.remove(&staged.object_key(image.id));
        }
        if let Some(upload) = &image.upload {
            tables.give_up(image.id, upload);
        }
        Ok(())
    }
}

#[async_trait]
impl Staging for MemoryStore {
    async fn put(&self, image: ImageId, staged: StagedBytes, bytes: Vec<u8>) -> StoreResult<()> {
        self.tables().staged.insert(staged.object_key(image), bytes);
        Ok(())
    }

    async fn remove(&self, image: ImageId, staged: StagedBytes) -> StoreResult<()> {
        self.tables().staged.remove(&staged.object_key(image));
        Ok(())
    }
}

impl MemoryStore {
    /// Uploads that wait, by their keys.
    pub fn staged(&self) -> BTreeMap<String, Vec<u8>> {
        self.tables().staged.clone()
    }

    /// Keys of the objects that were removed.
    pub fn removed_bytes(&self) -> Vec<String> {
        self.tables().removed_bytes.clone()
    }

    /// Whether bytes can't be removed now.
    pub fn set_unremovable(&self, unremovable: bool) {
        self.tables().unremovable = unremovable;
    }
}
