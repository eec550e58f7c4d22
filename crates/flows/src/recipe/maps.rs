//! Where in an origin its disk is: range maps and allocation maps, made once while planning.
//!
//! Goal: tables are read and checked once. Workers get a range map, from which each loads its own slice, and fetch only what is
//! stored; where the disk holds zeros nobody reads anything.

use std::sync::Arc;

use bytes::Bytes;
use disk_image::{AllocationMap, AllocationWriter, Extent, ExtentMap, Layout, MapWriter};
use image_tasks_domain::TaskId;
use image_tasks_domain::transfer::TransferPlan;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bounds::CHUNK;
use crate::disk::{Mapped, Places};
use crate::error::Flow;
use crate::ports::{Body, ObjectRef, Objects, Source};
use crate::retry::retry;
use crate::sink::one;
use crate::source::read::{Extents, walk, whole};
use crate::source::writer::ObjectWriter;
use crate::source::{Pinned, StoredSource};
use crate::stores::Stores;

/// Where in an origin its disk is, as a plan keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DiskMap {
    /// The origin is the disk. Outside of the allocation map's runs it holds zeros; without one, nothing is known.
    Verbatim(Option<Pinned>),
    /// As a range map in the work bucket says.
    Mapped {
        /// Its numbers.
        map: ExtentMap,
        /// Its object.
        sidecar: Pinned,
    },
}

impl DiskMap {
    pub(crate) async fn places(&self, objects: &Arc<dyn Objects>) -> Flow<Places> {
        Ok(match self {
            Self::Verbatim(None) => Places::Verbatim(None),
            Self::Verbatim(Some(map)) => Places::Verbatim(Some(allocation(objects, map).await?)),
            Self::Mapped { map, sidecar } => {
                Places::Mapped(Mapped::new(map.clone(), Box::new(StoredSource::new(objects, sidecar))))
            }
        })
    }
}

/// A stored allocation map.
pub(crate) async fn allocation(objects: &Arc<dyn Objects>, map: &Pinned) -> Flow<AllocationMap> {
    Ok(AllocationMap::decode(&whole(&StoredSource::new(objects, map)).await?)?)
}

/// One attempt at planning: what it stores is its own, and goes unused if another attempt is saved first.
#[derive(Clone, Copy)]
pub(crate) struct Attempt<'a> {
    stores: &'a Stores,
    id: TaskId,
    attempt: Uuid,
    /// Bytes of a part of what is written without its length being known.
    part: usize,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(stores: &'a Stores, id: TaskId, part: usize) -> Self {
        Self { stores, id, attempt: Uuid::new_v4(), part }
    }

    fn at(&self, name: &str) -> ObjectRef {
        self.stores.settings.attempt(self.id, self.attempt, name)
    }

    /// An object whose length isn't known before its end.
    pub(crate) fn writer(&self, name: &str) -> ObjectWriter {
        ObjectWriter::new(&self.stores.objects, self.at(name), self.part)
    }

    /// Stores a small object.
    pub(crate) async fn put(&self, name: &str, bytes: Vec<u8>) -> Flow<Pinned> {
        let bytes = Bytes::from(bytes);
        self.put_all(name, bytes.len() as u64, || one(bytes.clone())).await
    }

    async fn put_all(&self, name: &str, len: u64, body: impl Fn() -> Body) -> Flow<Pinned> {
        let (objects, at) = (&self.stores.objects, self.at(name));
        let object = retry(async || Ok(objects.put_stream(&at, len, body(), false).await?)).await?;
        Ok(Pinned::new(at, object))
    }

    /// Walks the whole disk; its range map, stored, and its allocation map.
    pub(crate) async fn map_disk(
        &self,
        source: &dyn Source,
        layout: &Layout,
    ) -> Flow<(DiskMap, AllocationMap)> {
        let size = layout.virtual_size();
        let mut maps = Maps {
            map: MapWriter::new(size, layout.file_size()),
            allocation: AllocationWriter::new(size),
            writer: self.writer("map"),
        };
        walk(source, layout, &mut maps).await?;
        let Maps { map, allocation, mut writer } = maps;
        let (rest, map) = map.finish()?;
        writer.write(Bytes::from(rest)).await?;
        let sidecar = writer.finish().await?;
        Ok((DiskMap::Mapped { map, sidecar }, allocation.finish()))
    }

    /// Stores the zeros that all parts of zeros are copied from, where there are several.
    pub(crate) async fn zeros(&self, cut: &TransferPlan, allocation: &AllocationMap) -> Flow<Option<Pinned>> {
        let parts = (1..=cut.parts()).filter_map(|number| cut.part(number));
        let empty = parts.filter(|part| allocation.is_zero(part.offset..part.offset + part.len));
        if empty.take(2).count() < 2 {
            return Ok(None);
        }
        let len = cut.part_size;
        self.put_all("zeros", len, || zeros(len)).await.map(Some)
    }
}

/// The two maps of a disk, while it is walked.
struct Maps {
    map: MapWriter,
    allocation: AllocationWriter,
    writer: ObjectWriter,
}

#[async_trait::async_trait]
impl Extents for Maps {
    async fn push(&mut self, extent: &Extent) -> Flow<()> {
        self.allocation.push(extent);
        self.map.push(extent)?;
        let ready = self.map.take();
        if ready.is_empty() { Ok(()) } else { self.writer.write(Bytes::from(ready)).await }
    }
}

fn zeros(len: u64) -> Body {
    let chunk = Bytes::from(vec![0; CHUNK]);
    let mut left = len;
    Box::pin(futures::stream::iter(std::iter::from_fn(move || {
        let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        left -= now as u64;
        (now > 0).then(|| Ok(chunk.slice(..now)))
    })))
}
