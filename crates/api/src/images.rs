//! `/v2/images`, what is read of it: decode, one use case, encode.

use bytes::Bytes;
use http::header::LOCATION;
use http::{Response, StatusCode};
use image_tasks_domain::Image;
use image_tasks_domain::images::Images;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app::Call;
use crate::error::ApiError;
use crate::page::fitting;
use crate::reply;

const PATH: &str = "/v2/images";

pub(crate) async fn list(images: &Images, call: Call) -> Result<Response<Bytes>, ApiError> {
    let limit = call.query.limit()?;
    let page = images.list(&call.caller, limit, call.query.get("marker").map(str::to_owned)).await?;
    let images = fitting(page.images.iter().map(shown));
    let more = page.more || images.len() < page.images.len();
    let last = images.len().checked_sub(1).and_then(|last| page.images.get(last));
    let next = last.filter(|_| more).map(|last| last.id.to_string());
    let body = ImageList {
        images,
        first: call.query.link(PATH, None),
        next: next.map(|marker| call.query.link(PATH, Some(&marker))),
        schema: "/v2/schemas/images",
    };
    Ok(reply::json(StatusCode::OK, &body))
}

pub(crate) async fn get(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    Ok(reply::json(StatusCode::OK, &shown(&images.get(&call.caller, id).await?)))
}

/// An answer through API Gateway holds 6 MB, so the bytes come from where they lie.
pub(crate) async fn file(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let Some(url) = images.download_url(&call.caller, id).await? else {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    };
    let mut response = reply::empty(StatusCode::FOUND);
    reply::set(&mut response, LOCATION, &url);
    Ok(response)
}

/// An image as Images v2 shows it: nulls shown, extra properties beside the attributes.
/// An attribute always wins over a property of its name.
fn shown(image: &Image) -> Value {
    let path = format!("{PATH}/{}", image.id);
    let mut members: Map<String, Value> =
        image.properties.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let attributes = json!({
        "name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "visibility": image.visibility,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "status": image.status,
        "checksum": image.checksum,
        "protected": image.protected,
        "min_ram": image.min_ram,
        "min_disk": image.min_disk,
        "owner": image.owner,
        "os_hidden": image.os_hidden,
        "os_hash_algo": image.os_hash_algo,
        "os_hash_value": image.os_hash_value,
        "id": image.id,
        "created_at": image.created_at,
        "updated_at": image.updated_at,
        "tags": image.tags,
        "self": path,
        "file": format!("{path}/file"),
        "schema": "/v2/schemas/image",
    });
    if let Value::Object(attributes) = attributes {
        members.extend(attributes);
    }
    Value::Object(members)
}

/// A page.
#[derive(Serialize)]
struct ImageList {
    images: Vec<Value>,
    first: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    schema: &'static str,
}
