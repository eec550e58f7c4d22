//! qcow2 version 3, written by many workers at once.
//!
//! Map: a [`BlobWriter`] takes a range of the virtual disk as it streams by and yields a *blob*, bytes that mean the same wherever
//! they lie in the file, and a [`BlobIndex`] that says where each cluster is in it. Reduce: a [`File`] is laid out from the blobs'
//! lengths ([`BlobSummary`]) and cut into parts; an [`Assembly`] takes the indexes one at a time and yields any range of it.
//!
//! ```text
//! header | refcount table | L1 | refcount blocks | L2 tables | blobs too short for a part | all other blobs
//! ```
//!
//! Invariants:
//! - Clusters that are all zeros are nowhere in the file; an L2 table without entries isn't either.
//! - Blobs are whole clusters long, so that each begins at a cluster of the file.
//! - A refcount is the number of clusters of the disk that touch a cluster of the file; free clusters have 0, so that
//!   `qemu-img check` finds neither leaks nor errors.
//! - Every part's length is known before the first byte, no part but the last is too short, and memory never grows with the image.
//!
//! Source of offsets, flags and limits: QEMU `docs/interop/qcow2`.

mod assembly;
mod blob;
mod codec;
mod copy;
mod file;
mod geometry;
mod index;
mod layout;
mod packer;

pub use assembly::{Assembly, AssemblyStep};
pub use blob::BlobWriter;
pub use codec::Codec;
pub use copy::CopyPlan;
pub use file::{File, FilePart};
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
