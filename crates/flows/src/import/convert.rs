//! Import of the disk inside an image: the plan's share of it.
//!
//! Goal: tables are read and checked once, here. Workers get a range map, from which each loads its own slice, and fetch only
//! what is stored; where the disk holds zeros nobody reads anything.

use std::sync::Arc;

use bytes::Bytes;
use disk_image::{AllocationMap, AllocationWriter, Extent, Layout, MapWriter};
use image_tasks_domain::TaskId;
use image_tasks_domain::transfer::TransferPlan;

use super::Importer;
use super::spool::Spool;
use crate::bounds::CHUNK;
use crate::disk::{Disk, Mapped, Places, whole};
use crate::error::{Step, Stop, refused};
use crate::origin::{Origin, Patience, Staged, StoredSource};
use crate::ports::{Body, ObjectRef, Source};
use crate::qcow2::one;

/// The two maps of a disk, while it is walked.
pub(super) struct Maps {
    map: MapWriter,
    allocation: AllocationWriter,
    spool: Spool,
}

impl Maps {
    pub(super) async fn push(&mut self, extent: &Extent) -> Step<()> {
        self.allocation.push(extent);
        self.map.push(extent).map_err(unsound)?;
        let ready = self.map.take();
        if ready.is_empty() { Ok(()) } else { self.spool.write(Bytes::from(ready)).await }
    }
}

impl Importer {
    /// Walks the whole disk; its range map, stored, and its allocation map.
    pub(super) async fn map_disk(
        &self,
        id: TaskId,
        source: &dyn Source,
        layout: &Layout,
    ) -> Step<(Mapped, AllocationMap)> {
        let virtual_size = layout.virtual_size();
        let at = self.settings.range_map(id);
        let mut maps = Maps {
            map: MapWriter::new(virtual_size, layout.file_size()),
            allocation: AllocationWriter::new(virtual_size),
            spool: Spool::new(Arc::clone(&self.objects), at, self.policy.cut.stage_part),
        };
        self.walk(source, layout, Some(&mut maps)).await?;
        let Maps { map, allocation, mut spool } = maps;
        let (rest, map) = map.finish().map_err(unsound)?;
        spool.write(Bytes::from(rest)).await?;
        let sidecar = spool.finish().await?.into();
        Ok((Mapped { map, sidecar }, allocation.finish()))
    }

    /// Stores the zeros that all parts of zeros are copied from, where there are several.
    pub(super) async fn zeros(
        &self,
        id: TaskId,
        transfer: &TransferPlan,
        allocation: &AllocationMap,
    ) -> Step<Option<Staged>> {
        let parts = (1..=transfer.parts()).filter_map(|number| transfer.part(number));
        let empty = parts.filter(|part| allocation.is_zero(part.offset..part.offset + part.len));
        if empty.take(2).count() < 2 {
            return Ok(None);
        }
        let len = transfer.part_size;
        self.put_all(&self.settings.zeros(id), len, || zeros(len)).await.map(Some)
    }

    /// Stores a sidecar, over what was there.
    pub(super) async fn put_whole(&self, at: &ObjectRef, bytes: Bytes) -> Step<Staged> {
        self.put_all(at, bytes.len() as u64, || one(bytes.clone())).await
    }

    async fn put_all(&self, at: &ObjectRef, len: u64, body: impl Fn() -> Body) -> Step<Staged> {
        let mut patience = Patience::default();
        loop {
            match self.objects.put_stream(at, len, body(), false).await {
                Ok(object) => return Ok(object.into()),
                Err(e) => patience.after_stop(e.into()).await?,
            }
        }
    }

    /// The disk inside the source; the source itself where there is no map, with zeros where its allocation map has no data.
    pub(super) async fn disk(
        &self,
        id: TaskId,
        origin: &Origin,
        map: Option<&Mapped>,
        allocation: Option<&Staged>,
    ) -> Step<Arc<Disk>> {
        let places = match (map, allocation) {
            (Some(map), _) => map.places(&self.objects, self.settings.range_map(id)),
            (None, Some(stored)) => {
                Places::Verbatim(Some(self.allocation(self.settings.staged_allocation(id), stored).await?))
            }
            (None, None) => Places::Verbatim(None),
        };
        Ok(Arc::new(Disk { source: self.open(id, origin).await?, places }))
    }

    /// A stored allocation map.
    pub(super) async fn allocation(&self, at: ObjectRef, stored: &Staged) -> Step<AllocationMap> {
        let Staged { etag, size } = stored;
        let bytes = whole(&StoredSource::new(Arc::clone(&self.objects), at, etag, *size)).await?;
        AllocationMap::decode(&bytes).map_err(unsound)
    }
}

fn unsound(error: disk_image::Error) -> Stop {
    match error {
        disk_image::Error::Refused(refusal) => Stop::Failed(refused(refusal)),
        disk_image::Error::Need(_) => Stop::internal("a map that needs what it was given"),
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
