//! `/v2/images/{id}/members`.

use bytes::Bytes;
use http::{Response, StatusCode};
use image_tasks_domain::images::{Images, Share};
use image_tasks_domain::input::{hint, quoted, type_of};
use image_tasks_domain::{ImageId, InvalidInput, MemberStatus, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{decoded, json_of};
use crate::app::Call;
use crate::error::ApiError;
use crate::reply;

pub(crate) async fn list(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let members = images.members(&call.caller, id).await?;
    let members: Vec<_> = members.iter().map(Shown::of).collect();
    Ok(reply::json(StatusCode::OK, &json!({"members": members, "schema": "/v2/schemas/members"})))
}

pub(crate) async fn get(
    images: &Images,
    call: Call,
    id: &str,
    project: &str,
) -> Result<Response<Bytes>, ApiError> {
    Ok(shown(&images.member(&call.caller, id, &decoded(project)?).await?))
}

pub(crate) async fn create(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let project = member_of(&call.body, "member")?;
    Ok(shown(&images.share(&call.caller, id, &project).await?))
}

pub(crate) async fn update(
    images: &Images,
    call: Call,
    id: &str,
    project: &str,
) -> Result<Response<Bytes>, ApiError> {
    let name = member_of(&call.body, "status")?;
    let status = MemberStatus::from_name(&name).ok_or_else(|| {
        let names: Vec<_> = MemberStatus::ALL.iter().map(|status| status.name()).collect();
        InvalidInput::new("status", format!("must be one of {}, not {}", names.join(", "), quoted(&name)))
    })?;
    Ok(shown(&images.answer_share(&call.caller, id, &decoded(project)?, status).await?))
}

pub(crate) async fn delete(
    images: &Images,
    call: Call,
    id: &str,
    project: &str,
) -> Result<Response<Bytes>, ApiError> {
    images.unshare(&call.caller, id, &decoded(project)?).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// The text that a body's object has under that name.
fn member_of(body: &Bytes, name: &'static str) -> Result<String, ApiError> {
    match json_of(body)? {
        Value::Object(mut members) => match members.remove(name) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => {
                Err(InvalidInput::new(name, format!("must be a string, not {}", type_of(&other))).into())
            }
            None => {
                let hint = hint(members.keys().map(String::as_str), &[name], &[name]);
                Err(InvalidInput::new(name, format!("is required{hint}")).into())
            }
        },
        other => {
            let told = format!("must be a JSON object, not {}", type_of(&other));
            Err(InvalidInput::new("The request body", told).into())
        }
    }
}

fn shown(share: &Share) -> Response<Bytes> {
    reply::json(StatusCode::OK, &Shown::of(share))
}

/// A member as Images v2 shows it.
#[derive(Serialize)]
struct Shown<'a> {
    member_id: &'a str,
    image_id: ImageId,
    status: MemberStatus,
    created_at: Timestamp,
    updated_at: Timestamp,
    schema: &'static str,
}

impl<'a> Shown<'a> {
    fn of(share: &'a Share) -> Self {
        Self {
            member_id: &share.project,
            image_id: share.image,
            status: share.member.status,
            created_at: share.member.created_at,
            updated_at: share.member.updated_at,
            schema: "/v2/schemas/member",
        }
    }
}
