//! Images that must be refused, each with the code it must be refused with.
//!
//! Goal: one hostile set for the parsers' tests and for the tests of the running system. Each image is a sound one (the
//! `sound` function of its module, which tests show to be accepted) with one thing changed, so that it
//! is refused for that thing and no other. Files are kilobytes, or sparse.

pub mod bootable;
mod import;
mod iso;
pub mod nested;
mod ova;
pub mod partitioned;
mod qcow2;
mod scattered;
mod seal;
mod signatures;
mod sparse;
pub mod streams;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::io;

use disk_image::{ByteRange, Code, Format};
pub use import::{Counting, Imported, import};
pub use ova::ova;
pub use scattered::Scattered;
pub use seal::{seal, seal_gpt};
pub use sparse::Sparse;
pub use vmdk::stream_optimized;

/// What was read of a range, if that is all of it.
fn all_of(bytes: Vec<u8>, range: ByteRange) -> io::Result<Vec<u8>> {
    if bytes.len() as u64 == range.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// An image that must be refused.
#[derive(Debug, Clone)]
pub struct Hostile {
    /// What is wrong with it; unique, usable as a file name.
    pub name: String,
    /// What its owner says it is.
    pub declared: Option<Format>,
    /// The file.
    pub file: Sparse,
    /// The code it must be refused with.
    pub code: Code,
}

impl Hostile {
    fn new(name: impl Into<String>, declared: Format, file: Sparse, code: Code) -> Self {
        Self { name: name.into(), declared: Some(declared), file, code }
    }
}

/// An image that must be accepted: what the hostile ones are made from.
#[derive(Debug, Clone)]
pub struct Sound {
    /// Its name.
    pub name: &'static str,
    /// Its format.
    pub format: Format,
    /// The file.
    pub file: Sparse,
}

/// Every hostile image. All are beyond no quota but where [`Code::TooLarge`] is expected, which a quota of 1 TiB gives.
pub fn all() -> Vec<Hostile> {
    [
        signatures::hostile(),
        iso::hostile(),
        qcow2::hostile(),
        vmdk::hostile(),
        vhd::hostile(),
        vhdx::hostile(),
        vdi::hostile(),
        ova::hostile(),
    ]
    .concat()
}

/// Every image that the hostile ones are made from.
pub fn sound() -> Vec<Sound> {
    [iso::sound(), qcow2::sound(), vmdk::sound(), vhd::sound(), vhdx::sound(), vdi::sound(), ova::sound()]
        .concat()
}
