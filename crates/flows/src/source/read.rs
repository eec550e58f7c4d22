//! Reading a source by range: whole ranges, and what a parser asks for.

use bytes::Bytes;
use disk_image::{ByteRange, Code, Error, Extent, Layout, Refusal, Regions};
use futures::StreamExt as _;
use image_tasks_domain::{Failure, FailureCode};

use crate::bounds::PROBE_BYTES;
use crate::error::{Flow, Stop};
use crate::ports::Source;
use crate::retry::retry;

/// The chunks of exactly that range, again where it breaks off.
pub(crate) async fn read_chunks(source: &dyn Source, range: ByteRange) -> Flow<Vec<Bytes>> {
    retry(async || {
        try_read(source, range).await.map_err(|failure| match failure.code {
            FailureCode::Transient if source.is_ours() => Stop::Store(failure),
            _ => Stop::Failed(failure),
        })
    })
    .await
}

async fn try_read(source: &dyn Source, range: ByteRange) -> Result<Vec<Bytes>, Failure> {
    let mut body = source.read(range).await?;
    let (mut chunks, mut seen) = (Vec::new(), 0u64);
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        seen = seen.saturating_add(chunk.len() as u64);
        // An adapter that gives more than was asked for must not fill our memory.
        if seen > range.len() {
            break;
        }
        chunks.push(chunk);
    }
    if seen != range.len() {
        return Err(Failure::transient(format!(
            "the source broke off: {} bytes at offset {} were asked for, {seen} came",
            range.len(),
            range.start
        )));
    }
    Ok(chunks)
}

/// The whole of a small object.
pub(crate) async fn whole(source: &dyn Source) -> Flow<Vec<u8>> {
    let end = source.info().size.unwrap_or(0);
    if end == 0 {
        return Ok(Vec::new());
    }
    Ok(read_chunks(source, ByteRange { start: 0, end }).await?.concat())
}

/// Runs a step of a parser over a source, fetching what it needs, holding at most [`PROBE_BYTES`].
pub(crate) async fn drive<T>(
    source: &dyn Source,
    regions: &mut Regions,
    mut step: impl FnMut(&Regions) -> disk_image::Result<T>,
) -> Flow<T> {
    loop {
        match step(regions) {
            Ok(done) => return Ok(done),
            Err(Error::Refused(refusal)) => return Err(refusal.into()),
            Err(Error::Need(ranges)) => fetch(source, regions, &ranges).await?,
        }
    }
}

async fn fetch(source: &dyn Source, regions: &mut Regions, ranges: &[ByteRange]) -> Flow<()> {
    let asked: u64 = ranges.iter().map(|r| r.len()).sum();
    if asked.saturating_add(regions.held() as u64) > PROBE_BYTES as u64 {
        let message = format!("the image's headers take more than {PROBE_BYTES} bytes");
        return Err(Refusal { code: Code::TableTooLarge, message }.into());
    }
    for range in ranges {
        let chunks = read_chunks(source, *range).await?;
        regions.insert(range.start, chunks.concat());
    }
    Ok(())
}

/// What is told of each extent of a disk, while an image is walked.
#[async_trait::async_trait]
pub(crate) trait Extents: Send {
    /// The next extent, in order.
    async fn push(&mut self, extent: &Extent) -> Flow<()>;
}

/// Nothing is done with them: the walk itself is the check.
pub(crate) struct Unused;

#[async_trait::async_trait]
impl Extents for Unused {
    async fn push(&mut self, _: &Extent) -> Flow<()> {
        Ok(())
    }
}

/// Goes through the whole map of an image: every table entry is checked, every byte it points to is inside the file.
pub(crate) async fn walk(source: &dyn Source, layout: &Layout, extents: &mut dyn Extents) -> Flow<()> {
    let mut regions = Regions::new(layout.file_size());
    let mut walker = layout.walk();
    loop {
        match walker.next(&regions) {
            Ok(Some(extent)) => extents.push(&extent).await?,
            Ok(None) => return Ok(()),
            Err(Error::Refused(refusal)) => return Err(refusal.into()),
            Err(Error::Need(ranges)) => {
                regions.clear();
                fetch(source, &mut regions, &ranges).await?;
            }
        }
    }
}
