//! A file of any size of which only some bytes are written.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use disk_image::{ByteRange, drive::ReadAt};

/// Written parts of a file; the rest are zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    size: u64,
    parts: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    /// `size` bytes of zeros.
    pub fn zeros(size: u64) -> Self {
        Self { size, parts: BTreeMap::new() }
    }

    /// The size in bytes.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Writes `bytes` at `offset`, growing the file where needed; later writes win.
    #[must_use]
    pub fn with(mut self, offset: u64, bytes: &[u8]) -> Self {
        self.size = self.size.max(offset + bytes.len() as u64);
        let mut parts = BTreeMap::new();
        let (new, end) = (offset, offset + bytes.len() as u64);
        for (at, part) in std::mem::take(&mut self.parts) {
            let part_end = at + part.len() as u64;
            let keep = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            if at < new {
                parts.insert(at, part[..keep(new - at).min(part.len())].to_vec());
            }
            if part_end > end {
                let from = end.max(at);
                parts.insert(from, part[keep(from - at)..].to_vec());
            }
        }
        parts.insert(offset, bytes.to_vec());
        self.parts = parts;
        self
    }

    /// Big-endian 16 bits at `offset`.
    #[must_use]
    pub fn be16(self, offset: u64, n: u16) -> Self {
        self.with(offset, &n.to_be_bytes())
    }

    /// Big-endian 32 bits at `offset`.
    #[must_use]
    pub fn be32(self, offset: u64, n: u32) -> Self {
        self.with(offset, &n.to_be_bytes())
    }

    /// Big-endian 64 bits at `offset`.
    #[must_use]
    pub fn be64(self, offset: u64, n: u64) -> Self {
        self.with(offset, &n.to_be_bytes())
    }

    /// Little-endian 16 bits at `offset`.
    #[must_use]
    pub fn le16(self, offset: u64, n: u16) -> Self {
        self.with(offset, &n.to_le_bytes())
    }

    /// Little-endian 32 bits at `offset`.
    #[must_use]
    pub fn le32(self, offset: u64, n: u32) -> Self {
        self.with(offset, &n.to_le_bytes())
    }

    /// Little-endian 64 bits at `offset`.
    #[must_use]
    pub fn le64(self, offset: u64, n: u64) -> Self {
        self.with(offset, &n.to_le_bytes())
    }

    /// Cuts the file to `size` bytes.
    #[must_use]
    pub fn cut(mut self, size: u64) -> Self {
        self.size = self.size.min(size);
        self.parts.retain(|at, part| {
            part.truncate(usize::try_from(size.saturating_sub(*at)).unwrap_or(usize::MAX));
            !part.is_empty()
        });
        self
    }

    /// The bytes of `range`; those past the end are left out.
    pub fn read(&self, range: ByteRange) -> Vec<u8> {
        let range = ByteRange { start: range.start, end: range.end.min(self.size) };
        let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let mut bytes = vec![0; index(range.len())];
        for (at, part) in self.parts.range(..range.end) {
            let (from, to) = ((*at).max(range.start), (at + part.len() as u64).min(range.end));
            if from < to {
                bytes[index(from - range.start)..index(to - range.start)]
                    .copy_from_slice(&part[index(from - at)..index(to - at)]);
            }
        }
        bytes
    }

    /// Writes it to a file, with holes.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.size)?;
        for (at, part) in &self.parts {
            file.write_all_at(part, *at)?;
        }
        Ok(())
    }
}

impl ReadAt for &Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>> {
        crate::all_of(self.read(range), range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_writes_win_and_the_rest_is_zeros() {
        let file = Sparse::zeros(10).with(2, &[1; 6]).with(4, &[2, 2]).with(9, &[3, 3]);
        assert_eq!(file.read(ByteRange { start: 0, end: 99 }), [0, 0, 1, 1, 2, 2, 1, 1, 0, 3, 3]);
        assert_eq!(file.clone().cut(5).read(ByteRange { start: 1, end: 5 }), [0, 1, 1, 2]);
        let dir = std::env::temp_dir().join(format!("sparse-{}", std::process::id()));
        file.write_to(&dir).unwrap();
        assert_eq!(std::fs::read(&dir).unwrap(), file.read(ByteRange { start: 0, end: 11 }));
        std::fs::remove_file(dir).unwrap();
    }
}
