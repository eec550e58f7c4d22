//! Files of checksums, as `sha256sum`, `shasum --tag`, OpenSSL and distributions write them.
//!
//! Goal: the hash that such a file tells of one source, by the source's name; never that of another file.
//!
//! Threat model: the file is an attacker's, and so is the source's address. Neither is a path here: a name is compared,
//! and nothing is opened by it. Reading is linear in the file's size, which [`MAX_SUMS`] bounds.
//!
//! | line | written by |
//! |---|---|
//! | `<digest>  <name>`, `<digest> *<name>` | GNU coreutils; with a `\` before it where the name has escapes |
//! | `SHA256 (<name>) = <digest>` | BSD, Fedora; without blanks OpenSSL |
//! | `<digest>`, alone in its file | `image.sha256` of some publishers |
//!
//! All other lines (comments, the armor of a signature) tell nothing.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::import_input::{SHA256_DIGITS, SHA512_DIGITS};
use crate::input::quoted;
use crate::source::SourceLocation;

/// Most bytes of a file of checksums: Debian's largest, of an installer, has 0.1 MiB.
pub const MAX_SUMS: usize = 1 << 20;
/// Names that a message shows.
const SHOWN: usize = 3;

/// The hash that a source shall have, lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceHash {
    /// SHA-256.
    Sha256(String),
    /// SHA-512.
    Sha512(String),
}

/// Why a file tells no hash of a source; what was found and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SumsRefused {
    /// More than [`MAX_SUMS`].
    #[error("has more than {MAX_SUMS} bytes; name a file of checksums such as SHA256SUMS")]
    TooLong,
    /// Nothing in it is a line of checksums.
    #[error("has no line of checksums, as sha256sum or shasum --tag writes them; name such a file")]
    NoSums,
    /// Lines, but none of the source.
    #[error(
        "has no checksum of {name}, but of {listed}; name the file that lists it, or give os_hash_value instead"
    )]
    NotListed {
        /// The source's name.
        name: String,
        /// What it lists.
        listed: String,
    },
    /// Hashes that are too weak, or not made here.
    #[error("has of {name} only {found}; name a file of SHA-256 or SHA-512, or give os_hash_value instead")]
    NotMade {
        /// The source's name.
        name: String,
        /// Algorithms.
        found: String,
    },
    /// Several hashes of files of that name.
    #[error(
        "has several checksums of {name}, and their paths don't tell which is meant; give os_hash_value instead"
    )]
    Ambiguous {
        /// The source's name.
        name: String,
    },
}

/// What a file of checksums tells of the source at that location.
///
/// # Errors
/// [`SumsRefused`] where it doesn't tell exactly one hash that is made here.
pub fn find(file: &[u8], source: &SourceLocation) -> Result<SourceHash, SumsRefused> {
    if file.len() > MAX_SUMS {
        return Err(SumsRefused::TooLong);
    }
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let path = path(source);
    let wanted = segments(&path);
    let name = quoted(&String::from_utf8_lossy(wanted.last().copied().unwrap_or_default()));
    let sums: Vec<_> = lines(file).filter_map(Sum::read).collect();
    if sums.is_empty() {
        return alone(file).ok_or(SumsRefused::NoSums);
    }
    let found: Vec<_> = sums.iter().filter_map(|sum| Some((sum.matches(&wanted)?, sum))).collect();
    // A whole path counts more than a name. Where no path fits, the names have to do.
    let Some(best) = found.iter().map(|(matched, _)| *matched).max() else {
        return Err(SumsRefused::NotListed { name, listed: listed(&sums) });
    };
    let best: Vec<_> =
        found.into_iter().filter(|(matched, _)| *matched == best).map(|(_, sum)| sum).collect();
    let of = |algorithm| -> BTreeSet<String> {
        let those = best.iter().filter(|sum| sum.algorithm == algorithm);
        those.map(|sum| String::from_utf8_lossy(sum.digest).to_ascii_lowercase()).collect()
    };
    // The images' own algorithm first: it costs nothing more.
    let (sha512, sha256) = (of(Algorithm::Sha512), of(Algorithm::Sha256));
    if sha512.len() > 1 || sha256.len() > 1 {
        return Err(SumsRefused::Ambiguous { name });
    }
    match (sha512.into_iter().next(), sha256.into_iter().next()) {
        (Some(digest), _) => Ok(SourceHash::Sha512(digest)),
        (None, Some(digest)) => Ok(SourceHash::Sha256(digest)),
        (None, None) => {
            let found: BTreeSet<_> = best.iter().map(|sum| sum.algorithm.name()).collect();
            let found = found.into_iter().collect::<Vec<_>>().join(" and ");
            Err(SumsRefused::NotMade { name, found })
        }
    }
}

/// Hashes that such files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    /// Named, but none of these: of the same length, perhaps.
    Other,
}

impl Algorithm {
    const ALL: [(Self, &'static str, usize); 6] = [
        (Self::Md5, "MD5", 32),
        (Self::Sha1, "SHA1", 40),
        (Self::Sha224, "SHA224", 56),
        (Self::Sha256, "SHA256", SHA256_DIGITS),
        (Self::Sha384, "SHA384", 96),
        (Self::Sha512, "SHA512", SHA512_DIGITS),
    ];

    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(algorithm, ..)| *algorithm == self);
        found.map_or("hashes that are not made here", |(_, name, _)| name)
    }

    /// `sha256sum` and its kin don't say what they made.
    fn of_length(digits: usize) -> Option<Self> {
        Self::ALL.iter().find(|(.., length)| *length == digits).map(|(algorithm, ..)| *algorithm)
    }

    /// The one of that name, where the digest is as long as it has to be. OpenSSL writes `SHA2-256`.
    fn named(name: &[u8], digits: usize) -> Option<Self> {
        let name =
            String::from_utf8_lossy(name).to_ascii_uppercase().replace("SHA2-", "SHA").replace('-', "");
        match Self::ALL.iter().find(|(_, known, _)| *known == name) {
            Some((algorithm, _, length)) => (*length == digits).then_some(*algorithm),
            None => Some(Self::Other),
        }
    }
}

/// A line of checksums.
struct Sum<'a> {
    algorithm: Algorithm,
    digest: &'a [u8],
    path: Vec<u8>,
}

impl<'a> Sum<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let (escaped, line) = match line.strip_prefix(b"\\") {
            Some(line) => (true, line),
            None => (false, line),
        };
        let (algorithm, digest, path) = Self::plain(line).or_else(|| Self::tagged(line))?;
        let path = if escaped { unescaped(path)? } else { path.to_vec() };
        (!path.is_empty()).then_some(Self { algorithm, digest, path })
    }

    /// `<digest> *<name>`
    fn plain(line: &[u8]) -> Option<(Algorithm, &[u8], &[u8])> {
        let (digest, name) = line.split_at_checked(line.iter().position(|b| matches!(b, b' ' | b'\t'))?)?;
        let name = name.trim_ascii_start();
        let algorithm = Algorithm::of_length(digest.len()).filter(|_| is_hex(digest))?;
        Some((algorithm, digest, name.strip_prefix(b"*").unwrap_or(name)))
    }

    /// `SHA256 (<name>) = <digest>`
    fn tagged(line: &[u8]) -> Option<(Algorithm, &[u8], &[u8])> {
        let open = line.iter().position(|b| *b == b'(')?;
        let equals = line.iter().rposition(|b| *b == b'=')?;
        let (tag, digest) = (line.get(..open)?.trim_ascii(), line.get(equals + 1..)?.trim_ascii());
        let name = line.get(open + 1..equals)?.trim_ascii_end().strip_suffix(b")")?;
        let is_tag =
            !tag.is_empty() && tag.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'/'));
        let algorithm = Algorithm::named(tag, digest.len()).filter(|_| is_tag && is_hex(digest))?;
        Some((algorithm, digest, name))
    }

    /// How well its path is the source's: whether all of it, and how many segments from the end. None of another name.
    fn matches(&self, wanted: &[&[u8]]) -> Option<(bool, usize)> {
        let path = segments(&self.path);
        let same = path.iter().rev().zip(wanted.iter().rev()).take_while(|(a, b)| a == b).count();
        let whole = same == path.len();
        // What fits only in part is of a tree elsewhere; how much doesn't matter then.
        (same > 0).then_some((whole, if whole { same } else { 0 }))
    }
}

/// The digest of a file that has nothing else in it.
fn alone(file: &[u8]) -> Option<SourceHash> {
    let mut lines = lines(file).filter(|line| !line.is_empty());
    let (digest, None) = (lines.next()?, lines.next()) else { return None };
    let text = String::from_utf8_lossy(digest).to_ascii_lowercase();
    match Algorithm::of_length(digest.len()).filter(|_| is_hex(digest))? {
        Algorithm::Sha256 => Some(SourceHash::Sha256(text)),
        Algorithm::Sha512 => Some(SourceHash::Sha512(text)),
        Algorithm::Md5 | Algorithm::Sha1 | Algorithm::Sha224 | Algorithm::Sha384 | Algorithm::Other => None,
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|b| *b == b'\n').map(<[u8]>::trim_ascii)
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_hexdigit)
}

/// GNU coreutils' escapes of a name: backslash, newline, carriage return.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    let (mut plain, mut bytes) = (Vec::with_capacity(name.len()), name.iter());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(plain)
}

fn segments(path: &[u8]) -> Vec<&[u8]> {
    path.split(|b| *b == b'/').filter(|segment| !matches!(*segment, b"" | b".")).collect()
}

/// The path by which a list can know the source.
fn path(source: &SourceLocation) -> Vec<u8> {
    match source {
        SourceLocation::Http(url) => percent_decode_str(url.path()).collect(),
        SourceLocation::S3 { key, .. } | SourceLocation::Staged { key, .. } => key.clone().into_bytes(),
        // Told by a digest of its own.
        SourceLocation::Oci(location) => location.repository.clone().into_bytes(),
    }
}

/// Some of the names that a file lists.
fn listed(sums: &[Sum<'_>]) -> String {
    let names: Vec<_> =
        sums.iter().take(SHOWN).map(|sum| quoted(&String::from_utf8_lossy(&sum.path))).collect();
    let more = sums.len() - names.len();
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://example.org/cloud/12/disk%20a.qcow2?x=1";

    fn told(file: &str) -> Result<SourceHash, String> {
        at(file, URL)
    }

    fn at(file: &str, url: &str) -> Result<SourceHash, String> {
        find(file.as_bytes(), &SourceLocation::parse(url).unwrap()).map_err(|refused| refused.to_string())
    }

    fn sha256(digit: &str) -> Result<SourceHash, String> {
        Ok(SourceHash::Sha256(digit.repeat(64)))
    }

    fn sha512(digit: &str) -> Result<SourceHash, String> {
        Ok(SourceHash::Sha512(digit.repeat(128)))
    }

    #[test]
    fn lines_as_they_are_written() {
        let (a, b, m) = ("a".repeat(64), "b".repeat(128), "c".repeat(32));
        for line in [
            format!("{a}  disk a.qcow2"),
            format!("{a} *disk a.qcow2"),
            format!("{}\tdisk a.qcow2\r", a.to_uppercase()),
            format!("{a}  ./12/disk a.qcow2"),
            format!("\\{a}  disk a.qcow2"),
            format!("SHA256 (disk a.qcow2) = {a}"),
            format!("SHA2-256(disk a.qcow2)= {a}"),
            format!("\u{feff}{a}  disk a.qcow2"),
            // Fedora's, with a signature around it.
            format!(
                "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk a.qcow2: 5 bytes\n\
                 SHA256 (disk a.qcow2) = {a}\n-----BEGIN PGP SIGNATURE-----\n\niQ=\n-----END PGP SIGNATURE-----"
            ),
            // Alone.
            format!("\n {a}\n"),
            format!("{m}  disk a.qcow2\nSHA1 (x) = {m}\n{a}  disk a.qcow2\n{a}  disk a.qcow2"),
        ] {
            assert_eq!(told(&line), sha256("a"), "{line:?}");
        }
        for line in [b.clone(), format!("{a}  disk a.qcow2\nSHA512 (disk a.qcow2) = {b}")] {
            assert_eq!(told(&line), sha512("b"), "{line:?}");
        }
        let escaped = format!("\\{a}  a\\\\b\\nc");
        assert_eq!(at(&escaped, "https://example.org/a%5Cb%0Ac"), sha256("a"));
        let key = SourceLocation::S3 { bucket: "sources".into(), key: "12/disk a.qcow2".into() };
        assert_eq!(
            find(format!("{a}  disk a.qcow2").as_bytes(), &key).map_err(|e| e.to_string()),
            sha256("a")
        );
    }

    #[test]
    fn a_path_tells_which_of_two_files_is_meant() {
        let sums = |paths: [&str; 2]| {
            format!("{}  {}\n{}  {}\n", "a".repeat(64), paths[0], "b".repeat(64), paths[1])
        };
        let installer = sums(["./netboot/mini.iso", "./netboot/gtk/mini.iso"]);
        let images = "https://example.org/images";
        assert_eq!(at(&installer, &format!("{images}/netboot/mini.iso")), sha256("a"));
        assert_eq!(at(&installer, &format!("{images}/netboot/gtk/mini.iso")), sha256("b"));
        let told = at(&installer, "https://example.org/mini.iso").unwrap_err();
        assert!(told.starts_with("has several checksums of \"mini.iso\""), "{told}");
        assert_eq!(at(&sums(["mini.iso", "gtk/mini.iso"]), "https://example.org/mini.iso"), sha256("a"));
        assert!(at(&sums(["mini.iso", "mini.iso"]), "https://example.org/mini.iso").is_err());
        // Where only one is listed, its folder may be the publisher's own.
        let one = format!("{}  build/out/mini.iso", "a".repeat(64));
        assert_eq!(at(&one, "https://example.org/mini.iso"), sha256("a"));
    }

    #[test]
    fn refusals_say_what_was_found_and_what_to_do() {
        let (a, m) = ("a".repeat(64), "c".repeat(32));
        let others: String = (1..=5).map(|n| format!("{a}  {n}.img\n")).collect();
        for (file, words) in [
            (String::new(), "has no line of checksums, as sha256sum"),
            ("<!DOCTYPE html>\n<html>".to_owned(), "has no line of checksums"),
            (format!("{a}\n{a}\n"), "has no line of checksums"),
            (m.clone(), "has no line of checksums"),
            (
                others,
                "has no checksum of \"disk a.qcow2\", but of \"1.img\", \"2.img\", \"3.img\" and 2 more; name",
            ),
            (format!("{a}  disk a.qcow2.asc"), "but of \"disk a.qcow2.asc\"; name the file that lists it"),
            (format!("{m}  disk a.qcow2"), "has of \"disk a.qcow2\" only MD5; name a file of SHA-256"),
            (format!("BLAKE2b (disk a.qcow2) = {a}"), "only hashes that are not made here"),
            // A digest of another length than its name says is none.
            (format!("SHA512 (disk a.qcow2) = {a}"), "has no line of checksums"),
            (format!("{a}  disk a.qcow2\n{}  disk a.qcow2", "b".repeat(64)), "has several checksums of"),
            (" ".repeat(MAX_SUMS + 1), "has more than 1048576 bytes"),
        ] {
            let refused = told(&file).unwrap_err();
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }
}
