//! Integers out of headers and tables.
//!
//! A field outside of the bytes is a refusal, not a panic: the callers' lengths are right, and this keeps it harmless if one isn't.

use crate::error::{Code, Error, Result};

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|s| s.try_into().ok()).ok_or_else(|| {
        Error::refused(Code::Truncated, format!("a field at byte {at} of a structure is cut off"))
    })
}

macro_rules! fields {
    ($($name:ident $type:ty, $from:ident, $doc:literal;)*) => {
        $(#[doc = $doc]
        pub(crate) fn $name(bytes: &[u8], at: usize) -> Result<$type> {
            array(bytes, at).map(<$type>::$from)
        })*
    };
}

fields! {
    be16 u16, from_be_bytes, "Big-endian 16 bits.";
    be32 u32, from_be_bytes, "Big-endian 32 bits.";
    be64 u64, from_be_bytes, "Big-endian 64 bits.";
    le16 u16, from_le_bytes, "Little-endian 16 bits.";
    le32 u32, from_le_bytes, "Little-endian 32 bits.";
    le64 u64, from_le_bytes, "Little-endian 64 bits.";
}
