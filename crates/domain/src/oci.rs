//! Images in OCI registries: how they are named, and which of their bytes are the disk.
//!
//! Goal: a disk in a container image, as KubeVirt's containerDisks have it, or a file that was pushed as an artifact.
//!
//! Threat model: the reference is an attacker's, and so is the registry. A reference has one reading; what a manifest
//! names is fetched by its digest and nothing else, from the same registry.
//!
//! Facts: OCI distribution specification 1.1 ("Pulling manifests", "Pulling blobs"), image specification 1.1.

mod manifest;

use std::fmt;

use serde::{Deserialize, Serialize};
use url::Url;

pub use self::manifest::{Content, MAX_MANIFEST, Manifest, OciRefused, read};
use crate::import_input::{SHA256_DIGITS, SHA512_DIGITS};
use crate::source::SourceRefused;
use crate::sums::SourceHash;

/// Longest name of a repository (distribution specification: many clients take 255 with the host).
const MAX_REPOSITORY: usize = 255;
/// Longest tag (distribution specification).
const MAX_TAG: usize = 128;

/// Something that a registry has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciLocation {
    /// Where the registry is: scheme, host and port.
    pub registry: Url,
    /// Its repository.
    pub repository: String,
    /// What in it.
    pub object: OciObject,
}

/// What is fetched of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OciObject {
    /// A manifest by its tag: another one tomorrow.
    Tag(String),
    /// A manifest by its digest.
    Manifest(SourceHash),
    /// A layer, as it lies there. Nobody writes this.
    Blob(SourceHash),
}

impl OciLocation {
    /// Reads what follows `oci://`: `host[:port]/repository`, with `:tag`, `@digest` or both; the digest counts then.
    pub(crate) fn parse(scheme: &str, rest: &str) -> Result<Self, SourceRefused> {
        let (host, path) = rest.split_once('/').ok_or(SourceRefused::BadReference)?;
        let (path, digest) = match path.split_once('@') {
            Some((path, digest)) => {
                (path, Some(SourceHash::from_digest(digest).ok_or(SourceRefused::BadDigest)?))
            }
            None => (path, None),
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_repository(repository) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(SourceRefused::BadReference);
        }
        // The one registry whose name is not its host's, and where a name alone is one of its own.
        let (host, repository) = match (host, repository.contains('/')) {
            ("docker.io", false) => ("registry-1.docker.io", format!("library/{repository}")),
            ("docker.io", true) => ("registry-1.docker.io", repository.to_owned()),
            (host, _) => (host, repository.to_owned()),
        };
        let registry = crate::source::origin(scheme, host)?;
        let object = match (digest, tag) {
            (Some(digest), _) => OciObject::Manifest(digest),
            (None, Some(tag)) => OciObject::Tag(tag.to_owned()),
            (None, None) => return Err(SourceRefused::NoTag),
        };
        Ok(Self { registry, repository, object })
    }

    /// Something else in the same repository.
    #[must_use]
    pub fn beside(&self, object: OciObject) -> Self {
        Self { object, ..self.clone() }
    }

    /// Where the registry serves it.
    pub fn url(&self) -> Url {
        let mut url = self.registry.clone();
        let (kind, reference) = match &self.object {
            OciObject::Tag(tag) => ("manifests", tag.clone()),
            OciObject::Manifest(digest) => ("manifests", digest.digest()),
            OciObject::Blob(digest) => ("blobs", digest.digest()),
        };
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.repository));
        url
    }

    /// Whether what is fetched is told by a digest.
    pub fn is_pinned(&self) -> bool {
        !matches!(self.object, OciObject::Tag(_))
    }
}

/// As it is written; a layer as part of its repository.
impl fmt::Display for OciLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.registry.port().map(|port| format!(":{port}")).unwrap_or_default();
        let scheme = if self.registry.scheme() == "http" { "oci+http" } else { "oci" };
        let host = self.registry.host_str().unwrap_or_default();
        write!(f, "{scheme}://{host}{port}/{}", self.repository)?;
        match &self.object {
            OciObject::Tag(tag) => write!(f, ":{tag}"),
            OciObject::Manifest(digest) => write!(f, "@{}", digest.digest()),
            OciObject::Blob(digest) => write!(f, " (layer {})", digest.digest()),
        }
    }
}

impl SourceHash {
    /// As OCI writes it.
    pub fn digest(&self) -> String {
        match self {
            Self::Sha256(hex) => format!("sha256:{hex}"),
            Self::Sha512(hex) => format!("sha512:{hex}"),
        }
    }

    /// Reads what OCI writes (image specification, "Digests"): lower-case hex.
    pub fn from_digest(digest: &str) -> Option<Self> {
        let (algorithm, hex) = digest.split_once(':')?;
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match (algorithm, hex.len()) {
            ("sha256", SHA256_DIGITS) if is_hex => Some(Self::Sha256(hex.to_owned())),
            ("sha512", SHA512_DIGITS) if is_hex => Some(Self::Sha512(hex.to_owned())),
            _ => None,
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, such parts with `/` between.
fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
            && !["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().any(|pair| part.contains(pair))
    };
    name.len() <= MAX_REPOSITORY && name.split('/').all(is_part)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]*`
fn is_tag(tag: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= MAX_TAG
        && tag.starts_with(is_word)
        && tag.chars().all(|c| is_word(c) || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceLocation;

    fn parse(text: &str) -> Result<OciLocation, SourceRefused> {
        match SourceLocation::parse(text)? {
            SourceLocation::Oci(location) => Ok(*location),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn references_have_one_reading() {
        let hex = "a".repeat(64);
        let both = format!("oci://quay.io/a:tag@sha256:{hex}");
        let pinned = format!("oci://quay.io/a@sha256:{hex}");
        let served = format!("https://quay.io/v2/a/manifests/sha256:{hex}");
        let references: [(&str, &str, &str); 5] = [
            ("oci://quay.io/a/b:41", "oci://quay.io/a/b:41", "https://quay.io/v2/a/b/manifests/41"),
            (
                "OCI://Quay.IO:5000/b:v_1.0",
                "oci://quay.io:5000/b:v_1.0",
                "https://quay.io:5000/v2/b/manifests/v_1.0",
            ),
            (
                "oci://docker.io/debian:13",
                "oci://registry-1.docker.io/library/debian:13",
                "https://registry-1.docker.io/v2/library/debian/manifests/13",
            ),
            (
                "oci+http://10.0.0.1:5000/a--b/c__d:x",
                "oci+http://10.0.0.1:5000/a--b/c__d:x",
                "http://10.0.0.1:5000/v2/a--b/c__d/manifests/x",
            ),
            (&both, &pinned, &served),
        ];
        for (text, shown, url) in references {
            let location = parse(text).unwrap();
            assert_eq!((location.to_string(), location.url().as_str()), (shown.to_owned(), url), "{text}");
            assert_eq!(parse(shown), Ok(location), "{text}");
        }
        let layer = OciObject::Blob(SourceHash::Sha256(hex.clone()));
        let layer = parse("oci://quay.io/a:b").unwrap().beside(layer);
        assert_eq!(layer.url().as_str(), format!("https://quay.io/v2/a/blobs/sha256:{hex}"));
    }

    #[test]
    fn others_are_none() {
        for text in ["oci://quay.io", "oci:quay.io/a:b", "oci://quay.io/", "oci://quay.io/:x"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in [
            "oci://quay.io/A:b",
            "oci://quay.io/a/../b:c",
            "oci://quay.io/a//b:c",
            "oci://quay.io/a..b:c",
            "oci://quay.io/-a:b",
            "oci://quay.io/a:b:c",
            "oci://quay.io/a:-b",
            "oci://quay.io/a:b?c",
            "oci://quay.io/a:b/c",
            "oci://quay.io/a:",
            &format!("oci://quay.io/{}:b", "a".repeat(256)),
            &format!("oci://quay.io/a:{}", "b".repeat(129)),
        ] {
            assert_eq!(parse(text), Err(SourceRefused::BadReference), "{text}");
        }
        assert_eq!(parse("oci://quay.io/a"), Err(SourceRefused::NoTag));
        for digest in ["", "sha256:", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
            assert_eq!(
                parse(&format!("oci://quay.io/a@{digest}")),
                Err(SourceRefused::BadDigest),
                "{digest}"
            );
        }
        assert_eq!(
            parse(&format!("oci://quay.io/a@sha256:{}", "A".repeat(64))),
            Err(SourceRefused::BadDigest)
        );
        assert_eq!(parse("oci://u:p@quay.io/a:b"), Err(SourceRefused::UserInfo));
        assert_eq!(parse("oci+http://0x7f.1/a:b"), Err(SourceRefused::OddAddress("127.0.0.1".into())));
    }
}
