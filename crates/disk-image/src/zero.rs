//! Whether bytes are all zeros, at the speed of memory.

/// Compares block by block with zeros: `memcmp`, which stops at the first other byte.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|c| ZEROS.get(..c.len()) == Some(c))
}
