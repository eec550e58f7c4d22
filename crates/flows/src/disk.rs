//! The disk inside a stored image, read in order by windows.
//!
//! Goal: whatever the format, a worker sees its range of the disk once, and memory is bounded by one window and the extents of
//! one [`STRIDE`]. Zeros cost nothing: they are told, not read.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use disk_image::{AllocationMap, ByteRange, Decoder, Extent, ExtentMap, Fetch, Regions, Stored};
use futures::StreamExt as _;
use image_tasks_domain::Failure;
use tokio::sync::OnceCell;

use crate::bounds::{CHUNK, READS_AT_ONCE, STRIDE, WINDOW};
use crate::error::{Flow, Stop, internal, unsound};
use crate::ports::{Body, Source, SourceInfo, SourcePin};
use crate::source::read::{drive, read_chunks};

/// An image whose disk can be read.
pub(crate) struct Disk {
    /// The image's bytes.
    pub(crate) source: Box<dyn Source>,
    /// Where in them the disk is.
    pub(crate) places: Places,
}

/// Where a disk's bytes are in the image.
pub(crate) enum Places {
    /// The image is the disk. Outside of the map's runs it holds zeros; without a map, nothing is known.
    Verbatim(Option<AllocationMap>),
    /// As a sidecar says.
    Mapped(Mapped),
    /// As these extents say, in the order of the disk. Only what they cover can be read.
    Listed(Vec<Extent>),
}

/// A sidecar that says where a disk's bytes are.
pub(crate) struct Mapped {
    map: ExtentMap,
    bytes: Box<dyn Source>,
    /// Its index, from the first question on.
    index: OnceCell<Regions>,
}

/// The next bytes of a disk.
pub(crate) enum Window {
    /// That many zeros.
    Zeros(u64),
    /// These, in a buffer of their own.
    Data(Bytes),
}

/// Reads a range of a disk from its first byte to its last.
pub(crate) struct DiskReader {
    disk: Arc<Disk>,
    at: u64,
    end: u64,
    /// Of the stride that is being read.
    extents: Vec<Extent>,
    known_to: u64,
    decoder: Decoder,
}

impl Mapped {
    pub(crate) fn new(map: ExtentMap, bytes: Box<dyn Source>) -> Self {
        Self { map, bytes, index: OnceCell::new() }
    }

    /// One read; for the first range another.
    async fn extents(&self, range: Range<u64>) -> Flow<Vec<Extent>> {
        let index = self.index.get_or_try_init(|| async {
            let mut regions = Regions::new(self.bytes.info().size.unwrap_or(0));
            drive(&*self.bytes, &mut regions, |regions| self.map.need_index(regions)).await?;
            Ok::<_, Stop>(regions)
        });
        let mut regions = index.await?.clone();
        drive(&*self.bytes, &mut regions, |regions| self.map.extents(regions, range.clone())).await
    }
}

impl Disk {
    /// The extents of a range, in order, without gaps.
    async fn extents(&self, range: Range<u64>) -> Flow<Vec<Extent>> {
        match &self.places {
            Places::Verbatim(allocation) => Ok(verbatim(range, allocation.as_ref())),
            Places::Mapped(sidecar) => sidecar.extents(range).await,
            Places::Listed(extents) => {
                Ok(extents.iter().filter_map(|extent| extent.cut(range.start, range.end)).collect())
            }
        }
    }

    /// Whether a range holds nothing but zeros, by the tables.
    pub(crate) async fn is_zero(&self, range: Range<u64>) -> Flow<bool> {
        let mut at = range.start;
        while at < range.end {
            let to = range.end.min(at.saturating_add(STRIDE));
            if self.extents(at..to).await?.iter().any(|extent| extent.stored != Stored::Zero) {
                return Ok(false);
            }
            at = to;
        }
        Ok(true)
    }

    async fn window(&self, at: u64, len: usize, extents: &[Extent], decoder: &mut Decoder) -> Flow<Window> {
        let fetch = Fetch::plan(at, len, extents.iter().copied()).map_err(unsound)?;
        if fetch.is_zero() {
            return Ok(Window::Zeros(len as u64));
        }
        // Bytes as they are mostly come in the order of the window, so it grows with them; zeros are written only between them.
        let mut window = Vec::with_capacity(len);
        let ranges: Vec<ByteRange> = fetch.reads().iter().map(|read| read.range()).collect();
        let source = &*self.source;
        // In order: what is decoded and what is on its way are never more than the reads at once.
        let mut came = futures::stream::iter(ranges)
            .map(move |range| async move { read_chunks(source, range).await })
            .buffered(READS_AT_ONCE);
        for read in fetch.reads() {
            let chunks = came.next().await.ok_or_else(|| internal("fewer reads than were planned"))??;
            match read.verbatim() {
                Some(mut places) => places
                    .all(|(from, to)| put(&chunks, from.start - read.range().start, &mut window, to))
                    .then_some(())
                    .ok_or_else(|| internal("a read that is shorter than planned"))?,
                None => {
                    window.resize(len, 0);
                    read.decode(&chunks.concat(), &mut window, decoder).map_err(unsound)?;
                }
            }
        }
        window.resize(len, 0);
        Ok(Window::Data(Bytes::from(window)))
    }
}

/// Copies to its place what lies `skip` bytes behind the begin of a read's chunks; whether that is all there.
fn put(chunks: &[Bytes], mut skip: u64, window: &mut Vec<u8>, to: Range<usize>) -> bool {
    if window.len() < to.start {
        window.resize(to.start, 0);
    }
    let mut at = to.start;
    for chunk in chunks {
        let bytes = usize::try_from(skip).ok().and_then(|skip| chunk.get(skip..)).unwrap_or_default();
        skip = skip.saturating_sub(chunk.len() as u64);
        let bytes = bytes.get(..bytes.len().min(to.end - at)).unwrap_or_default();
        // Over what is there, then behind it.
        let (over, behind) = bytes.split_at(bytes.len().min(window.len() - at));
        if let Some(there) = window.get_mut(at..at + over.len()) {
            there.copy_from_slice(over);
        }
        window.extend_from_slice(behind);
        at += bytes.len();
    }
    at == to.end
}

impl DiskReader {
    pub(crate) fn new(disk: Arc<Disk>, range: Range<u64>) -> Self {
        let Range { start, end } = range;
        Self { disk, at: start, end, extents: Vec::new(), known_to: start, decoder: Decoder::new() }
    }

    /// The next window; `None` behind the last byte.
    pub(crate) async fn next(&mut self) -> Flow<Option<Window>> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at >= self.known_to {
            self.known_to = self.end.min(self.at.saturating_add(STRIDE));
            self.extents = self.disk.extents(self.at..self.known_to).await?;
        }
        let len = (self.known_to - self.at).min(WINDOW as u64);
        let first = self.extents.partition_point(|extent| extent.end() <= self.at);
        let extents = self.extents.get(first..).unwrap_or_default();
        let len = usize::try_from(len).unwrap_or(WINDOW);
        let window = self.disk.window(self.at, len, extents, &mut self.decoder).await?;
        self.at += len as u64;
        Ok(Some(window))
    }
}

/// A range of a disk as a body.
pub(crate) fn body(disk: Arc<Disk>, range: Range<u64>) -> Body {
    let zeros = Bytes::from(vec![0; CHUNK]);
    let windows = futures::stream::try_unfold(DiskReader::new(disk, range), |mut reader| async move {
        let window = reader.next().await.map_err(Stop::into_failure)?;
        Ok(window.map(|window| (window, reader)))
    });
    Box::pin(windows.flat_map(move |window| {
        let chunks = match window {
            Err(failure) => vec![Err(failure)],
            Ok(Window::Data(bytes)) => vec![Ok(bytes)],
            Ok(Window::Zeros(len)) => {
                let rest = usize::try_from(len % CHUNK as u64).unwrap_or(0);
                let whole = usize::try_from(len / CHUNK as u64).unwrap_or(0);
                let mut chunks = vec![Ok(zeros.clone()); whole];
                if rest > 0 {
                    chunks.push(Ok(zeros.slice(..rest)));
                }
                chunks
            }
        };
        futures::stream::iter(chunks)
    }))
}

/// A disk as a source of its bytes: what an export's output will be, before it is made.
pub(crate) struct DiskSource {
    disk: Arc<Disk>,
    info: SourceInfo,
}

impl DiskSource {
    pub(crate) fn new(disk: Arc<Disk>, size: u64) -> Self {
        Self { disk, info: SourceInfo { size: Some(size), ranges: true, pin: SourcePin::default() } }
    }
}

#[async_trait]
impl Source for DiskSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        Ok(body(Arc::clone(&self.disk), range.start..range.end))
    }

    async fn stream(&self) -> Result<Body, Failure> {
        Ok(body(Arc::clone(&self.disk), 0..self.info.size.unwrap_or(0)))
    }

    fn is_ours(&self) -> bool {
        self.disk.source.is_ours()
    }
}

/// The extents of a disk that lies in its file as it is.
fn verbatim(range: Range<u64>, allocation: Option<&AllocationMap>) -> Vec<Extent> {
    let raw = |run: Range<u64>| Extent {
        start: run.start,
        len: run.end - run.start,
        stored: Stored::Raw { offset: run.start },
    };
    let Some(allocation) = allocation else { return vec![raw(range)] };
    let mut extents = Vec::new();
    let mut at = range.start;
    let zeros = |extents: &mut Vec<Extent>, from: u64, to: u64| {
        if from < to {
            extents.push(Extent { start: from, len: to - from, stored: Stored::Zero });
        }
    };
    for run in allocation.within(range.clone()) {
        zeros(&mut extents, at, run.start);
        at = run.end;
        extents.push(raw(run));
    }
    zeros(&mut extents, at, range.end);
    extents
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use disk_image::MapWriter;

    use super::*;

    /// Bytes in memory, their reads counted.
    struct Counted {
        bytes: Bytes,
        info: SourceInfo,
        reads: Arc<AtomicU64>,
    }

    #[async_trait]
    impl Source for Counted {
        fn info(&self) -> &SourceInfo {
            &self.info
        }

        async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let [start, end] = [range.start, range.end].map(|n| usize::try_from(n).unwrap());
            Ok(Box::pin(futures::stream::iter([Ok(self.bytes.slice(start..end))])))
        }

        async fn stream(&self) -> Result<Body, Failure> {
            self.read(ByteRange { start: 0, end: self.bytes.len() as u64 }).await
        }
    }

    #[tokio::test]
    async fn the_index_of_a_map_is_read_once_and_a_stretch_costs_one_read() {
        let size = 6 * STRIDE;
        let mut writer = MapWriter::new(size, size);
        let mut bytes = Vec::new();
        for start in (0..size).step_by(1 << 16) {
            writer
                .push(&Extent { start, len: 1 << 16, stored: Stored::Raw { offset: size - start - 65_536 } })
                .unwrap();
            bytes.extend(writer.take());
        }
        let (rest, map) = writer.finish().unwrap();
        bytes.extend(rest);
        let reads = Arc::new(AtomicU64::new(0));
        let info = SourceInfo { size: Some(bytes.len() as u64), ranges: true, pin: SourcePin::default() };
        let sidecar =
            Mapped::new(map, Box::new(Counted { bytes: bytes.into(), info, reads: Arc::clone(&reads) }));
        for at in (0..size).step_by(1 << 26) {
            let extents = sidecar.extents(at..at + STRIDE).await.unwrap();
            assert_eq!((extents.len(), extents[0].start), (1024, at));
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1 + 6);
    }

    #[test]
    fn chunks_of_any_size_get_to_their_place_in_any_order() {
        let bytes: Vec<u8> = (0..250).collect();
        for size in [1, 7, 249, 250, 300] {
            let chunks: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
            let mut window = Vec::new();
            for (range, at) in [(0..9, 5), (13..14, 100), (6..8, 40), (100..250, 95), (250..250, 300)] {
                let to = at..at + range.len();
                assert!(put(&chunks, range.start as u64, &mut window, to.clone()), "{size}, {range:?}");
                assert_eq!(window[to], bytes[range]);
            }
            assert_eq!((window.len(), window[4], window[5 + 8], window[14], window[41]), (300, 0, 8, 0, 7));
            assert!(!put(&chunks, 250, &mut window, 0..1) && !put(&chunks, 100, &mut window, 0..151));
        }
        assert!(!put(&[], 0, &mut Vec::new(), 0..1));
    }

    #[test]
    fn a_verbatim_disk_is_covered_without_gaps() {
        let mut writer = disk_image::AllocationWriter::new(1 << 20);
        writer.data(100_000..200_000);
        writer.data(500_000..600_000);
        let map = writer.finish();
        for range in [0..1 << 20, 0..100_000, 150_000..550_000, 200_000..500_000, 100_000..200_000] {
            let extents = verbatim(range.clone(), Some(&map));
            let mut at = range.start;
            for extent in &extents {
                assert_eq!(extent.start, at);
                at = extent.end();
                let zero = map.is_zero(extent.start..extent.end());
                assert_eq!(
                    extent.stored,
                    if zero { Stored::Zero } else { Stored::Raw { offset: extent.start } }
                );
            }
            assert_eq!(at, range.end, "{extents:?}");
            assert_eq!(verbatim(range.clone(), None).len(), 1);
        }
    }
}
