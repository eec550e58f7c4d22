//! The versions document: what discovery reads first.

use serde::Serialize;

/// Highest minor version of Images v2 whose shapes are followed; Glance takes `/v2.0` to this in paths too.
pub(crate) const MINOR: u32 = 17;

/// Whether a path's first segment names this API.
pub(crate) fn is_v2(segment: &str) -> bool {
    match segment.strip_prefix("v2") {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('.')
            .and_then(|minor| minor.parse::<u32>().ok())
            .is_some_and(|minor| minor <= MINOR),
        None => false,
    }
}

/// Whether a path's first segment looks like a version, served or not.
pub(crate) fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|number| {
        number.starts_with(|c: char| c.is_ascii_digit())
            && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    })
}

/// The document.
#[derive(Serialize)]
pub(crate) struct Versions {
    versions: Vec<Version>,
}

#[derive(Serialize)]
struct Version {
    id: String,
    status: &'static str,
    links: Vec<Link>,
}

#[derive(Serialize)]
struct Link {
    rel: &'static str,
    href: String,
}

/// The document. Every minor version is listed: python-glanceclient offers what a listed one brought, and no more.
pub(crate) fn document(endpoint: &str) -> Versions {
    let version = |minor: u32| {
        let mut links = vec![Link { rel: "self", href: format!("{endpoint}/v2/") }];
        if minor == MINOR {
            // RFC 8631: where a machine reads what the API takes and answers.
            links.push(Link { rel: "service-desc", href: format!("{endpoint}/v2/openapi.json") });
        }
        let status = if minor == MINOR { "CURRENT" } else { "SUPPORTED" };
        Version { id: format!("v2.{minor}"), status, links }
    };
    Versions { versions: (0..=MINOR).rev().map(version).collect() }
}
