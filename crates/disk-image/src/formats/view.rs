//! A file as a format's parser reads it: each read says for what, and all are inside of the file.

use crate::{
    error::{Code, Error, Result},
    regions::{ByteRange, Regions},
};

/// A file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(&'a Regions);

impl<'a> View<'a> {
    /// The whole file.
    pub(crate) fn whole(regions: &'a Regions) -> Self {
        Self(regions)
    }

    /// Its length.
    pub(crate) fn size(self) -> u64 {
        self.0.size()
    }

    /// Whether `len` bytes at `offset` lie inside.
    pub(crate) fn holds(self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size())
    }

    /// `len` bytes at `offset`, for `what`.
    pub(crate) fn read(self, offset: u64, len: u64, what: &str) -> Result<&'a [u8]> {
        if !self.holds(offset, len) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!(
                    "{what}: {len} bytes at offset {offset} are outside of the image of {} bytes",
                    self.size()
                ),
            ));
        }
        let len = usize::try_from(len)
            .map_err(|_| Error::refused(Code::TableTooLarge, format!("{what} has {len} bytes")))?;
        self.0.read(offset, len)
    }

    /// Asks for all of `ranges` at once unless all are here: what came for an earlier question may be gone.
    pub(crate) fn need(self, ranges: &[ByteRange]) -> Result<()> {
        let mut missing = false;
        for range in ranges {
            match self.read(range.start, range.len(), "table") {
                Err(Error::Need(_)) => missing = true,
                other => {
                    other?;
                }
            }
        }
        if missing { Err(Error::Need(ranges.to_vec())) } else { Ok(()) }
    }
}
