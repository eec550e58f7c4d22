//! Uploads in parts, in memory, and the client that puts the parts.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use url::Url;
use uuid::Uuid;

use super::{MemoryStore, Tables};
use crate::image::{ImageId, MultipartUpload, StagedBytes};
use crate::ports::{Joined, MultipartUploads, StagedObject, StagedPart, StoreError, StoreResult};
use crate::transfer::PartRange;

/// An upload that is under way.
#[derive(Debug)]
pub(super) struct Parts {
    key: String,
    parts: BTreeMap<u32, Vec<u8>>,
}

impl Tables {
    pub(super) fn give_up(&mut self, image: ImageId, upload: &MultipartUpload) {
        self.uploads.remove(&upload.store_id);
        self.staged.remove(&upload.staged.object_key(image));
    }
}

#[async_trait]
impl MultipartUploads for MemoryStore {
    async fn begin_upload(&self, image: ImageId, staged: StagedBytes) -> StoreResult<String> {
        let id = Uuid::new_v4().to_string();
        let upload = Parts { key: staged.object_key(image), parts: BTreeMap::new() };
        self.tables().uploads.insert(id.clone(), upload);
        Ok(id)
    }

    async fn part_url(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        part: PartRange,
        valid_for: Duration,
    ) -> StoreResult<String> {
        let key = upload.staged.object_key(image);
        let (id, number, len) = (&upload.store_id, part.number.to_string(), part.len.to_string());
        let expires = valid_for.as_secs().to_string();
        let query = [("uploadId", id), ("partNumber", &number), ("length", &len), ("expires", &expires)];
        let url = Url::parse_with_params(&format!("https://staging.example/{key}"), query);
        url.map(String::from).map_err(|e| StoreError::Fault(e.into()))
    }

    async fn parts(&self, _: ImageId, upload: &MultipartUpload) -> StoreResult<Option<Vec<StagedPart>>> {
        let tables = self.tables();
        let parts = tables.uploads.get(&upload.store_id).map(|upload| upload.parts.iter());
        let part = |(number, bytes): (&u32, &Vec<u8>)| StagedPart {
            number: *number,
            size: length(bytes),
            etag: etag(bytes),
        };
        Ok(parts.map(|parts| parts.map(part).collect()))
    }

    async fn join(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        parts: &[StagedPart],
        crc64nvme: Option<&str>,
    ) -> StoreResult<Joined> {
        let Some(stored) = self.parts(image, upload).await? else { return Ok(Joined::Gone) };
        if stored != parts {
            return Ok(Joined::OtherParts);
        }
        let mut tables = self.tables();
        let Some(open) = tables.uploads.get(&upload.store_id) else { return Ok(Joined::Gone) };
        let (key, bytes) = (open.key.clone(), open.parts.values().flatten().copied().collect::<Vec<u8>>());
        if crc64nvme.is_some_and(|said| said != crc_text(&bytes)) {
            return Ok(Joined::OtherChecksum);
        }
        tables.uploads.remove(&upload.store_id);
        tables.staged.insert(key, bytes);
        Ok(Joined::Whole)
    }

    async fn joined(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<StagedObject>> {
        let tables = self.tables();
        let bytes = tables.staged.get(&upload.staged.object_key(image));
        Ok(bytes.map(|bytes| StagedObject { size: length(bytes), crc64nvme: crc_text(bytes) }))
    }

    async fn abort(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<()> {
        self.tables().give_up(image, upload);
        Ok(())
    }
}

impl MemoryStore {
    /// What a client's PUT to a part's URL does: the part's ETag, with its quotes; `None` where it is refused.
    pub fn put_part(&self, url: &str, bytes: Vec<u8>) -> Option<String> {
        let url = Url::parse(url).ok()?;
        let told: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        if told.get("length")?.parse() != Ok(length(&bytes)) {
            return None;
        }
        let mut tables = self.tables();
        let upload = tables.uploads.get_mut(told.get("uploadId")?)?;
        let etag = format!("\"{}\"", etag(&bytes));
        upload.parts.insert(told.get("partNumber")?.parse().ok()?, bytes);
        Some(etag)
    }

    /// Keys of the uploads in parts that are under way.
    pub fn open_uploads(&self) -> Vec<String> {
        self.tables().uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// Takes an upload away, as the rule for old ones does.
    pub fn expire_uploads(&self) {
        self.tables().uploads.clear();
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn etag(bytes: &[u8]) -> String {
    format!("{:016x}", crc64nvme(bytes))
}

fn crc64nvme(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// As S3 writes it: the 8 bytes, most significant first, in base64.
fn crc_text(bytes: &[u8]) -> String {
    STANDARD.encode(crc64nvme(bytes).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_is_written_as_s3_writes_it() {
        assert_eq!(crc64nvme(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(crc_text(b"123456789"), "rosUhgp5mIg=");
    }
}
