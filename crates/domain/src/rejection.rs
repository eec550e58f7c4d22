//! Why a use case gives no result, in two texts: what the caller reads, and
//! (as `source` of a [`StoreError`]) what the operator reads.

use crate::input::InvalidInput;
use crate::ports::StoreError;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// A parameter can't be taken.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The caller may not do that; the sentence says what.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing, or the caller may not know of it.
    #[error("Could not find {kind} {id}")]
    NotFound {
        /// `task` or `image`.
        kind: &'static str,
        /// As the caller wrote it.
        id: String,
    },
    /// Something that exists is in the way; the sentence says what.
    #[error("{0}")]
    Conflict(String),
    /// More than is kept; the sentence says of what.
    #[error("{0}")]
    TooMuch(String),
    /// A store gave no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Result of a use case.
pub type Answer<T> = Result<T, Rejection>;
