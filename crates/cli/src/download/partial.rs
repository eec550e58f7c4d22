//! What an unfinished download has: `FILE.partial`, and beside it what of that is there.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Wanted;
use super::verify::{self, Expected};
use crate::failure::Failure;

/// The least of a part: what a broken connection costs.
const LEAST_PART: u64 = 8 << 20;
/// So many parts at most, so that the list of those that are there stays small.
const MOST_PARTS: u64 = 4096;

/// An unfinished download. The file is locked while this lives.
pub(super) struct Partial {
    path: PathBuf,
    file: Arc<File>,
    state: State,
}

/// What `FILE.partial.json` says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct State {
    image: String,
    size: u64,
    hash: String,
    part: u64,
    /// Of the bytes, once the first have come.
    etag: Option<String>,
    done: BTreeSet<u64>,
}

/// Where an unfinished download of that file is.
pub(super) fn path_of(file: &Path) -> PathBuf {
    beside(file, ".partial")
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(end);
    path.into()
}

impl Partial {
    /// The one that is there, if it is of these bytes, or else an empty one.
    pub(super) fn open(file: &Path, wanted: &Wanted) -> Result<Self, Failure> {
        let path = path_of(file);
        let unusable = |error: io::Error| Failure::Here(format!("{} can't be used: {error}", path.display()));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(unusable)?;
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Here(format!("another download writes {}", path.display())));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let part = LEAST_PART.max(wanted.size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let fresh = State {
            image: wanted.image.clone(),
            size: wanted.size,
            hash: wanted.expected.to_string(),
            part,
            etag: None,
            done: BTreeSet::new(),
        };
        let read = std::fs::read(beside(&path, ".json")).ok();
        let before: Option<State> = read.and_then(|text| serde_json::from_slice(&text).ok());
        let is_whole = opened.metadata().map_err(unusable)?.len() == wanted.size;
        let state = match before {
            Some(before) if is_whole && before.is_of_the_same_bytes(&fresh) => before,
            _ => fresh,
        };
        // At its full length from the start: a disk that is too full says so now, where its file system can.
        opened.set_len(wanted.size).map_err(unusable)?;
        Ok(Self { path, file: Arc::new(opened), state })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn etag(&self) -> Option<&str> {
        self.state.etag.as_deref()
    }

    pub(super) fn set_etag(&mut self, etag: Option<String>) {
        self.state.etag = etag;
    }

    /// Parts that are yet to come, by their numbers.
    pub(super) fn missing(&self) -> Vec<(u64, Range<u64>)> {
        let parts = 0..self.state.size.div_ceil(self.state.part);
        parts.filter(|n| !self.state.done.contains(n)).map(|n| (n, self.state.range(n))).collect()
    }

    /// Bytes that are there.
    pub(super) fn done_bytes(&self) -> u64 {
        self.state.done.iter().map(|n| self.state.range(*n)).map(|range| range.end - range.start).sum()
    }

    /// A part is there. Where the machine stops before its bytes are on the disk, the hash will tell.
    pub(super) fn finish(&mut self, part: u64) -> Result<(), Failure> {
        self.state.done.insert(part);
        let (path, next) = (beside(&self.path, ".json"), beside(&self.path, ".json.next"));
        let text = serde_json::to_vec(&self.state).unwrap_or_default();
        std::fs::write(&next, text)
            .and_then(|()| std::fs::rename(&next, &path))
            .map_err(|error| Failure::Here(format!("{} can't be written: {error}", path.display())))
    }

    /// Whether the bytes are the image's, as far as that can be told.
    pub(super) async fn verify(&self, expected: &Expected) -> Result<bool, Failure> {
        let (path, expected) = (self.path.clone(), expected.clone());
        let verified = tokio::task::spawn_blocking(move || verify::holds(&path, &expected)).await;
        let verified = verified.map_err(io::Error::other).and_then(|verified| verified);
        verified.map_err(|error| Failure::Here(format!("{} can't be read: {error}", self.path.display())))
    }

    /// Gives the file its final name.
    pub(super) fn publish(self, file: &Path) -> Result<(), Failure> {
        self.file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.path, file))
            .map_err(|error| Failure::Here(format!("{} can't be written: {error}", file.display())))?;
        self.forget()
    }

    /// Takes all of it away.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.path)
            .map_err(|error| Failure::Here(format!("{} can't be removed: {error}", self.path.display())))?;
        self.forget()
    }

    fn forget(&self) -> Result<(), Failure> {
        let path = beside(&self.path, ".json");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::Here(format!("{} can't be removed: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

impl State {
    fn is_of_the_same_bytes(&self, other: &Self) -> bool {
        let of = |state: &Self| (state.image.clone(), state.size, state.hash.clone(), state.part);
        of(self) == of(other)
    }

    fn range(&self, part: u64) -> Range<u64> {
        let start = part * self.part;
        start..(start + self.part).min(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(size: u64, hash: &str) -> Wanted {
        Wanted { image: "i".to_owned(), size, expected: Expected::Sha512(hash.to_owned()) }
    }

    #[test]
    fn only_the_same_bytes_are_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk");
        let size = 2 * LEAST_PART + 1;
        let mut partial = Partial::open(&file, &wanted(size, "a")).unwrap();
        assert_eq!(partial.missing().len(), 3);
        assert!(Partial::open(&file, &wanted(size, "a")).is_err(), "two write one file");
        partial.set_etag(Some("\"e\"".to_owned()));
        partial.finish(2).unwrap();
        drop(partial);
        let again = Partial::open(&file, &wanted(size, "a")).unwrap();
        assert_eq!(again.missing(), [(0, 0..LEAST_PART), (1, LEAST_PART..2 * LEAST_PART)]);
        assert_eq!((again.done_bytes(), again.etag()), (1, Some("\"e\"")));
        drop(again);
        for other in [wanted(size, "b"), wanted(size + 1, "a")] {
            let fresh = Partial::open(&file, &other).unwrap();
            assert_eq!((fresh.done_bytes(), fresh.etag()), (0, None));
        }
    }

    #[test]
    fn a_large_image_has_large_parts() {
        let directory = tempfile::tempdir().unwrap();
        for (size, parts) in [(0, 0), (1, 1), (LEAST_PART, 1), (LEAST_PART + 1, 2)] {
            let partial = Partial::open(&directory.path().join(size.to_string()), &wanted(size, "")).unwrap();
            assert_eq!(partial.missing().len(), parts, "{size}");
        }
        let partial = Partial::open(&directory.path().join("large"), &wanted(1 << 40, "")).unwrap();
        let missing = partial.missing();
        assert_eq!(missing.last().unwrap().1.end, 1 << 40);
        assert!(missing.len() <= 4096, "{}", missing.len());
    }
}
