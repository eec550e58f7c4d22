//! Running parsers over something that can be read at once: a file, a slice, a test's counting source.
//!
//! Over S3 and HTTP the flows have an asynchronous loop of their own; this is its shape.

use std::io;

use crate::{
    error::{Code, Error, Refusal, Result},
    extent::Extent,
    formats::Layout,
    regions::{ByteRange, Regions},
};

/// Most bytes of metadata that opening an image may ask for: headers and descriptors, never whole maps.
pub const MAX_OPEN_BYTES: usize = 16 << 20;

/// A failure of the source or of the image.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The source could not be read.
    #[error("the source could not be read: {0}")]
    Source(#[from] io::Error),
    /// The image is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Something with a size whose bytes can be read at any place.
pub trait ReadAt {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// The bytes of `range`, all of them.
    ///
    /// # Errors
    /// Where they can't be read, or fewer are there.
    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>>;
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>> {
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let found = bounds.and_then(|(start, end)| self.get(start..end));
        found.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl ReadAt for std::fs::File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |m| m.len())
    }

    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; usize::try_from(range.len()).map_err(io::Error::other)?];
        self.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }
}

/// Calls `step` until it needs nothing more; `regions` keeps all it asked for.
///
/// # Errors
/// The source's, or the step's refusal; [`Code::TableTooLarge`] where a step asks for more than [`MAX_OPEN_BYTES`].
pub fn drive<T>(
    source: &mut dyn ReadAt,
    regions: &mut Regions,
    mut step: impl FnMut(&Regions) -> Result<T>,
) -> std::result::Result<T, DriveError> {
    loop {
        match step(regions) {
            Ok(done) => return Ok(done),
            Err(Error::Refused(refusal)) => return Err(refusal.into()),
            Err(Error::Need(ranges)) => fetch(source, regions, &ranges)?,
        }
    }
}

/// Walks the whole layout, holding only what the walker asked for last.
///
/// # Errors
/// The source's, the image's refusal, or what `each` returns.
pub fn walk(
    source: &mut dyn ReadAt,
    layout: &Layout,
    mut each: impl FnMut(Extent) -> Result<()>,
) -> std::result::Result<(), DriveError> {
    let mut regions = Regions::new(source.size());
    let mut walker = layout.walk();
    loop {
        match walker.next(&regions) {
            Ok(None) => return Ok(()),
            Ok(Some(extent)) => match each(extent) {
                Ok(()) => {}
                Err(Error::Refused(refusal)) => return Err(refusal.into()),
                Err(Error::Need(_)) => return Err(io::Error::other("nothing can be asked for here").into()),
            },
            Err(Error::Refused(refusal)) => return Err(refusal.into()),
            Err(Error::Need(ranges)) => {
                regions.clear();
                fetch(source, &mut regions, &ranges)?;
            }
        }
    }
}

fn fetch(
    source: &mut dyn ReadAt,
    regions: &mut Regions,
    ranges: &[ByteRange],
) -> std::result::Result<(), DriveError> {
    let asked: u64 = ranges.iter().map(|r| r.len()).sum();
    if asked.saturating_add(regions.held() as u64) > MAX_OPEN_BYTES as u64 {
        let message = format!("the image's headers take more than {MAX_OPEN_BYTES} bytes");
        return Err(Refusal { code: Code::TableTooLarge, message }.into());
    }
    for range in ranges {
        regions.insert(range.start, source.read_range(*range)?);
    }
    Ok(())
}
