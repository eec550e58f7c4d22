//! Which parts of the file are already spoken for.
//!
//! Goal: no byte of the file serves two places of the disk, and no table points to itself. Without it a
//! small file whose tables repeat one cluster makes a worker write terabytes, and a table that lists itself is read as data.
//!
//! Memory: one bit a granule, in pages made on demand. The granule grows with the file, so all pages of any file take at most 64 MiB, and the
//! starts of short streams a few MiB.

use std::collections::{HashMap, HashSet};

use crate::error::{Code, Error, Result};

/// Smallest granule: every format here aligns its tables and blocks to sectors of 512 bytes.
const MIN_GRANULE: u64 = 512;
/// Most granules in a file: 64 MiB of bits.
const MAX_GRANULES: u64 = 1 << 29;
/// Most starts of short streams remembered: a few MiB.
const MAX_STARTS: usize = 1 << 18;
const WORDS: usize = 64;
const BITS_PER_PAGE: u64 = 64 * WORDS as u64;

/// Claimed granules of a file.
#[derive(Debug)]
pub(crate) struct Claims {
    shift: u32,
    file_size: u64,
    pages: HashMap<u64, Box<[u64; WORDS]>>,
    packed_bytes: u64,
    starts: HashSet<u64>,
}

impl Claims {
    /// No part claimed yet of a file of `file_size` bytes.
    pub(crate) fn new(file_size: u64) -> Self {
        let granule = file_size.div_ceil(MAX_GRANULES).max(MIN_GRANULE).next_power_of_two();
        Self {
            shift: granule.trailing_zeros(),
            file_size,
            pages: HashMap::new(),
            packed_bytes: 0,
            starts: HashSet::new(),
        }
    }

    /// Claims `len` bytes at `offset` for `what`, exclusively: every granule that lies wholly within
    /// (the file's last one may be cut) must be free. Bytes past the file's end count as nothing.
    ///
    /// # Errors
    /// [`Code::BadTable`] where a granule is taken.
    pub(crate) fn claim(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let end = offset.saturating_add(len);
        let first = offset.div_ceil(1 << self.shift);
        let last =
            if end >= self.file_size { self.file_size.div_ceil(1 << self.shift) } else { end >> self.shift };
        let mut at = first;
        while at < last {
            let page = self.pages.entry(at / BITS_PER_PAGE).or_insert_with(|| Box::new([0; WORDS]));
            let in_page = at % BITS_PER_PAGE;
            let bit = in_page % 64;
            let run = (64 - bit).min(last - at);
            let mask = (u64::MAX >> (64 - run)) << bit;
            let index = usize::try_from(in_page / 64).unwrap_or(0);
            if page[index] & mask != 0 {
                return Err(twice(what, offset));
            }
            page[index] |= mask;
            at += run;
        }
        Ok(())
    }

    /// As [`claim`](Self::claim) for a stream that may share its first and last sector with its neighbours (packed compressed
    /// clusters). One that holds no whole granule of its own is known by where it starts; the last [`MAX_STARTS`] of these
    /// are remembered, and beyond that the sum of all streams, which can't exceed the file, bounds what repeats could cost.
    ///
    /// # Errors
    /// [`Code::BadTable`] where a granule or a start is taken, or where the streams together are longer than the file.
    pub(crate) fn claim_packed(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let (first, last) =
            (offset.div_ceil(512) * 512, offset.saturating_add(len).saturating_sub(1) / 512 * 512);
        let inner = last.saturating_sub(first);
        // A stream has at least 1 byte in its last sector.
        self.packed_bytes = self.packed_bytes.saturating_add(inner + 1);
        if self.packed_bytes > self.file_size {
            return Err(Error::refused(
                Code::BadTable,
                format!(
                    "{what}: the compressed clusters are longer than the file, so some are referenced twice"
                ),
            ));
        }
        if inner < 2 << self.shift {
            if self.starts.len() >= MAX_STARTS {
                self.starts.clear();
            }
            if !self.starts.insert(offset) {
                return Err(twice(what, offset));
            }
        }
        self.claim(first, inner, what)
    }
}

fn twice(what: &str, offset: u64) -> Error {
    Error::refused(Code::BadTable, format!("{what}: the bytes at offset {offset} are referenced twice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_cannot_be_claimed_again() {
        let mut claims = Claims::new(10 << 20);
        claims.claim(0, 65536, "header").unwrap();
        claims.claim(65536, 3 << 20, "data").unwrap();
        for offset in [0, 512, 65536, 65536 + (3 << 20) - 512] {
            assert!(claims.claim(offset, 512, "again").is_err(), "{offset}");
        }
        claims.claim(65536 + (3 << 20), 512, "next").unwrap();
    }

    #[test]
    fn neighbours_in_one_sector_are_fine_and_repeats_are_not() {
        let mut claims = Claims::new(1 << 20);
        claims.claim_packed(1000, 2000, "a").unwrap();
        claims.claim_packed(3000, 3000, "b").unwrap();
        assert!(claims.claim_packed(1000, 2000, "a again").is_err());
        claims.claim_packed(512, 10, "tiny").unwrap();
        assert!(claims.claim_packed(512, 10, "tiny again").is_err());
        // However many there are, they aren't longer than the file.
        let tiny = (0..1 << 21).find(|n| claims.claim_packed(600_000 + n % 512, 10, "tiny").is_err());
        assert!(tiny.is_some());
    }

    #[test]
    fn the_last_granule_may_be_cut_and_granules_grow_with_the_file() {
        let mut claims = Claims::new(1000);
        claims.claim(512, 512, "tail").unwrap();
        assert!(claims.claim(512, 488, "tail again").is_err());
        assert_eq!(1u64 << Claims::new(1 << 40).shift, 2048);
    }
}
