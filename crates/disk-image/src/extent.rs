//! What a stretch of the virtual disk is made of.
//!
//! Goal: one vocabulary between all readers and all workers. A layout is walked
//! once, by the planner, under caps and checks; workers see only extents and
//! never parse an image's own tables.

use serde::{Deserialize, Serialize};

/// A stretch of the virtual disk and where its bytes are.
/// Extents of a walk come in virtual order, without gaps, without overlap, and end at the virtual size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte on the virtual disk.
    pub start: u64,
    /// Bytes on the virtual disk, at least 1.
    pub len: u64,
    /// Where they are.
    pub stored: Stored,
}

/// Where an extent's bytes are in the file. Offsets are checked against the file's size when the extent is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// Nowhere: they read as zeros.
    Zero,
    /// As they are.
    Raw {
        /// Offset in the file.
        offset: u64,
    },
    /// A raw deflate stream (no zlib header) that decodes to at least the extent's length.
    Deflate {
        /// Offset in the file.
        offset: u64,
        /// Bytes that hold the stream; it may end before them.
        len: u32,
        /// Where in the decoded bytes the extent begins.
        skip: u32,
        /// Length of the decoded unit (a cluster).
        unit: u32,
    },
    /// A grain of a streamOptimized VMDK: a marker of 12 bytes (sector of the virtual disk, u64; length of
    /// the stream, u32; little-endian), then a zlib stream. The planner learns `len` from where the next
    /// grain begins, so it is an upper bound; who decodes checks the marker: its sector is
    /// `(start - skip) / 512` of the extent (cutting an extent moves both alike), its length fits in `len`.
    Grain {
        /// Offset of the marker in the file.
        offset: u64,
        /// Bytes that hold marker and stream; the stream may end before them.
        len: u32,
        /// Where in the decoded bytes the extent begins.
        skip: u32,
        /// Most bytes that may be decoded (a grain); the disk's last grain may hold fewer.
        unit: u32,
    },
    /// A zstd frame.
    Zstd {
        /// Offset in the file.
        offset: u64,
        /// Bytes that hold the frame; it may end before them.
        len: u32,
        /// Where in the decoded bytes the extent begins.
        skip: u32,
        /// Length of the decoded unit (a cluster).
        unit: u32,
    },
}

impl Extent {
    /// One past its last byte on the virtual disk.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Where its bytes are in the file: offset and length; `None` where nothing is stored.
    pub const fn source(&self) -> Option<(u64, u64)> {
        match self.stored {
            Stored::Zero => None,
            Stored::Raw { offset } => Some((offset, self.len)),
            Stored::Deflate { offset, len, .. }
            | Stored::Grain { offset, len, .. }
            | Stored::Zstd { offset, len, .. } => Some((offset, len as u64)),
        }
    }

    /// The part of it within `start..end` of the virtual disk.
    pub fn cut(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (start.max(self.start), end.min(self.end()));
        let by = from.checked_sub(self.start)?;
        if to <= from {
            return None;
        }
        Some(Self { start: from, len: to - from, stored: self.stored.skipped(by)? })
    }

    /// The same, that many bytes further on the disk and in the file: of a disk behind another one, of a file in an archive.
    pub(crate) fn moved(&self, on_disk: u64, in_file: u64) -> Self {
        let mut stored = self.stored;
        match &mut stored {
            Stored::Zero => {}
            Stored::Raw { offset }
            | Stored::Deflate { offset, .. }
            | Stored::Grain { offset, .. }
            | Stored::Zstd { offset, .. } => *offset += in_file,
        }
        Self { start: self.start + on_disk, len: self.len, stored }
    }

    /// Takes in the extent that follows on the disk, if one extent can say both; else changes nothing.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let follows = self.end() == next.start && self.stored.skipped(self.len) == Some(next.stored);
        // An empty rest of a unit is no extent, so two whole units never look like one.
        if follows {
            self.len += next.len;
        }
        follows
    }
}

impl Stored {
    /// The same, `by` bytes further on the disk; `None` past a unit's end.
    fn skipped(self, by: u64) -> Option<Self> {
        let further = |skip: u32, unit: u32| {
            u32::try_from(by).ok().and_then(|by| skip.checked_add(by)).filter(|skip| *skip < unit)
        };
        Some(match self {
            Self::Zero => Self::Zero,
            Self::Raw { offset } => Self::Raw { offset: offset.checked_add(by)? },
            Self::Deflate { offset, len, skip, unit } => {
                Self::Deflate { offset, len, skip: further(skip, unit)?, unit }
            }
            Self::Grain { offset, len, skip, unit } => {
                Self::Grain { offset, len, skip: further(skip, unit)?, unit }
            }
            Self::Zstd { offset, len, skip, unit } => {
                Self::Zstd { offset, len, skip: further(skip, unit)?, unit }
            }
        })
    }
}
