//! A failure as the Lambda runtime reports it.

use image_tasks_domain::Failure;
use lambda_runtime::Diagnostic;

/// The failure with its code as `errorType`: what `Retry` and `Catch` match. Left to itself the runtime gives
/// the name of a Rust type.
pub fn diagnostic(failure: Failure) -> Diagnostic {
    Diagnostic { error_type: failure.code.name().to_owned(), error_message: failure.message }
}
