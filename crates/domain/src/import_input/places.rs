//! Where an import's bytes are, and what is said there.

use serde_json::Value;

use super::{KEYS, MAX_SOURCES, SUPPORTED};
use crate::input::{Checked, InvalidInput, Members, type_of};
use crate::source::{SourceLocation, SourcePolicy};
use crate::source_headers::{self, SourceHeaders};

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
        found.push(source(text, policy, &place)?);
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
        SourceLocation::S3 { .. } | SourceLocation::Staged { .. } => None,
    };
    match origin(source) {
        None => {
            members.refuse(source_headers::KEY, "are for http:// and https:// alone; a bucket takes none")
        }
        first if mirrors.iter().any(|mirror| origin(mirror) != first) => {
            let told =
                "go to one server, and import_from names several; give one place, or several of one server";
            members.refuse(source_headers::KEY, told)
        }
        Some(_) => Ok(Some(headers)),
    }
}
