//! `POST /v2/images/{id}/import`: what is asked for, and the input of the task that does it.
//!
//! Invariant: a task's input is made here alone, of a request that was checked, and read back here alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::clone_input::CloneSource;
use crate::glance::{GlanceEndpoints, GlanceImage};
use crate::image::{Image, ImageId, StagedBytes};
use crate::image_properties::{self, CONTAINER_FORMATS, ImageProperties};
use crate::import_input::{ImportInput, SOURCE_FORMATS};
use crate::input::{Checked, InvalidInput, Members, quoted, remarks};
use crate::regions::Regions;
use crate::source::{SUPPORTED, SourceLocation, SourcePolicy};

/// Import methods, by their names on the wire.
pub const METHODS: &[&str] = &[STAGED, WEB, GLANCE];

/// Keys of a request. Of those that choose stores, `stores` may name the one that is here; the others change nothing.
const KEYS: &[&str] = &["method", "stores", "all_stores", "all_stores_must_succeed"];
const METHOD_KEYS: &[&str] = &["name", "uri", REGION, IMAGE, INTERFACE];

const STAGED: &str = "glance-direct";
const WEB: &str = "web-download";
const GLANCE: &str = "glance-download";

const REGION: &str = "glance_region";
const IMAGE: &str = "glance_image_id";
const INTERFACE: &str = "glance_service_interface";
/// The one kind of endpoint that operators list.
const PUBLIC: &str = "public";

/// Properties that a record takes over from the image that fills it begin so: what Glance takes over unless its operator
/// says otherwise (`[glance_download_properties] extra_properties`).
const TAKEN_OVER: &[&str] = &["hw_", "trait:", "os_distro", "os_secure_boot", "os_type"];

/// Where the bytes of an image that is there come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportMethod {
    /// From staging.
    GlanceDirect,
    /// From a place that the user names.
    WebDownload(SourceLocation),
    /// From another image: of a region of this cloud, or of a Glance elsewhere.
    GlanceDownload(CloneSource),
    /// From another image at a place that isn't known here. As with Glance, the request is taken and its task fails.
    UnknownGlance(InvalidInput),
}

/// What a request may name: what the operator allows, and knows by name.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Sources of `web-download`.
    pub sources: &'a SourcePolicy,
    /// The regions of this cloud.
    pub regions: &'a Regions,
    /// The Glances elsewhere.
    pub glances: &'a GlanceEndpoints,
}

impl ImportMethod {
    /// Reads the body of the request.
    ///
    /// # Errors
    /// [`InvalidInput`] for the first member that can't be taken.
    pub fn parse(body: &Value, known: Known<'_>) -> Checked<Self> {
        let members = Members::of(body, "The request body", "")?;
        let Some(method) = members.get("method") else {
            return members.missing("method", "is required", &["method"], KEYS);
        };
        let method = Members::of(method, "method", "method.")?;
        match method.one_of("name", METHODS)? {
            Some(STAGED) => Ok(Self::GlanceDirect),
            Some(GLANCE) => image_elsewhere(&method, known),
            Some(_) => {
                let Some(uri) = method.string("uri")? else {
                    return method.missing("uri", format!("is required: {SUPPORTED}"), &["uri"], METHOD_KEYS);
                };
                let refused = |e| InvalidInput::new("method.uri", format!("{e}"));
                let source = SourceLocation::parse(uri).map_err(refused)?;
                if let SourceLocation::Oci(_) = source {
                    return method
                        .refuse("uri", "can't be an oci:// address; a task of type import takes one");
                }
                known.sources.check(&source).map_err(refused)?;
                Ok(Self::WebDownload(source))
            }
            None => {
                let told = format!("is required: one of {}", METHODS.join(", "));
                method.missing("name", told, &["name"], METHOD_KEYS)
            }
        }
    }

    /// What the caller should know of a request though it is taken: keys that look misspelt.
    pub fn remarks(body: &Value) -> Vec<String> {
        let of = |value: &Value, place, known| match Members::of(value, "", "") {
            Ok(members) => remarks(&members, place, known),
            Err(_) => Vec::new(),
        };
        let method = body.get("method").map(|method| of(method, "method.", METHOD_KEYS));
        of(body, "", KEYS).into_iter().chain(method.into_iter().flatten()).collect()
    }
}

/// The image that a `glance-download` names.
fn image_elsewhere(method: &Members<'_>, known: Known<'_>) -> Checked<ImportMethod> {
    let regions =
        || known.regions.names().into_iter().chain(known.glances.regions()).collect::<Vec<_>>().join(", ");
    let Some(name) = method.string(REGION)? else {
        return method.missing(REGION, format!("is required: one of {}", regions()), &[REGION], METHOD_KEYS);
    };
    let Some(id) = method.string(IMAGE)? else {
        return method.missing(IMAGE, "is required", &[IMAGE], METHOD_KEYS);
    };
    let Ok(image) = id.parse::<ImageId>() else {
        // In the words that Glance has for it, which clients look for.
        return method.refuse(IMAGE, format!("image id does not look like a UUID: {}", quoted(id)));
    };
    let unknown = |why| Ok(ImportMethod::UnknownGlance(why));
    let downloaded = |source| Ok(ImportMethod::GlanceDownload(source));
    if let Some(other) = method.string(INTERFACE)?.filter(|interface| *interface != PUBLIC) {
        let told = format!("must be {PUBLIC}, not {}: no other endpoints are known here", quoted(other));
        return method.refuse(INTERFACE, told).or_else(unknown);
    }
    let here = known.regions.names().into_iter().find(|region| region.eq_ignore_ascii_case(name));
    match (here, known.glances.of_region(name)) {
        (Some(region), _) => downloaded(CloneSource::Region { region: region.to_owned(), image }),
        (None, Some(endpoint)) => downloaded(CloneSource::Glance(GlanceImage::new(endpoint, image))),
        (None, None) => {
            let told = format!("must be one of {}, not {}", regions(), quoted(name));
            method.refuse(REGION, told).or_else(unknown)
        }
    }
}

/// What a record takes over from the image that fills it, beside the bytes and what these are.
pub fn taken_over(source: &Image) -> BTreeMap<String, String> {
    let taken =
        source.properties.iter().filter(|(name, _)| TAKEN_OVER.iter().any(|taken| name.starts_with(taken)));
    taken.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether a record has room for that.
///
/// # Errors
/// [`InvalidInput`] that names what there is too much of.
pub fn check_taken_over(record: &Image, taken: &BTreeMap<String, String>) -> Checked<()> {
    let mut filled = record.clone();
    filled.properties.extend(taken.clone());
    image_properties::check_record(&filled, "record")
}

/// Refuses stores that aren't here: bytes come into the region that is asked.
///
/// # Errors
/// [`InvalidInput`] for `stores`.
pub fn check_stores(body: &Value, here: &str) -> Checked<()> {
    let members = Members::of(body, "The request body", "")?;
    match members.get("stores") {
        None => Ok(()),
        Some(Value::Array(stores)) if stores.iter().all(|store| store == here) => Ok(()),
        Some(_) => members.refuse("stores", format!("must be a list of stores, and there is one: {here}")),
    }
}

/// A task's input: which image is filled, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageImport {
    /// The image.
    pub image: ImageId,
    /// Where its bytes come from.
    pub from: ImportedFrom,
}

/// Where bytes come from, once that is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportedFrom {
    /// These, in staging.
    Staged(StagedBytes),
    /// A place that the user named.
    Web(SourceLocation),
    /// Another image.
    Image(CloneSource),
}

impl ImageImport {
    /// The staged bytes, if it is from staging.
    pub fn staged(&self) -> Option<StagedBytes> {
        match self.from {
            ImportedFrom::Staged(staged) => Some(staged),
            ImportedFrom::Web(_) | ImportedFrom::Image(_) => None,
        }
    }

    /// As the task keeps and shows it: Glance's form, and the upload that is meant. `request` is the user's own.
    pub fn input(image: ImageId, request: &Value, staged: Option<StagedBytes>) -> Value {
        let mut input = json!({"image_id": image, "import_req": request});
        if let Some(StagedBytes(upload)) = staged {
            input["staged"] = json!(upload);
        }
        input
    }

    /// The request of an upload that is imported at once.
    pub fn direct() -> Value {
        json!({"method": {"name": STAGED}})
    }

    /// Whether the input of such a task names another image: then the task is a clone's work.
    pub fn is_of_image(input: &Value) -> bool {
        input.pointer("/import_req/method/name").is_some_and(|name| name == GLANCE)
    }

    /// The image whose record such a task is to fill.
    pub(crate) fn filled_by(input: &Value) -> Option<ImageId> {
        input.get("image_id")?.as_str()?.parse().ok()
    }

    /// Which upload the input of such a task names, whatever the operator allows by now.
    pub fn staged_by(input: &Value) -> Option<StagedBytes> {
        input.get("staged")?.as_str()?.parse().ok().map(StagedBytes)
    }

    /// Reads a task's input again; the operator may have narrowed what is allowed since.
    ///
    /// # Errors
    /// [`InvalidInput`] for a source that isn't taken any more.
    pub fn parse(input: &Value, known: Known<'_>) -> Checked<Self> {
        let members = Members::of(input, "input", "")?;
        let id = |name: &str| -> Checked<Option<Uuid>> {
            match members.string(name)?.map(str::parse) {
                None => Ok(None),
                Some(Ok(id)) => Ok(Some(id)),
                Some(Err(_)) => members.refuse(name, "is no id"),
            }
        };
        let Some(image) = id("image_id")?.map(ImageId) else {
            return members.refuse("image_id", "is required");
        };
        let Some(request) = members.get("import_req") else {
            return members.refuse("import_req", "is required");
        };
        let from = match (ImportMethod::parse(request, known)?, id("staged")?.map(StagedBytes)) {
            (ImportMethod::GlanceDirect, Some(staged)) => ImportedFrom::Staged(staged),
            (ImportMethod::GlanceDirect, None) => return members.refuse("staged", "is required"),
            (ImportMethod::WebDownload(source), _) => ImportedFrom::Web(source),
            (ImportMethod::GlanceDownload(source), _) => ImportedFrom::Image(source),
            (ImportMethod::UnknownGlance(why), _) => return Err(why),
        };
        Ok(Self { image, from })
    }

    /// As an import of a source: the bytes must be what the record says, and are stored in the operator's format.
    ///
    /// # Errors
    /// [`InvalidInput`] where the record's formats are none that can be imported, and for another image's bytes: these
    /// are what that image's record says.
    pub fn of_record(&self, record: &Image, work_bucket: &str) -> Checked<ImportInput> {
        let source = match &self.from {
            ImportedFrom::Staged(staged) => {
                SourceLocation::Staged { bucket: work_bucket.to_owned(), key: staged.object_key(self.image) }
            }
            ImportedFrom::Web(source) => source.clone(),
            ImportedFrom::Image(source) => {
                return Err(InvalidInput::new("import_req", format!("{source} is an image, not a source")));
            }
        };
        let (disk, container) = formats(record)?;
        let image = ImageProperties { container_format: Some(container), ..ImageProperties::default() };
        Ok(ImportInput {
            source,
            mirrors: Vec::new(),
            headers: None,
            // An OVA's format is that of the disk inside.
            declared_format: Some(if container == "ova" { "ova" } else { disk }),
            member: None,
            image,
            checksum: None,
            checksums_from: None,
            sha256: None,
            sha512: None,
            remarks: Vec::new(),
        })
    }
}

/// The formats that a record must have before bytes come into it.
///
/// # Errors
/// [`InvalidInput`] that names the one that is missing, or can't be imported.
pub fn formats(record: &Image) -> Checked<(&'static str, &'static str)> {
    let known = |name: &str, said: &Option<String>, names: &[&'static str]| {
        let Some(said) = said else {
            return Err(InvalidInput::new(name, "has to be set before bytes come into the image"));
        };
        let found = names.iter().find(|name| *name == said).copied();
        found.ok_or_else(|| InvalidInput::new(name, format!("{} can't be imported", quoted(said))))
    };
    let container = known("container_format", &record.container_format, CONTAINER_FORMATS)?;
    Ok((known("disk_format", &record.disk_format, SOURCE_FORMATS)?, container))
}

#[cfg(test)]
mod tests;
