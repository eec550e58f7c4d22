//! The input of an export: which image goes where, in which form.
//!
//! Invariant: parsing is a function of the input and of who asks alone. Which buckets may receive is the operator's word, asked beside it:
//! at the POST, and again by the flow, since that word may have changed.
//!
//! Invariant: below `projects/` of any bucket a project names no key but its own. What an export is called by default lies
//! there, so that nobody can take that name before its image's owner does, or put another image under it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::image::ImageId;
use crate::input::{Checked, InvalidInput, Members, quoted, remarks};
use crate::source::{SourceLocation, is_bucket_name};

/// The image: ours, and Rackspace's name for it.
const IMAGE: [&str; 2] = ["image_uuid", "export_uuid"];
/// The receiving bucket: ours, and Rackspace's name for it.
const BUCKET: [&str; 2] = ["receiving_bucket", "receiving_swift_container"];
const LOCATION: &str = "export_to";
/// Where the projects' own keys begin.
const PROJECTS: &str = "projects/";

const KEYS: &[&str] = &[
    "image_uuid",
    "export_uuid",
    "receiving_bucket",
    "receiving_swift_container",
    "export_to",
    "export_format",
    "compression",
];

/// Names of formats that an image is exported in.
pub const FORMATS: &[&str] = &[ExportFormat::Qcow2.name(), ExportFormat::Raw.name()];
/// Names of compressions of a qcow2.
pub const COMPRESSIONS: &[&str] = &["zstd", "zlib", "none"];

/// What the exported object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// QEMU's format, version 3.
    Qcow2,
    /// The disk's bytes.
    Raw,
}

impl ExportFormat {
    /// The name on the wire, also the object name's ending.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// How the clusters of a qcow2 are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportCompression {
    /// QEMU 5.1 and later.
    Zstd,
    /// Every QEMU.
    Zlib,
    /// Not at all.
    None,
}

/// What an export shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInput {
    /// The image.
    pub image: ImageId,
    /// Bucket that receives it.
    pub bucket: String,
    /// Key of the object to make.
    pub key: String,
    /// Its format.
    pub format: ExportFormat,
    /// Compression that is asked for; `None`: as it is where the image is stored as qcow2, else zlib.
    pub compression: Option<ExportCompression>,
    /// What the caller should know though nothing is refused: keys that look misspelt.
    pub remarks: Vec<String>,
}

impl ExportInput {
    /// Reads and checks the `input` of an export that a project asks for.
    ///
    /// # Errors
    /// [`InvalidInput`] for the first parameter that can't be taken.
    pub fn parse(input: &Value, project: &str) -> Checked<Self> {
        let members = Members::of(input, "input", "")?;
        let image = image(&members)?;
        let format = match members.one_of("export_format", FORMATS)? {
            Some("raw") => ExportFormat::Raw,
            _ => ExportFormat::Qcow2,
        };
        let compression = members.one_of("compression", COMPRESSIONS)?.map(|name| match name {
            "zstd" => ExportCompression::Zstd,
            "zlib" => ExportCompression::Zlib,
            _ => ExportCompression::None,
        });
        if format == ExportFormat::Raw && compression.is_some_and(|c| c != ExportCompression::None) {
            return members.refuse("compression", "a raw export is never compressed; only qcow2 is");
        }
        let (bucket, key) = receiver(&members, project, image, format)?;
        Ok(Self { image, bucket, key, format, compression, remarks: remarks(&members, "input.", KEYS) })
    }

    /// `s3://bucket/key`.
    pub fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// The one of two names that is given.
fn one<'a>(members: &Members<'a>, names: [&'static str; 2]) -> Checked<Option<(&'static str, &'a str)>> {
    match (members.string(names[0])?, members.string(names[1])?) {
        (Some(_), Some(_)) => members.refuse(names[1], format!("is the same as {}: give one", names[0])),
        (Some(value), None) => Ok(Some((names[0], value))),
        (None, Some(value)) => Ok(Some((names[1], value))),
        (None, None) => Ok(None),
    }
}

fn image(members: &Members<'_>) -> Checked<ImageId> {
    let Some((name, text)) = one(members, IMAGE)? else {
        return members.missing(IMAGE[0], "is required: the id of the image to export", &IMAGE, KEYS);
    };
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => members.refuse(name, format!("must be an image's id, a UUID, not {}", quoted(text))),
    }
}

/// What a project's own keys begin with.
fn own_keys(project: &str) -> String {
    let mut own = PROJECTS.to_owned();
    for byte in project.bytes() {
        // What is left as it is can neither end the segment nor be `.` or `..`.
        match char::from(byte) {
            plain @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_') => own.push(plain),
            _ => own += &format!("%{byte:02X}"),
        }
    }
    own + "/"
}

fn receiver(
    members: &Members<'_>,
    project: &str,
    image: ImageId,
    format: ExportFormat,
) -> Checked<(String, String)> {
    let own = own_keys(project);
    match (one(members, BUCKET)?, members.string(LOCATION)?) {
        (Some((name, _)), Some(_)) => {
            members.refuse(LOCATION, format!("names a bucket too: give {name} or {LOCATION}"))
        }
        (Some((name, bucket)), None) if !is_bucket_name(bucket) => {
            members.refuse(name, format!("must be a bucket's name, not {}", quoted(bucket)))
        }
        (Some((_, bucket)), None) => Ok((bucket.to_owned(), format!("{own}{image}.{}", format.name()))),
        (None, Some(text)) if text.starts_with("s3://") => match SourceLocation::parse(text) {
            Ok(SourceLocation::S3 { key, .. }) if key.starts_with(PROJECTS) && !key.starts_with(&own) => {
                members.refuse(LOCATION, format!("below {PROJECTS} only keys below {own} are this project's"))
            }
            Ok(SourceLocation::S3 { bucket, key }) => Ok((bucket, key)),
            Ok(SourceLocation::Http(_) | SourceLocation::Oci(_) | SourceLocation::Staged { .. }) => {
                members.refuse(LOCATION, "must be s3://bucket/key")
            }
            Err(e) => Err(InvalidInput::new(LOCATION, e.to_string())),
        },
        (None, Some(text)) => {
            members.refuse(LOCATION, format!("must be s3://bucket/key, not {}", quoted(text)))
        }
        (None, None) => {
            let told = format!("or {LOCATION} is required: where the export goes");
            members.missing(BUCKET[0], told, &[BUCKET[0], BUCKET[1], LOCATION], KEYS)
        }
    }
}

/// Which buckets may receive exports, and in which region each is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportPolicy {
    /// Buckets by name; `None`: in this region.
    pub buckets: BTreeMap<String, Option<String>>,
}

impl ExportPolicy {
    /// The region of a bucket that may receive, if it isn't this one.
    ///
    /// # Errors
    /// A sentence for the user where the bucket isn't listed.
    pub fn region(&self, bucket: &str) -> Result<Option<&str>, String> {
        match self.buckets.get(bucket) {
            Some(region) => Ok(region.as_deref()),
            None => {
                Err(format!("bucket '{bucket}' is not among those that exports may go to; ask the operator"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";

    fn parse(input: Value) -> Checked<ExportInput> {
        ExportInput::parse(&input, "demo")
    }

    #[test]
    fn both_spellings_and_a_location() {
        let ours = parse(json!({"image_uuid": ID, "receiving_bucket": "exports"})).unwrap();
        assert_eq!(
            (ours.image.to_string().as_str(), ours.format, ours.compression),
            (ID, ExportFormat::Qcow2, None)
        );
        assert_eq!(ours.location(), format!("s3://exports/projects/demo/{ID}.qcow2"));
        let theirs = parse(json!({"export_uuid": ID, "receiving_swift_container": "exports"})).unwrap();
        assert_eq!(theirs, ours);
        let raw = parse(json!({
            "image_uuid": ID, "export_to": "s3://exports/a/b c.img", "export_format": "raw", "compression": "none",
        }))
        .unwrap();
        assert_eq!((raw.bucket.as_str(), raw.key.as_str()), ("exports", "a/b c.img"));
        assert_eq!(raw.format, ExportFormat::Raw);
        let zstd =
            parse(json!({"image_uuid": ID, "receiving_bucket": "exports", "compression": "zstd"})).unwrap();
        assert_eq!(zstd.compression, Some(ExportCompression::Zstd));
        let raw =
            parse(json!({"image_uuid": ID, "receiving_bucket": "exports", "export_format": "raw"})).unwrap();
        assert_eq!(raw.key, format!("projects/demo/{ID}.raw"));
    }

    #[test]
    fn a_project_names_no_key_of_another() {
        let of = |project: &str, more: Value| {
            let mut input = json!({"image_uuid": ID});
            input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ExportInput::parse(&input, project)
        };
        let default = |project: &str| of(project, json!({"receiving_bucket": "exports"})).unwrap();
        let to = |project: &str, key: &str| of(project, json!({"export_to": format!("s3://exports/{key}")}));
        let names = ["demo", "other", "demo/x", "demo%2Fx", "..", "pröject", "123456789012"];
        for owner in names {
            let key = default(owner).key;
            assert!(key.starts_with("projects/") && key.ends_with(&format!("/{ID}.qcow2")), "{key}");
            for other in names.into_iter().filter(|other| *other != owner) {
                assert_ne!(default(other).key, key);
                let refused = to(other, &key).unwrap_err();
                assert_eq!(refused.parameter, "export_to", "{other} takes {key}");
                assert!(refused.message.contains("this project's"), "{}", refused.message);
            }
        }
        assert_eq!(default("..").key, format!("projects/%2E%2E/{ID}.qcow2"));
        assert_eq!(to("demo", &default("demo").key).unwrap(), default("demo"));
        for (key, taken) in [("projects/demo/backups/1", true), ("projects", true), ("projects/x", false)] {
            assert_eq!(to("demo", key).is_ok(), taken, "{key}");
        }
    }

    #[test]
    fn refusals_name_the_parameter() {
        let with = |more: Value| {
            let mut input = json!({"image_uuid": ID, "receiving_bucket": "exports"});
            for (key, value) in more.as_object().unwrap() {
                input[key] = value.clone();
            }
            input
        };
        for (input, parameter, part) in [
            (json!("x"), "input", "an object"),
            (json!({}), "image_uuid", "required"),
            (json!({"imageUuid": ID}), "image_uuid", "\"imageUuid\" is not known, did you mean image_uuid?"),
            (json!({"export_uid": ID}), "image_uuid", "did you mean export_uuid?"),
            (
                json!({"image_uuid": ID, "receiving_buket": "x"}),
                "receiving_bucket",
                "did you mean receiving_bucket?",
            ),
            (json!({"image_uuid": ID, "export-to": "x"}), "receiving_bucket", "did you mean export_to?"),
            (json!({"image_uuid": 5}), "image_uuid", "must be a string"),
            (with(json!({"image_uuid": "x"})), "image_uuid", "a UUID, not \"x\""),
            (json!({"export_uuid": "x"}), "export_uuid", "a UUID"),
            (with(json!({"export_uuid": ID})), "export_uuid", "the same as image_uuid"),
            (json!({"image_uuid": ID}), "receiving_bucket", "export_to is required"),
            (with(json!({"receiving_bucket": "No"})), "receiving_bucket", "a bucket's name"),
            (with(json!({"receiving_swift_container": "other"})), "receiving_swift_container", "give one"),
            (with(json!({"export_to": "s3://exports/x"})), "export_to", "give receiving_bucket or export_to"),
            (json!({"image_uuid": ID, "export_to": "exports/x"}), "export_to", "must be s3://bucket/key"),
            (json!({"image_uuid": ID, "export_to": "s3://exports/"}), "export_to", "key is empty"),
            (json!({"image_uuid": ID, "export_to": "s3://exports/../x"}), "export_to", "'..'"),
            (json!({"image_uuid": ID, "export_to": "s3://No/x"}), "export_to", "not a bucket name"),
            (with(json!({"export_format": "vmdk"})), "export_format", "one of qcow2, raw"),
            (with(json!({"compression": "lzma"})), "compression", "one of zstd, zlib, none"),
            (with(json!({"export_format": "raw", "compression": "zstd"})), "compression", "never compressed"),
        ] {
            let refused = parse(input.clone()).unwrap_err();
            assert_eq!(refused.parameter, parameter, "{input}");
            assert!(refused.message.contains(part), "{input}: {}", refused.message);
        }
    }

    #[test]
    fn misspelt_keys_are_remarked_on_and_buckets_are_the_operators_word() {
        let input =
            parse(json!({"image_uuid": ID, "receiving_bucket": "exports", "exportFormat": "raw"})).unwrap();
        assert_eq!(
            input.remarks,
            ["input.exportFormat is not known and was ignored; did you mean export_format?"]
        );
        let buckets = [("here".to_owned(), None), ("there".to_owned(), Some("eu-west-1".to_owned()))].into();
        let policy = ExportPolicy { buckets };
        assert_eq!(policy.region("here"), Ok(None));
        assert_eq!(policy.region("there"), Ok(Some("eu-west-1")));
        assert!(policy.region("elsewhere").unwrap_err().contains("'elsewhere'"));
    }
}
