//! The numbers of an image that all of its writers share.

use super::{Codec, Result, WriteError};

/// QEMU `MIN_CLUSTER_BITS`, `MAX_CLUSTER_BITS`.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// 64 KiB, QEMU's default.
const DEFAULT_CLUSTER_BITS: u32 = 16;
/// QEMU `QCOW_MAX_L1_SIZE`.
const MAX_L1_BYTES: u64 = 32 << 20;
/// qcow2 sizes are whole sectors to QEMU: it drops what is beyond the last one.
const SECTOR: u64 = 512;

/// Size, cluster size and codec of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    cluster_bits: u32,
    codec: Codec,
}

impl Geometry {
    /// Bytes of a cluster where nothing else is asked for.
    pub const DEFAULT_CLUSTER: u64 = 1 << DEFAULT_CLUSTER_BITS;

    /// A disk of `size` bytes in clusters of 64 KiB.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`] where QEMU's limit of the L1 table is passed (2 PiB).
    pub fn new(size: u64, codec: Codec) -> Result<Self> {
        Self::with_cluster_bits(size, codec, DEFAULT_CLUSTER_BITS)
    }

    /// The same in clusters of `1 << cluster_bits` bytes, 9 to 21.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`], and [`WriteError::Range`] for another cluster size.
    pub fn with_cluster_bits(size: u64, codec: Codec, cluster_bits: u32) -> Result<Self> {
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(WriteError::Range(format!("cluster_bits is {cluster_bits}, allowed are 9 to 21")));
        }
        let new = Self { size, cluster_bits, codec };
        let most = MAX_L1_BYTES / 8 * new.table_entries() * new.cluster();
        if size > most {
            return Err(WriteError::TooLarge(format!("a disk of {size} bytes, the limit is {most}")));
        }
        Ok(new)
    }

    /// Bytes of content, as asked for.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Size of the virtual disk: the content's, rounded up to 512 bytes, as `qemu-img convert` does.
    pub const fn virtual_size(&self) -> u64 {
        self.size.next_multiple_of(SECTOR)
    }

    /// How clusters are compressed.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// log2 of the cluster size.
    pub const fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// Bytes of a cluster.
    pub const fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters of the virtual disk.
    pub const fn clusters(&self) -> u64 {
        self.size.div_ceil(self.cluster())
    }

    /// Entries of an L2 table, a cluster of 64-bit numbers.
    pub(super) const fn table_entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Entries of a refcount block, a cluster of 16-bit numbers.
    pub(super) const fn refcount_entries(&self) -> u64 {
        self.cluster() / 2
    }

    /// Entries of the L1 table.
    pub(super) const fn l1_entries(&self) -> u64 {
        self.clusters().div_ceil(self.table_entries())
    }

    /// Bits of a compressed cluster's offset in its descriptor (the specification's `x`).
    pub(super) const fn compressed_offset_bits(&self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// First byte beyond what L2 entries can point to: 56 bits, fewer where a compressed descriptor has fewer.
    pub(super) const fn host_limit(&self) -> u64 {
        let bits = self.compressed_offset_bits();
        1 << (if bits < 56 { bits } else { 56 })
    }
}
