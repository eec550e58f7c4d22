//! Why an image can't be read (yet).
//!
//! Goal: a refusal a user can act on, with a code that never changes.

use crate::regions::ByteRange;

/// Result of a parser's step.
pub type Result<T> = std::result::Result<T, Error>;

/// What stopped a parser.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// These bytes of the file are needed first: fetch them, add them to the
    /// [`Regions`](crate::Regions), call again. Never empty, never past the end of the file.
    #[error("{} range(s) of the file are needed first", .0.len())]
    Need(Vec<ByteRange>),
    /// The image will not be taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Refusal {
    /// The sentence, with what to do: its own advice, which follows a semicolon, or the code's.
    pub fn advice(&self) -> String {
        if self.message.contains("; ") {
            return self.message.clone();
        }
        format!("{}; {}", self.message, self.code.remedy())
    }
}

impl Error {
    /// A refusal with a code and a sentence that says what and where.
    pub fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused(Refusal { code, message: message.into() })
    }
}

/// What a part of a file says of itself, said of the file: the part begins at `base` and is called `name`.
pub(crate) fn of_part<T>(result: Result<T>, base: u64, name: &str) -> Result<T> {
    result.map_err(|error| match error {
        Error::Need(ranges) => Error::Need(
            ranges.into_iter().map(|r| ByteRange { start: base + r.start, end: base + r.end }).collect(),
        ),
        Error::Refused(Refusal { code, message }) => {
            Error::refused(code, format!("in the archive, \"{}\": {message}", name.escape_default()))
        }
    })
}

/// An image that will not be taken: a stable code and what is wrong, where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Stable name of the reason.
    pub code: Code,
    /// A sentence for the image's owner: what was found, at which offset or field.
    pub message: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Stable names of refusals; the first word of a failed task's message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, for tables and tests.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The name as users and state machines see it.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)* }
            }
        }

        impl std::fmt::Display for Code {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.name()) }
        }
    };
}

impl Code {
    /// What the image's owner can do where the refusal's own sentence doesn't say it, in the imperative.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::UnknownFormat => "if it is a raw disk, say import_from_format \"raw\"",
            Self::UnsupportedFormat | Self::UnsupportedFeature | Self::ExternalData | Self::TableTooLarge => {
                "convert it (qemu-img convert -O qcow2) and send that"
            }
            Self::FormatMismatch => "correct import_from_format, or leave it out",
            Self::Polyglot => "make the image anew from the disk that is meant and send that",
            Self::BackingFile => {
                "write the whole disk into one file where the other file is (qemu-img convert -O qcow2) and send that"
            }
            Self::Encrypted => "decrypt it and send what is inside",
            Self::Corrupt => {
                "shut down what uses it, repair it (qemu-img check -r all for a qcow2) and send it again"
            }
            Self::BadHeader | Self::BadTable => {
                "if other programs read it, convert it (qemu-img convert -O qcow2) and send that, else fetch it again"
            }
            Self::OutOfBounds | Self::Truncated => {
                "compare its size with the original's and fetch it again, as its end may be missing"
            }
            Self::TooLarge => "make the disk smaller, or ask the operator to raise MaxImageBytes",
            Self::UnsafeName => {
                "flatten a qcow2 (qemu-img convert -O qcow2), pack an archive anew with plain file names"
            }
            Self::BadData => "test it where it comes from (qemu-img check, gzip -t) and fetch it again",
            Self::BadArchive => {
                "pack it anew as a plain tar with one .ovf file, or take the disk out of it (tar -xf) and send that"
            }
            Self::BadMap => "tell the operator",
        }
    }
}

codes! {
    /// No signature matches and raw was not declared or not allowed.
    UnknownFormat,
    /// A format that is recognised and never taken (QED, LUKS, Parallels, DMG, ...).
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
    /// The image is marked corrupt or dirty, or has a log to replay.
    Corrupt,
    /// A feature or version this reader does not know.
    UnsupportedFeature,
    /// A header field holds a value the format does not allow.
    BadHeader,
    /// A table or its entries contradict the format (overlap, loop, bad alignment).
    BadTable,
    /// An offset or length points outside the file.
    OutOfBounds,
    /// The file ends before the data it says it holds.
    Truncated,
    /// Virtual size beyond the quota.
    TooLarge,
    /// A table larger than any honest image needs.
    TableTooLarge,
    /// A name inside the image tries a trick (`json:`, a path, a protocol).
    UnsafeName,
    /// Stored bytes can't be decoded, or decode to another length.
    BadData,
    /// An archive whose members can't be taken as one disk.
    BadArchive,
    /// A range map or allocation map of our own is damaged.
    BadMap,
}
