//! The one place where errors become HTTP, without a `_` arm: a new kind of
//! error doesn't compile until its status is decided here.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use image_tasks_domain::InvalidInput;
use image_tasks_domain::ports::StoreError;
use image_tasks_domain::rejection::Rejection;
use serde_json::json;

use crate::reply;
use crate::router::Route;

/// Media types of a change of an image.
pub(crate) const PATCHES: &str =
    "application/openstack-images-v2.0-json-patch, application/openstack-images-v2.1-json-patch";

/// Why a request has no other answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("The request requires user authentication")]
    Unauthenticated { challenge: String },
    #[error("{0}")]
    BadBody(String),
    #[error("The request body has {size} bytes; at most {most} are taken")]
    BodyTooLarge { size: usize, most: usize },
    #[error(
        "An upload has at most {most} bytes here, this one has {size}. A larger image is uploaded in parts, which POST \
             .../upload begins; or imported from where it lies, by POST .../import with the method web-download or a \
             task of type import"
    )]
    UploadTooLarge { size: usize, most: usize },
    #[error("Content-Type must be {accepted}, not '{found}'")]
    UnsupportedMedia { found: String, accepted: &'static str },
    #[error("There is nothing at {0}")]
    NoSuchPath(String),
    #[error("{method} is not allowed here; allowed is {allow}{instead}")]
    MethodNotAllowed { method: http::Method, allow: &'static str, instead: &'static str },
    #[error("it can't be told who calls")]
    UnknownCaller(#[source] Arc<StoreError>),
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl From<Arc<StoreError>> for ApiError {
    fn from(identity: Arc<StoreError>) -> Self {
        Self::UnknownCaller(identity)
    }
}

impl From<InvalidInput> for ApiError {
    fn from(invalid: InvalidInput) -> Self {
        Self::Rejected(invalid.into())
    }
}

fn status_of(store: &StoreError) -> StatusCode {
    match store {
        StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        // A use case that can meet a Conflict turns it into words of its own.
        StoreError::Conflict | StoreError::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    /// A method that isn't taken there.
    pub(crate) fn not_allowed(route: Route<'_>, method: http::Method) -> Self {
        let instead = route.instead(&method);
        Self::MethodNotAllowed { method, allow: route.allow(), instead }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::BadBody(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } | Self::UploadTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoSuchPath(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnknownCaller(identity) => status_of(identity),
            Self::Rejected(rejection) => match rejection {
                Rejection::Invalid(_) => StatusCode::BAD_REQUEST,
                Rejection::Forbidden(_) => StatusCode::FORBIDDEN,
                Rejection::NotFound { .. } => StatusCode::NOT_FOUND,
                Rejection::Conflict(_) => StatusCode::CONFLICT,
                Rejection::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                Rejection::Store(store) => status_of(store),
            },
        }
    }

    /// What the caller reads. What the operator reads is the error itself, in the log.
    fn told(&self, status: StatusCode, request_id: &str) -> String {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                format!("The service is overloaded or out of reach; try again later (request {request_id})")
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                format!("A fault of the service; tell its operator the request: {request_id}")
            }
            _ => self.to_string(),
        }
    }

    /// The answer.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Bytes> {
        let status = self.status();
        if status.is_server_error() {
            let causes: Vec<String> =
                std::iter::successors(Some(&self as &dyn std::error::Error), |e| e.source())
                    .map(ToString::to_string)
                    .collect();
            tracing::error!(status = status.as_u16(), error = causes.join(": "), "request failed");
        } else {
            tracing::debug!(status = status.as_u16(), error = %self, "request refused");
        }
        let title = status.canonical_reason().unwrap_or_default();
        // Inside `error`, since python-glanceclient looks for messages in the members of the body and breaks on a text.
        let body = json!({"error": {
            "message": self.told(status, request_id),
            "code": format!("{} {title}", status.as_u16()),
            "title": title,
        }});
        let mut response = reply::json(status, &body);
        if let Some((name, value)) = self.header() {
            reply::set(&mut response, name, &value);
        }
        response
    }

    fn header(&self) -> Option<(HeaderName, Cow<'static, str>)> {
        let (name, value): (_, Cow<'static, str>) = match self {
            Self::Unauthenticated { challenge } => (WWW_AUTHENTICATE, challenge.clone().into()),
            Self::MethodNotAllowed { allow, .. } => (ALLOW, (*allow).into()),
            Self::Rejected(Rejection::Store(StoreError::Unavailable(_))) => (RETRY_AFTER, "1".into()),
            Self::UnknownCaller(identity) if matches!(**identity, StoreError::Unavailable(_)) => {
                (RETRY_AFTER, "5".into())
            }
            Self::UnsupportedMedia { accepted: PATCHES, .. } => {
                (HeaderName::from_static("accept-patch"), PATCHES.into())
            }
            Self::BadBody(_)
            | Self::BodyTooLarge { .. }
            | Self::UploadTooLarge { .. }
            | Self::UnsupportedMedia { .. }
            | Self::NoSuchPath(_)
            | Self::UnknownCaller(_)
            | Self::Rejected(_) => return None,
        };
        Some((name, value))
    }
}
