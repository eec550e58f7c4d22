//! What an upload has done: a line for each step, below the user's state directory (XDG), not beside the file, which may
//! lie where nothing can be written.
//!
//! Invariants:
//! - One command at a time goes on with an upload: its file is locked.
//! - A line that was torn when the machine stopped, and what follows it, counts as not written.
//! - No URL and no credential is kept.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::failure::Failure;

/// A step that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// This image gets the bytes.
    Image { id: String },
    /// An upload was begun. Parts before it don't count.
    Begun(Begun),
    /// A part is there.
    Part { number: u32, etag: String, crc64nvme: u64 },
}

/// An upload, as the service cut it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) upload_id: String,
    pub(super) size: u64,
    pub(super) part_size: u64,
}

/// A part that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) etag: String,
    pub(super) crc64nvme: u64,
}

/// The steps so far.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    file: File,
    pub(super) image: Option<String>,
    pub(super) upload: Option<Begun>,
    pub(super) sent: BTreeMap<u32, Sent>,
}

/// Where states of uploads are.
pub(super) fn directory(environment: &Environment) -> Result<PathBuf, Failure> {
    // The XDG specification ignores a path that isn't absolute.
    let said = environment.get("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || environment.get("HOME").map(|home| Path::new(home).join(".local/state"));
    let state = said.or_else(home).ok_or_else(|| {
        Failure::Usage("set HOME or XDG_STATE_HOME: what an upload has done is kept there".to_owned())
    })?;
    Ok(state.join("image-tasks/uploads"))
}

impl State {
    /// The steps of the upload of that key, none where there is no such upload.
    pub(super) fn open(directory: &Path, key: &str) -> Result<Self, Failure> {
        let path = directory.join(format!("{key}.jsonl"));
        let unusable = |error: io::Error| Failure::Here(format!("{} can't be used: {error}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Here("another command uploads this file to the same place".to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(unusable)?;
        let mut state = Self { path: path.clone(), file, image: None, upload: None, sent: BTreeMap::new() };
        let mut good = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            let Ok(step) = serde_json::from_slice(line) else { break };
            state.apply(step);
            good += line.len() as u64;
        }
        state.file.set_len(good).and_then(|()| state.file.seek(SeekFrom::Start(good))).map_err(unusable)?;
        Ok(state)
    }

    /// Keeps a step.
    pub(super) fn write(&mut self, step: Line) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(&step).unwrap_or_default();
        line.push(b'\n');
        self.file.write_all(&line).map_err(|error| self.unwritable(&error))?;
        self.apply(step);
        Ok(())
    }

    /// Forgets all steps.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        (self.image, self.upload) = (None, None);
        self.sent.clear();
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map(drop).map_err(|error| self.unwritable(&error))
    }

    /// Forgets the upload, but not which image gets the bytes.
    pub(super) fn clear_upload(&mut self) -> Result<(), Failure> {
        let image = self.image.clone();
        self.clear()?;
        image.map_or(Ok(()), |id| self.write(Line::Image { id }))
    }

    /// Takes it away: the upload is over.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.path)
            .map_err(|error| Failure::Here(format!("{} can't be removed: {error}", self.path.display())))
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        Failure::Here(format!("{} can't be written: {error}", self.path.display()))
    }

    fn apply(&mut self, step: Line) {
        match step {
            Line::Image { id } => self.image = Some(id),
            Line::Begun(begun) => {
                self.upload = Some(begun);
                self.sent.clear();
            }
            Line::Part { number, etag, crc64nvme } => {
                self.sent.insert(number, Sent { etag, crc64nvme });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32) -> Line {
        Line::Part { number, etag: format!("\"{number}\""), crc64nvme: u64::MAX }
    }

    #[test]
    fn steps_are_there_again_but_for_a_torn_one() {
        let directory = tempfile::tempdir().unwrap();
        let open = || State::open(&directory.path().join("uploads"), "key");
        let mut state = open().unwrap();
        assert!(open().unwrap_err().to_string().contains("another command"));
        let begun = Begun { upload_id: "u".to_owned(), size: 10, part_size: 4 };
        for step in
            [Line::Image { id: "i".to_owned() }, part(3), Line::Begun(begun.clone()), part(1), part(2)]
        {
            state.write(step).unwrap();
        }
        let path = state.path.clone();
        drop(state);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        let mut again = open().unwrap();
        assert_eq!((again.image.as_deref(), again.upload.as_ref()), (Some("i"), Some(&begun)));
        assert_eq!(again.sent.keys().copied().collect::<Vec<_>>(), [1], "part 3 was of an earlier upload");
        again.write(part(3)).unwrap();
        drop(again);
        let mut again = open().unwrap();
        assert_eq!(again.sent[&3], Sent { etag: "\"3\"".to_owned(), crc64nvme: u64::MAX });
        again.clear().unwrap();
        drop(again);
        let again = open().unwrap();
        assert_eq!((&again.image, &again.upload, again.sent.len()), (&None, &None, 0));
        again.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn states_are_where_the_user_keeps_states() {
        let of = |variables: &[(&str, &str)]| directory(&Environment::of(variables)).ok();
        let home = PathBuf::from("/home/a/.local/state/image-tasks/uploads");
        assert_eq!(of(&[("HOME", "/home/a")]), Some(home.clone()));
        assert_eq!(of(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "relative")]), Some(home));
        let state = PathBuf::from("/state/image-tasks/uploads");
        assert_eq!(of(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/state")]), Some(state));
        assert_eq!(of(&[]), None);
    }
}
