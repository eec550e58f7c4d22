//! A stretch of a file seen as a file of its own: the VMDK inside an OVA.
//!
//! Goal: a format's parser counts from its own first byte and can't see past its own last one, wherever it lies.

use crate::{
    error::{Code, Error, Result},
    regions::{ByteRange, Regions},
};

/// `size` bytes of the file from `base`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    regions: &'a Regions,
    base: u64,
    size: u64,
}

impl<'a> View<'a> {
    /// The whole file.
    pub(crate) fn whole(regions: &'a Regions) -> Self {
        Self { regions, base: 0, size: regions.size() }
    }

    /// A part of it.
    pub(crate) fn part(regions: &'a Regions, base: u64, size: u64) -> Result<Self> {
        if base.checked_add(size).is_none_or(|end| end > regions.size()) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!("{size} bytes at offset {base} are outside of the file of {} bytes", regions.size()),
            ));
        }
        Ok(Self { regions, base, size })
    }

    /// Where it begins in the file.
    pub(crate) fn base(self) -> u64 {
        self.base
    }

    /// Its length.
    pub(crate) fn size(self) -> u64 {
        self.size
    }

    /// Whether `len` bytes at `offset` lie inside.
    pub(crate) fn holds(self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.size)
    }

    /// `len` bytes at `offset`, for `what`.
    pub(crate) fn read(self, offset: u64, len: u64, what: &str) -> Result<&'a [u8]> {
        if !self.holds(offset, len) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!(
                    "{what}: {len} bytes at offset {offset} are outside of the image of {} bytes",
                    self.size
                ),
            ));
        }
        let len = usize::try_from(len)
            .map_err(|_| Error::refused(Code::TableTooLarge, format!("{what} has {len} bytes")))?;
        // No overflow: a part lies inside the file.
        self.regions.read(self.base + offset, len)
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
        if !missing {
            return Ok(());
        }
        let in_file = |r: &ByteRange| ByteRange { start: self.base + r.start, end: self.base + r.end };
        Err(Error::Need(ranges.iter().map(in_file).collect()))
    }
}
