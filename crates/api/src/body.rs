//! Bodies of requests, before anything is known of them.

use bytes::Bytes;
use serde_json::Value;

use crate::error::ApiError;

/// A body as JSON. `required` is what who sends none is told.
pub(crate) fn json(body: &Bytes, most: usize, required: &str) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::BadBody(required.to_owned()));
    }
    if body.len() > most {
        return Err(ApiError::BodyTooLarge { size: body.len(), most });
    }
    serde_json::from_slice(body)
        .map_err(|e| ApiError::BadBody(format!("The request body is not valid JSON: {e}")))
}
