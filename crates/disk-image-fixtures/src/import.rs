//! All that an import does to a file, to the last byte, with its reads counted: what tests and fuzzers run.

use std::io;

use disk_image::{
    AllocationWriter, ByteRange, Code, Decoder, Error, Fetch, Format, Inspection, Layout, Limits, MapWriter,
    Regions,
    drive::{DriveError, ReadAt, drive, walk},
    inspect,
};

/// Bytes of a window.
const WINDOW: u64 = 8 << 20;

/// Reads of a source, counted.
#[derive(Debug)]
pub struct Counting<R> {
    inner: R,
    /// Every range that was read, in order.
    pub reads: Vec<ByteRange>,
}

impl<R: ReadAt> Counting<R> {
    /// Nothing read yet.
    pub fn new(inner: R) -> Self {
        Self { inner, reads: Vec::new() }
    }

    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        self.reads.iter().map(|r| r.len()).sum()
    }
}

impl<R: ReadAt> ReadAt for Counting<R> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>> {
        assert!(!range.is_empty() && range.end <= self.size(), "{range:?} was asked for, of {}", self.size());
        self.reads.push(range);
        self.inner.read_range(range)
    }
}

/// What came of an image that was read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Bytes of the disk that are not zeros by the tables.
    pub data_bytes: u64,
    /// Reads of metadata; those after it are of data.
    pub metadata_reads: usize,
}

/// Inspects, opens, walks, writes the sidecar, reads it back, fetches and decodes every byte that is stored.
///
/// # Errors
/// The refusal.
///
/// # Panics
/// Where a promise of the crate is broken: that is what it is for.
pub fn import<R: ReadAt>(source: &mut Counting<R>, declared: Option<Format>) -> Result<Imported, DriveError> {
    let mut regions = Regions::new(source.size());
    let found = drive(source, &mut regions, |r| inspect(r, declared))?;
    let Inspection::Disk(format) = found else {
        return Err(refused(Error::refused(Code::UnknownFormat, "a compressed stream is not a disk yet")));
    };
    let layout = drive(source, &mut regions, |r| Layout::open(r, format, &Limits::default()))?;
    // Only a file without a structure may be empty.
    assert!(layout.virtual_size() > 0 || layout.file_size() == 0 && format.is_opaque());
    assert!(layout.virtual_size() <= Limits::default().max_virtual_size);
    let mut writer = MapWriter::new(layout.virtual_size(), layout.file_size());
    let mut allocation = AllocationWriter::new(layout.virtual_size());
    let mut sidecar = Vec::new();
    walk(source, &layout, |extent| {
        allocation.push(&extent);
        writer.push(&extent)?;
        sidecar.extend(writer.take());
        Ok(())
    })?;
    let (rest, map) = writer.finish().map_err(refused)?;
    sidecar.extend(rest);
    let metadata_reads = source.reads.len();

    let allocation = allocation.finish();
    let mut decoder = Decoder::new();
    for run in allocation.data() {
        let mut start = run.start;
        while start < run.end {
            let end = (start + WINDOW).min(run.end);
            let mut stored = sidecar.as_slice();
            let mut regions = Regions::new(stored.size());
            let extents = drive(&mut stored, &mut regions, |r| map.extents(r, start..end))?;
            let len = usize::try_from(end - start).unwrap_or(usize::MAX);
            let fetch = Fetch::plan(start, len, extents).map_err(refused)?;
            let mut window = vec![0; len];
            for read in fetch.reads() {
                let bytes = source.read_range(read.range())?;
                read.decode(&bytes, &mut window, &mut decoder).map_err(refused)?;
            }
            start = end;
        }
    }
    Ok(Imported { virtual_size: layout.virtual_size(), data_bytes: allocation.data_bytes(), metadata_reads })
}

fn refused(error: Error) -> DriveError {
    match error {
        Error::Refused(refusal) => refusal.into(),
        Error::Need(ranges) => panic!("{ranges:?} asked for where nothing can be"),
    }
}
