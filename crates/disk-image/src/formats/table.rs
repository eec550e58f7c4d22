//! A table of the file, of any length, read a piece at a time.
//!
//! Invariant: holds at most one piece; entries are asked for in ascending order, so each piece is read once.

use crate::{
    error::{Code, Error, Result},
    formats::view::View,
    limits::MAX_TABLE_BYTES,
};

/// Bytes of a piece: a block map of 1 TiB in blocks of 1 MiB is one.
const PIECE: u64 = 4 << 20;

/// `count` entries of `N` bytes.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    what: &'static str,
    offset: u64,
    count: u64,
    first: u64,
    piece: Vec<u8>,
}

/// Refuses a table that no honest image needs.
pub(crate) fn check_table_bytes(bytes: u64, what: &str) -> Result<()> {
    if bytes > MAX_TABLE_BYTES {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("{what} takes {bytes} bytes, more than {MAX_TABLE_BYTES}"),
        ));
    }
    Ok(())
}

impl<const N: usize> Table<N> {
    /// A table at `offset` of the view it will be read from.
    pub(crate) fn new(what: &'static str, offset: u64, count: u64) -> Self {
        Self { what, offset, count, first: 0, piece: Vec::new() }
    }

    /// Number of entries.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Entry `index`.
    pub(crate) fn entry(&mut self, view: View<'_>, index: u64) -> Result<[u8; N]> {
        if let Some(found) = self.held(index) {
            return Ok(found);
        }
        let beyond = || Error::refused(Code::BadTable, format!("{} has no entry {index}", self.what));
        let width = N as u64;
        let count = self.count.checked_sub(index).ok_or_else(beyond)?.min(PIECE / width);
        let offset =
            index.checked_mul(width).and_then(|at| at.checked_add(self.offset)).ok_or_else(beyond)?;
        self.piece = view.read(offset, count * width, self.what)?.to_vec();
        self.first = index;
        self.held(index)
            .ok_or_else(|| Error::refused(Code::BadTable, format!("{} has no entry {index}", self.what)))
    }

    fn held(&self, index: u64) -> Option<[u8; N]> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?.checked_mul(N)?;
        self.piece.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regions::Regions;

    #[test]
    fn each_piece_is_read_once_and_nothing_is_past_the_end() {
        let count = 2_400_000_u64;
        let bytes: Vec<u8> = (0..2_400_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut regions = Regions::new(100 + bytes.len() as u64);
        let mut table = Table::<4>::new("table", 100, count);
        let mut asked = 0;
        for index in 0..count {
            let entry = loop {
                match table.entry(View::whole(&regions), index) {
                    Ok(entry) => break entry,
                    Err(Error::Need(ranges)) => {
                        asked += 1;
                        regions.clear();
                        for r in ranges {
                            let (start, end) =
                                (usize::try_from(r.start).unwrap(), usize::try_from(r.end).unwrap());
                            regions.insert(r.start, bytes[start - 100..end - 100].to_vec());
                        }
                    }
                    Err(e) => panic!("{e}"),
                }
            };
            assert_eq!(u64::from(u32::from_le_bytes(entry)), index);
        }
        assert_eq!(asked, 3);
        assert!(matches!(table.entry(View::whole(&regions), count), Err(Error::Refused(_))));
    }
}
