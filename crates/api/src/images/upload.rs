//! Bytes into an image's record: `PUT .../file`, `PUT .../stage`, `POST .../upload`, `POST .../import`.
//!
//! Threat model: all of it is an attacker's. Nothing is looked at here but type and length; what the bytes are is for
//! the task that brings them in.

use bytes::Bytes;
use http::{Response, StatusCode};
use image_tasks_domain::transfer::PartRange;
use image_tasks_domain::uploads::{PartUrls, Uploads};
use image_tasks_domain::{Task, TaskStatus};
use serde_json::{Value, json};

use super::{json_of, media_type};
use crate::app::Call;
use crate::error::ApiError;
use crate::tasks::token_of;
use crate::{body, reply};

/// The one type of an upload's body.
pub(crate) const OCTETS: &str = "application/octet-stream";

/// Largest upload that passes the API. Lambda takes 6 MB for a request (Lambda developer guide, "Lambda quotas"), and API
/// Gateway hands bytes on in base64, four for each three.
const MAX_UPLOAD: usize = 4_400_000;

/// Largest list of an upload's parts: 10,000 of them, each with room to spare.
const MAX_LIST: usize = 2 << 20;

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
    let token = token_of(&call);
    uploads.import(&call.caller, id, &body, &call.request_id, token).await?;
    Ok(reply::empty(StatusCode::ACCEPTED))
}

/// URLs of parts: 201 where the upload begins, 200 where it goes on.
pub(crate) async fn parts(uploads: Uploads<'_>, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let urls = uploads.parts(&call.caller, id, &json_of(&call.body)?).await?;
    let status = if urls.begun { StatusCode::CREATED } else { StatusCode::OK };
    Ok(reply::json(status, &shown(&urls)))
}

pub(crate) async fn complete(
    uploads: Uploads<'_>,
    call: Call,
    id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let said = body::json(&call.body, MAX_LIST, "A request body is required")?;
    uploads.complete(&call.caller, id, &said).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn give_up(uploads: Uploads<'_>, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    uploads.give_up(&call.caller, id).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn shown(urls: &PartUrls) -> Value {
    json!({
        "upload_id": urls.upload,
        "size": urls.plan.size,
        "part_size": urls.plan.part_size,
        "part_count": urls.plan.parts(),
        "parts": urls.parts.iter().map(shown_part).collect::<Vec<_>>(),
        "expires_at": urls.expires_at,
    })
}

fn shown_part((part, url): &(PartRange, String)) -> Value {
    json!({"part_number": part.number, "offset": part.offset, "size": part.len, "url": url})
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
