//! The input of an import: what is asked for, checked as far as it can be
//! without asking anybody.
//!
//! Invariant: parsing is a function of the input and the operator's policy
//! alone, so a flow that parses the stored input again gets what the POST got.

mod places;

use serde_json::Value;

use self::places::{check_hashes, headers, location, sources};
use crate::caller::Caller;
use crate::image::{HASH_ALGORITHM, Visibility};
use crate::image_properties::ImageProperties;
use crate::input::{Checked, InvalidInput, Members, remarks};
use crate::source::{SUPPORTED, SourceLocation, SourcePolicy};
use crate::source_headers::{self, SourceHeaders};

/// Formats that inspection can find, as Glance names them; `vpc` is QEMU's name for `vhd`.
pub const SOURCE_FORMATS: &[&str] =
    &["raw", "qcow2", "vmdk", "vhd", "vpc", "vhdx", "vdi", "iso", "ami", "ari", "aki", "ova"];

/// Formats without a structure: the same bytes under each name.
const OPAQUE: &[&str] = &["raw", "ami", "ari", "aki"];
/// Formats that an image can be converted to.
const CONVERTIBLE: &[&str] = &["raw", "qcow2"];

/// Format that the operator wants disks to be stored in where `disk_format` isn't given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// Whatever they are in.
    #[default]
    AsIs,
    /// The disk's bytes.
    Raw,
    /// qcow2.
    Qcow2,
}

impl OutputFormat {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::AsIs, Self::Raw, Self::Qcow2];

    /// As the operator writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsIs => "as-is",
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

const KEYS: &[&str] = &[
    "import_from",
    source_headers::KEY,
    "import_from_format",
    "import_from_member",
    "image_properties",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "checksums_from",
];

/// Most places of the same bytes.
pub const MAX_SOURCES: usize = 8;
/// Longest name of a member, characters: what file systems have.
const MAX_MEMBER: usize = 255;
const MD5_DIGITS: usize = 32;
pub(crate) const SHA256_DIGITS: usize = 64;
pub(crate) const SHA512_DIGITS: usize = 128;

/// What `os_hash_value` may be of a source. Images have the first.
pub const SOURCE_HASHES: &[&str] = &[HASH_ALGORITHM, "sha256"];

/// What is remarked on a source that anybody on the way may change.
const EXPOSED: &str = "import_from is fetched by http and no hash is given: whoever is on the way could change the image \
                       unseen; name an https address, or give os_hash_value or checksums_from.";

/// What an import shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportInput {
    /// Where the image is.
    pub source: SourceLocation,
    /// Where else the same bytes are.
    pub mirrors: Vec<SourceLocation>,
    /// What the source's server is told of who asks.
    pub headers: Option<SourceHeaders>,
    /// The format that it must turn out to be, one of [`SOURCE_FORMATS`] but never `vpc`.
    pub declared_format: Option<&'static str>,
    /// The member of an OVA that is the disk to bring in.
    pub member: Option<String>,
    /// What is said of the image to be made. Its `disk_format`, where it differs
    /// from what is found, asks for a conversion.
    pub image: ImageProperties,
    /// MD5 that the source must have, lower-case hex.
    pub checksum: Option<String>,
    /// SHA-256 that the source must have, lower-case hex.
    pub sha256: Option<String>,
    /// SHA-512 that the source must have, lower-case hex.
    pub sha512: Option<String>,
    /// A file that lists a SHA-256 or SHA-512 of the source, by its name.
    pub checksums_from: Option<SourceLocation>,
    /// What the caller should know though nothing is refused: keys that look misspelt.
    pub remarks: Vec<String>,
}

impl ImportInput {
    /// Reads and checks an import's `input`.
    ///
    /// # Errors
    /// [`InvalidInput`] for the first parameter that can't be taken.
    pub fn parse(input: &Value, policy: &SourcePolicy) -> Checked<Self> {
        let members = Members::of(input, "input", "")?;
        let (source, mirrors) = sources(&members, policy)?;
        let headers = headers(&members, &source, &mirrors)?;
        let checksums_from = location(&members, "checksums_from", policy)?;
        let declared_format = match members.one_of("import_from_format", SOURCE_FORMATS)? {
            Some("vpc") => Some("vhd"),
            other => other,
        };
        let image = ImageProperties::parse(members, "image_properties")?;
        let member = member(&members, declared_format, image.disk_format)?;
        if let (Some(declared), Some(wanted)) = (declared_format, image.disk_format)
            && !is_possible(declared, wanted)
        {
            return Err(InvalidInput::new(
                "image_properties.disk_format",
                format!(
                    "{wanted} can't be made from {declared}; images are converted to {} only",
                    CONVERTIBLE.join(" or ")
                ),
            ));
        }
        let checksum = members.hex("checksum", MD5_DIGITS)?;
        let algorithm = members.one_of("os_hash_algo", SOURCE_HASHES)?;
        let is_sha512 = algorithm.is_none_or(|algorithm| algorithm == HASH_ALGORITHM);
        let value = members.hex("os_hash_value", if is_sha512 { SHA512_DIGITS } else { SHA256_DIGITS })?;
        if algorithm.is_some() && value.is_none() {
            let told = "is required where os_hash_algo is given";
            return members.missing("os_hash_value", told, &["os_hash_value"], KEYS);
        }
        check_hashes(&members, &source)?;
        let (sha256, sha512) = if is_sha512 { (None, value) } else { (value, None) };
        let mut input = Self {
            source,
            mirrors,
            headers,
            declared_format,
            member,
            image,
            checksum,
            sha256,
            sha512,
            checksums_from,
            remarks: remarks(&members, "input.", KEYS),
        };
        if input.is_exposed(policy) {
            input.remarks.push(EXPOSED.to_owned());
        }
        if input.headers.is_some()
            && matches!(&input.source, SourceLocation::Http(url) if url.scheme() == "http")
        {
            input.remarks.push(format!("{} are sent unencrypted, over http.", source_headers::KEY));
        }
        Ok(input)
    }

    /// Whether this caller may ask for it.
    ///
    /// # Errors
    /// A sentence that names the parameter: only an admin makes public images,
    /// and nobody makes images for another project.
    pub fn check_permitted(&self, caller: &Caller) -> Result<(), String> {
        if self.image.visibility == Some(Visibility::Public) && !caller.is_admin() {
            return Err("image_properties.visibility: only an admin may make an image public".to_owned());
        }
        if self.image.owner.as_ref().is_some_and(|owner| *owner != caller.project) {
            return Err("image_properties.owner: an image belongs to the project that imports it".to_owned());
        }
        Ok(())
    }
}

fn member(members: &Members<'_>, declared: Option<&str>, wanted: Option<&str>) -> Checked<Option<String>> {
    const KEY: &str = "import_from_member";
    let Some(name) = members.short_string(KEY, MAX_MEMBER)? else { return Ok(None) };
    if name.is_empty() || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        return members
            .refuse(KEY, "must be the plain name of a disk in an archive, as its descriptor has it");
    }
    match (declared, wanted) {
        (Some(declared), _) if declared != "ova" => {
            members.refuse(KEY, format!("only an ova has members, not {declared}"))
        }
        (_, Some(wanted)) if !CONVERTIBLE.contains(&wanted) => members.refuse(
            KEY,
            format!(
                "a disk taken out of an archive is stored as {}, not as {wanted}",
                CONVERTIBLE.join(" or ")
            ),
        ),
        _ => Ok(Some(name.to_owned())),
    }
}

/// Whether an image found to be `found` can be stored as `wanted`.
fn is_possible(found: &str, wanted: &str) -> bool {
    let both_opaque = OPAQUE.contains(&found) && OPAQUE.contains(&wanted);
    found == wanted || both_opaque || CONVERTIBLE.contains(&wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::address::AddressPolicy;

    fn policy() -> SourcePolicy {
        SourcePolicy { buckets: ["sources".to_owned()].into(), ..SourcePolicy::default() }
    }

    fn parse(input: Value) -> Checked<ImportInput> {
        ImportInput::parse(&input, &policy())
    }

    #[test]
    fn the_least_and_the_most() {
        let least = parse(json!({"import_from": "https://example.com/a.qcow2"})).unwrap();
        assert_eq!(least.source.to_string(), "https://example.com/a.qcow2");
        assert_eq!((least.declared_format, least.remarks.len()), (None, 0));
        let most = parse(json!({
            "import_from": "sources/a/b.vhd", "import_from_format": "vpc",
            "image_properties": {"name": "n", "disk_format": "qcow2"},
            "checksum": "D41D8CD98F00B204E9800998ECF8427E",
            "os_hash_algo": "sha512", "os_hash_value": "0".repeat(128),
            "note": "ignored",
        }))
        .unwrap();
        assert_eq!(most.source, SourceLocation::S3 { bucket: "sources".into(), key: "a/b.vhd".into() });
        assert_eq!((most.declared_format, most.image.disk_format), (Some("vhd"), Some("qcow2")));
        assert_eq!((&most.sha256, most.sha512.as_ref().map(String::len)), (&None, Some(128)));
        assert_eq!((most.member, most.checksum.as_deref()), (None, Some("d41d8cd98f00b204e9800998ecf8427e")));
        let ova = parse(json!({
            "import_from": "https://example.com/a.ova", "import_from_format": "ova", "import_from_member": "disk 2.vmdk",
            "image_properties": {"disk_format": "raw"},
        }));
        assert_eq!(ova.unwrap().member.as_deref(), Some("disk 2.vmdk"));
        assert_eq!(most.remarks, Vec::<String>::new());
    }

    #[test]
    fn several_places_may_have_the_same_bytes() {
        let list = parse(json!({"import_from": ["https://a.example/x", "s3://sources/x"]})).unwrap();
        let shown: Vec<_> = list.locations().map(ToString::to_string).collect();
        assert_eq!(shown, ["https://a.example/x", "s3://sources/x"]);
        let one = parse(json!({"import_from": ["https://a.example/x"]})).unwrap();
        assert_eq!(Ok(one), parse(json!({"import_from": "https://a.example/x"})));
        let most = |n| json!({"import_from": vec!["https://a.example/x"; n]});
        assert!(parse(most(8)).is_ok());
        for (input, part) in [
            (most(0), "a list of 1 to 8 places of the same bytes, not 0"),
            (most(9), "not 9"),
            (json!({"import_from": ["https://a.example/x", 5]}), "number 2 of the list: must be a string"),
            (json!({"import_from": ["https://a.example/x", "http://10.0.0.1/x"]}), "number 2 of the list: "),
            (json!({"import_from": ["https://a.example/x", "oci://a.example/x:1"]}), "oci:// stands alone"),
            (
                json!({"import_from": vec!["oci://a.example/x:1"; 2]}),
                "number 1 of the list: oci:// stands alone",
            ),
        ] {
            let refused = parse(input.clone()).unwrap_err();
            assert_eq!(refused.parameter, "import_from", "{input}");
            assert!(refused.message.contains(part), "{input}: {}", refused.message);
        }
    }

    #[test]
    fn headers_go_to_one_web_server() {
        let with =
            |from: Value| parse(json!({"import_from": from, "import_from_headers": {"Cookie": "s3cret"}}));
        let one = with(json!(["https://a.example/x", "https://A.example:443/y"])).unwrap();
        assert!(one.headers.is_some() && one.remarks.is_empty());
        assert!(with(json!("http://a.example/x")).unwrap().remarks.concat().contains("unencrypted"));
        for from in [
            json!("s3://sources/x"),
            json!("oci://a.example/x:1"),
            json!(["https://a.example/x", "https://b.example/x"]),
        ] {
            assert_eq!(with(from).unwrap_err().parameter, "import_from_headers");
        }
    }

    #[test]
    fn misspelt_keys_are_remarked_on() {
        let input = parse(json!({
            "import_from": "https://example.com/a", "import_from_fromat": "qcow2", "imageProperties": {},
        }))
        .unwrap();
        assert_eq!(
            input.remarks,
            [
                "input.imageProperties is not known and was ignored; did you mean image_properties?",
                "input.import_from_fromat is not known and was ignored; did you mean import_from_format?",
            ]
        );
    }

    #[test]
    fn refusals_name_the_parameter() {
        let url = "https://example.com/a";
        for (input, parameter, part) in [
            (
                json!({}),
                "import_from",
                "is required: http://, https://, s3://bucket/key, container/object, oci://",
            ),
            (
                json!({"import_frm": url}),
                "import_from",
                "repository:tag; \"import_frm\" is not known, did you mean import_from?",
            ),
            (
                json!({"import_from": url, "os_hash_algo": "sha512", "os_hash_val": "00"}),
                "os_hash_value",
                "did you mean os_hash_value?",
            ),
            (json!({"import_from": 5}), "import_from", "must be a string, not a number"),
            (json!({"import_from": null}), "import_from", "must be a string, not null"),
            (json!({"import_from": ""}), "import_from", "http://, https://, s3://"),
            (
                json!({"import_from": "file:///etc/passwd"}),
                "import_from",
                "supported are http://, https://, s3://",
            ),
            (json!({"import_from": "s3://others/x"}), "import_from", "'others'"),
            (json!({"import_from": "others/x"}), "import_from", "'others'"),
            (json!({"import_from": "http://169.254.169.254/x"}), "import_from", "169.254.169.254"),
            (json!({"import_from": "http://example.com:22/x"}), "import_from", "22"),
            (
                json!({"import_from": url, "import_from_format": "docx"}),
                "import_from_format",
                "one of raw, qcow2",
            ),
            (json!({"import_from": url, "import_from_format": 5}), "import_from_format", "a string"),
            (json!({"import_from": url, "image_properties": "x"}), "image_properties", "must be an object"),
            (
                json!({"import_from": url, "import_from_format": "qcow2", "image_properties": {"disk_format": "vmdk"}}),
                "image_properties.disk_format",
                "vmdk can't be made from qcow2",
            ),
            (json!({"import_from": url, "import_from_member": 5}), "import_from_member", "a string"),
            (json!({"import_from": url, "import_from_member": ""}), "import_from_member", "plain name"),
            (json!({"import_from": url, "import_from_member": "../a"}), "import_from_member", "plain name"),
            (json!({"import_from": url, "import_from_member": "a".repeat(256)}), "import_from_member", "255"),
            (
                json!({"import_from": url, "import_from_format": "vmdk", "import_from_member": "a"}),
                "import_from_member",
                "only an ova has members, not vmdk",
            ),
            (
                json!({"import_from": url, "import_from_member": "a", "image_properties": {"disk_format": "vmdk"}}),
                "import_from_member",
                "raw or qcow2, not as vmdk",
            ),
            (
                json!({"import_from": "oci://quay.io/a:b", "checksum": "0".repeat(32)}),
                "checksum",
                "pin the image, as oci://registry/repository@sha256:",
            ),
            (json!({"import_from": "oci://10.0.0.1/a:b"}), "import_from", "10.0.0.1"),
            (
                json!({"import_from": url, "checksums_from": "oci://quay.io/a:b"}),
                "checksums_from",
                "https://",
            ),
            (json!({"import_from": url, "checksums_from": 5}), "checksums_from", "a string"),
            (json!({"import_from": url, "checksums_from": "s3://others/x"}), "checksums_from", "'others'"),
            (
                json!({"import_from": url, "checksums_from": "http://10.0.0.1/x"}),
                "checksums_from",
                "10.0.0.1",
            ),
            (json!({"import_from": url, "checksum": "xyz"}), "checksum", "32 hexadecimal digits"),
            (json!({"import_from": url, "os_hash_algo": "md5"}), "os_hash_algo", "one of sha512, sha256"),
            (json!({"import_from": url, "os_hash_algo": "sha512"}), "os_hash_value", "required"),
            (json!({"import_from": url, "os_hash_value": "00"}), "os_hash_value", "128 hexadecimal digits"),
            (
                json!({"import_from": url, "os_hash_algo": "sha256", "os_hash_value": "0".repeat(128)}),
                "os_hash_value",
                "64 hexadecimal digits",
            ),
            (json!("x"), "input", "must be an object, not a string"),
        ] {
            let refused = parse(input.clone()).unwrap_err();
            assert_eq!(refused.parameter, parameter, "{input}");
            assert!(refused.message.contains(part), "{input}: {}", refused.message);
        }
    }

    #[test]
    fn opaque_formats_are_one() {
        let url = "https://example.com/a";
        let pair = |found: &str, wanted: &str| {
            parse(
                json!({"import_from": url, "import_from_format": found, "image_properties": {"disk_format": wanted}}),
            )
        };
        assert!(pair("raw", "ami").is_ok());
        assert!(pair("vhd", "raw").is_ok());
        assert!(pair("raw", "iso").is_err());
    }

    #[test]
    fn public_is_an_admins_word_and_owners_are_fixed() {
        let caller = |roles: &[&str]| Caller {
            user: "u".into(),
            project: "p".into(),
            roles: roles.iter().map(|r| (*r).into()).collect(),
        };
        let with = |properties: Value| {
            parse(json!({"import_from": "https://example.com/a", "image_properties": properties})).unwrap()
        };
        let public = with(json!({"visibility": "public"}));
        assert!(public.check_permitted(&caller(&["member"])).unwrap_err().contains("visibility"));
        assert_eq!(public.check_permitted(&caller(&["admin"])), Ok(()));
        assert_eq!(
            with(json!({"visibility": "community", "owner": "p"})).check_permitted(&caller(&[])),
            Ok(())
        );
        assert!(
            with(json!({"owner": "q"})).check_permitted(&caller(&["admin"])).unwrap_err().contains("owner")
        );
    }

    #[test]
    fn a_given_hash_is_of_the_algorithm_that_is_named() {
        let given = |algorithm: &str, value: String| {
            let input = parse(json!({
                "import_from": "https://example.com/a", "os_hash_algo": algorithm, "os_hash_value": value,
            }));
            input.map(|input| (input.sha256, input.sha512)).unwrap()
        };
        assert_eq!(given("sha256", "AB".repeat(32)), (Some("ab".repeat(32)), None));
        assert_eq!(given("sha512", "AB".repeat(64)), (None, Some("ab".repeat(64))));
    }

    #[test]
    fn a_source_that_can_be_changed_on_the_way_is_remarked_on() {
        let policy =
            SourcePolicy { addresses: AddressPolicy::new(vec!["10.1.0.0/16".parse().unwrap()]), ..policy() };
        let told = |input: Value| ImportInput::parse(&input, &policy).unwrap().remarks.len();
        for source in ["https://example.com/a", "s3://sources/a", "http://10.1.2.3/a"] {
            assert_eq!(told(json!({"import_from": source})), 0, "{source}");
        }
        let open = "http://example.com/a";
        assert_eq!(told(json!({"import_from": open})), 1);
        assert_eq!(told(json!({"import_from": open, "checksums_from": "http://example.com/SHA256SUMS"})), 1);
        for (key, value) in [
            ("checksum", "0".repeat(32)),
            ("os_hash_value", "0".repeat(128)),
            ("checksums_from", "https://example.com/SHA256SUMS".to_owned()),
        ] {
            let mut input = json!({"import_from": open});
            input[key] = json!(value);
            assert_eq!(told(input), 0, "{key}");
        }
    }
}
