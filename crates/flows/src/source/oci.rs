//! An image in an OCI registry: which layer is the disk is found out once, before the task is at work, and kept.
//!
//! Threat model: the registry is hostile. What a tag names today is what is imported, also if it names another tomorrow:
//! from the manifest on everything is told by its digest.

use image_tasks_domain::oci::{self, Content, MAX_MANIFEST, Manifest, OciLocation, OciObject};
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::sums::SourceHash;
use image_tasks_domain::{Failure, FailureCode, ImportInput, TaskId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use super::remote::Remote;
use crate::error::{Flow, Stop};
use crate::retry::retry_source;
use crate::stores::Stores;

/// Manifests between a reference and a layer: an index, and that of a platform.
const MOST: usize = 2;

/// The layer that a task brings in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    at: OciLocation,
    pub(crate) digest: SourceHash,
    pub(crate) size: u64,
    /// Whether the disk is a file in it.
    pub(crate) holds_files: bool,
}

impl Layer {
    /// Where its bytes are.
    pub(crate) fn location(&self) -> SourceLocation {
        SourceLocation::Oci(Box::new(self.at.clone()))
    }
}

impl Remote {
    /// Finds the layer of an import from a registry, and keeps it.
    pub(crate) async fn keep_layer(&self, stores: &Stores, id: TaskId, input: &ImportInput) -> Flow<()> {
        let SourceLocation::Oci(from) = &input.source else { return Ok(()) };
        let architecture = input.image.extra.get("architecture").map(String::as_str);
        let mut at = OciLocation::clone(from);
        for _ in 0..MOST {
            let manifest = self.manifest(&at).await?;
            match oci::read(&manifest, architecture).map_err(|refused| unusable(&at, &refused))? {
                Manifest::Platform(digest) => at = at.beside(OciObject::Manifest(digest)),
                Manifest::Layer { digest, size, content } => {
                    let holds_files = content == Content::Files;
                    let layer =
                        Layer { at: at.beside(OciObject::Blob(digest.clone())), digest, size, holds_files };
                    return stores.save_once(&stores.settings.layer(id), &layer).await.map(drop);
                }
            }
        }
        Err(unusable(&at, &"is an index of indexes; name an image by its digest").into())
    }

    /// A manifest that is what its digest says, where it is named by one.
    async fn manifest(&self, at: &OciLocation) -> Flow<Vec<u8>> {
        let location = SourceLocation::Oci(Box::new(at.clone()));
        let too_long = || unusable(at, &oci::OciRefused::TooLong);
        let manifest = retry_source(|| self.small_file(&location, MAX_MANIFEST, &too_long)).await?;
        let found = match &at.object {
            OciObject::Manifest(SourceHash::Sha256(_)) => {
                SourceHash::Sha256(hex::encode(Sha256::digest(&manifest)))
            }
            OciObject::Manifest(SourceHash::Sha512(_)) => {
                SourceHash::Sha512(hex::encode(Sha512::digest(&manifest)))
            }
            OciObject::Tag(_) | OciObject::Blob(_) => return Ok(manifest),
        };
        if at.object == OciObject::Manifest(found.clone()) {
            return Ok(manifest);
        }
        let message = format!("{at}: the registry sends another manifest, {}", found.digest());
        Err(Stop::failed(FailureCode::ChecksumMismatch, message))
    }
}

/// The layer that was kept, where the source is in a registry.
pub(crate) async fn kept(stores: &Stores, id: TaskId, input: &ImportInput) -> Flow<Option<Layer>> {
    if !matches!(input.source, SourceLocation::Oci(_)) {
        return Ok(None);
    }
    // None while the task is at work: somebody has just ended it.
    stores.load(&stores.settings.layer(id)).await?.map(Some).ok_or(Stop::Ended)
}

fn unusable(at: &OciLocation, refused: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureCode::SourceInvalid, format!("{at} {refused}"))
}
