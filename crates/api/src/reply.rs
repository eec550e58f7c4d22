//! Answers as plain `http` values.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    // Our own types: maps have string keys and nothing fails by itself, so there is no error to tell.
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = empty(status);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = Bytes::from(text);
    response
}

/// An answer of plain text.
pub(crate) fn text(body: &'static str) -> Response<Bytes> {
    let mut response = empty(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *response.body_mut() = Bytes::from_static(body.as_bytes());
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    // Without one a gateway says JSON, and python-glanceclient then fails to read nothing as JSON.
    set(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

/// Adds a header; a value that no header can hold is left out.
pub(crate) fn set(response: &mut Response<Bytes>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
