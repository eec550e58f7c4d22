//! `image_properties`: what a caller may say of the image that a task makes.
//!
//! The rules are those of Glance's image create: attributes with their types,
//! extra properties as strings, nothing that the service itself decides.
//! Limits are Glance's defaults (`image_property_quota`, `image_tag_quota` 128;
//! columns of 255 and 65,535 characters).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::image::{Image, ImageId, Visibility};
use crate::input::{Checked, InvalidInput, Members, quoted, type_of};

/// Disk formats an image can be stored in.
pub const DISK_FORMATS: &[&str] = &["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ami", "ari", "aki"];

/// Container formats, as Glance's schema has them.
pub const CONTAINER_FORMATS: &[&str] = &["bare", "ovf", "ova", "docker", "compressed", "ami", "ari", "aki"];

const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65_535;
const MAX_PROPERTIES: usize = 128;
const MAX_TAGS: usize = 128;
/// Most bytes of an image's texts together: what the body of a POST holds. With the rest of a record that stays below
/// the 400 KB of a DynamoDB item (DynamoDB developer guide, "Quotas").
pub const MAX_TOTAL: usize = 256 << 10;

/// Attributes that the service decides, and names that an image's JSON uses for something else.
const DECIDED: &[&str] = &[
    "checksum",
    "created_at",
    "deleted",
    "deleted_at",
    "direct_url",
    "file",
    "locations",
    "os_hash_algo",
    "os_hash_value",
    "schema",
    "self",
    "size",
    "status",
    "stores",
    "updated_at",
    "virtual_size",
];

/// Prefix of properties that Glance keeps for itself.
const RESERVED: &str = "os_glance_";

/// What was said of an image; what was not said is `None`, or the default of image create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageProperties {
    /// The id it shall have; must be unused.
    pub id: Option<ImageId>,
    /// The project that shall own it: only the task's own is possible.
    pub owner: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The format it shall be stored in, one of [`DISK_FORMATS`].
    pub disk_format: Option<&'static str>,
    /// Its envelope, one of [`CONTAINER_FORMATS`].
    pub container_format: Option<&'static str>,
    /// Who may see it.
    pub visibility: Option<Visibility>,
    /// GiB of disk that a guest needs, at least.
    pub min_disk: u32,
    /// MiB of memory that a guest needs.
    pub min_ram: u32,
    /// Whether it can't be deleted.
    pub protected: bool,
    /// Whether lists leave it out.
    pub os_hidden: bool,
    /// Tags, each once.
    pub tags: BTreeSet<String>,
    /// Extra properties.
    pub extra: BTreeMap<String, String>,
}

impl ImageProperties {
    /// Reads the object that `input` holds under `key`; absent, nothing was said.
    pub(crate) fn parse(input: Members<'_>, key: &str) -> Checked<Self> {
        let Some(value) = input.get(key) else { return Ok(Self::default()) };
        let prefix = format!("{key}.");
        let members = Members::of(value, key, &prefix)?;
        for (name, _) in members.iter() {
            if name.starts_with(RESERVED) {
                return members
                    .refuse(name, format!("can't be set: names in {RESERVED} are the service's own"));
            }
            if is_services_own(name) {
                return members.refuse(name, "is decided by the service and can't be set");
            }
        }
        let properties = Self::of(&members)?;
        let texts = properties.extra.iter().flat_map(|(name, value)| [name, value]);
        let bytes = texts.chain(&properties.tags).chain(&properties.name).map(String::len).sum();
        match check_room(properties.tags.len(), properties.extra.len(), bytes) {
            Ok(()) => Ok(properties),
            Err((name, told)) => members.refuse(name, told),
        }
    }

    /// What an object says, each member by its own rule; how many there are is the caller's to look at, and so is
    /// what only the service may set.
    pub(crate) fn of(members: &Members<'_>) -> Checked<Self> {
        let mut properties = Self {
            id: id(members)?,
            owner: owner(members)?,
            visibility: visibility(members)?,
            min_disk: members.count("min_disk")?.unwrap_or(0),
            min_ram: members.count("min_ram")?.unwrap_or(0),
            protected: members.boolean("protected")?.unwrap_or(false),
            os_hidden: members.boolean("os_hidden")?.unwrap_or(false),
            tags: tags(members)?,
            ..Self::default()
        };
        // Glance's schema takes null for these three: "not said".
        if members.get("name") != Some(&Value::Null) {
            properties.name = members.short_string("name", MAX_NAME)?.map(str::to_owned);
        }
        if members.get("disk_format") != Some(&Value::Null) {
            properties.disk_format = members.one_of("disk_format", DISK_FORMATS)?;
        }
        if members.get("container_format") != Some(&Value::Null) {
            properties.container_format = members.one_of("container_format", CONTAINER_FORMATS)?;
        }
        properties.extra = extra(members)?;
        Ok(properties)
    }

    /// The record with all that was said of it but its format: that is of bytes which may be converted yet.
    pub fn describe(self, image: Image) -> Image {
        Image {
            name: self.name,
            visibility: self.visibility.unwrap_or(image.visibility),
            container_format: self.container_format.map(str::to_owned),
            min_disk: self.min_disk,
            min_ram: self.min_ram,
            protected: self.protected,
            os_hidden: self.os_hidden,
            tags: self.tags.into_iter().collect(),
            properties: self.extra,
            ..image
        }
    }
}

/// Checks a record that was put together from several, by the rules for what a caller says. Properties of the service's own
/// don't count.
///
/// # Errors
/// [`InvalidInput`] that names what is too many or too long.
pub(crate) fn check_record(image: &Image, key: &str) -> Checked<()> {
    let refuse = |name: &str, what: String| Err(InvalidInput::new(format!("{key}.{name}"), what));
    has_room(image).or_else(|(name, told)| refuse(name, told))?;
    for (name, value) in own_properties(image) {
        let (name_length, length) = (name.chars().count(), value.chars().count());
        if !(1..=MAX_NAME).contains(&name_length) {
            return refuse(&quoted(name), format!("a property's name has 1 to {MAX_NAME} characters"));
        }
        if length > MAX_VALUE {
            return refuse(&quoted(name), format!("has {length} characters; at most {MAX_VALUE} are kept"));
        }
    }
    if image.name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME) {
        return refuse("name", format!("has more than {MAX_NAME} characters"));
    }
    Ok(())
}

fn own_properties(image: &Image) -> impl Iterator<Item = (&String, &String)> {
    image.properties.iter().filter(|(name, _)| !name.starts_with(RESERVED))
}

/// Whether a record has room for all that it says.
///
/// # Errors
/// Of what there is too much, and how much.
pub(crate) fn has_room(image: &Image) -> Result<(), (&'static str, String)> {
    let texts = image.properties.iter().flat_map(|(name, value)| [name, value]);
    let bytes = texts.chain(&image.tags).chain(&image.name).map(String::len).sum();
    check_room(image.tags.len(), own_properties(image).count(), bytes)
}

fn check_room(tags: usize, properties: usize, bytes: usize) -> Result<(), (&'static str, String)> {
    if tags > MAX_TAGS {
        return Err(("tags", format!("{tags} tags; an image has at most {MAX_TAGS}")));
    }
    if properties > MAX_PROPERTIES {
        return Err(("*", format!("{properties} extra properties; an image has at most {MAX_PROPERTIES}")));
    }
    if bytes > MAX_TOTAL {
        let told =
            format!("name, tags and extra properties take {bytes} bytes; an image has at most {MAX_TOTAL}");
        return Err(("*", told));
    }
    Ok(())
}

/// Attributes with a place of their own; any other key is an extra property.
pub(crate) const ATTRIBUTES: &[&str] = &[
    "container_format",
    "disk_format",
    "id",
    "min_disk",
    "min_ram",
    "name",
    "os_hidden",
    "owner",
    "protected",
    "tags",
    "visibility",
];

/// Whether a member of an image's JSON is the service's to set.
pub(crate) fn is_services_own(name: &str) -> bool {
    DECIDED.contains(&name) || name.starts_with(RESERVED)
}

fn id(members: &Members<'_>) -> Checked<Option<ImageId>> {
    let Some(text) = members.string("id")? else { return Ok(None) };
    // One spelling for one id: paths are compared as text by clients.
    match text.parse::<ImageId>() {
        Ok(id) if id.to_string() == text && !id.0.is_nil() => Ok(Some(id)),
        _ => members.refuse("id", format!("must be a lower-case UUID, not {}", quoted(text))),
    }
}

fn owner(members: &Members<'_>) -> Checked<Option<String>> {
    match members.short_string("owner", MAX_NAME)? {
        Some("") => members.refuse("owner", "must be the id of a project"),
        owner => Ok(owner.map(str::to_owned)),
    }
}

fn visibility(members: &Members<'_>) -> Checked<Option<Visibility>> {
    let names: Vec<_> = Visibility::ALL.iter().map(|v| v.name()).collect();
    Ok(members.one_of("visibility", &names)?.and_then(Visibility::from_name))
}

fn tags(members: &Members<'_>) -> Checked<BTreeSet<String>> {
    let list = match members.get("tags") {
        None => return Ok(BTreeSet::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return members.refuse("tags", format!("must be an array of strings, not {}", type_of(other)));
        }
    };
    let mut tags = BTreeSet::new();
    for (index, tag) in list.iter().enumerate() {
        match tag {
            Value::String(tag) if (1..=MAX_NAME).contains(&tag.chars().count()) => {
                tags.insert(tag.clone());
            }
            Value::String(_) => {
                let message = format!("must have 1 to {MAX_NAME} characters");
                return Err(InvalidInput::new(members.path(&format!("tags[{index}]")), message));
            }
            other => {
                let message = format!("must be a string, not {}", type_of(other));
                return Err(InvalidInput::new(members.path(&format!("tags[{index}]")), message));
            }
        }
    }
    Ok(tags)
}

fn extra(members: &Members<'_>) -> Checked<BTreeMap<String, String>> {
    let mut extra = BTreeMap::new();
    for (name, _) in members.iter().filter(|(name, _)| !ATTRIBUTES.contains(name)) {
        if !(1..=MAX_NAME).contains(&name.chars().count()) {
            return Err(InvalidInput::new(
                members.path(&quoted(name)),
                format!("a property's name has 1 to {MAX_NAME} characters"),
            ));
        }
        if let Some(text) = members.short_string(name, MAX_VALUE)? {
            extra.insert(name.to_owned(), text.to_owned());
        }
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(properties: Value) -> Checked<ImageProperties> {
        let input = json!({"image_properties": properties});
        ImageProperties::parse(Members::of(&input, "input", "").unwrap(), "image_properties")
    }

    #[test]
    fn everything_that_image_create_takes() {
        let id = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
        let p = parse(json!({
            "id": id, "owner": "demo", "name": "Debian", "disk_format": "qcow2", "container_format": "bare",
            "visibility": "community", "min_disk": 2, "min_ram": 512, "protected": true, "os_hidden": true,
            "tags": ["b", "a", "b"], "os_distro": "debian", "hw_disk_bus": "virtio",
        }))
        .unwrap();
        assert_eq!(p.id.unwrap().to_string(), id);
        assert_eq!(
            (p.name.as_deref(), p.disk_format, p.container_format),
            (Some("Debian"), Some("qcow2"), Some("bare"))
        );
        assert_eq!((p.visibility, p.min_disk, p.min_ram), (Some(Visibility::Community), 2, 512));
        assert_eq!(p.tags.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(p.extra.keys().map(String::as_str).collect::<Vec<_>>(), ["hw_disk_bus", "os_distro"]);
        assert_eq!(parse(json!({})).unwrap(), ImageProperties::default());
        assert_eq!(
            parse(json!({"name": null, "disk_format": null, "container_format": null})).unwrap(),
            ImageProperties::default()
        );
    }

    #[test]
    fn what_image_create_refuses_is_refused_by_name() {
        let many: serde_json::Map<_, _> = (0..129).map(|n| (format!("p{n}"), json!("x"))).collect();
        let many_tags: Vec<_> = (0..129).map(|n| format!("t{n}")).collect();
        for (properties, parameter) in [
            (json!({"name": 5}), "image_properties.name"),
            (json!({"name": "x".repeat(256)}), "image_properties.name"),
            (json!({"disk_format": "ploop"}), "image_properties.disk_format"),
            (json!({"disk_format": "QCOW2"}), "image_properties.disk_format"),
            (json!({"container_format": ["bare"]}), "image_properties.container_format"),
            (json!({"owner": ""}), "image_properties.owner"),
            (json!({"visibility": "everyone"}), "image_properties.visibility"),
            (json!({"visibility": null}), "image_properties.visibility"),
            (json!({"min_disk": -1}), "image_properties.min_disk"),
            (json!({"min_disk": true}), "image_properties.min_disk"),
            (json!({"min_ram": "512"}), "image_properties.min_ram"),
            (json!({"min_ram": 2_147_483_648_u64}), "image_properties.min_ram"),
            (json!({"protected": "true"}), "image_properties.protected"),
            (json!({"os_hidden": 1}), "image_properties.os_hidden"),
            (json!({"tags": "a"}), "image_properties.tags"),
            (json!({"tags": ["a", 5]}), "image_properties.tags[1]"),
            (json!({"tags": [""]}), "image_properties.tags[0]"),
            (json!({"tags": many_tags}), "image_properties.tags"),
            (json!({"id": "x"}), "image_properties.id"),
            (json!({"id": "0B5B7B0E-6D5C-4A3B-9A55-3D9C7D6F1A2B"}), "image_properties.id"),
            (json!({"status": "active"}), "image_properties.status"),
            (json!({"size": 5}), "image_properties.size"),
            (json!({"checksum": "x"}), "image_properties.checksum"),
            (json!({"os_glance_stage_host": "http://evil"}), "image_properties.os_glance_stage_host"),
            (json!({"os_distro": 12}), "image_properties.os_distro"),
            (json!({"os_distro": null}), "image_properties.os_distro"),
            (json!({"os_distro": "x".repeat(65_536)}), "image_properties.os_distro"),
            (json!({"": "x"}), "image_properties.\"\""),
            (Value::Object(many), "image_properties.*"),
            (json!([]), "image_properties"),
            (json!(null), "image_properties"),
        ] {
            let refused = parse(properties.clone()).unwrap_err();
            assert_eq!(refused.parameter, parameter, "{properties}");
            assert!(refused.message.len() < 200, "{}", refused.message);
        }
    }
}
