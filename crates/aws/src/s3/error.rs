//! What S3's errors mean, by code and status (S3 API reference, "Error responses").

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use image_tasks_flows::ports::{ObjectError, Said};

use crate::failures::passes;

/// An SDK error as the flows see it. `what` names call and object.
pub(super) fn object_error<E>(error: SdkError<E, HttpResponse>, what: &str) -> ObjectError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().unwrap_or_default();
    let (code, passes) = (code.to_owned(), passes(&error));
    classify(&code, status, passes, Said::of(what, error))
}

fn classify(code: &str, status: Option<u16>, passes: bool, said: Said) -> ObjectError {
    match (code, status) {
        _ if passes => ObjectError::Transient(said),
        ("OperationAborted", _) => ObjectError::Transient(said),
        ("ConditionalRequestConflict", _) => ObjectError::Conflict(said),
        ("BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch", _) => {
            ObjectError::Checksum(said)
        }
        ("PreconditionFailed" | "InvalidRange", _) | (_, Some(412 | 416)) => ObjectError::Precondition(said),
        // S3 user guide, "Request routing": a bucket answers so in any region but its own.
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
        | (_, Some(301 | 307)) => ObjectError::Elsewhere(said),
        // By code too: an error inside a 200 has no other status.
        ("NoSuchKey" | "NoSuchUpload" | "NoSuchBucket", _) | (_, Some(404)) => ObjectError::NotFound(said),
        ("AccessDenied", _) | (_, Some(401 | 403)) => ObjectError::Denied(said),
        _ => ObjectError::Fault(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_mean_this() {
        let kind = |code, status, passes| match classify(code, status, passes, "".into()) {
            ObjectError::NotFound(_) => "not found",
            ObjectError::Precondition(_) => "precondition",
            ObjectError::Denied(_) => "denied",
            ObjectError::Checksum(_) => "checksum",
            ObjectError::Transient(_) => "transient",
            ObjectError::Conflict(_) => "conflict",
            ObjectError::Body(_) => "body",
            ObjectError::Elsewhere(_) => "elsewhere",
            ObjectError::Fault(_) => "fault",
        };
        for (code, status, passes, expected) in [
            ("NoSuchKey", Some(404), false, "not found"),
            ("NoSuchUpload", Some(404), false, "not found"),
            ("NoSuchBucket", Some(404), false, "not found"),
            ("NotFound", Some(404), false, "not found"),
            ("PreconditionFailed", Some(412), false, "precondition"),
            ("", Some(412), false, "precondition"),
            ("InvalidRange", Some(416), false, "precondition"),
            ("AccessDenied", Some(403), false, "denied"),
            ("", Some(403), false, "denied"),
            ("BadDigest", Some(400), false, "checksum"),
            ("XAmzContentChecksumMismatch", Some(400), false, "checksum"),
            ("ConditionalRequestConflict", Some(409), false, "conflict"),
            ("OperationAborted", Some(409), false, "transient"),
            ("NoSuchUpload", Some(200), false, "not found"),
            ("NoSuchKey", Some(200), false, "not found"),
            ("AccessDenied", Some(200), false, "denied"),
            ("PreconditionFailed", Some(200), false, "precondition"),
            ("InternalError", Some(200), true, "transient"),
            ("SlowDown", Some(503), true, "transient"),
            ("RequestTimeTooSkewed", Some(403), true, "transient"),
            ("", None, true, "transient"),
            ("PermanentRedirect", Some(301), false, "elsewhere"),
            ("", Some(301), false, "elsewhere"),
            ("AuthorizationHeaderMalformed", Some(400), false, "elsewhere"),
            ("InvalidPart", Some(400), false, "fault"),
            ("EntityTooSmall", Some(400), false, "fault"),
            ("", None, false, "fault"),
        ] {
            assert_eq!(kind(code, status, passes), expected, "{code} {status:?}");
        }
    }
}
