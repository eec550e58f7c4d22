//! The input of a clone: which image of which region or Glance elsewhere, and what differs in the copy.
//!
//! Invariant: parsing is a function of the input and of the lists of regions and endpoints alone; which image is there and
//! who may see it is found out by the flow.

use std::collections::BTreeSet;
use std::fmt;

use crate::caller::Caller;
use crate::glance::{GlanceEndpoints, GlanceImage, PATH};
use crate::image::{Image, ImageId, Visibility};
use crate::image_properties::{self, ImageProperties};
use crate::input::{Checked, Members, quoted, remarks};
use crate::regions::Regions;
use crate::source::{SourceLocation, SourceRefused};
use serde_json::Value;

const URL: &str = "source_image_url";
const REGION: &str = "source_region";
const IMAGE: &str = "image_uuid";
const PROPERTIES: &str = "image_properties";
const DUPLICATE: &str = "allow_duplicate";
const KEYS: &[&str] = &[URL, REGION, IMAGE, PROPERTIES, DUPLICATE];

/// Property that says which image a clone is of.
pub const PROVENANCE: &str = "os_glance_source_image";
/// Prefix of the service's own properties, which say something of the source alone.
const RESERVED: &str = "os_glance_";

/// Where the image is that a clone is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloneSource {
    /// In a region of this cloud.
    Region {
        /// Its name.
        region: String,
        /// The image there.
        image: ImageId,
    },
    /// At a Glance elsewhere.
    Glance(GlanceImage),
}

/// What a property says of it.
impl fmt::Display for CloneSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region { region, image } => write!(f, "{region}/{image}"),
            Self::Glance(image) => image.fmt(f),
        }
    }
}

/// What a clone shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneInput {
    /// The image that is copied.
    pub source: CloneSource,
    /// What is said of the image to be made; only [`said`](Self::said) of it counts.
    pub image: ImageProperties,
    /// Keys of `image_properties` that were given.
    pub said: BTreeSet<String>,
    /// Whether the image is copied even if its owner has the same bits here already.
    pub allow_duplicate: bool,
    /// What the caller should know though nothing is refused: keys that look misspelt.
    pub remarks: Vec<String>,
}

impl CloneInput {
    /// Reads and checks a clone's `input`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::InvalidInput) for the first parameter that can't be taken.
    pub fn parse(input: &Value, regions: &Regions, glances: &GlanceEndpoints) -> Checked<Self> {
        let members = Members::of(input, "input", "")?;
        let source = source(&members, regions, glances)?;
        let image = ImageProperties::parse(members, PROPERTIES)?;
        for (key, value) in [("disk_format", image.disk_format), ("container_format", image.container_format)]
        {
            if value.is_some() {
                return members.refuse(
                    &format!("{PROPERTIES}.{key}"),
                    "can't be changed: a clone has the source's bits",
                );
            }
        }
        let said = match members.get(PROPERTIES) {
            // A null says nothing: nulls get here only where Glance takes them so.
            Some(Value::Object(map)) => {
                map.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.clone()).collect()
            }
            _ => BTreeSet::new(),
        };
        let allow_duplicate = members.boolean(DUPLICATE)?.unwrap_or(false);
        Ok(Self { source, image, said, allow_duplicate, remarks: remarks(&members, "input.", KEYS) })
    }

    /// Whether this caller may ask for it.
    ///
    /// # Errors
    /// A sentence that names the parameter: the rules of an import.
    pub fn check_permitted(&self, caller: &Caller) -> Result<(), String> {
        if self.image.visibility == Some(Visibility::Public) && !caller.is_admin() {
            return Err("image_properties.visibility: only an admin may make an image public".to_owned());
        }
        if self.image.owner.as_ref().is_some_and(|owner| *owner != caller.project) {
            return Err("image_properties.owner: an image belongs to the project that clones it".to_owned());
        }
        Ok(())
    }

    /// Gives a new record what the source says of itself, and over that what the caller said.
    /// Nothing of the bytes: those are told once they are there.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::InvalidInput) where both together are more than an image may have.
    pub fn describe(&self, image: &mut Image, source: &Image) -> Checked<()> {
        let said = |key: &str| self.said.contains(key);
        let own = &self.image;
        image.name = if said("name") { own.name.clone() } else { source.name.clone() };
        // Being public is an admin's word on one image, which a copy does not inherit.
        image.visibility = own.visibility.unwrap_or(match source.visibility {
            Visibility::Public => Visibility::Shared,
            other => other,
        });
        image.min_disk = if said("min_disk") { own.min_disk } else { source.min_disk };
        image.min_ram = if said("min_ram") { own.min_ram } else { source.min_ram };
        image.protected = if said("protected") { own.protected } else { source.protected };
        image.os_hidden = if said("os_hidden") { own.os_hidden } else { source.os_hidden };
        image.tags = if said("tags") { own.tags.iter().cloned().collect() } else { source.tags.clone() };
        let copied = source.properties.iter().filter(|(key, _)| !key.starts_with(RESERVED));
        image.properties = copied.map(|(key, value)| (key.clone(), value.clone())).collect();
        image.properties.extend(own.extra.clone());
        image.properties.insert(PROVENANCE.to_owned(), self.source.to_string());
        image_properties::check_record(image, PROPERTIES)
    }
}

fn source(members: &Members<'_>, regions: &Regions, glances: &GlanceEndpoints) -> Checked<CloneSource> {
    match (members.string(URL)?, members.string(REGION)?, members.string(IMAGE)?) {
        (None, None, None) => {
            let told = format!("or {REGION} and {IMAGE} are required");
            members.missing(URL, told, &[URL, REGION, IMAGE], KEYS)
        }
        (Some(_), Some(_), _) => members.refuse(REGION, format!("{URL} names the region too: give one")),
        (Some(_), None, Some(_)) => members.refuse(IMAGE, format!("{URL} names the image too: give one")),
        (None, Some(_), None) => {
            members.missing(IMAGE, format!("is required beside {REGION}"), &[IMAGE], KEYS)
        }
        (None, None, Some(_)) => {
            let told = format!("is required beside {IMAGE}: one of {}", regions.names().join(", "));
            members.missing(REGION, told, &[REGION], KEYS)
        }
        (None, Some(region), Some(id)) => {
            if !regions.names().contains(&region) {
                let known = regions.names().join(", ");
                return members.refuse(REGION, format!("must be one of {known}, not {}", quoted(region)));
            }
            Ok(CloneSource::Region { region: region.to_owned(), image: image(members, IMAGE, id)? })
        }
        (Some(text), None, None) => at(members, text, regions, glances),
    }
}

fn at(
    members: &Members<'_>,
    text: &str,
    regions: &Regions,
    glances: &GlanceEndpoints,
) -> Checked<CloneSource> {
    let url = match SourceLocation::parse(text) {
        Ok(SourceLocation::Http(url)) if url.query().is_none() => url,
        Ok(SourceLocation::Http(_)) | Err(SourceRefused::UserInfo | SourceRefused::Fragment) => {
            return members.refuse(URL, "must have no user, password, query or fragment");
        }
        Ok(SourceLocation::S3 { .. } | SourceLocation::Oci(_) | SourceLocation::Staged { .. }) | Err(_) => {
            return members.refuse(URL, format!("must be <endpoint>{PATH}<id>, not {}", quoted(text)));
        }
    };
    let region = regions.at(&url.origin().ascii_serialization());
    let endpoint = region.map(|region| region.endpoint.as_str()).or_else(|| glances.above(&url));
    let Some(endpoint) = endpoint else {
        let listed = regions.listed().iter().map(|region| region.endpoint.as_str()).chain(glances.urls());
        let known = match listed.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => format!("none is known here: name the image by {REGION} and {IMAGE}"),
            known => format!("known: {known}"),
        };
        let told = format!("{} is below no endpoint that images are cloned from; {known}", quoted(text));
        return members.refuse(URL, told);
    };
    let Some(id) = url.as_str().strip_prefix(endpoint).and_then(|path| path.strip_prefix(PATH)) else {
        return members.refuse(URL, format!("must be {endpoint}{PATH}<id>"));
    };
    let image = image(members, URL, id)?;
    Ok(match region {
        Some(region) => CloneSource::Region { region: region.name.clone(), image },
        None => CloneSource::Glance(GlanceImage::new(endpoint, image)),
    })
}

fn image(members: &Members<'_>, key: &str, text: &str) -> Checked<ImageId> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => members.refuse(key, format!("must name an image by its id, a UUID, not {}", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::image::ImageStatus;
    use crate::regions::Region;
    use crate::time::Timestamp;

    const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
    const THERE: &str = "https://images.eu.example.com";

    fn regions() -> Regions {
        let there = Region {
            name: "eu-west-1".into(),
            endpoint: THERE.into(),
            images_bucket: "images-eu".into(),
            images_table: "images".into(),
        };
        Regions::new("us-east-1", vec![there]).unwrap()
    }

    fn parse(input: Value) -> Checked<CloneInput> {
        let glances = "https://glance.example.org:9292, https://cloud.example.net/image/";
        CloneInput::parse(&input, &regions(), &GlanceEndpoints::parse(glances).unwrap())
    }

    fn of_region(region: &str) -> CloneSource {
        CloneSource::Region { region: region.to_owned(), image: ID.parse().unwrap() }
    }

    #[test]
    fn an_image_is_named_by_url_or_by_region() {
        let by_url = parse(json!({"source_image_url": format!("{THERE}/v2/images/{ID}")})).unwrap();
        assert_eq!(by_url.source, of_region("eu-west-1"));
        assert!(!by_url.allow_duplicate && by_url.said.is_empty());
        assert_eq!(parse(json!({"source_region": "eu-west-1", "image_uuid": ID})).unwrap(), by_url);
        let here =
            parse(json!({"source_region": "us-east-1", "image_uuid": ID, "allow_duplicate": true})).unwrap();
        assert_eq!((here.source, here.allow_duplicate), (of_region("us-east-1"), true));
    }

    #[test]
    fn an_allowed_endpoint_that_is_no_regions_is_a_glance_elsewhere() {
        for (endpoint, url) in [
            ("https://glance.example.org:9292", format!("https://GLANCE.example.org:9292/v2/images/{ID}")),
            (
                "https://cloud.example.net/image",
                format!("https://cloud.example.net:443/image/v2/images/{ID}"),
            ),
        ] {
            let parsed = parse(json!({"source_image_url": url})).unwrap();
            assert_eq!(parsed.source, CloneSource::Glance(GlanceImage::new(endpoint, ID.parse().unwrap())));
            assert_eq!(parsed.source.to_string(), format!("{endpoint}/v2/images/{ID}"));
        }
        // A listed region is read as one, whoever else is allowed there.
        let both = GlanceEndpoints::parse(THERE).unwrap();
        let url = json!({"source_image_url": format!("{THERE}/v2/images/{ID}")});
        assert_eq!(CloneInput::parse(&url, &regions(), &both).unwrap().source, of_region("eu-west-1"));
    }

    #[test]
    fn refusals_name_the_parameter_and_what_is_known() {
        let url = |path: &str| json!({"source_image_url": format!("{THERE}{path}")});
        let with = |properties: Value| json!({"source_region": "eu-west-1", "image_uuid": ID, "image_properties": properties});
        for (input, parameter, part) in [
            (json!([]), "input", "an object"),
            (json!({}), URL, "are required"),
            (json!({"source_image_uri": "x"}), URL, "did you mean source_image_url?"),
            (json!({"sourceRegion": "eu-west-1"}), URL, "did you mean source_region?"),
            (json!({"source_region": "eu-west-1", "image_id": ID}), IMAGE, "did you mean image_uuid?"),
            (json!({"source-region": "eu-west-1", "image_uuid": ID}), REGION, "did you mean source_region?"),
            (json!({"source_image_url": 5}), URL, "a string"),
            (json!({"source_image_url": "eu-west-1"}), URL, "<endpoint>/v2/images/<id>"),
            (json!({"source_image_url": format!("file:///v2/images/{ID}")}), URL, "<endpoint>"),
            (json!({"source_image_url": format!("https://other.example/v2/images/{ID}")}), URL, THERE),
            (
                json!({"source_image_url": format!("https://glance.example.org/v2/images/{ID}")}),
                URL,
                "https://glance.example.org:9292, https://cloud.example.net/image",
            ),
            (
                json!({"source_image_url": format!("https://glance.example.org:92920/v2/images/{ID}")}),
                URL,
                "<endpoint>",
            ),
            (
                json!({"source_image_url": format!("https://cloud.example.net/images/v2/images/{ID}")}),
                URL,
                "known: ",
            ),
            (
                json!({"source_image_url": format!("https://cloud.example.net/v2/images/{ID}")}),
                URL,
                "known: ",
            ),
            (
                json!({"source_image_url": format!("https://cloud.example.net/image/v1/images/{ID}")}),
                URL,
                "must be https://cloud.example.net/image/v2/images/<id>",
            ),
            (
                json!({"source_image_url": format!("https://cloud.example.net/image/../v2/images/{ID}")}),
                URL,
                "known: ",
            ),
            (
                json!({"source_image_url": format!("https://u:p@glance.example.org:9292/v2/images/{ID}")}),
                URL,
                "no user",
            ),
            (json!({"source_image_url": format!("http://images.eu.example.com/v2/images/{ID}")}), URL, THERE),
            (url(""), URL, "/v2/images/<id>"),
            (url(&format!("/v1/images/{ID}")), URL, "/v2/images/<id>"),
            (url(&format!("/v2/images/{ID}/file")), URL, "a UUID"),
            (url(&format!("/v2/images/{ID}?x=1")), URL, "query"),
            (url("/v2/images/x"), URL, "a UUID"),
            (json!({"source_region": "eu-west-1"}), IMAGE, "required"),
            (json!({"image_uuid": ID}), REGION, "us-east-1, eu-west-1"),
            (json!({"source_region": "mars", "image_uuid": ID}), REGION, "us-east-1, eu-west-1"),
            (json!({"source_region": "eu-west-1", "image_uuid": "x"}), IMAGE, "a UUID"),
            (json!({"source_image_url": THERE, "source_region": "eu-west-1"}), REGION, "give one"),
            (json!({"source_image_url": THERE, "image_uuid": ID}), IMAGE, "give one"),
            (with(json!({"disk_format": "raw"})), "image_properties.disk_format", "source's bits"),
            (with(json!({"container_format": "bare"})), "image_properties.container_format", "source's bits"),
            (with(json!({"os_glance_source_image": "x"})), "image_properties.os_glance_source_image", "own"),
            (with(json!({"checksum": "x"})), "image_properties.checksum", "decided"),
        ] {
            let refused = parse(input.clone()).unwrap_err();
            assert_eq!(refused.parameter, parameter, "{input}");
            assert!(refused.message.contains(part), "{input}: {}", refused.message);
        }
    }

    #[test]
    fn where_no_endpoint_is_known_the_own_region_is_named() {
        let alone = Regions::new("us-east-1", vec![]).unwrap();
        let url = json!({"source_image_url": format!("{THERE}/v2/images/{ID}")});
        let refused = CloneInput::parse(&url, &alone, &GlanceEndpoints::default()).unwrap_err().message;
        assert!(refused.ends_with("none is known here: name the image by source_region and image_uuid"));
        let own = json!({"source_region": "us-east-1", "image_uuid": ID});
        let parsed = CloneInput::parse(&own, &alone, &GlanceEndpoints::default()).unwrap();
        assert_eq!(parsed.source, of_region("us-east-1"));
    }

    fn source() -> Image {
        Image {
            id: ID.parse().unwrap(),
            owner: "demo".into(),
            name: Some("Debian".into()),
            status: ImageStatus::Active,
            visibility: Visibility::Public,
            disk_format: Some("qcow2".into()),
            container_format: Some("bare".into()),
            size: Some(5),
            virtual_size: Some(7),
            checksum: None,
            os_hash_algo: None,
            os_hash_value: None,
            min_disk: 4,
            min_ram: 512,
            protected: true,
            os_hidden: true,
            tags: vec!["a".into()],
            properties: [("os_distro", "debian"), ("hw", "x"), ("os_glance_source_image", "old/1")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            created_at: Timestamp::from_epoch(1),
            updated_at: Timestamp::from_epoch(1),
            staged: None,
            import_failed: false,
            upload: None,
            members: Default::default(),
            stored: None,
        }
    }

    fn describe(source: &Image, properties: Value) -> Checked<Image> {
        let input = json!({"source_region": "eu-west-1", "image_uuid": ID, "image_properties": properties});
        let mut image = Image { properties: BTreeMap::new(), tags: vec![], ..source.clone() };
        parse(input)?.describe(&mut image, source).map(|()| image)
    }

    #[test]
    fn both_properties_together_are_checked_like_any() {
        let many = |n: usize| (0..n).map(|n| (format!("p{n}"), "x".to_owned())).collect::<BTreeMap<_, _>>();
        let full = Image { properties: many(128), ..source() };
        // Where it comes from is the service's own word.
        assert_eq!(describe(&full, json!({"p0": "y"})).unwrap().properties.len(), 129);
        let refused = describe(&full, json!({"mine": "y"})).unwrap_err();
        assert_eq!(refused.parameter, "image_properties.*");
        assert!(refused.message.starts_with("129 extra properties"), "{}", refused.message);
        let long = |name: &str, len: usize| Image {
            properties: [(name.to_owned(), "x".repeat(len))].into(),
            ..source()
        };
        assert!(describe(&long("p", 65_535), json!({})).is_ok());
        assert!(describe(&long("p", 65_536), json!({})).unwrap_err().message.contains("65536 characters"));
        assert!(describe(&long(&"p".repeat(256), 1), json!({})).unwrap_err().message.contains("name has"));
        let tags = Image { tags: (0..129).map(|n| n.to_string()).collect(), ..source() };
        assert_eq!(describe(&tags, json!({})).unwrap_err().parameter, "image_properties.tags");
        // Each fits, but not all of them.
        let heavy = (0..4).map(|n| (format!("p{n}"), "x".repeat(50_000))).collect();
        let heavy = Image { properties: heavy, ..source() };
        assert!(describe(&heavy, json!({"mine": "x".repeat(60_000)})).is_ok());
        let refused = describe(&heavy, json!({"mine": "x".repeat(63_000)})).unwrap_err();
        assert!(refused.message.contains("at most 262144"), "{}", refused.message);
    }

    #[test]
    fn properties_are_the_sources_unless_the_caller_says_otherwise() {
        let source = source();
        let described = |properties: Value| describe(&source, properties).unwrap();
        let plain = described(json!({"name": null}));
        assert_eq!((plain.name.as_deref(), plain.visibility), (Some("Debian"), Visibility::Shared));
        assert_eq!((plain.min_disk, plain.protected, plain.tags.len()), (4, true, 1));
        assert_eq!(plain.properties[PROVENANCE], format!("eu-west-1/{ID}"));
        assert_eq!((plain.properties["os_distro"].as_str(), plain.properties.len()), ("debian", 3));
        let other = described(json!({
            "name": "mine", "min_disk": 0, "protected": false, "tags": [], "hw": "y", "visibility": "private",
        }));
        assert_eq!((other.name.as_deref(), other.visibility), (Some("mine"), Visibility::Private));
        assert_eq!((other.min_disk, other.protected, other.tags.len()), (0, false, 0));
        assert_eq!((other.properties["hw"].as_str(), other.min_ram, other.os_hidden), ("y", 512, true));
    }
}
