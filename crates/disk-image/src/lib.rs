//! Disk images as functions over byte ranges.
//!
//! Goal: read, check and write virtual disk images of any size on machines
//! that can hold none of them. Nothing here does I/O: a parser says which byte
//! ranges of the file it needs ([`Error::Need`]) and is run again once they
//! are in its [`Regions`]; the same code serves S3, HTTP, a file and a fuzzer.
//!
//! Invariants:
//! - Threat model: every byte of an image is chosen by an attacker. Arithmetic
//!   on fields is checked, tables are capped, every offset lies inside the
//!   file, and no path named by an image is ever opened.
//! - A range that can't be read whole is an error, never zeros.
//! - Memory is bounded by constants, not by the image's size.

pub mod allocation;
pub mod boot;
mod claims;
pub mod decode;
pub mod drive;
pub mod error;
pub mod extent;
pub mod fetch;
mod fields;
pub mod format;
pub mod formats;
pub mod inspect;
pub mod judge;
pub mod limits;
pub mod map;
pub mod regions;
mod signatures;
mod text;
mod varint;
mod walk;
pub mod write;
mod zero;

pub use allocation::{AllocationMap, AllocationScanner, AllocationWriter};
pub use boot::{Boot, Firmware, Machine, boot};
pub use decode::Decoder;
pub use error::{Code, Error, Refusal, Result};
pub use extent::{Extent, Stored};
pub use fetch::Fetch;
pub use format::{Compression, Format};
pub use formats::Layout;
pub use formats::ova::{Algorithm, Listed, manifest};
pub use inspect::{Inspection, inspect};
pub use judge::judge;
pub use limits::Limits;
pub use map::{ExtentMap, MapWriter};
pub use regions::{ByteRange, Regions};
pub use text::{Text, text};
pub use walk::Walker;
