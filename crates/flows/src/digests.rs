//! Hashes of an object: Glance's `checksum` (MD5) and `os_hash_value` (SHA-512), and S3's CRC64NVME.
//!
//! MD5 and SHA-512 are serial by nature. Where one invocation sees all bytes they are made in its stream; else a chain of
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
use sha2::Sha512;

use crate::ports::{Body, StoredPart};

/// The hashes that a user says a source has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GivenHashes {
    /// MD5, lower-case hex.
    pub(crate) md5: Option<String>,
    /// SHA-512, lower-case hex.
    pub(crate) sha512: Option<String>,
}

impl GivenHashes {
    pub(crate) fn is_some(&self) -> bool {
        self.md5.is_some() || self.sha512.is_some()
    }

    /// Whether a source with these hashes is what the caller said.
    pub(crate) fn check(&self, found: &ImageHashes) -> Result<(), Failure> {
        for (name, said, found) in
            [("checksum", &self.md5, &found.md5), ("os_hash_value", &self.sha512, &found.sha512)]
        {
            if let Some(said) = said.as_ref().filter(|said| *said != found) {
                let message = format!("{name} of the source is {found}, not {said} as given");
                return Err(Failure::new(FailureCode::ChecksumMismatch, message));
            }
        }
        Ok(())
    }
}

/// Makes the two hashes and the CRC64NVME in one pass.
#[derive(Clone)]
pub(crate) struct Hasher {
    md5: Md5,
    sha512: Sha512,
    crc: crc_fast::Digest,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self { md5: Md5::new(), sha512: Sha512::new(), crc: crc_fast::Digest::new(Crc64Nvme) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.sha512.update(bytes);
        self.crc.update(bytes);
    }

    /// Bytes seen.
    pub(crate) fn bytes(&self) -> u64 {
        self.crc.get_amount()
    }

    pub(crate) fn crc64nvme(&self) -> u64 {
        self.crc.finalize()
    }

    pub(crate) fn hashes(self) -> ImageHashes {
        ImageHashes { md5: hex::encode(self.md5.finalize()), sha512: hex::encode(self.sha512.finalize()) }
    }
}

/// A body that is hashed while it passes; the hasher is complete once the body has been read to its end.
pub(crate) fn hashed(body: Body) -> (Body, Arc<Mutex<Hasher>>) {
    watched(body, Hasher::new(), Hasher::update)
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
    /// The allocation map of those bytes, base64, where one is made.
    allocation: Option<String>,
}

impl ChainState {
    pub(crate) fn save(
        etag: &str,
        offset: u64,
        (md5, sha512): (&Md5, &Sha512),
        allocation: Option<&AllocationMap>,
    ) -> Self {
        Self {
            etag: etag.to_owned(),
            offset,
            md5: hex::encode(md5.serialize()),
            sha512: hex::encode(sha512.serialize()),
            allocation: allocation.map(|map| BASE64_STANDARD.encode(map.encode())),
        }
    }

    /// The map of the bytes seen so far, if this is one.
    pub(crate) fn allocation(&self) -> Option<AllocationMap> {
        let bytes = BASE64_STANDARD.decode(self.allocation.as_ref()?).ok()?;
        AllocationMap::decode(&bytes).ok().filter(|map| map.virtual_size() == self.offset)
    }

    /// The two hashes as they were, if this is a state of them.
    pub(crate) fn resume(&self) -> Option<(Md5, Sha512)> {
        let md5 = Md5::deserialize(hex::decode(&self.md5).ok()?.as_slice().try_into().ok()?).ok()?;
        let sha512 = Sha512::deserialize(hex::decode(&self.sha512).ok()?.as_slice().try_into().ok()?).ok()?;
        Some((md5, sha512))
    }
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
        let mut whole = Hasher::new();
        whole.update(&bytes);
        let crc = whole.crc64nvme();
        let digests = whole.hashes();
        for cut in [0, 1, 63, 64, 127, 128, 500, 1000] {
            let (mut md5, mut sha512) = (Md5::new(), Sha512::new());
            md5.update(&bytes[..cut]);
            sha512.update(&bytes[..cut]);
            let mut scanner = AllocationScanner::default();
            scanner.update(&bytes[..cut]);
            let map = scanner.finish();
            let state = ChainState::save("\"e\"", cut as u64, (&md5, &sha512), Some(&map));
            assert_eq!(state.allocation(), Some(map));
            let text = serde_json::to_string(&state).unwrap();
            let (mut md5, mut sha512) = serde_json::from_str::<ChainState>(&text).unwrap().resume().unwrap();
            md5.update(&bytes[cut..]);
            sha512.update(&bytes[cut..]);
            let ends =
                ImageHashes { md5: hex::encode(md5.finalize()), sha512: hex::encode(sha512.finalize()) };
            assert_eq!(ends, digests, "{cut}");
            let part = |number, bytes: &[u8]| StoredPart {
                number,
                size: bytes.len() as u64,
                etag: String::new(),
                crc64nvme: crc_fast::checksum(Crc64Nvme, bytes),
            };
            assert_eq!(combined(&[part(1, &bytes[..cut]), part(2, &bytes[cut..])]), crc, "{cut}");
        }
        assert_eq!(
            ChainState { md5: "zz".into(), ..ChainState::save("", 0, (&Md5::new(), &Sha512::new()), None) }
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
