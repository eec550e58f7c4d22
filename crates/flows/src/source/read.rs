//! Reading a source by range: whole ranges, and what a parser asks for.

use bytes::Bytes;
use disk_image::{ByteRange, Code, Error, Extent, Layout, Refusal, Regions, Walker};
use futures::StreamExt as _;
use image_tasks_domain::{Failure, FailureCode};

use crate::bounds::{PROBE_BYTES, TABLES_AT_ONCE};
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

/// Runs a step of a parser over a source, fetching what it needs side by side, holding at most [`PROBE_BYTES`].
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
    let mut came = futures::stream::iter(ranges.to_vec())
        .map(move |range| async move { Ok::<_, Stop>((range.start, read_chunks(source, range).await?)) })
        .buffer_unordered(TABLES_AT_ONCE);
    while let Some((start, chunks)) = came.next().await.transpose()? {
        regions.insert(start, chunks.concat());
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
    let mut walk = Walk::new(source, layout);
    while let Some(extent) = walk.next().await? {
        extents.push(&extent).await?;
    }
    Ok(())
}

/// A walk over an image's extents that may end before the disk does.
pub(crate) struct Walk<'a> {
    source: &'a dyn Source,
    regions: Regions,
    walker: Walker,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(source: &'a dyn Source, layout: &Layout) -> Self {
        Self { source, regions: Regions::new(layout.file_size()), walker: layout.walk() }
    }

    /// The next extent; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Flow<Option<Extent>> {
        loop {
            match self.walker.next(&self.regions) {
                Ok(next) => return Ok(next),
                Err(Error::Refused(refusal)) => return Err(refusal.into()),
                Err(Error::Need(ranges)) => {
                    self.regions.clear();
                    fetch(self.source, &mut self.regions, &ranges).await?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use disk_image::{Format, Limits, inspect};
    use disk_image_fixtures::Scattered;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::ports::{Body, SourceInfo, SourcePin};

    /// Of each request, by the test's own clock.
    const LATENCY: Duration = Duration::from_millis(100);

    /// A far server.
    struct Far {
        file: Scattered,
        info: SourceInfo,
        asked: Mutex<Asked>,
    }

    #[derive(Debug, Default)]
    struct Asked {
        requests: u64,
        now: usize,
        /// Most requests at one time.
        at_once: usize,
    }

    impl Far {
        fn new(file: Scattered) -> Self {
            let info = SourceInfo { size: Some(file.len()), ranges: true, pin: SourcePin::default() };
            Self { file, info, asked: Mutex::default() }
        }
    }

    #[async_trait::async_trait]
    impl Source for Far {
        fn info(&self) -> &SourceInfo {
            &self.info
        }

        async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
            {
                let mut asked = self.asked.lock().unwrap();
                asked.requests += 1;
                asked.now += 1;
                asked.at_once = asked.at_once.max(asked.now);
            }
            sleep(LATENCY).await;
            self.asked.lock().unwrap().now -= 1;
            Ok(Box::pin(futures::stream::iter([Ok(self.file.read(range).into())])))
        }

        async fn stream(&self) -> Result<Body, Failure> {
            Err(Failure::transient("only ranges"))
        }
    }

    /// Looks at an image and walks its tables: requests, and how long it took.
    async fn planned(file: Scattered, format: Format) -> (u64, Duration) {
        let (source, begun) = (Far::new(file), Instant::now());
        let mut regions = Regions::new(source.file.len());
        drive(&source, &mut regions, |r| inspect(r, Some(format))).await.unwrap();
        let limits = Limits::default();
        let layout = drive(&source, &mut regions, |r| Layout::open(r, format, &limits)).await.unwrap();
        walk(&source, &layout, &mut Unused).await.unwrap();
        let asked = source.asked.into_inner().unwrap();
        assert_eq!(asked.at_once, TABLES_AT_ONCE);
        (asked.requests, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_tebibyte_with_scattered_tables_is_planned_within_a_call() {
        // One request after the other: 205 s.
        let (requests, took) = planned(Scattered::qcow2(1 << 40, 16), Format::Qcow2).await;
        assert_eq!((requests, took.as_secs()), (2052, 6));
        // 27 minutes.
        let (requests, took) = planned(Scattered::stream_optimized(500 << 30), Format::Vmdk).await;
        assert_eq!((requests, took.as_secs()), (16_019, 51));
    }
}
