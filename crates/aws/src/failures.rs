//! What an SDK's error means to a caller.
//!
//! Goal: one place that tells faults that pass (throttling, broken connections,
//! 5xx) from those that don't, by the stable error codes of AWS. What passes is
//! tried again by the SDK where it can send the call again, then by the flows
//! (`image_tasks_flows::retry`), then by the state machine.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use image_tasks_domain::ports::StoreError;

/// Codes by which AWS services say "later" with a 4xx, or inside a 200 (DynamoDB developer guide, "Error handling"; S3
/// and Step Functions API references, "Error responses"; of a 200: S3 API reference, `CopyObject`, `UploadPartCopy` and
/// `CompleteMultipartUpload`).
const LATER: &[&str] = &[
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "Throttling",
    "TransactionConflictException",
    "TransactionInProgressException",
    "ExecutionLimitExceeded",
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "RequestTimeoutException",
    "RequestTimeTooSkewed",
];

/// Whether the same call may succeed later.
pub(crate) fn passes<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => true,
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            status >= 500 || status == 429 || service.err().code().is_some_and(is_later)
        }
        // Construction failures, and whatever the SDK may add.
        _ => false,
    }
}

/// Whether an error of that code may pass.
pub(crate) fn is_later(code: &str) -> bool {
    LATER.contains(&code)
}

/// The whole chain of causes in one line, for operators.
pub(crate) fn chain<E: std::error::Error + 'static>(error: &E) -> String {
    DisplayErrorContext(error).to_string()
}

/// An SDK's error that is written with all its causes.
#[derive(Debug)]
struct WithCauses<E>(E);

impl<E: std::error::Error + 'static> std::fmt::Display for WithCauses<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        DisplayErrorContext(&self.0).fmt(f)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for WithCauses<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// An error of DynamoDB or Step Functions as the domain sees it.
pub(crate) fn store_error<E>(error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    if error.code() == Some("ConditionalCheckFailedException") {
        return StoreError::Conflict;
    }
    let passes = passes(&error);
    let error = Box::new(WithCauses(error));
    if passes { StoreError::Unavailable(error) } else { StoreError::Fault(error) }
}
