//! Bytes that a source serves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;

use crate::pattern;

/// The bytes behind a source.
#[derive(Debug, Clone)]
pub enum Content {
    /// Held in memory.
    Bytes(Bytes),
    /// A file, read in blocks; its length at each request counts.
    File(PathBuf),
    /// `length` bytes of [`pattern`].
    Pattern {
        /// Of the pattern.
        seed: u64,
        /// Of the content.
        length: u64,
    },
}

impl Content {
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
            Self::Pattern { length, .. } => Ok(*length),
        }
    }

    pub(super) fn open(&self) -> io::Result<Opened> {
        Ok(match self {
            Self::Bytes(bytes) => Opened::Bytes(bytes.clone()),
            Self::File(path) => Opened::File(File::open(path)?),
            Self::Pattern { seed, .. } => Opened::Pattern { seed: *seed },
        })
    }
}

/// Content ready to be read by a body.
#[derive(Debug)]
pub(super) enum Opened {
    Bytes(Bytes),
    File(File),
    Pattern { seed: u64 },
}

impl Opened {
    /// Exactly `length` bytes at `offset`; the caller stays within the content.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                Ok(bytes.slice(start..start + length))
            }
            Self::File(file) => {
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, offset)?;
                Ok(buffer.into())
            }
            Self::Pattern { seed } => Ok(pattern::bytes(*seed, offset, length).into()),
        }
    }
}
