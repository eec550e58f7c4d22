//! `/v2/images`: decode, one use case, encode.

pub(crate) mod members;
mod query;
pub(crate) mod upload;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION};
use http::{Response, StatusCode};
use image_tasks_domain::image_import::METHODS;
use image_tasks_domain::images::{Dialect, Images, Patch};
use image_tasks_domain::input::type_of;
use image_tasks_domain::{Image, ImageStatus, InvalidInput};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app::Call;
use crate::error::{self, ApiError};
use crate::page::fitting;
use crate::{body, reply, tasks};

const PATH: &str = "/v2/images";
/// Tells who makes a record how bytes come into it.
const IMPORT_METHODS: HeaderName = HeaderName::from_static("openstack-image-import-methods");

/// Largest body of a request about an image: more than a record keeps.
const MAX_BODY: usize = 1 << 20;

/// Media types of a patch, and how changes are written in each.
const PATCHES: &[(&str, Dialect)] = &[
    ("application/openstack-images-v2.1-json-patch", Dialect::V21),
    ("application/openstack-images-v2.0-json-patch", Dialect::V20),
];

pub(crate) async fn list(images: &Images, call: Call) -> Result<Response<Bytes>, ApiError> {
    let page = images.list(&call.caller, query::listing(&call.query)?).await?;
    let images = fitting(page.images.iter().map(|image| shown(image, &call.store)));
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

pub(crate) async fn create(images: &Images, call: Call) -> Result<Response<Bytes>, ApiError> {
    images.check_may_create(&call.caller)?;
    let said = json_of(&call.body)?;
    if !said.is_object() {
        let told = format!("must be a JSON object, not {}", type_of(&said));
        return Err(InvalidInput::new("The request body", told).into());
    }
    let image = images.create(&call.caller, &said).await?;
    let mut response = reply::json(StatusCode::CREATED, &shown(&image, &call.store));
    reply::set(&mut response, LOCATION, &format!("{}{PATH}/{}", call.endpoint, image.id));
    reply::set(&mut response, IMPORT_METHODS, &METHODS.join(","));
    Ok(response)
}

pub(crate) async fn get(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    Ok(reply::json(StatusCode::OK, &shown(&images.get(&call.caller, id).await?, &call.store)))
}

pub(crate) async fn patch(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let media = media_type(&call);
    let dialect = PATCHES.iter().find(|(name, _)| name.eq_ignore_ascii_case(media));
    let (_, dialect) = dialect
        .ok_or_else(|| ApiError::UnsupportedMedia { found: media.to_owned(), accepted: error::PATCHES })?;
    let patch = Patch::parse(&json_of(&call.body)?, *dialect)?;
    Ok(reply::json(StatusCode::OK, &shown(&images.patch(&call.caller, id, &patch).await?, &call.store)))
}

pub(crate) async fn delete(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    images.delete(&call.caller, id).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
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

/// The newest tasks, as many as one answer holds.
pub(crate) async fn tasks(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    let tasks = images.tasks(&call.caller, id).await?;
    Ok(reply::json(StatusCode::OK, &json!({"tasks": fitting(tasks.iter().map(tasks::shown))})))
}

pub(crate) async fn tag(
    images: &Images,
    call: Call,
    id: &str,
    tag: &str,
) -> Result<Response<Bytes>, ApiError> {
    images.tag(&call.caller, id, &decoded(tag)?).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn untag(
    images: &Images,
    call: Call,
    id: &str,
    tag: &str,
) -> Result<Response<Bytes>, ApiError> {
    images.untag(&call.caller, id, &decoded(tag)?).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn deactivate(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    images.deactivate(&call.caller, id).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn reactivate(images: &Images, call: Call, id: &str) -> Result<Response<Bytes>, ApiError> {
    images.reactivate(&call.caller, id).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// The type of a body, without parameters.
fn media_type(call: &Call) -> &str {
    let named = call.parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    named.and_then(|named| named.split(';').next()).unwrap_or_default().trim()
}

/// A part of a path that may hold any text.
fn decoded(part: &str) -> Result<String, ApiError> {
    let text = percent_decode_str(part).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| ApiError::NoSuchPath(part.to_owned()))
}

/// A body as JSON.
fn json_of(body: &Bytes) -> Result<Value, ApiError> {
    body::json(body, MAX_BODY, "A request body is required")
}

/// An image as Images v2 shows it: nulls shown, extra properties beside the attributes.
/// An attribute always wins over a property of its name. Where its bytes are, go or didn't go is told by the store's id,
/// as Glance does; waiters of its clients look there.
fn shown(image: &Image, store: &str) -> Value {
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
    let of_store = [
        ("stores", image.stored.is_some()),
        ("os_glance_importing_to_stores", image.status == ImageStatus::Importing),
        ("os_glance_failed_import", image.import_failed),
    ];
    members.extend(of_store.into_iter().filter(|(_, so)| *so).map(|(name, _)| (name.into(), json!(store))));
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
