//! The one policy of what is tried again, how often and after which wait.
//!
//! What may pass is a [`Failure`] with the code `Transient`, which is the source's, or a [`Stop::Store`], which is a store of
//! ours. A source that stays out of reach fails the task as `SourceUnreachable`; a store that does is left to the state
//! machine, which waits longer than one call can.

use std::future::Future;

use backon::{ExponentialBuilder, Retryable as _};
use image_tasks_domain::{Failure, FailureCode};

use crate::bounds::{FIRST_WAIT, TRIES};
use crate::error::{Flow, Stop};

/// What a step gives, tried again where its fault may pass.
pub(crate) async fn retry<T, F: Future<Output = Flow<T>>>(step: impl FnMut() -> F) -> Flow<T> {
    step.retry(policy()).when(Stop::may_pass).await.map_err(Stop::exhausted)
}

/// The same for a call of a source's server.
pub(crate) async fn retry_source<T, F: Future<Output = Result<T, Failure>>>(
    call: impl FnMut() -> F,
) -> Result<T, Failure> {
    let passes = |failure: &Failure| failure.code == FailureCode::Transient;
    call.retry(policy()).when(passes).await.map_err(unreachable_source)
}

fn policy() -> ExponentialBuilder {
    let tries = usize::try_from(TRIES).unwrap_or(usize::MAX);
    ExponentialBuilder::default().with_min_delay(FIRST_WAIT).with_factor(2.0).with_max_times(tries - 1)
}

impl Stop {
    fn may_pass(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.code == FailureCode::Transient,
            Self::Store(_) => true,
            Self::Ended => false,
        }
    }

    fn exhausted(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(unreachable_source(failure)),
            other => other,
        }
    }
}

fn unreachable_source(failure: Failure) -> Failure {
    if failure.code != FailureCode::Transient {
        return failure;
    }
    Failure::new(FailureCode::SourceUnreachable, format!("{} (tried {TRIES} times)", failure.message))
}
