//! What an image may ask of us.

/// Largest table that is addressed as one whole (qcow2 L1, VHD BAT, grain directory), in bytes.
/// QEMU's own limit for L1 tables (`QCOW_MAX_L1_SIZE`).
pub const MAX_TABLE_BYTES: u64 = 32 << 20;

/// Bounds the caller sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest virtual disk, bytes.
    pub max_virtual_size: u64,
}

impl Default for Limits {
    /// 1 TiB, the default quota of an image.
    fn default() -> Self {
        Self { max_virtual_size: 1 << 40 }
    }
}
