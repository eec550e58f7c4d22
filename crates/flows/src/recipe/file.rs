//! A qcow2 put together: parts that S3 copies from blobs, and parts that are made here, of the metadata and of blobs too short
//! to be copied.
//!
//! Invariant: what the parts are follows from the blobs alone, and the list of these is saved before the first part is made. So
//! every worker makes the same parts.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use disk_image::ByteRange;
use disk_image::write::parts::BlobCut;
use disk_image::write::qcow2::{
    Assembly, AssemblyStep, BlobIndex, BlobSummary, CopyPlan, File, FilePart, Geometry, Place,
};
use disk_image::write::rope::Rope;
use futures::{StreamExt as _, TryStreamExt as _};
use image_tasks_domain::{Failure, FailureCode};
use serde::{Deserialize, Serialize};

use super::Site;
use super::parts::Part;
use super::qcow2::{Blob, Blobs, ranges, unwritable};
use crate::bounds::RECORDS_AT_ONCE;
use crate::error::{Flow, Stop, internal};
use crate::ports::{Body, CopiedRange, Objects, Source};
use crate::sink::CopyInto;
use crate::sink::upload::Upload;
use crate::source::read::read_chunks;
use crate::source::{Pinned, StoredSource, read};

/// Times that the length up to which blobs are joined is doubled, where 10,000 parts aren't enough else.
const JOININGS: u32 = 7;

/// A file's blobs, in the order of the disk, and how the file is cut.
#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    cut: BlobCut,
    blobs: Vec<Blob>,
}

/// Where a file's blobs are.
#[derive(Clone)]
pub(crate) enum BlobStore {
    /// A single one, in memory.
    Held(BlobIndex, Rope),
    /// In the work bucket, as workers left them.
    Worked(Arc<dyn Objects>, Arc<Vec<Blob>>),
    /// In a raw image.
    Raw(Arc<CopyPlan>, Arc<dyn Source>),
}

/// A file, and its parts.
pub(crate) struct Assembled {
    file: Arc<File>,
    parts: Vec<FilePart>,
    blobs: BlobStore,
}

impl Assembled {
    pub(crate) fn new(
        geometry: Geometry,
        summaries: Vec<BlobSummary>,
        cut: &BlobCut,
        blobs: BlobStore,
    ) -> Flow<Self> {
        let file = Arc::new(File::new(geometry, summaries).map_err(unwritable)?);
        let parts = file.parts(cut).map_err(unwritable)?;
        Ok(Self { file, parts, blobs })
    }

    /// Of the blobs that workers made. `list` says to list them, unless that is done.
    pub(crate) async fn of(site: &Site<'_>, blobs: &Blobs, cut: &BlobCut, list: bool) -> Flow<Self> {
        let at = site.stores.settings.blobs(site.id());
        let geometry = blobs.geometry();
        if let Some(Listed { cut, blobs }) = site.stores.load_large(&at).await? {
            return Self::listed(site, geometry, &cut, blobs);
        }
        // It is made before the round that needs it, so the task has ended.
        if !list {
            return Err(Stop::Ended);
        }
        let made: Vec<Vec<Blob>> = futures::stream::iter(1..=ranges(geometry.size(), cut)?)
            .map(|piece| async move {
                // Nobody asks before all are made: what isn't there is gone again, with the task.
                let (made, to) = blobs.of(piece).await?;
                if to < blobs.range(piece)?.end { Err(Stop::Ended) } else { Ok(made) }
            })
            .buffered(RECORDS_AT_ONCE)
            .try_collect()
            .await?;
        let made = made.concat();
        let mut why = Stop::Ended;
        for cut in (0..=JOININGS).map(|times| cut.joining(times)) {
            match Self::listed(site, geometry, &cut, made.clone()) {
                Ok(assembled) => {
                    site.stores.save_same(&at, &Listed { cut, blobs: made }).await?;
                    return Ok(assembled);
                }
                Err(stop @ Stop::Failed(Failure { code: FailureCode::TooLarge, .. })) => why = stop,
                Err(stop) => return Err(stop),
            }
        }
        Err(why)
    }

    fn listed(site: &Site<'_>, geometry: Geometry, cut: &BlobCut, blobs: Vec<Blob>) -> Flow<Self> {
        let summary = |blob: &Blob| {
            let place = if blob.summary.len > cut.least { Place::Own } else { Place::Joined };
            BlobSummary { place, ..blob.summary.clone() }
        };
        let summaries = blobs.iter().map(summary).collect();
        let blobs = BlobStore::Worked(Arc::clone(&site.stores.objects), Arc::new(blobs));
        Self::new(geometry, summaries, cut, blobs)
    }

    /// The parts of the upload, and the bytes of the file that they are.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let parts = self.parts.iter().map(|part| part.range.clone());
        (1..).zip(parts).map(|(number, range)| Part { number, range }).collect()
    }

    /// Whether S3 copies any part.
    pub(crate) fn copies(&self) -> bool {
        self.parts.iter().any(|part| part.copied.is_some())
    }

    /// The file's bytes, how many, and as a body as often as it is asked for.
    pub(crate) fn whole(self) -> (u64, impl Fn() -> Body) {
        let len = self.file.len();
        (len, move || self.body(0..len))
    }

    /// Makes the part of that number; how many bytes that moved.
    pub(crate) async fn make(&self, site: &Site<'_>, upload: Upload<'_>, number: u32) -> Flow<u64> {
        let part = usize::try_from(number).ok().and_then(|n| self.parts.get(n.checked_sub(1)?));
        let part = part.ok_or_else(|| Stop::internal(format!("piece {number} is not in the plan")))?;
        let len = part.range.end - part.range.start;
        match &part.copied {
            Some((blob, range)) => {
                let from = self.source(site, *blob, range)?;
                let refused = async |e| match self.blobs {
                    BlobStore::Worked(..) => upload.sink.refused_part(e),
                    BlobStore::Held(..) | BlobStore::Raw(..) => site.not_copied(e, CopyInto::Part).await,
                };
                upload.copy(number, from, refused).await?;
            }
            None => {
                let body = async || Ok(self.body(part.range.clone()));
                upload.put(number, len, body).await.map_err(ours)?;
            }
        }
        Ok(len)
    }

    /// The object that a blob's bytes are copied from, and where in it they are.
    fn source<'a>(&'a self, site: &'a Site<'_>, blob: usize, range: &Range<u64>) -> Flow<CopiedRange<'a>> {
        match &self.blobs {
            BlobStore::Held(..) => Err(Stop::internal("a copy of what is in memory")),
            BlobStore::Worked(_, blobs) => Ok(bytes_of(blobs, blob)?.range(range)),
            BlobStore::Raw(plan, _) => {
                let start = plan.source(blob).map_err(unwritable)?.start;
                Ok(site.copied()?.range(&(start + range.start..start + range.end)))
            }
        }
    }

    /// A range of the file as a body.
    fn body(&self, range: Range<u64>) -> Body {
        match Assembly::new(Arc::clone(&self.file), range) {
            Ok(assembly) => body(assembly, self.blobs.clone()),
            Err(e) => Box::pin(futures::stream::iter([Err(internal(e))])),
        }
    }
}

/// All that is read here is ours: its silence is no fault of the task's source.
fn ours(stop: Stop) -> Stop {
    match stop {
        Stop::Failed(failure) if failure.code == FailureCode::SourceUnreachable => {
            Stop::Store(Failure::transient(failure.message))
        }
        other => other,
    }
}

fn body(assembly: Assembly, blobs: BlobStore) -> Body {
    let all = futures::stream::try_unfold((assembly, blobs), |(mut assembly, blobs)| async move {
        let chunks = next(&mut assembly, &blobs).await.map_err(Stop::into_failure)?;
        Ok::<_, Failure>(chunks.map(|chunks| (chunks, (assembly, blobs))))
    });
    Box::pin(all.map_ok(|chunks| futures::stream::iter(chunks.into_iter().map(Ok))).try_flatten())
}

async fn next(assembly: &mut Assembly, blobs: &BlobStore) -> Flow<Option<Vec<Bytes>>> {
    loop {
        match assembly.step().map_err(unwritable)? {
            AssemblyStep::Bytes(bytes) => return Ok(Some(vec![bytes.into()])),
            AssemblyStep::Blob(blob, range) => return blobs.bytes(blob, range).await.map(Some),
            AssemblyStep::Index(blob) => assembly.give(blob, blobs.index(blob).await?).map_err(unwritable)?,
            AssemblyStep::Done => return Ok(None),
        }
    }
}

impl BlobStore {
    async fn index(&self, blob: usize) -> Flow<BlobIndex> {
        match self {
            Self::Held(index, _) => Ok(index.clone()),
            Self::Raw(plan, _) => plan.index(blob).map_err(unwritable),
            Self::Worked(objects, blobs) => {
                let stored = blobs.get(blob).and_then(|blob| blob.stored.as_ref());
                let stored = stored.ok_or_else(|| Stop::internal("a blob without an index"))?;
                let bytes = read::whole(&StoredSource::new(objects, &stored.index)).await?;
                BlobIndex::decode(bytes).map_err(unwritable)
            }
        }
    }

    async fn bytes(&self, blob: usize, range: Range<u64>) -> Flow<Vec<Bytes>> {
        match self {
            Self::Held(_, rope) => {
                let place = |n: u64| usize::try_from(n).map_err(Stop::internal);
                let mut rope = rope.clone();
                rope.split_to(place(range.start)?);
                Ok(rope.split_to(place(range.end - range.start)?).into_iter().collect())
            }
            Self::Worked(objects, blobs) => {
                let source = StoredSource::new(objects, bytes_of(blobs, blob)?);
                read_chunks(&source, ByteRange { start: range.start, end: range.end }).await
            }
            Self::Raw(plan, source) => {
                let of_image = plan.source(blob).map_err(unwritable)?;
                // The image may end inside of the blob's last cluster: zeros follow.
                let [start, end] = [range.start, range.end].map(|n| of_image.end.min(of_image.start + n));
                let mut chunks = Vec::new();
                if start < end {
                    chunks = read_chunks(&**source, ByteRange { start, end }).await?;
                }
                let zeros = (range.end - range.start).saturating_sub(end - start);
                chunks.push(Bytes::from(vec![0; usize::try_from(zeros).map_err(Stop::internal)?]));
                Ok(chunks)
            }
        }
    }
}

fn bytes_of(blobs: &[Blob], blob: usize) -> Flow<&Pinned> {
    let stored = blobs.get(blob).and_then(|blob| blob.stored.as_ref());
    stored.map(|stored| &stored.bytes).ok_or_else(|| Stop::internal("a blob without bytes"))
}
