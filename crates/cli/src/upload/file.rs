//! The file that is uploaded.
//!
//! Invariant: what is read of it is counted into the checksum as it is sent, so that the service finds out if a part and
//! its checksum differ. Whether all parts are of one state of the file, [`LocalFile::check_unchanged`] says.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc_fast::{CrcAlgorithm, Digest};

use crate::failure::Failure;

/// Bytes of one read.
pub(super) const BLOCK: usize = 256 << 10;

/// A file of this machine.
#[derive(Debug, Clone)]
pub(super) struct LocalFile {
    path: PathBuf,
    file: Arc<File>,
    metadata: Metadata,
}

impl LocalFile {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let unreadable =
            |error: io::Error| Failure::Here(format!("{} can't be read: {error}", path.display()));
        // Canonical, so that the same file is found again from another directory.
        let path = path.canonicalize().map_err(unreadable)?;
        let file = File::open(&path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Failure::Here(format!("{} is no regular file", path.display())));
        }
        if metadata.len() == 0 {
            return Err(Failure::Here(format!("{} is empty", path.display())));
        }
        Ok(Self { path, file: Arc::new(file), metadata })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// The file that now has this name is the one that was opened, and nobody wrote to it since.
    pub(super) fn check_unchanged(&self) -> Result<(), Failure> {
        let state = |metadata: &Metadata| {
            (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
        };
        match std::fs::metadata(&self.path) {
            Ok(now) if state(&now) == state(&self.metadata) => Ok(()),
            _ => {
                let told = "was changed while it was read; the same command uploads what differs";
                Err(Failure::Here(format!("{} {told}", self.path.display())))
            }
        }
    }

    /// At most so many bytes from there on, on a thread that may wait.
    pub(super) async fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = Arc::clone(&self.file);
        let read = move || {
            let mut block = vec![0; length];
            file.read_exact_at(&mut block, at).map(|()| block)
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// CRC64NVME of a range.
    pub(super) async fn crc64nvme(&self, range: Range<u64>) -> Result<u64, Failure> {
        let file = Arc::clone(&self.file);
        let read = move || {
            let (mut digest, mut block, mut at) = (checksum(), vec![0; BLOCK], range.start);
            while at < range.end {
                let length = length_of(at..range.end);
                let bytes = block.get_mut(..length).unwrap_or_default();
                file.read_exact_at(bytes, at)?;
                digest.update(bytes);
                at += length as u64;
            }
            Ok(digest.finalize())
        };
        let crc = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).and_then(|crc| crc);
        crc.map_err(|error| self.unreadable(&error))
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::Here(format!("{} can't be read: {error}", self.path.display()))
    }

    /// The format that its first and last bytes say. A raw disk says nothing, so that one has to be told.
    pub(super) fn format(&self) -> Option<&'static str> {
        let at = |offset: u64, magic: &[u8]| {
            let mut found = vec![0; magic.len()];
            self.file.read_exact_at(&mut found, offset).is_ok_and(|()| found == magic)
        };
        // Where formats say what they are: docs/formats-and-safety.md. The service looks closer.
        let footer = self.size().saturating_sub(512);
        let said = [
            ("qcow2", 0, &b"QFI\xfb"[..]),
            ("vmdk", 0, b"KDMV"),
            ("vhdx", 0, b"vhdxfile"),
            ("vhd", footer, b"conectix"),
            ("vdi", 64, b"\x7f\x10\xda\xbe"),
            ("iso", 0x8001, b"CD001"),
        ];
        said.into_iter().find(|(_, offset, magic)| at(*offset, magic)).map(|(format, ..)| format)
    }
}

/// Bytes of the next read.
pub(super) fn length_of(rest: Range<u64>) -> usize {
    usize::try_from(rest.end.saturating_sub(rest.start)).unwrap_or(BLOCK).min(BLOCK)
}

/// The checksum that S3 keeps of whole objects.
pub(super) fn checksum() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Nvme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, LocalFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let opened = LocalFile::open(file.path()).unwrap();
        (file, opened)
    }

    #[test]
    fn a_format_is_known_by_its_magic() {
        let mut iso = vec![0; 0x8001];
        iso.extend(b"CD001");
        let mut fixed = vec![7; 4096];
        fixed.extend(b"conectix");
        fixed.resize(4096 + 512, 0);
        for (bytes, format) in [
            (b"QFI\xfb\0\0\0\x03".to_vec(), Some("qcow2")),
            (b"KDMV\x01".to_vec(), Some("vmdk")),
            (iso, Some("iso")),
            (fixed, Some("vhd")),
            (vec![0; 100_000], None),
            (b"QF".to_vec(), None),
        ] {
            assert_eq!(file(&bytes).1.format(), format);
        }
    }

    #[test]
    fn a_change_is_seen() {
        let (kept, opened) = file(b"abc");
        opened.check_unchanged().unwrap();
        std::fs::write(kept.path(), b"abcd").unwrap();
        assert!(opened.check_unchanged().unwrap_err().to_string().contains("was changed while it was read"));
        std::fs::remove_file(kept.path()).unwrap();
        assert!(opened.check_unchanged().is_err());
        assert!(LocalFile::open(kept.path()).is_err());
        assert!(LocalFile::open(Path::new("/dev/null")).unwrap_err().to_string().contains("no regular file"));
        std::fs::write(kept.path(), b"").unwrap();
        assert!(LocalFile::open(kept.path()).unwrap_err().to_string().contains("is empty"));
    }

    #[tokio::test]
    async fn a_range_has_the_checksum_of_its_bytes() {
        let bytes: Vec<u8> = (0..=250).cycle().take(2 * BLOCK + 100).collect();
        let (_kept, opened) = file(&bytes);
        let range = 10..bytes.len() as u64 - 5;
        let mut expected = checksum();
        expected.update(&bytes[10..bytes.len() - 5]);
        assert_eq!(opened.crc64nvme(range).await.unwrap(), expected.finalize());
        assert!(opened.crc64nvme(0..bytes.len() as u64 + 1).await.is_err());
        assert_eq!(opened.read(3, 4).await.unwrap(), bytes[3..7]);
    }
}
