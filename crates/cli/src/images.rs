//! Commands about images that are there.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use crate::arguments::{ImageCommand, ImageFilter, SetImage};
use crate::failure::Failure;
use crate::output::{Output, text_of};
use crate::service::{Call, Service};

const PATCH: &str = "application/openstack-images-v2.1-json-patch";
/// Most records of a page.
const PAGE: usize = 1000;

/// `image-tasks image`.
pub(crate) async fn command(
    service: &Service,
    output: Output,
    command: &ImageCommand,
) -> Result<(), Failure> {
    match command {
        ImageCommand::List(filter) => list(service, output, filter).await,
        ImageCommand::Show { image } => output.record(&resolve(service, image).await?),
        ImageCommand::Delete { images } => {
            for image in images {
                let image = resolve(service, image).await?;
                service.ask(&Call::new(Method::DELETE, path_of(&image))).await?;
                if !output.json {
                    output.line(text_of(&image, "id"))?;
                }
            }
            Ok(())
        }
        ImageCommand::Set(change) => set(service, output, change).await,
    }
}

/// `image-tasks regions`.
pub(crate) async fn regions(service: &Service, output: Output) -> Result<(), Failure> {
    let answer = service.get("/v2/info/regions").await?;
    let regions = answer["regions"].as_array().cloned().unwrap_or_default();
    output.list(&regions, &["id", "endpoint", "here"])
}

/// The image of that id, or the one that has that name.
pub(crate) async fn resolve(service: &Service, image: &str) -> Result<Value, Failure> {
    if Uuid::try_parse(image).is_ok() {
        return service.get(&format!("/v2/images/{image}")).await;
    }
    let mut query = Serializer::new(String::new());
    // `eq:`, since a name may hold a colon.
    query.append_pair("name", &format!("eq:{image}"));
    let mut found = pages(service, "/v2/images", "images", query, Some(2)).await?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(Failure::Here(format!("no image has the name {image:?}"))),
        (Some(_), false) => Err(Failure::Here(format!("several images have the name {image:?}: give an id"))),
    }
}

pub(crate) fn path_of(image: &Value) -> String {
    format!("/v2/images/{}", text_of(image, "id"))
}

/// Records of a list, page by page: all, or so many at most.
pub(crate) async fn pages(
    service: &Service,
    path: &str,
    member: &str,
    mut query: Serializer<'_, String>,
    limit: Option<usize>,
) -> Result<Vec<Value>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    query.append_pair("limit", &limit.min(PAGE).to_string());
    let mut next = Some(format!("{path}?{}", query.finish()));
    let mut records = Vec::new();
    while let Some(page) = next.filter(|_| records.len() < limit) {
        let mut answer = service.get(&page).await?;
        let Value::Array(found) = answer[member].take() else {
            return Err(Failure::Unreachable(format!("the service answered {path} without {member}")));
        };
        records.extend(found);
        // A path, which is asked at the same service; what isn't one is not followed.
        next = answer["next"].as_str().filter(|next| next.starts_with('/')).map(str::to_owned);
    }
    records.truncate(limit);
    Ok(records)
}

async fn list(service: &Service, output: Output, filter: &ImageFilter) -> Result<(), Failure> {
    let mut query = Serializer::new(String::new());
    let name = filter.name.as_ref().map(|name| format!("eq:{name}"));
    let said = [
        ("name", &name),
        ("status", &filter.status),
        ("visibility", &filter.visibility),
        ("owner", &filter.owner),
    ];
    query.extend_pairs(said.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    query.extend_pairs(filter.tags.iter().map(|tag| ("tag", tag)));
    if filter.hidden {
        query.append_pair("os_hidden", "true");
    }
    let images = pages(service, "/v2/images", "images", query, filter.limit).await?;
    output.list(&images, &["id", "name", "status", "disk_format", "size", "visibility"])
}

/// Attributes and properties are one patch, which is done whole or not at all. Tags are added and removed by
/// themselves, so that tags that others set meanwhile stay.
async fn set(service: &Service, output: Output, asked: &SetImage) -> Result<(), Failure> {
    let path = path_of(&resolve(service, &asked.image).await?);
    let change = &asked.changes;
    let attributes = [
        ("name", change.name.as_ref().map(|name| json!(name))),
        ("visibility", change.visibility.as_ref().map(|visibility| json!(visibility))),
        ("min_disk", change.min_disk.map(|gib| json!(gib))),
        ("min_ram", change.min_ram.map(|mib| json!(mib))),
        ("protected", change.protected.map(|truth| json!(truth))),
        ("os_hidden", change.hidden.map(|truth| json!(truth))),
    ];
    let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let properties = change.properties.iter().map(|(name, value)| (pointer(name), json!(value)));
    let mut patch: Vec<Value> = attributes
        .chain(properties)
        .map(|(name, value)| json!({"op": "add", "path": format!("/{name}"), "value": value}))
        .collect();
    let removed = change.removed_properties.iter().map(|name| pointer(name));
    patch.extend(removed.map(|name| json!({"op": "remove", "path": format!("/{name}")})));
    if !patch.is_empty() {
        service.ask(&Call::new(Method::PATCH, &path).with_body(PATCH, &json!(patch))).await?;
    }
    let tags = change.tags.iter().map(|tag| (Method::PUT, tag));
    for (method, tag) in tags.chain(change.removed_tags.iter().map(|tag| (Method::DELETE, tag))) {
        let tag = utf8_percent_encode(tag, NON_ALPHANUMERIC);
        service.ask(&Call::new(method, format!("{path}/tags/{tag}"))).await?;
    }
    output.record(&service.get(&path).await?)
}

/// A name as a JSON pointer has it (RFC 6901).
fn pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
