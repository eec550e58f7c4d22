//! `POST /v2/images/{id}/import`: what is asked for, and the input of the task that does it.
//!
//! Invariant: a task's input is made here alone, of a request that was checked, and read back here alone.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::image::{Image, ImageId, StagedBytes};
use crate::image_properties::{CONTAINER_FORMATS, ImageProperties};
use crate::import_input::{ImportInput, SOURCE_FORMATS};
use crate::input::{Checked, InvalidInput, Members, quoted, remarks};
use crate::source::{SUPPORTED, SourceLocation, SourcePolicy};

/// Import methods, by their names on the wire.
pub const METHODS: &[&str] = &[STAGED, WEB];

/// Keys of a request. Of those that choose stores, `stores` may name the one that is here; the others change nothing.
const KEYS: &[&str] = &["method", "stores", "all_stores", "all_stores_must_succeed"];
const METHOD_KEYS: &[&str] = &["name", "uri"];

const STAGED: &str = "glance-direct";
const WEB: &str = "web-download";

/// Where the bytes of an image that is there come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportMethod {
    /// From staging.
    GlanceDirect,
    /// From a place that the user names.
    WebDownload(SourceLocation),
}

impl ImportMethod {
    /// Reads the body of the request.
    ///
    /// # Errors
    /// [`InvalidInput`] for the first member that can't be taken.
    pub fn parse(body: &Value, policy: &SourcePolicy) -> Checked<Self> {
        let members = Members::of(body, "The request body", "")?;
        let Some(method) = members.get("method") else {
            return members.missing("method", "is required", &["method"], KEYS);
        };
        let method = Members::of(method, "method", "method.")?;
        match method.one_of("name", METHODS)? {
            Some(STAGED) => Ok(Self::GlanceDirect),
            Some(_) => {
                let Some(uri) = method.string("uri")? else {
                    return method.missing("uri", format!("is required: {SUPPORTED}"), &["uri"], METHOD_KEYS);
                };
                let refused = |e| InvalidInput::new("method.uri", format!("{e}"));
                let source = SourceLocation::parse(uri).map_err(refused)?;
                policy.check(&source).map_err(refused)?;
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
}

impl ImageImport {
    /// The staged bytes, if it is from staging.
    pub fn staged(&self) -> Option<StagedBytes> {
        match self.from {
            ImportedFrom::Staged(staged) => Some(staged),
            ImportedFrom::Web(_) => None,
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

    /// Which upload the input of such a task names, whatever the operator allows by now.
    pub fn staged_by(input: &Value) -> Option<StagedBytes> {
        input.get("staged")?.as_str()?.parse().ok().map(StagedBytes)
    }

    /// Reads a task's input again; the operator may have narrowed what is allowed since.
    ///
    /// # Errors
    /// [`InvalidInput`] for a source that isn't taken any more.
    pub fn parse(input: &Value, policy: &SourcePolicy) -> Checked<Self> {
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
        let from = match (ImportMethod::parse(request, policy)?, id("staged")?.map(StagedBytes)) {
            (ImportMethod::GlanceDirect, Some(staged)) => ImportedFrom::Staged(staged),
            (ImportMethod::GlanceDirect, None) => return members.refuse("staged", "is required"),
            (ImportMethod::WebDownload(source), _) => ImportedFrom::Web(source),
        };
        Ok(Self { image, from })
    }

    /// As an import of a source: the bytes must be what the record says, and are stored in the operator's format.
    ///
    /// # Errors
    /// [`InvalidInput`] where the record's formats are none that can be imported.
    pub fn of_record(&self, record: &Image, work_bucket: &str) -> Checked<ImportInput> {
        let source = match &self.from {
            ImportedFrom::Staged(staged) => {
                SourceLocation::Staged { bucket: work_bucket.to_owned(), key: staged.object_key(self.image) }
            }
            ImportedFrom::Web(source) => source.clone(),
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
    use crate::time::Timestamp;

    fn policy() -> SourcePolicy {
        SourcePolicy { buckets: ["sources".to_owned()].into(), ..SourcePolicy::default() }
    }

    #[test]
    fn a_request_names_a_method_and_what_that_needs() {
        let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}, "all_stores": false});
        let source = SourceLocation::S3 { bucket: "sources".into(), key: "a".into() };
        assert_eq!(ImportMethod::parse(&web, &policy()).unwrap(), ImportMethod::WebDownload(source.clone()));
        assert_eq!(
            ImportMethod::parse(&ImageImport::direct(), &policy()).unwrap(),
            ImportMethod::GlanceDirect
        );
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
            assert_eq!(ImportMethod::parse(&body, &policy()).unwrap_err().parameter, parameter, "{body}");
        }
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
            let told = ImportMethod::parse(&body, &policy()).unwrap_err().message;
            assert!(told.contains(hint), "{body}: {told}");
        }
        let taken = json!({"method": {"name": "glance-direct", "Name": "x"}, "all_store": false, "note": 1});
        assert!(ImportMethod::parse(&taken, &policy()).is_ok());
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
        let input = ImageImport::input(image, &ImageImport::direct(), Some(staged));
        let read = ImageImport::parse(&input, &policy()).unwrap();
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
        let input = ImageImport::input(image, &web, None);
        assert_eq!(ImageImport::parse(&input, &policy()).unwrap().staged(), None);
        let narrowed = ImageImport::parse(&input, &SourcePolicy::default()).unwrap_err();
        assert_eq!(narrowed.parameter, "method.uri");
    }
}
