//! Where an import's bytes are, and what is said there.

use serde_json::Value;

use super::{ImportInput, KEYS, MAX_SOURCES, SUPPORTED};
use crate::input::{Checked, InvalidInput, Members, type_of};
use crate::source::{SourceLocation, SourcePolicy};
use crate::source_headers::{self, SourceHeaders};

impl ImportInput {
    /// Whether somebody on the way could change the image unseen.
    pub(super) fn is_exposed(&self, policy: &SourcePolicy) -> bool {
        let is_checked = self.checksum.is_some() || self.sha256.is_some() || self.sha512.is_some();
        // A list that comes by the same way can be changed on it, too.
        let is_listed = self.checksums_from.as_ref().is_some_and(|from| !policy.is_exposed(from));
        self.locations().any(|from| policy.is_exposed(from)) && !is_checked && !is_listed
    }

    /// Where the image is, all places, in the order in which they are tried.
    pub fn locations(&self) -> impl Iterator<Item = &SourceLocation> {
        std::iter::once(&self.source).chain(&self.mirrors)
    }
}

/// One place, or a list of places that have the same bytes: the first one, and the others.
pub(super) fn sources(
    members: &Members<'_>,
    policy: &SourcePolicy,
) -> Checked<(SourceLocation, Vec<SourceLocation>)> {
    const KEY: &str = "import_from";
    let Some(Value::Array(list)) = members.get(KEY) else {
        let Some(text) = members.string(KEY)? else {
            let told = format!("is required: {SUPPORTED}");
            return members.missing(KEY, told, &[KEY], KEYS);
        };
        return Ok((source(text, policy, "")?, Vec::new()));
    };
    let mut found = Vec::new();
    for (n, item) in list.iter().enumerate().take(MAX_SOURCES + 1) {
        let place = format!("number {} of the list: ", n + 1);
        let Value::String(text) = item else {
            return members.refuse(KEY, format!("{place}must be a string, not {}", type_of(item)));
        };
        let source = source(text, policy, &place)?;
        if matches!(source, SourceLocation::Oci(_)) && list.len() > 1 {
            let told = format!("{place}oci:// stands alone; which bytes are meant is told by the registry");
            return members.refuse(KEY, told);
        }
        found.push(source);
    }
    let mut found = found.into_iter();
    match (found.next(), list.len()) {
        (Some(first), ..=MAX_SOURCES) => Ok((first, found.collect())),
        (_, len) => members
            .refuse(KEY, format!("must be a list of 1 to {MAX_SOURCES} places of the same bytes, not {len}")),
    }
}

fn source(text: &str, policy: &SourcePolicy, place: &str) -> Checked<SourceLocation> {
    let refused = |e| InvalidInput::new("import_from", format!("{place}{e}"));
    let source = SourceLocation::parse(text).map_err(refused)?;
    policy.check(&source).map_err(refused)?;
    Ok(source)
}

/// Headers go to one web server, and to no other.
pub(super) fn headers(
    members: &Members<'_>,
    source: &SourceLocation,
    mirrors: &[SourceLocation],
) -> Checked<Option<SourceHeaders>> {
    let Some(headers) = SourceHeaders::parse(members)? else { return Ok(None) };
    let origin = |location: &SourceLocation| match location {
        SourceLocation::Http(url) => Some(url.origin()),
        SourceLocation::S3 { .. } | SourceLocation::Oci(_) | SourceLocation::Staged { .. } => None,
    };
    match origin(source) {
        None => members.refuse(
            source_headers::KEY,
            "are for http:// and https:// alone; a bucket or registry takes none",
        ),
        first if mirrors.iter().any(|mirror| origin(mirror) != first) => {
            let told =
                "go to one server, and import_from names several; give one place, or several of one server";
            members.refuse(source_headers::KEY, told)
        }
        Some(_) => Ok(Some(headers)),
    }
}

/// A place that the operator allows.
pub(super) fn location(
    members: &Members<'_>,
    key: &str,
    policy: &SourcePolicy,
) -> Checked<Option<SourceLocation>> {
    let Some(text) = members.string(key)? else { return Ok(None) };
    let refused = |e| InvalidInput::new(key, format!("{e}"));
    let location = SourceLocation::parse(text).map_err(refused)?;
    if let SourceLocation::Oci(_) = location {
        return members.refuse(key, "can't be an oci:// address; name a file, by https:// or s3://");
    }
    policy.check(&location).map_err(refused)?;
    Ok(Some(location))
}

/// A registry's digests are verified; hashes of the disk, which may be a file in a layer, are not.
pub(super) fn check_hashes(members: &Members<'_>, source: &SourceLocation) -> Checked<()> {
    let SourceLocation::Oci(_) = source else { return Ok(()) };
    let mut hashes = ["checksum", "os_hash_value", "checksums_from"].into_iter();
    match hashes.find(|key| members.get(key).is_some()) {
        None => Ok(()),
        Some(given) => members.refuse(
            given,
            "is not taken with oci://, whose digests are verified; pin the image, as \
             oci://registry/repository@sha256:...",
        ),
    }
}
