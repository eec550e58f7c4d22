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
mod tests {
    use super::*;
    use crate::regions::Region;
    use crate::time::Timestamp;

    /// What is known here: a bucket, two regions of this cloud, and two Glances elsewhere, of which one has a name.
    struct Operator(SourcePolicy, Regions, GlanceEndpoints);

    impl Operator {
        fn new(buckets: &[&str]) -> Self {
            let there = Region {
                name: "eu-west-1".into(),
                endpoint: "https://images.eu.example.com".into(),
                images_bucket: "images-eu".into(),
                images_table: "images".into(),
            };
            let buckets = buckets.iter().map(|bucket| (*bucket).to_owned()).collect();
            Self(
                SourcePolicy { buckets, ..SourcePolicy::default() },
                Regions::new("us-east-1", vec![there]).unwrap(),
                GlanceEndpoints::parse("RegionTwo=https://glance.example.org, https://unnamed.example")
                    .unwrap(),
            )
        }

        fn known(&self) -> Known<'_> {
            Known { sources: &self.0, regions: &self.1, glances: &self.2 }
        }
    }

    fn method(body: &Value) -> Checked<ImportMethod> {
        ImportMethod::parse(body, Operator::new(&["sources"]).known())
    }

    fn input(input: &Value) -> Checked<ImageImport> {
        ImageImport::parse(input, Operator::new(&["sources"]).known())
    }

    const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";

    fn of_glance(region: &str) -> Value {
        json!({"method": {"name": "glance-download", "glance_region": region, "glance_image_id": ID}})
    }

    #[test]
    fn a_request_names_a_method_and_what_that_needs() {
        let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}, "all_stores": false});
        let source = SourceLocation::S3 { bucket: "sources".into(), key: "a".into() };
        assert_eq!(method(&web).unwrap(), ImportMethod::WebDownload(source.clone()));
        assert_eq!(method(&ImageImport::direct()).unwrap(), ImportMethod::GlanceDirect);
        for (body, parameter) in [
            (json!([]), "The request body"),
            (json!({}), "method"),
            (json!({"method": "web-download"}), "method"),
            (json!({"method": {}}), "method.name"),
            (json!({"method": {"name": "copy-image"}}), "method.name"),
            (json!({"method": {"name": "web-download"}}), "method.uri"),
            (json!({"method": {"name": "web-download", "url": "s3://sources/a"}}), "method.uri"),
            (json!({"method": {"name": "web-download", "uri": 5}}), "method.uri"),
            (json!({"method": {"name": "web-download", "uri": "file:///etc/passwd"}}), "method.uri"),
            (json!({"method": {"name": "web-download", "uri": "http://169.254.169.254/"}}), "method.uri"),
            (json!({"method": {"name": "web-download", "uri": "s3://others/a"}}), "method.uri"),
        ] {
            assert_eq!(method(&body).unwrap_err().parameter, parameter, "{body}");
        }
    }

    #[test]
    fn another_image_is_named_by_a_region_that_is_known() {
        let image: ImageId = ID.parse().unwrap();
        for region in ["eu-west-1", "us-east-1"] {
            let source = CloneSource::Region { region: region.into(), image };
            assert_eq!(method(&of_glance(region)).unwrap(), ImportMethod::GlanceDownload(source));
        }
        let there = CloneSource::Glance(GlanceImage::new("https://glance.example.org", image));
        for region in ["RegionTwo", "REGIONTWO"] {
            assert_eq!(method(&of_glance(region)).unwrap(), ImportMethod::GlanceDownload(there.clone()));
        }
        let mut public = of_glance("RegionTwo");
        public["method"]["glance_service_interface"] = json!("public");
        assert_eq!(method(&public).unwrap(), ImportMethod::GlanceDownload(there));
        for (key, value, told, taken) in [
            ("glance_region", json!(null), "is required: one of us-east-1, eu-west-1, RegionTwo", false),
            ("glance_region", json!("mars"), "one of us-east-1, eu-west-1, RegionTwo, not \"mars\"", true),
            ("glance_region", json!("https://unnamed.example"), "must be one of", true),
            ("glance_image_id", json!(null), "is required", false),
            ("glance_image_id", json!("cirros"), "image id does not look like a UUID: \"cirros\"", false),
            ("glance_image_id", json!(7), "string", false),
            ("glance_service_interface", json!("internal"), "must be public, not \"internal\"", true),
        ] {
            let mut body = of_glance("RegionTwo");
            match value.is_null() {
                true => drop(body["method"].as_object_mut().unwrap().remove(key)),
                false => body["method"][key] = value,
            }
            let refused = match (method(&body), taken) {
                (Ok(ImportMethod::UnknownGlance(why)), true) | (Err(why), false) => why,
                (other, _) => panic!("{body}: {other:?}"),
            };
            let task = json!({"image_id": ID, "import_req": body});
            assert_eq!(input(&task).unwrap_err().message, refused.message, "{body}");
            assert_eq!(refused.parameter, format!("method.{key}"), "{body}");
            assert!(refused.message.contains(told), "{body}: {}", refused.message);
        }
    }

    #[test]
    fn a_record_takes_over_what_says_how_the_guest_runs() {
        let now = Timestamp::from_epoch(0);
        let image = Image::queued(ImageId(Uuid::from_u128(7)), "demo", now);
        let named = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        let names = ["hw_disk_bus", "trait:A", "os_distro", "os_version", "os_glance_x", "myhw_x"];
        let source = Image { properties: named(&names), ..image.clone() };
        let taken = taken_over(&source);
        assert_eq!(taken, named(&["hw_disk_bus", "os_distro", "trait:A"]));
        check_taken_over(&image, &taken).unwrap();
        let names: Vec<String> = (0..126).map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let full = Image { properties: named(&names), ..image };
        let told = check_taken_over(&full, &taken).unwrap_err().to_string();
        assert!(told.contains("129 extra properties"), "{told}");
    }

    #[test]
    fn bytes_come_into_the_store_that_is_here() {
        for stores in [json!({}), json!({"stores": []}), json!({"stores": ["here"]})] {
            check_stores(&stores, "here").unwrap();
        }
        for stores in [json!("here"), json!(["there"]), json!(["here", "there"]), json!([1]), json!(null)] {
            let refused = check_stores(&json!({"stores": stores}), "here").unwrap_err();
            assert_eq!(refused.parameter, "stores", "{stores}");
        }
    }

    #[test]
    fn misspelt_keys_are_hinted_at_or_remarked_on() {
        for (body, hint) in [
            (json!({"methd": {}}), "; \"methd\" is not known, did you mean method?"),
            (json!({"method": {"names": "web-download"}}), "\"names\" is not known, did you mean name?"),
            (
                json!({"method": {"name": "web-download", "url": "x"}}),
                "\"url\" is not known, did you mean uri?",
            ),
        ] {
            let told = method(&body).unwrap_err().message;
            assert!(told.contains(hint), "{body}: {told}");
        }
        let taken = json!({"method": {"name": "glance-direct", "Name": "x"}, "all_store": false, "note": 1});
        assert!(method(&taken).is_ok());
        assert_eq!(
            ImportMethod::remarks(&taken),
            [
                "all_store is not known and was ignored; did you mean all_stores?",
                "method.Name is not known and was ignored; did you mean name?",
            ]
        );
        assert_eq!(ImportMethod::remarks(&ImageImport::direct()), [""; 0]);
        for other in [json!(null), json!([1]), json!({"method": 5})] {
            assert_eq!(ImportMethod::remarks(&other), [""; 0], "{other}");
        }
    }

    #[test]
    fn a_tasks_input_is_read_as_it_was_written() {
        let (image, staged) = (ImageId(Uuid::from_u128(7)), StagedBytes(Uuid::from_u128(8)));
        let task = ImageImport::input(image, &ImageImport::direct(), Some(staged));
        let read = input(&task).unwrap();
        assert_eq!(read, ImageImport { image, from: ImportedFrom::Staged(staged) });
        let mut record = Image::queued(image, "demo", Timestamp::from_epoch(0));
        assert_eq!(read.of_record(&record, "work").unwrap_err().parameter, "container_format");
        record.container_format = Some("bare".into());
        assert_eq!(read.of_record(&record, "work").unwrap_err().parameter, "disk_format");
        record.disk_format = Some("qcow2".into());
        let import = read.of_record(&record, "work").unwrap();
        let key = format!("staging/{image}/{}", staged.0);
        assert_eq!(import.source, SourceLocation::Staged { bucket: "work".into(), key });
        assert_eq!((import.declared_format, import.image.disk_format), (Some("qcow2"), None));
        record.container_format = Some("ova".into());
        assert_eq!(read.of_record(&record, "work").unwrap().declared_format, Some("ova"));

        let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}});
        let task = ImageImport::input(image, &web, None);
        assert_eq!(input(&task).unwrap().staged(), None);
        let narrowed = ImageImport::parse(&task, Operator::new(&[]).known()).unwrap_err();
        assert_eq!((narrowed.parameter.as_str(), ImageImport::is_of_image(&task)), ("method.uri", false));

        let task = ImageImport::input(image, &of_glance("eu-west-1"), None);
        let source = CloneSource::Region { region: "eu-west-1".into(), image: ID.parse().unwrap() };
        let read = input(&task).unwrap();
        assert_eq!((&read.from, read.staged()), (&ImportedFrom::Image(source), None));
        assert_eq!(read.of_record(&record, "work").unwrap_err().parameter, "import_req");
        assert!(ImageImport::is_of_image(&task) && !ImageImport::is_of_image(&json!({})));
    }
}
