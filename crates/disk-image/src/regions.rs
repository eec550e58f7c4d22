//! The parts of a file that a parser has been given.
//!
//! Goal: straight-line parsers without I/O. `read` answers from what is
//! there or says what is missing; the caller fetches and calls again.

use std::{collections::BTreeMap, sync::Arc};

use crate::error::{Code, Error, Result};

/// A half-open range of bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// `len` bytes from `start`; `None` on overflow.
    pub const fn at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte in it.
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }
}

/// Bytes of a file of known size, by offset. Pieces never overlap or touch.
#[derive(Debug, Clone)]
pub struct Regions {
    size: u64,
    /// Where it begins in the file whose bytes are held: not 0 in a file of an archive.
    base: u64,
    pieces: Arc<BTreeMap<u64, Vec<u8>>>,
}

impl Regions {
    /// Nothing known yet of a file of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { size, base: 0, pieces: Arc::default() }
    }

    /// A stretch of the file seen as a file of its own. What it says to need counts from its own first byte.
    pub(crate) fn part(&self, offset: u64, size: u64) -> Result<Self> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!("{size} bytes at offset {offset} are outside of the file of {} bytes", self.size),
            ));
        }
        Ok(Self { size, base: self.base + offset, pieces: Arc::clone(&self.pieces) })
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes held now, for the caller's memory bound.
    pub fn held(&self) -> usize {
        self.pieces.values().map(Vec::len).sum()
    }

    /// Adds what was read at `offset`. Overlapping or touching pieces become one.
    pub fn insert(&mut self, offset: u64, mut bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let mut start = self.base.saturating_add(offset);
        let pieces = Arc::make_mut(&mut self.pieces);
        if let Some((&before, piece)) = pieces.range(..=start).next_back() {
            let end = before + piece.len() as u64;
            if end >= start {
                let keep = usize::try_from(start - before).unwrap_or(usize::MAX);
                let mut joined = pieces.remove(&before).unwrap_or_default();
                let tail = joined.split_off((keep + bytes.len()).min(joined.len()));
                joined.truncate(keep);
                joined.append(&mut bytes);
                joined.extend_from_slice(&tail);
                bytes = joined;
                start = before;
            }
        }
        while let Some((&after, _)) = pieces.range(start + 1..).next() {
            let end = start + bytes.len() as u64;
            if after > end {
                break;
            }
            let piece = pieces.remove(&after).unwrap_or_default();
            let skip = usize::try_from(end - after).unwrap_or(usize::MAX);
            if skip < piece.len() {
                bytes.extend_from_slice(&piece[skip..]);
            }
        }
        pieces.insert(start, bytes);
    }

    /// Forgets everything: a walker's caller does so between steps to stay bounded.
    pub fn clear(&mut self) {
        self.pieces = Arc::default();
    }

    /// `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`Code::OutOfBounds`] where the file ends before; [`Error::Need`] where they are not here yet.
    pub fn read(&self, offset: u64, len: usize) -> Result<&[u8]> {
        let range = ByteRange::at(offset, len as u64).filter(|r| r.end <= self.size).ok_or_else(|| {
            Error::refused(
                Code::OutOfBounds,
                format!("{len} bytes at offset {offset} are needed, but the file has {} bytes", self.size),
            )
        })?;
        let at = self.base + offset;
        if let Some((&start, piece)) = self.pieces.range(..=at).next_back() {
            let from = usize::try_from(at - start).unwrap_or(usize::MAX);
            if let Some(found) = from.checked_add(len).and_then(|to| piece.get(from..to)) {
                return Ok(found);
            }
        }
        if len == 0 {
            return Ok(&[]);
        }
        Err(Error::Need(vec![range]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_and_the_later_bytes_win() {
        let mut r = Regions::new(100);
        r.insert(10, vec![1; 10]);
        r.insert(30, vec![3; 10]);
        r.insert(15, vec![2; 15]);
        assert_eq!(r.read(10, 30).unwrap(), [vec![1; 5], vec![2; 15], vec![3; 10]].concat());
        r.insert(12, vec![9; 2]);
        assert_eq!(r.read(10, 6).unwrap(), [1, 1, 9, 9, 1, 2]);
        assert_eq!(r.held(), 30);
    }

    #[test]
    fn a_part_is_a_file_of_its_own() {
        let mut r = Regions::new(100);
        r.insert(10, (0..50).collect());
        let part = r.part(20, 30).unwrap();
        assert_eq!((part.size(), part.read(0, 3).unwrap()), (30, &[10, 11, 12][..]));
        assert!(matches!(part.read(28, 3), Err(Error::Refused(x)) if x.code == Code::OutOfBounds));
        assert_eq!(part.part(5, 5).unwrap().read(4, 1).unwrap(), [19]);
        let missing = r.part(55, 20).unwrap();
        assert_eq!(missing.read(0, 10), Err(Error::Need(vec![ByteRange { start: 0, end: 10 }])));
        for (offset, size) in [(0, 101), (100, 1), (u64::MAX, 2)] {
            assert!(matches!(r.part(offset, size), Err(Error::Refused(x)) if x.code == Code::OutOfBounds));
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_and_what_cannot_be_is_refused() {
        let r = Regions::new(100);
        assert_eq!(r.read(90, 10), Err(Error::Need(vec![ByteRange { start: 90, end: 100 }])));
        assert!(matches!(r.read(91, 10), Err(Error::Refused(x)) if x.code == Code::OutOfBounds));
        assert!(matches!(r.read(u64::MAX, 10), Err(Error::Refused(x)) if x.code == Code::OutOfBounds));
        assert_eq!(r.read(100, 0).unwrap(), b"");
    }
}
