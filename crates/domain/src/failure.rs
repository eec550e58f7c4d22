//! Why a task failed, in words a user can act on.
//!
//! Goal: one enum names every failure that a task or a state machine can see.
//! The name is stable: it is the first word of the task's `message`, the
//! `errorType` of a Lambda's error and what ASL's `ErrorEquals` matches.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Stable name of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum FailureCode { $($(#[$doc])* $name,)* }

        impl FailureCode {
            /// Every code, for tables and tests.
            pub const ALL: &'static [FailureCode] = &[$(FailureCode::$name,)*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(FailureCode::$name => stringify!($name),)* }
            }
        }
    };
}

codes! {
    /// A passing fault (throttling, a reset connection): the only one that is retried.
    Transient,
    /// The source does not exist or its server says so.
    SourceNotFound,
    /// The source's server or bucket refuses us.
    SourceDenied,
    /// The address may not be fetched from (private, link-local, odd spelling, port).
    SourceForbidden,
    /// The source could not be reached or broke off, again and again.
    SourceUnreachable,
    /// A bucket of a region is not in that region.
    WrongRegion,
    /// The source changed while it was read.
    SourceChanged,
    /// The source answered in a way that can't be used.
    SourceInvalid,
    /// The source is larger than the quota.
    SourceTooLarge,
    /// A source without ranges that can't be read whole within one invocation.
    SourceTooSlow,
    /// The bytes stored or read don't have the checksum they should have.
    ChecksumMismatch,
    /// No signature matches.
    UnknownFormat,
    /// A format that is never taken.
    UnsupportedFormat,
    /// Found and declared formats differ.
    FormatMismatch,
    /// More than one signature matches.
    Polyglot,
    /// The image names a backing file or parent.
    BackingFile,
    /// The image keeps its data in another file.
    ExternalData,
    /// The image is encrypted.
    Encrypted,
    /// The image is marked corrupt or has a log to replay.
    Corrupt,
    /// A feature or version this reader does not know.
    UnsupportedFeature,
    /// A header field holds a value the format does not allow.
    BadHeader,
    /// A table or its entries contradict the format.
    BadTable,
    /// An offset or length points outside the file.
    OutOfBounds,
    /// The file ends before the data it says it holds.
    Truncated,
    /// Virtual size beyond the quota.
    TooLarge,
    /// A table larger than any honest image needs.
    TableTooLarge,
    /// A name inside the image tries a trick.
    UnsafeName,
    /// Stored bytes can't be decoded.
    BadData,
    /// An archive whose members can't be taken as one disk.
    BadArchive,
    /// The id asked for is another image's.
    ImageExists,
    /// The image's record doesn't wait for these bytes.
    ImageNotQueued,
    /// There is no such image, or none that the caller may see.
    ImageNotFound,
    /// Only the image's owner may have this done.
    NotOwner,
    /// The image has no bytes yet, or may not be used now.
    ImageNotActive,
    /// The receiving bucket does not exist.
    BucketNotFound,
    /// The receiving bucket is not allowed, or refuses us.
    BucketNotAllowed,
    /// An object of that name exists, or somebody else was writing it: nothing is ever overwritten.
    ObjectExists,
    /// A user asked for the task to end.
    Cancelled,
    /// The execution was stopped from outside.
    Aborted,
    /// The execution or one of its steps ran out of time.
    TimedOut,
    /// A worker died or could not be run.
    WorkerLost,
    /// Work could not be started.
    StartFailed,
    /// The cause is ours; the message carries the request id.
    Internal,
}

impl FailureCode {
    /// The code of this name, as it comes back from a state machine.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure: the code, and a sentence a user can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// Stable name.
    pub code: FailureCode,
    /// What happened, to what, and what can be done.
    pub message: String,
    /// Of a server that has too much to do: how long it asks to be left alone, zero where it doesn't say.
    pub busy: Option<Duration>,
}

impl Failure {
    /// A failure of this code with this sentence.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), busy: None }
    }

    /// A fault that may pass: the step is tried again.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Transient, message)
    }

    /// The same of a server that has too much to do, and asks to be left alone for that long.
    pub fn busy(message: impl Into<String>, for_now: Duration) -> Self {
        Self { busy: Some(for_now), ..Self::transient(message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for code in FailureCode::ALL {
            assert_eq!(FailureCode::from_name(code.name()), Some(*code));
        }
        assert_eq!(FailureCode::from_name("Nonsense"), None);
    }
}
