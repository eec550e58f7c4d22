//! Whether bytes are an image's.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use md5::Md5;
use serde_json::Value;
use sha2::{Digest, Sha512};

use crate::output::text_of;

/// What the image's record says of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// `os_hash_value`, lower-case hex.
    Sha512(String),
    /// `checksum`, lower-case hex.
    Md5(String),
    /// Nothing: a large image gets its hashes some while after it became active.
    Nothing,
}

impl Expected {
    pub(super) fn of(image: &Value) -> Self {
        let (sha512, md5) = (text_of(image, "os_hash_value"), text_of(image, "checksum"));
        match (text_of(image, "os_hash_algo"), sha512, md5) {
            ("sha512", sha512, _) if !sha512.is_empty() => Self::Sha512(sha512.to_ascii_lowercase()),
            (_, _, md5) if !md5.is_empty() => Self::Md5(md5.to_ascii_lowercase()),
            _ => Self::Nothing,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha512(value) => write!(f, "sha512 {value}"),
            Self::Md5(value) => write!(f, "MD5 {value}"),
            Self::Nothing => f.write_str("no hash"),
        }
    }
}

/// Reads all of a file. What can't be told is taken for right.
pub(super) fn holds(path: &Path, expected: &Expected) -> io::Result<bool> {
    match expected {
        Expected::Sha512(value) => Ok(hash::<Sha512>(path)? == *value),
        Expected::Md5(value) => Ok(hash::<Md5>(path)? == *value),
        Expected::Nothing => Ok(true),
    }
}

fn hash<D: Digest>(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut digest, mut block) = (D::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex::encode(digest.finalize())),
            read => digest.update(block.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_stronger_hash_counts() {
        let record = |algorithm, value, checksum| {
            Expected::of(&json!({"os_hash_algo": algorithm, "os_hash_value": value, "checksum": checksum}))
        };
        assert_eq!(record(Some("sha512"), Some("AB"), Some("cd")), Expected::Sha512("ab".to_owned()));
        assert_eq!(record(Some("sha256"), Some("ab"), Some("cd")), Expected::Md5("cd".to_owned()));
        assert_eq!(record(None, None, None), Expected::Nothing);
    }

    #[test]
    fn a_file_is_held_against_either() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        // FIPS 180-2, appendix C.1, and RFC 1321, A.5.
        let sha512 = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                      2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        let right = [
            Expected::Sha512(sha512.to_owned()),
            Expected::Md5("900150983cd24fb0d6963f7d28e17f72".to_owned()),
        ];
        for expected in right {
            assert!(holds(file.path(), &expected).unwrap(), "{expected}");
        }
        assert!(!holds(file.path(), &Expected::Md5("0".repeat(32))).unwrap());
    }
}
