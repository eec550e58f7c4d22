//! A function behind a state machine: an event in, an answer or a failure out.

use image_tasks_domain::Failure;
use image_tasks_flows::Deadline;
pub use lambda_runtime::Error;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::Value;

use crate::clock::SystemClock;

/// Answers invocations for as long as the function lives, each within its own deadline.
///
/// # Errors
/// Where the runtime's own API is out of reach.
pub async fn run<E>(handle: impl AsyncFn(E, Deadline) -> Result<Value, Failure>) -> Result<(), Error>
where
    E: TryFrom<Value, Error = Failure>,
{
    let handle = &handle;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let deadline = Deadline::of_invocation(event.context.deadline, &SystemClock);
        let event = E::try_from(event.payload).map_err(diagnostic)?;
        handle(event, deadline).await.map_err(diagnostic)
    }))
    .await
}

/// The failure with its code as `errorType`: what `Retry` and `Catch` match. Left to itself the runtime gives
/// the name of a Rust type.
fn diagnostic(failure: Failure) -> Diagnostic {
    Diagnostic { error_type: failure.code.name().to_owned(), error_message: failure.message }
}
