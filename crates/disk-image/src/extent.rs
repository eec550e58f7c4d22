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
