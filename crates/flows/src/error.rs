//! What ends a phase early, and the one place where errors become failure codes.
//!
//! A phase's error is a [`Failure`]: its code is the `errorType` that the state machine matches, its message the sentence that
//! the user reads. What operators need beside it is logged here, where the port's error is still whole.

use disk_image::{Error, Refusal};
use image_tasks_domain::ports::StoreError;
use image_tasks_domain::{Failure, FailureCode};

use crate::ports::ObjectError;
use crate::sink::upload::contended;

/// Why a step of a phase did not end as planned.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed; a transient fault is the source's.
    Failed(Failure),
    /// A store of ours was out of reach, which may pass.
    Store(Failure),
    /// The task, or what was made for it, is gone: somebody else has ended it.
    Ended,
}

/// Result of a phase's step.
pub(crate) type Flow<T> = Result<T, Stop>;

impl Stop {
    /// A failure of ours. The request id is added where the task is failed.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        Self::Failed(internal(what))
    }

    /// A failure of the task.
    pub(crate) fn failed(code: FailureCode, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(code, message))
    }

    /// As the failure of a body. Where something is gone, trying again finds out why.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Failed(failure) | Self::Store(failure) => failure,
            Self::Ended => Failure::transient("what the task was making is gone"),
        }
    }
}

/// A failure of ours, whose details are for the log.
pub(crate) fn internal(what: impl std::fmt::Display) -> Failure {
    tracing::error!(%what, "a fault of ours");
    Failure::new(FailureCode::Internal, "a fault in this service stopped the task")
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A refusal has the name of a failure; a map of our own that can't be read is our fault.
pub(crate) fn refused(refusal: Refusal) -> Failure {
    match FailureCode::from_name(refusal.code.name()) {
        Some(code) => Failure::new(code, refusal.advice()),
        None => internal(refusal),
    }
}

/// The failure of a parser that was given all that it asked for.
pub(crate) fn unsound(error: Error) -> Failure {
    match error {
        Error::Refused(refusal) => refused(refusal),
        Error::Need(_) => internal("a map that needs what it was given"),
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refused(refusal))
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(unsound(error))
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Ended,
            StoreError::Unavailable(source) => {
                tracing::warn!(%source, "a table is out of reach");
                Self::Store(Failure::transient("the database was out of reach"))
            }
            StoreError::Fault(source) => Self::internal(source),
        }
    }
}

impl From<ObjectError> for Stop {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotFound(what) => {
                tracing::warn!(%what, "an object or upload is gone");
                Self::Ended
            }
            ObjectError::Transient(what) => {
                tracing::warn!(%what, "the object store is out of reach");
                Self::Store(Failure::transient("the object store was out of reach"))
            }
            ObjectError::Conflict(what) => {
                tracing::warn!(%what, "another write was under way");
                contended()
            }
            ObjectError::Body(failure) => Self::Failed(failure),
            ObjectError::Checksum(what) => {
                tracing::warn!(%what, "checksum");
                Self::Store(Failure::transient("bytes were damaged on their way to the object store"))
            }
            e @ (ObjectError::Precondition(_)
            | ObjectError::Denied(_)
            | ObjectError::Elsewhere(_)
            | ObjectError::Fault(_)) => Self::internal(e),
        }
    }
}
