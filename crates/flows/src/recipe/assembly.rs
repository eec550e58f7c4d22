//! Part 1 of a qcow2: metadata, and the blobs too short for a part, as a stream.

use std::sync::Arc;

use bytes::Bytes;
use disk_image::ByteRange;
use disk_image::write::qcow2::{Assembly, AssemblyStep, BlobIndex, BlobSummary, CopyPlan, Geometry, Place};
use disk_image::write::rope::Rope;
use futures::{StreamExt as _, TryStreamExt as _};
use image_tasks_domain::Failure;

use super::qcow2::{WorkedBlobs, unwritable};
use crate::bounds::INDEXES_AT_ONCE;
use crate::error::{Flow, Stop, internal};
use crate::ports::{Body, ObjectRef, Objects, Source};
use crate::source::read::{read_chunks, whole};
use crate::source::{Pinned, StoredSource};

/// Where an assembly's blobs are.
#[derive(Clone)]
pub(crate) enum BlobStore {
    /// A single one, in memory.
    Held(BlobIndex, Rope),
    /// In the work bucket, as workers left them.
    Worked(WorkedBlobs),
    /// In a raw image.
    Raw(Arc<CopyPlan>, Arc<dyn Source>),
}

impl BlobStore {
    /// What the assembly has to know of the first `count` blobs.
    pub(crate) async fn summaries(&self, count: usize) -> Flow<Vec<BlobSummary>> {
        // What is held is no part yet: it can be in part 1 whatever its length.
        let place = |own| if matches!(self, Self::Held(..)) { Place::First } else { own };
        futures::stream::iter(0..count)
            .map(|blob| async move {
                let summary = self.index(blob).await?.summary();
                Ok(BlobSummary { place: place(summary.place), ..summary })
            })
            .buffered(INDEXES_AT_ONCE)
            .try_collect()
            .await
    }

    async fn index(&self, blob: usize) -> Flow<BlobIndex> {
        match self {
            Self::Held(index, _) => Ok(index.clone()),
            Self::Raw(plan, _) => plan.index(blob).map_err(unwritable),
            Self::Worked(worked) => {
                let bytes = load(&worked.objects, worked.index(blob)).await?;
                BlobIndex::decode(bytes).map_err(unwritable)
            }
        }
    }

    async fn blob(&self, blob: usize) -> Flow<Rope> {
        let bytes = match self {
            Self::Held(_, rope) => return Ok(rope.clone()),
            Self::Worked(worked) => load(&worked.objects, worked.blob(blob)).await?,
            Self::Raw(plan, source) => {
                let range = plan.source(blob).map_err(unwritable)?;
                let range = ByteRange { start: range.start, end: range.end };
                let mut bytes = read_chunks(&**source, range).await?.concat();
                // The image may end inside of the blob's last cluster.
                let len = plan.index(blob).map_err(unwritable)?.blob_len();
                bytes.resize(usize::try_from(len).map_err(Stop::internal)?, 0);
                bytes
            }
        };
        Ok(Bytes::from(bytes).into())
    }
}

/// Bytes of an assembled file.
pub(crate) struct Lengths {
    pub(crate) first_part: u64,
    pub(crate) file: u64,
}

/// Part 1 as a body, as often as it is asked for.
pub(crate) fn bodies(
    geometry: Geometry,
    summaries: Vec<BlobSummary>,
    blobs: BlobStore,
) -> Flow<(Lengths, impl Fn() -> Body)> {
    let assembly = Assembly::new(geometry, summaries.clone()).map_err(unwritable)?;
    let lengths = Lengths { first_part: assembly.first_part_len(), file: assembly.file_len() };
    let body = move || match Assembly::new(geometry, summaries.clone()) {
        Ok(assembly) => body(assembly, blobs.clone()),
        Err(e) => Box::pin(futures::stream::iter([Err(internal(e))])),
    };
    Ok((lengths, body))
}

fn body(assembly: Assembly, blobs: BlobStore) -> Body {
    let all = futures::stream::try_unfold((assembly, blobs), |(mut assembly, blobs)| async move {
        let rope = next(&mut assembly, &blobs).await.map_err(Stop::into_failure)?;
        Ok::<_, Failure>(rope.map(|rope| (rope, (assembly, blobs))))
    });
    Box::pin(all.map_ok(|rope| futures::stream::iter(rope.into_iter().map(Ok))).try_flatten())
}

async fn next(assembly: &mut Assembly, blobs: &BlobStore) -> Flow<Option<Rope>> {
    loop {
        match assembly.step().map_err(unwritable)? {
            AssemblyStep::Bytes(bytes) => return Ok(Some(Bytes::from(bytes).into())),
            AssemblyStep::Blob(blob) => return blobs.blob(blob).await.map(Some),
            AssemblyStep::Index(blob) => assembly.give(blob, blobs.index(blob).await?).map_err(unwritable)?,
            AssemblyStep::Done => return Ok(None),
        }
    }
}

/// An object that a worker left.
async fn load(objects: &Arc<dyn Objects>, at: ObjectRef) -> Flow<Vec<u8>> {
    let found = objects.head(&at).await?.ok_or(Stop::Ended)?;
    whole(&StoredSource::new(objects, &Pinned::new(at, found))).await
}
