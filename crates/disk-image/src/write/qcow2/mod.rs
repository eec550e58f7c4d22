//! qcow2 version 3, written by many workers at once.
//!
//! Map: a [`BlobWriter`] takes a range of the virtual disk as it streams by and yields a *blob*, bytes that mean the same wherever
//! they lie in the file, and a [`BlobIndex`] that says where each cluster is in it. Reduce: an [`Assembly`] takes the blobs' lengths
//! ([`BlobSummary`]), then the indexes one at a time, and yields header, refcounts, L1 and L2: part 1.
//!
//! ```text
//! part 1: header | refcount table | L1 | refcount blocks | L2 tables | blobs too short for a part | free clusters up to 5 MiB
//! then:   the blobs that are parts of their own, in the order of the disk
//! ```
//!
//! Invariants:
//! - Clusters that are all zeros are nowhere in the file; an L2 table without entries isn't either.
//! - Blobs are whole clusters long, so that each begins at a cluster of the file.
//! - A refcount is the number of clusters of the disk that touch a cluster of the file; free clusters have 0, so that
//!   `qemu-img check` finds neither leaks nor errors.
//! - Part 1's length is known before its first byte, and memory never grows with the image.
//!
//! Source of offsets, flags and limits: QEMU `docs/interop/qcow2`.

mod assembly;
mod blob;
mod codec;
mod copy;
mod geometry;
mod index;
mod layout;
mod packer;

pub use assembly::{Assembly, AssemblyStep};
pub use blob::BlobWriter;
pub use codec::Codec;
pub use copy::CopyPlan;
pub use geometry::Geometry;
pub use index::{BlobIndex, BlobSummary, Entry, Place};

/// Why an image can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The disk or the file would pass a limit of qcow2 or S3.
    #[error("the image is too large: {0}")]
    TooLarge(String),
    /// The caller's ranges don't fit the disk: a defect of the caller.
    #[error("wrong range: {0}")]
    Range(String),
    /// An index or summary is damaged or belongs to something else.
    #[error("wrong index: {0}")]
    Index(String),
}

/// Result of a writer's step.
pub type Result<T> = std::result::Result<T, WriteError>;
