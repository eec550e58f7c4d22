//! Bytes into an image's record: `PUT .../file`, `PUT .../stage`, `POST .../import`.
//!
//! Threat model: all of it is an attacker's. Nothing is looked at here but type and length; what the bytes are is for
//! the task that brings them in.

use bytes::Bytes;
use http::{Response, StatusCode};
use image_tasks_domain::uploads::Uploads;
use image_tasks_domain::{Task, TaskStatus};

use super::{json_of, media_type};
use crate::app::Call;
use crate::error::ApiError;
use crate::reply;

/// The one type of an upload's body.
pub(crate) const OCTETS: &str = "application/octet-stream";

/// Largest upload that passes the API. Lambda takes 6 MB for a request (Lambda developer guide, "Lambda quotas"), and API
/// Gateway hands bytes on in base64, four for each three.
const MAX_UPLOAD: usize = 4_400_000;

pub(crate) async fn stage(
    uploads: Uploads<'_>,
    mut call: Call,
    id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let bytes = octets(&mut call)?;
    uploads.stage(&call.caller, id, bytes).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Answers once the image is active, or is without bytes again; where that takes longer it is still being imported.
pub(crate) async fn file(
    uploads: Uploads<'_>,
    mut call: Call,
    id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let bytes = octets(&mut call)?;
    let task = uploads.upload(&call.caller, id, bytes, &call.request_id).await?;
    match uploads.ended(task.id).await? {
        Some(Task { status: TaskStatus::Failure, message, .. }) => Err(ApiError::BadBody(message)),
        _ => Ok(reply::empty(StatusCode::NO_CONTENT)),
    }
}

pub(crate) async fn import(uploads: Uploads<'_>, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let body = json_of(&call.body)?;
    uploads.import(&call.caller, id, &body, &call.request_id).await?;
    Ok(reply::empty(StatusCode::ACCEPTED))
}

fn octets(call: &mut Call) -> Result<Vec<u8>, ApiError> {
    let media = media_type(call);
    if !media.eq_ignore_ascii_case(OCTETS) {
        return Err(ApiError::UnsupportedMedia { found: media.to_owned(), accepted: OCTETS });
    }
    if call.body.len() > MAX_UPLOAD {
        return Err(ApiError::UploadTooLarge { size: call.body.len(), most: MAX_UPLOAD });
    }
    Ok(std::mem::take(&mut call.body).into())
}
