//! An image: a record, and an object of bytes once it is active.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::image_properties::has_room;
use crate::input::quoted;
use crate::member::Member;
use crate::task::TaskId;
use crate::time::Timestamp;
use crate::transfer::TransferPlan;

/// An image's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Uuid);

impl ImageId {
    /// Key of the object in the images bucket that a task makes of this image. Another task with the same image id
    /// has another key: what outlives the first can't touch what the second makes.
    pub fn object_key(&self, task: TaskId) -> String {
        format!("images/{self}/{task}")
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ImageId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// Where an image is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageStatus {
    /// A record without bytes.
    Queued,
    /// A record whose bytes wait in staging, to be imported.
    Uploading,
    /// A task is making it.
    Importing,
    /// Ready.
    Active,
    /// Ready, but handed out to nobody: its owner says so.
    Deactivated,
    /// Its bytes are being removed, and it with them.
    PendingDelete,
}

impl ImageStatus {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Uploading => "uploading",
            Self::Importing => "importing",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::PendingDelete => "pending_delete",
        }
    }
}

/// What `os_hash_algo` says.
pub const HASH_ALGORITHM: &str = "sha512";

/// Who may see an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Everybody, listed for everybody.
    Public,
    /// Everybody who knows the id.
    Community,
    /// The owner and its members.
    Shared,
    /// The owner.
    Private,
}

impl Visibility {
    /// Every visibility.
    pub const ALL: &'static [Visibility] = &[Self::Public, Self::Community, Self::Shared, Self::Private];

    /// The visibility of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|visibility| visibility.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Community => "community",
            Self::Shared => "shared",
            Self::Private => "private",
        }
    }
}

/// An image's record, with the names and nulls of Images v2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Project that owns it.
    pub owner: String,
    /// Its name.
    pub name: Option<String>,
    /// Where it is in its life.
    pub status: ImageStatus,
    /// Who may see it.
    pub visibility: Visibility,
    /// Format of the stored bytes: `raw`, `qcow2`, `vmdk`, `vhd`, `vhdx`, `vdi`, `iso`, ...
    pub disk_format: Option<String>,
    /// Envelope of the stored bytes, most often `bare`.
    pub container_format: Option<String>,
    /// Bytes stored.
    pub size: Option<u64>,
    /// Bytes of the disk that a guest sees.
    pub virtual_size: Option<u64>,
    /// MD5 of the stored bytes, hex.
    pub checksum: Option<String>,
    /// Algorithm of `os_hash_value`: `sha512`.
    pub os_hash_algo: Option<String>,
    /// That hash of the stored bytes, hex.
    pub os_hash_value: Option<String>,
    /// GiB of disk that a guest needs.
    pub min_disk: u32,
    /// MiB of memory that a guest needs.
    pub min_ram: u32,
    /// Whether it can't be deleted.
    pub protected: bool,
    /// Whether lists leave it out by default.
    pub os_hidden: bool,
    /// Tags, sorted.
    pub tags: Vec<String>,
    /// Extra properties.
    pub properties: BTreeMap<String, String>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Where its bytes are, once there are any.
    pub stored: Option<StoredObject>,
    /// Bytes that were uploaded for it, and are yet to be imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedBytes>,
    /// Whether the last task that was to fill it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub import_failed: bool,
    /// An upload in parts that is under way, while the record is `uploading` and nothing is staged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<MultipartUpload>,
    /// Projects that it is shared with, while its visibility is `shared`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, Member>,
}

impl StoredObject {
    /// Key of the map of its zeros, which lies beside it where it is a disk byte for byte.
    pub fn allocation_key(&self) -> String {
        format!("{}.allocation", self.key)
    }
}

/// An upload into staging. Each has an id of its own, so that none is ever taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StagedBytes(pub Uuid);

impl StagedBytes {
    /// Key of its object in the work bucket.
    pub fn object_key(self, image: ImageId) -> String {
        format!("staging/{image}/{}", self.0)
    }
}

/// An upload in parts, which the client puts into staging itself. Once they are joined, they are `staged`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultipartUpload {
    /// What it becomes. It is the upload's id for clients too.
    pub staged: StagedBytes,
    /// The store's own id of it (S3: `UploadId`). It is never taken from a client.
    pub store_id: String,
    /// How the file is cut.
    pub plan: TransferPlan,
}

/// Where an image's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The object's ETag, by which reads are pinned.
    pub etag: String,
    /// CRC64NVME of the whole object, base64 as S3 writes it.
    pub crc64nvme: String,
}

/// What an image's record gains when its bytes become its own. Nothing else of the record changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The image.
    pub image: ImageId,
    /// Format of the stored bytes.
    pub disk_format: String,
    /// Their envelope.
    pub container_format: String,
    /// Bytes stored.
    pub size: u64,
    /// Bytes of the disk that a guest sees.
    pub virtual_size: Option<u64>,
    /// Hashes of the stored bytes, where they are known.
    pub hashes: Option<ImageHashes>,
    /// Whether hashes are made later: the task stays unsettled until they are there.
    pub hashes_follow: bool,
    /// What the disk itself tells, by the names that Glance has for it. It becomes a property where the record says
    /// nothing of it.
    pub found: BTreeMap<String, String>,
    /// Properties that come with the bytes, where these are another image's.
    pub properties: BTreeMap<String, String>,
    /// The object, pinned.
    pub stored: StoredObject,
    /// What the task says beside its success.
    pub remark: Option<String>,
}

impl Publication {
    /// GiB of disk that the image needs.
    pub fn min_disk(&self) -> u32 {
        let bytes = self.virtual_size.unwrap_or(self.size);
        u32::try_from(bytes.div_ceil(1 << 30)).unwrap_or(u32::MAX)
    }

    /// What an image's record says otherwise than its disk, told to its user.
    pub fn contradictions(&self, record: &Image) -> Vec<String> {
        let said =
            self.found.iter().filter_map(|(name, found)| Some((name, found, record.properties.get(name)?)));
        said.filter(|(_, found, said)| found.as_str() != canonical(said))
            .map(|(name, found, said)| {
                format!(
                    "the image's {name} is {}, but its disk is for {found}; an instance may not start.",
                    quoted(said)
                )
            })
            .collect()
    }
}

/// What is said of a machine, by the name that Glance's documentation has for it.
fn canonical(said: &str) -> &str {
    match said {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        said => said,
    }
}

/// Hashes of an image's stored bytes, as Glance has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHashes {
    /// MD5, hex: `checksum`.
    pub md5: String,
    /// SHA-512, hex: `os_hash_value`.
    pub sha512: String,
}

impl Image {
    /// The record of an image that a task begins to make, with nothing said about it.
    pub fn importing(id: ImageId, owner: &str, now: Timestamp) -> Self {
        Self {
            id,
            owner: owner.to_owned(),
            name: None,
            status: ImageStatus::Importing,
            // What Glance gives an image of which nothing is said.
            visibility: Visibility::Shared,
            disk_format: None,
            container_format: None,
            size: None,
            virtual_size: None,
            checksum: None,
            os_hash_algo: None,
            os_hash_value: None,
            min_disk: 0,
            min_ram: 0,
            protected: false,
            os_hidden: false,
            tags: Vec::new(),
            properties: BTreeMap::new(),
            created_at: now,
            updated_at: now,
            stored: None,
            staged: None,
            import_failed: false,
            upload: None,
            members: BTreeMap::new(),
        }
    }

    /// A record without bytes, with nothing said about it.
    pub fn queued(id: ImageId, owner: &str, now: Timestamp) -> Self {
        Self { status: ImageStatus::Queued, ..Self::importing(id, owner, now) }
    }

    /// Sets `checksum` and `os_hash_*`.
    pub fn set_hashes(&mut self, hashes: ImageHashes) {
        self.checksum = Some(hashes.md5);
        self.os_hash_algo = Some(HASH_ALGORITHM.to_owned());
        self.os_hash_value = Some(hashes.sha512);
    }

    /// Makes the image active with these bytes; `min_disk` only rises.
    pub fn publish(&mut self, publication: &Publication, now: Timestamp) {
        let publication = publication.clone();
        self.min_disk = self.min_disk.max(publication.min_disk());
        self.status = ImageStatus::Active;
        self.disk_format = Some(publication.disk_format);
        self.container_format = Some(publication.container_format);
        self.size = Some(publication.size);
        self.virtual_size = publication.virtual_size;
        if let Some(hashes) = publication.hashes {
            self.set_hashes(hashes);
        }
        let mut described = self.clone();
        described.properties.extend(publication.properties);
        // They had room when the copy began; what its owner has said since goes first.
        if has_room(&described).is_ok() {
            self.properties = described.properties;
        }
        self.stored = Some(publication.stored);
        self.staged = None;
        for (name, value) in publication.found {
            if !self.properties.contains_key(&name) {
                self.properties.insert(name.clone(), value);
                // What the user said goes first.
                if has_room(self).is_err() {
                    self.properties.remove(&name);
                }
            }
        }
        self.updated_at = now.max(self.updated_at);
    }

    /// Begins to be filled from those staged bytes, or from elsewhere; false where it can't be: another task fills it, it
    /// has its bytes, or others are staged for it.
    #[must_use]
    pub fn begin_filling(&mut self, staged: Option<StagedBytes>, now: Timestamp) -> bool {
        let may = match self.status {
            ImageStatus::Queued => true,
            ImageStatus::Uploading => staged.is_some() && self.staged == staged,
            _ => false,
        };
        if may {
            (self.status, self.staged) = (ImageStatus::Importing, staged);
            self.import_failed = false;
            self.updated_at = now.max(self.updated_at);
        }
        may
    }

    /// Is without bytes again, where it was being filled.
    pub fn give_up_filling(&mut self, now: Timestamp) {
        if self.status == ImageStatus::Importing {
            (self.status, self.staged) = (ImageStatus::Queued, None);
            self.import_failed = true;
            self.updated_at = now.max(self.updated_at);
        }
    }

    /// Its hashes, where it has both.
    pub fn hashes(&self) -> Option<ImageHashes> {
        let sha512 =
            self.os_hash_value.clone().filter(|_| self.os_hash_algo.as_deref() == Some(HASH_ALGORITHM));
        Some(ImageHashes { md5: self.checksum.clone()?, sha512: sha512? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{importing, publication};

    #[test]
    fn what_a_disk_tells_is_kept_where_nothing_else_is_said_and_where_there_is_room() {
        let found = [("architecture", "x86_64"), ("hw_firmware_type", "uefi")];
        let found = found.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (said, remark) in [
            (None, None),
            (Some("x86_64"), None),
            (Some("amd64"), None),
            (Some("arm64"), Some("the image's architecture is \"arm64\", but its disk is for x86_64; ")),
        ] {
            let mut image = importing("demo", 0);
            image.properties.extend(said.map(|said| ("architecture".to_owned(), said.to_owned())));
            let publication = Publication { found: BTreeMap::clone(&found), ..publication(image.id) };
            let told = publication.contradictions(&image);
            assert_eq!(told.len(), usize::from(remark.is_some()));
            assert!(
                told.iter().all(|told| remark.is_some_and(|remark| told.starts_with(remark))),
                "{told:?}"
            );
            image.publish(&publication, image.updated_at);
            assert_eq!(image.properties["architecture"], said.unwrap_or("x86_64"));
            assert_eq!(image.properties["hw_firmware_type"], "uefi");
        }
        // 128 properties are the most; two are there.
        let mut full = importing("demo", 0);
        full.properties.extend((0..125).map(|n| (n.to_string(), String::new())));
        full.publish(&Publication { found, ..publication(full.id) }, full.updated_at);
        assert_eq!(full.properties.len(), 128);
        assert!(!full.properties.contains_key("hw_firmware_type"));
    }
}
