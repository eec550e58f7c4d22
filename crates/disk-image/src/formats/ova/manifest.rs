//! The manifest: a text beside the descriptor that lists digests of the archive's files (DSP0243, 5.1).
//!
//! Threat model: whoever can change the disk can change the manifest. It finds damage, and proves nothing of who packed it.
//! What it lists must be in the archive; nothing else is looked up by its names.

use super::{Member, bad, beside, descriptor, tar};
use crate::{
    error::{Code, Error, Result},
    formats::view::View,
    regions::{ByteRange, Regions},
};

/// A line for each file of an archive, of which there are at most 64.
const MAX_MANIFEST: u64 = 64 << 10;
/// What to do about a manifest that is not understood.
const REMAKE: &str = "make it anew (sha256sum), or pack the archive without it";

/// An algorithm that a manifest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// The one of OVF 1.
    Sha1,
    /// The one of OVF 2.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }

    /// Hexadecimal digits of a digest.
    const fn digits(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }

    /// As manifests name it; OpenSSL 3 writes the second forms.
    fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "SHA1" | "SHA-1" => Some(Self::Sha1),
            "SHA256" | "SHA-256" | "SHA2-256" => Some(Self::Sha256),
            "SHA384" | "SHA-384" | "SHA2-384" => Some(Self::Sha384),
            "SHA512" | "SHA-512" | "SHA2-512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// What a manifest says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The file's name.
    pub name: String,
    /// Its bytes in the archive.
    pub range: ByteRange,
    /// Of its digest.
    pub algorithm: Algorithm,
    /// In lower-case hexadecimal digits.
    pub digest: String,
}

/// What the manifest of an OVA lists; nothing where there is none.
///
/// # Errors
/// [`Error::Need`]; [`Code::BadArchive`] where it can't be read or lists a file that isn't there.
pub fn manifest(regions: &Regions) -> Result<Vec<Listed>> {
    let view = View::whole(regions);
    let members = tar::members(view)?;
    let Some(descriptor) = descriptor(&members)? else { return Ok(Vec::new()) };
    let stem =
        |name: &str| name.rsplit_once('.').map_or(String::new(), |(stem, _)| stem.to_ascii_lowercase());
    let is_manifest =
        |m: &&Member| m.name.to_ascii_lowercase().ends_with(".mf") && stem(&m.name) == stem(&descriptor.name);
    let Some(manifest) = members.iter().find(is_manifest) else { return Ok(Vec::new()) };
    if manifest.size > MAX_MANIFEST {
        let message =
            format!("OVA: the manifest has {} bytes, more than {MAX_MANIFEST}; {REMAKE}", manifest.size);
        return Err(Error::refused(Code::TableTooLarge, message));
    }
    let text = view.read(manifest.offset, manifest.size, "OVA manifest")?;
    let text = std::str::from_utf8(text).map_err(|_| {
        bad(format!("the manifest \"{}\" is no text; {REMAKE}", manifest.name.escape_default()))
    })?;
    let mut listed = Vec::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let wrong = |what: &str| bad(format!("line {number} of the manifest {what}; {REMAKE}"));
        let (algorithm, name, digest) =
            entry(line).ok_or_else(|| wrong("is none as SHA256(name)= digits"))?;
        let algorithm = Algorithm::from_name(algorithm)
            .ok_or_else(|| wrong("has a digest other than SHA-1, SHA-256, SHA-384 and SHA-512"))?;
        if digest.len() != algorithm.digits() || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong(&format!("has no {} hexadecimal digits", algorithm.digits())));
        }
        let member = beside(&members, descriptor, name.trim_start_matches("./"))
            .filter(|member| member.holes.is_none())
            .ok_or_else(|| {
                wrong(&format!("lists \"{}\", which is not in the archive", name.escape_default()))
            })?;
        listed.push(Listed {
            name: member.name.clone(),
            range: ByteRange { start: member.offset, end: member.offset + member.size },
            algorithm,
            digest: digest.to_ascii_lowercase(),
        });
    }
    Ok(listed)
}

/// Algorithm, name and digest of `SHA256(disk (1).vmdk)= 0a1b...`.
fn entry(line: &str) -> Option<(&str, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, digest) = rest.rsplit_once(')')?;
    let digest = digest.trim_start().strip_prefix('=')?;
    Some((algorithm.trim(), name, digest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_tools_write_them() {
        for (line, expected) in [
            ("SHA1(a.vmdk)= 0a", Some(("SHA1", "a.vmdk", "0a"))),
            ("SHA256 (a (1).vmdk) = 0a", Some(("SHA256", "a (1).vmdk", "0a"))),
            ("SHA2-256(a)=0a", Some(("SHA2-256", "a", "0a"))),
            ("0a  a.vmdk", None),
            ("SHA1(a.vmdk) 0a", None),
            ("SHA1 a.vmdk)= 0a", None),
            ("", None),
        ] {
            assert_eq!(entry(line), expected, "{line}");
        }
        for name in ["sha1", "SHA256", "SHA2-512", "SHA-384"] {
            assert!(Algorithm::from_name(name).is_some(), "{name}");
        }
        assert_eq!(Algorithm::from_name("MD5"), None);
    }
}
