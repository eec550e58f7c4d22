//! Hashes of an object: Glance's `checksum` (MD5) and `os_hash_value` (SHA-512), and S3's CRC64NVME. SHA-256 only where a
//! user gave one to check.
//!
//! They are serial by nature. Where one invocation sees all bytes they are made in its stream; else a chain of
//! invocations passes their state on, and with it what was seen of where the disk holds data.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use digest::common::hazmat::SerializableState;
use disk_image::{AllocationMap, AllocationScanner};
use futures::StreamExt as _;
use image_tasks_domain::{Failure, FailureCode, ImageHashes};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::{Sha256, Sha512};

use crate::ports::{Body, StoredPart};

/// The hashes that a user says a source has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GivenHashes {
    /// MD5, lower-case hex.
    pub(crate) md5: Option<String>,
    /// SHA-256, lower-case hex.
    pub(crate) sha256: Option<String>,
    /// SHA-512, lower-case hex.
    pub(crate) sha512: Option<String>,
}

impl GivenHashes {
    pub(crate) fn is_some(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some() || self.sha512.is_some()
    }

    /// Whether a source with these hashes is what the caller said.
    pub(crate) fn check(&self, found: &Found) -> Result<(), Failure> {
        let Found { hashes: ImageHashes { md5, sha512 }, sha256 } = found;
        for (name, said, found) in [
            ("checksum", &self.md5, Some(md5)),
            ("SHA-256", &self.sha256, sha256.as_ref()),
            ("os_hash_value", &self.sha512, Some(sha512)),
        ] {
            match (said, found) {
                (Some(said), Some(found)) if said != found => {
                    let message = format!("{name} of the source is {found}, not {said} as given");
                    return Err(Failure::new(FailureCode::ChecksumMismatch, message));
                }
                (Some(_), None) => {
                    return Err(Failure::new(FailureCode::Internal, format!("{name} was not made")));
                }
                (Some(_) | None, _) => {}
            }
        }
        Ok(())
    }
}

/// The hashes of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Those that an image has.
    pub(crate) hashes: ImageHashes,
    /// SHA-256, lower-case hex, where it was asked for.
    pub(crate) sha256: Option<String>,
}

/// Hashes in the making.
#[derive(Clone, Default)]
pub(crate) struct Digests {
    pub(crate) md5: Md5,
    pub(crate) sha512: Sha512,
    /// Where it is asked for: it costs as much as another.
    pub(crate) sha256: Option<Sha256>,
}

impl Digests {
    /// Of no bytes yet.
    pub(crate) fn new(sha256: bool) -> Self {
        Self { sha256: sha256.then(Sha256::new), ..Self::default() }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha512.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    pub(crate) fn found(self) -> Found {
        let hashes = ImageHashes {
            md5: hex::encode(self.md5.finalize()),
            sha512: hex::encode(self.sha512.finalize()),
        };
        Found { hashes, sha256: self.sha256.map(|sha256| hex::encode(sha256.finalize())) }
    }
}

/// Makes the hashes and the CRC64NVME in one pass.
#[derive(Clone)]
pub(crate) struct Hasher {
    digests: Digests,
    crc: crc_fast::Digest,
}

impl Hasher {
    pub(crate) fn new(sha256: bool) -> Self {
        Self { digests: Digests::new(sha256), crc: crc_fast::Digest::new(Crc64Nvme) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.digests.update(bytes);
        self.crc.update(bytes);
    }

    /// Bytes seen.
    pub(crate) fn bytes(&self) -> u64 {
        self.crc.get_amount()
    }

    pub(crate) fn crc64nvme(&self) -> u64 {
        self.crc.finalize()
    }

    pub(crate) fn found(self) -> Found {
        self.digests.found()
    }
}

/// A body that is hashed while it passes; the hasher is complete once the body has been read to its end.
pub(crate) fn hashed(body: Body, sha256: bool) -> (Body, Arc<Mutex<Hasher>>) {
    watched(body, Hasher::new(sha256), Hasher::update)
}

/// A body whose zeros are found while it passes.
pub(crate) fn scanned(body: Body) -> (Body, Arc<Mutex<AllocationScanner>>) {
    watched(body, AllocationScanner::default(), AllocationScanner::update)
}

fn watched<W: Send + 'static>(body: Body, watcher: W, update: fn(&mut W, &[u8])) -> (Body, Arc<Mutex<W>>) {
    let watcher = Arc::new(Mutex::new(watcher));
    let seen = Arc::clone(&watcher);
    let body = body.inspect(move |chunk| {
        if let Ok(bytes) = chunk {
            update(&mut seen.lock().unwrap_or_else(PoisonError::into_inner), bytes);
        }
    });
    (Box::pin(body), watcher)
}

/// Where a chain of invocations that hash one object is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainState {
    /// The version that is hashed.
    pub(crate) etag: String,
    /// Bytes hashed.
    pub(crate) offset: u64,
    /// MD5's state, hex.
    md5: String,
    /// SHA-512's state, hex.
    sha512: String,
    /// SHA-256's state, hex, where it is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// The allocation map of those bytes, base64, where one is made.
    allocation: Option<String>,
}

impl ChainState {
    pub(crate) fn save(
        etag: &str,
        offset: u64,
        digests: &Digests,
        allocation: Option<&AllocationMap>,
    ) -> Self {
        Self {
            etag: etag.to_owned(),
            offset,
            md5: hex::encode(digests.md5.serialize()),
            sha512: hex::encode(digests.sha512.serialize()),
            sha256: digests.sha256.as_ref().map(|sha256| hex::encode(sha256.serialize())),
            allocation: allocation.map(|map| BASE64_STANDARD.encode(map.encode())),
        }
    }

    /// The map of the bytes seen so far, if this is one.
    pub(crate) fn allocation(&self) -> Option<AllocationMap> {
        let bytes = BASE64_STANDARD.decode(self.allocation.as_ref()?).ok()?;
        AllocationMap::decode(&bytes).ok().filter(|map| map.virtual_size() == self.offset)
    }

    /// The hashes as they were, if this is a state of them.
    pub(crate) fn resume(&self) -> Option<Digests> {
        let sha256 = match &self.sha256 {
            Some(state) => Some(resumed(state)?),
            None => None,
        };
        Some(Digests { md5: resumed(&self.md5)?, sha512: resumed(&self.sha512)?, sha256 })
    }
}

fn resumed<H: SerializableState>(state: &str) -> Option<H> {
    H::deserialize(hex::decode(state).ok()?.as_slice().try_into().ok()?).ok()
}

/// CRC64NVME of the whole from those of its parts, in order.
pub(crate) fn combined(parts: &[StoredPart]) -> u64 {
    parts.iter().fold(crc_fast::Digest::new(Crc64Nvme).finalize(), |crc, part| {
        crc_fast::checksum_combine(Crc64Nvme, crc, part.crc64nvme, part.size)
    })
}

/// A CRC64NVME as S3 writes it: big-endian, base64.
pub(crate) fn base64(crc: u64) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_may_be_cut_anywhere() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n % 251) as u8).collect();
        let mut whole = Hasher::new(true);
        whole.update(&bytes);
        let crc = whole.crc64nvme();
        let found = whole.found();
        for (cut, sha256) in [
            (0, true),
            (1, true),
            (63, true),
            (64, false),
            (127, true),
            (128, true),
            (500, false),
            (1000, true),
        ] {
            let mut digests = Digests::new(sha256);
            digests.update(&bytes[..cut]);
            let mut scanner = AllocationScanner::default();
            scanner.update(&bytes[..cut]);
            let map = scanner.finish();
            let state = ChainState::save("\"e\"", cut as u64, &digests, Some(&map));
            assert_eq!(state.allocation(), Some(map));
            let text = serde_json::to_string(&state).unwrap();
            let mut digests = serde_json::from_str::<ChainState>(&text).unwrap().resume().unwrap();
            digests.update(&bytes[cut..]);
            let expected = Found { sha256: found.sha256.clone().filter(|_| sha256), ..found.clone() };
            assert_eq!(digests.found(), expected, "{cut}");
            let part = |number, bytes: &[u8]| StoredPart {
                number,
                size: bytes.len() as u64,
                etag: String::new(),
                crc64nvme: crc_fast::checksum(Crc64Nvme, bytes),
            };
            assert_eq!(combined(&[part(1, &bytes[..cut]), part(2, &bytes[cut..])]), crc, "{cut}");
        }
        assert_eq!(
            ChainState { md5: "zz".into(), ..ChainState::save("", 0, &Digests::default(), None) }
                .resume()
                .map(|_| ()),
            None
        );
    }

    #[test]
    fn checksums_are_written_as_s3_does() {
        assert_eq!(base64(0x0123_4567_89ab_cdef), "ASNFZ4mrze8=");
        // The catalogue's check value of CRC-64/NVME.
        assert_eq!(crc_fast::checksum(Crc64Nvme, b"123456789"), 0xae8b_1486_0a79_9888);
    }
}
