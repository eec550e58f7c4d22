//! A Glance elsewhere: which ones the operator allows, and what an image's record there says.
//!
//! Threat model: whoever runs that Glance, or owns the image in it, wrote the record. Its size is bounded by who fetches it
//! ([`MAX_RECORD`]); every member that is used is checked here by the rules of `image_properties`, and what can't be taken is
//! named. What it says of the bytes is believed by nobody: they are inspected and hashed as any import's.
//!
//! Facts: Images v2, "Show image"; `glance/api/v2/image_data.py` for what `/file` answers.

use std::fmt;

use serde_json::{Map, Value, json};
use url::Url;

use crate::failure::{Failure, FailureCode};
use crate::image::{HASH_ALGORITHM, Image, ImageId, ImageStatus};
use crate::image_properties::{self, ImageProperties};
use crate::import_input::ImportInput;
use crate::input::{InvalidInput, Members, quoted};
use crate::source::{SourceLocation, SourceRefused};
use crate::time::Timestamp;

/// Where an image is, below an endpoint.
pub(crate) const PATH: &str = "/v2/images/";
/// Most bytes of a record that are read. Honest ones have a few thousand.
pub const MAX_RECORD: usize = 512 << 10;
/// How a record's members are named in messages.
const RECORD: &str = "record";
/// Envelopes around whose bytes inspection can't look: they are no disk images as they are.
const OPAQUE_CONTAINERS: &[&str] = &["compressed", "docker"];

/// The endpoints that the operator allows, some with the name of the region that they are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GlanceEndpoints(Vec<Endpoint>);

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    /// What OpenStack calls the region there.
    region: Option<String>,
    /// `http(s)://host[:port][/path]` without a slash at its end.
    url: String,
}

/// An image of a Glance elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlanceImage {
    /// One of [`GlanceEndpoints`].
    endpoint: String,
    /// The image there.
    pub id: ImageId,
}

impl GlanceEndpoints {
    /// A list as an operator writes it, separated by commas: an endpoint each, or `region=endpoint`. An empty text is an
    /// empty list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(list: &str) -> Result<Self, String> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let listed = entries.map(entry).collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<_> =
            listed.iter().filter_map(|endpoint| endpoint.region.as_deref().map(str::to_lowercase)).collect();
        names.sort();
        match names.iter().zip(names.iter().skip(1)).find(|(one, next)| one == next) {
            Some((name, _)) => Err(format!("region '{name}' is listed twice")),
            None => Ok(Self(listed)),
        }
    }

    /// The URLs of those listed.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|endpoint| endpoint.url.as_str())
    }

    /// The names of the regions that are listed with one.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|endpoint| endpoint.region.as_deref())
    }

    /// The endpoint of a region, by its name in any case: Glance compares names so.
    pub(crate) fn of_region(&self, name: &str) -> Option<&str> {
        let is_it = |endpoint: &&Endpoint| {
            endpoint.region.as_ref().is_some_and(|region| region.eq_ignore_ascii_case(name))
        };
        self.0.iter().find(is_it).map(|endpoint| endpoint.url.as_str())
    }

    /// The endpoint that a URL is below of; of two, the longer one.
    pub(crate) fn above(&self, url: &Url) -> Option<&str> {
        let below =
            |endpoint: &&str| url.as_str().strip_prefix(*endpoint).is_some_and(|rest| rest.starts_with('/'));
        self.urls().filter(below).max_by_key(|endpoint| endpoint.len())
    }

    /// Whether a token may be sent to this URL.
    pub fn allow(&self, url: &Url) -> bool {
        self.above(url).is_some()
    }
}

/// Of one that has a name: the name and the rest. A URL's scheme holds no `=`.
fn entry(text: &str) -> Result<Endpoint, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    match text.split_once('=').filter(|(name, _)| is_name(name)) {
        Some((region, url)) => Ok(Endpoint { region: Some(region.to_owned()), url: endpoint(url)? }),
        None => Ok(Endpoint { region: None, url: endpoint(text)? }),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let refused = |why: String| format!("'{text}' is no endpoint: {why}");
    let SourceLocation::Http(url) =
        SourceLocation::parse(text).map_err(|e: SourceRefused| refused(e.to_string()))?
    else {
        return Err(refused("it must begin with http:// or https://".to_owned()));
    };
    if url.query().is_some() {
        return Err(refused("it has a query".to_owned()));
    }
    let plain = url.as_str().trim_end_matches('/');
    if plain.ends_with("/v2") {
        return Err(refused("/v2 is added to it and must not stand in it".to_owned()));
    }
    Ok(plain.to_owned())
}

impl GlanceImage {
    /// An image below an endpoint of the list.
    pub(crate) fn new(endpoint: &str, id: ImageId) -> Self {
        Self { endpoint: endpoint.to_owned(), id }
    }

    /// What an import of its bytes as they are is asked for, by what its record says.
    ///
    /// # Errors
    /// `UnsupportedFormat` for an envelope that can't be looked into.
    pub fn import(&self, record: &Image) -> Result<ImportInput, Failure> {
        let refused = |code, message: String| Failure::new(code, format!("{self}: {message}"));
        let unsupported = |message: String| refused(FailureCode::UnsupportedFormat, message);
        let format = named(image_properties::DISK_FORMATS, record.disk_format.as_deref())
            .ok_or_else(|| unsupported("an image without a disk_format can't be inspected".to_owned()))?;
        let container = named(image_properties::CONTAINER_FORMATS, record.container_format.as_deref());
        let container = container.unwrap_or("bare");
        if OPAQUE_CONTAINERS.contains(&container) {
            return Err(unsupported(format!("a {container} container can't be inspected")));
        }
        // The archive is what is found; its disk is a VMDK, or the stored image would be called other than the source.
        let declared = if container == "ova" { "ova" } else { format };
        if container == "ova" && format != "vmdk" {
            return Err(unsupported(format!("the disk of an ova container is vmdk, not {format}")));
        }
        let source = SourceLocation::parse(&format!("{self}/file"))
            .map_err(|e| refused(FailureCode::SourceForbidden, e.to_string()))?;
        let image = ImageProperties {
            disk_format: Some(format),
            container_format: Some(container),
            ..ImageProperties::default()
        };
        Ok(ImportInput {
            source,
            mirrors: Vec::new(),
            headers: None,
            declared_format: Some(declared),
            member: None,
            image,
            checksum: record.checksum.clone(),
            checksums_from: None,
            sha256: None,
            sha512: record.os_hash_value.clone(),
            remarks: Vec::new(),
        })
    }

    /// The record as it came, checked: what a clone takes over of it.
    ///
    /// # Errors
    /// `ImageNotActive` for an image without bytes to give; `UnsupportedFormat`, and `SourceInvalid` for what can't be taken.
    pub fn record(&self, body: &[u8], now: Timestamp) -> Result<Image, Failure> {
        let invalid = |why: &str| Failure::new(FailureCode::SourceInvalid, format!("{self}: {why}"));
        let Ok(Value::Object(mut said)) = serde_json::from_slice(body) else {
            return Err(invalid("the answer is not an image's record, a JSON object"));
        };
        // Glance shows what it has not as null.
        said.retain(|_, value| !value.is_null());
        let text = |key: &str| said.get(key).and_then(Value::as_str);
        if text("id").is_none_or(|id| id.parse() != Ok(self.id)) {
            return Err(invalid("the answer is another image's record"));
        }
        match text("status") {
            Some("active") => {}
            Some(status) => {
                let message = format!("{self} is {}; only an active image can be cloned", quoted(status));
                return Err(Failure::new(FailureCode::ImageNotActive, message));
            }
            None => return Err(invalid("the record has no status")),
        }
        let size = match said.get("size") {
            None => None,
            Some(size) => {
                Some(size.as_u64().ok_or_else(|| invalid("the record's size is no number of bytes"))?)
            }
        };
        let (checksum, sha512) = hashes(&said).map_err(|e| invalid(&e.to_string()))?;
        let properties = properties(said).map_err(|e| {
            let mut failure = invalid(&e.to_string());
            if e.parameter == format!("{RECORD}.disk_format") {
                failure.code = FailureCode::UnsupportedFormat;
            }
            failure
        })?;
        let known = Image {
            status: ImageStatus::Active,
            disk_format: properties.disk_format.map(str::to_owned),
            size,
            checksum,
            os_hash_algo: sha512.as_ref().map(|_| HASH_ALGORITHM.to_owned()),
            os_hash_value: sha512,
            ..Image::queued(self.id, "", now)
        };
        Ok(properties.describe(known))
    }
}

/// The URL of its record: what a user is told.
impl fmt::Display for GlanceImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PATH}{}", self.endpoint, self.id)
    }
}

fn named(names: &[&'static str], text: Option<&str>) -> Option<&'static str> {
    names.iter().copied().find(|name| Some(*name) == text)
}

/// MD5 and SHA-512. A hash of another algorithm is one that nobody here makes.
fn hashes(said: &Map<String, Value>) -> Result<(Option<String>, Option<String>), InvalidInput> {
    let said = Value::Object(said.clone());
    let members = Members::of(&said, RECORD, "record.")?;
    let checksum = members.hex("checksum", 32)?;
    let sha512 = match members.string("os_hash_algo")? {
        Some(HASH_ALGORITHM) => members.hex("os_hash_value", 128)?,
        _ => None,
    };
    Ok((checksum, sha512))
}

/// What a user could have said of the image too. The rest is that Glance's own, and so is what is no text:
/// extra properties are texts.
fn properties(mut said: Map<String, Value>) -> Result<ImageProperties, InvalidInput> {
    said.retain(|name, value| {
        let extra = !image_properties::ATTRIBUTES.contains(&name.as_str());
        !image_properties::is_services_own(name)
            && !matches!(name.as_str(), "id" | "owner")
            && (!extra || value.is_string())
    });
    let record = json!({ RECORD: said });
    ImageProperties::parse(Members::of(&record, RECORD, "")?, RECORD)
}

#[cfg(test)]
mod tests;
