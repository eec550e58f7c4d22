//! What S3 was asked, and calls that it holds or fails: `infra/local/emulator.py` is the other side.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{S3_DISTURBANCES, S3_REQUESTS, Stack};

/// The access key of every function (MiniStack's); tests and tools sign with others.
const FUNCTIONS: &str = "000000000000";

/// A request that S3 answered, or holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct S3Request {
    /// `PutObject`, `UploadPartCopy`, ...
    pub operation: String,
    /// Bucket; empty where none is named.
    pub bucket: String,
    /// Key; empty where none is named.
    pub key: String,
    /// `bucket/key` that is copied; empty where nothing is.
    pub copy_source: String,
    /// Who signed it; empty for links.
    pub access_key: String,
    /// Status; 0 while it is held.
    pub status: u16,
    /// Bytes of its body.
    pub sent: u64,
    /// Bytes of its answer's body.
    pub received: u64,
}

impl S3Request {
    /// Whether a function asked, not a test.
    #[must_use]
    pub fn is_by_function(&self) -> bool {
        self.access_key == FUNCTIONS
    }
}

/// What shall become of some calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Disturbance {
    /// Those that pass first.
    pub pass: u64,
    /// What the next ones are refused with; empty: they are held until the end of the disturbance.
    pub code: &'static str,
    /// Status of the refusal; 200 where S3 has begun to answer before it fails.
    pub status: u16,
    /// How many are refused.
    pub times: u64,
}

/// Which calls, and what becomes of them.
#[derive(Serialize)]
struct Wanted<'a> {
    operations: &'a [&'a str],
    about: &'a str,
    #[serde(flatten)]
    disturbance: Disturbance,
}

/// A disturbance, until it is dropped.
#[derive(Debug)]
pub struct Disturbed(PathBuf);

impl Drop for Disturbed {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

impl Stack {
    /// Requests to S3 so far that name this image, of every region.
    ///
    /// # Errors
    /// The log can't be read.
    pub fn s3_requests(&self, image: &str) -> io::Result<Vec<S3Request>> {
        let text = fs::read_to_string(self.coordinates().logs.join(S3_REQUESTS))?;
        // The last line may be in the making.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let about = whole.lines().filter(|line| line.contains(image));
        about.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Disturbs copies of an image's object by its id. Once for each id: S3 goes on counting.
    ///
    /// # Errors
    /// S3 can't be told.
    pub fn disturb_copies(&self, image: &str, disturbance: Disturbance) -> io::Result<Disturbed> {
        // `bucket/images/{image}/{task}`, which a map beside an image isn't.
        let about = format!("[^/]+/images/{image}/[^/.]+");
        self.disturb(image, &["CopyObject", "UploadPartCopy"], &about, disturbance)
    }

    /// Disturbs calls of these operations on what a regular expression says: `bucket/key`, of copies that of their source.
    /// Once for each name: S3 goes on counting.
    ///
    /// # Errors
    /// S3 can't be told.
    pub fn disturb(
        &self,
        name: &str,
        operations: &[&str],
        about: &str,
        disturbance: Disturbance,
    ) -> io::Result<Disturbed> {
        let directory = self.coordinates().logs.join(S3_DISTURBANCES);
        // Never seen half written.
        let (draft, path) = (directory.join(format!("{name}.draft")), directory.join(name));
        fs::write(&draft, serde_json::to_vec(&Wanted { operations, about, disturbance })?)?;
        fs::rename(&draft, &path)?;
        Ok(Disturbed(path))
    }
}
