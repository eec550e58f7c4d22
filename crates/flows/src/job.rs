//! What a task is to the engine: where its bytes come from, what becomes of them, where they go; and the plan that is made of it.
//!
//! Invariants:
//! - What is saved for later calls is saved once: the first writer wins, and whoever comes second goes by what is there.
//! - A plan carries its version. A function that finds another one says so in words, and the task ends.

use std::collections::BTreeMap;

use bytes::Bytes;
use disk_image::Format;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::sums::SourceHash;
use image_tasks_domain::{
    ExportInput, Failure, FailureCode, Image, ImageHashes, ImageId, ImportInput, Task, TaskId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bounds::Relay;
use crate::digests::GivenHashes;
use crate::error::{Flow, Stop};
use crate::ports::{Metadata, ObjectError, ObjectRef, SourceInfo, UploadId};
use crate::recipe::Recipe;
use crate::sink::{Sink, one};
use crate::source::oci::Layer;
use crate::source::read::whole;
use crate::source::{Origin, Pinned, StoredSource};
use crate::stores::Stores;

/// Of plans, and of what the state machine says. It rises with every change that an older function would misread.
/// 2: qcow2 by blobs, large objects hashed by a relay.
pub const VERSION: u32 = 2;

/// A task at work.
pub(crate) struct Job {
    pub(crate) task: Task,
    pub(crate) ask: Ask,
    pub(crate) sink: Sink,
}

/// What a task asks for.
pub(crate) enum Ask {
    /// Bytes from outside of this cloud.
    Remote(Box<RemoteAsk>),
    /// An image of this region, written out.
    Image(ExportInput),
    /// A copy of an image of a region.
    Region {
        /// The region's name.
        region: String,
        /// The image there.
        image: ImageId,
    },
}

/// Bytes from outside of this cloud.
pub(crate) struct RemoteAsk {
    pub(crate) input: ImportInput,
    /// Of a clone, what the record elsewhere says: the bytes are stored as they are there, neither converted nor unpacked.
    pub(crate) record: Option<Image>,
    /// What the file of checksums that the input names tells of the source.
    pub(crate) told: Option<SourceHash>,
    /// Of a registry's image, the layer that is brought in.
    pub(crate) layer: Option<Layer>,
}

impl RemoteAsk {
    pub(crate) fn given_hashes(&self) -> GivenHashes {
        let ImportInput { checksum, sha256, sha512, .. } = &self.input;
        let mut given = GivenHashes { md5: checksum.clone(), sha256: sha256.clone(), sha512: sha512.clone() };
        match &self.told {
            Some(SourceHash::Sha256(told)) => given.sha256 = Some(told.clone()),
            Some(SourceHash::Sha512(told)) => given.sha512 = Some(told.clone()),
            None => {}
        }
        given
    }
}

impl Job {
    pub(crate) fn id(&self) -> TaskId {
        self.task.id
    }

    /// What is asked of a source outside of this cloud.
    pub(crate) fn remote(&self) -> Flow<&RemoteAsk> {
        match &self.ask {
            Ask::Remote(ask) => Ok(ask),
            Ask::Image(_) | Ask::Region { .. } => Err(Stop::internal("the source is in this cloud")),
        }
    }

    /// Why a phase failed, told as what it is: a source that is a store of ours can be out of reach, and the state machine
    /// waits longer for it than one call can.
    pub(crate) fn blame(&self, stop: Stop) -> Stop {
        match (&self.ask, stop) {
            (Ask::Image(_) | Ask::Region { .. }, Stop::Failed(failure))
                if failure.code == FailureCode::SourceUnreachable =>
            {
                Stop::Store(Failure::transient(failure.message))
            }
            (_, stop) => stop,
        }
    }

    /// That the time of one call was too short.
    pub(crate) fn too_slow(&self, what: &str) -> Stop {
        let (code, message) = match &self.ask {
            Ask::Remote(_) => (FailureCode::SourceTooSlow, format!("the source did not deliver {what}")),
            Ask::Region { .. } => (FailureCode::SourceTooSlow, format!("S3 did not copy {what}")),
            Ask::Image(_) => (FailureCode::TimedOut, format!("the export did not get {what} done")),
        };
        Stop::failed(code, format!("{message} in the time of one call"))
    }
}

/// What looking at the source led to.
pub(crate) enum Draft {
    /// It can't be read by range, or it is compressed: it has to be spooled first.
    Spool(Box<SpoolOrder>),
    /// An image of this region has the same bits: the task's product is there already.
    Same(ImageId),
    /// This is how it will be done.
    Plan(Box<Plan>),
}

/// What is to be spooled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpoolOrder {
    /// What is known of it.
    #[serde(flatten)]
    pub(crate) info: SourceInfo,
    /// At which of its places it was looked at.
    pub(crate) location: Option<SourceLocation>,
}

/// How a job is done, as it lies in the work bucket between the calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) origin: Origin,
    /// How the origin's bytes become the object's.
    pub(crate) recipe: Recipe,
    /// Whether one call makes the object; else its parts go to an upload.
    pub(crate) one_call: bool,
    /// Format of the object's bytes.
    pub(crate) format: Format,
    /// Of an OVA, the format of the disk inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inside: Option<Format>,
    /// Their envelope.
    pub(crate) container: String,
    /// Bytes of the disk that a guest sees.
    pub(crate) virtual_size: Option<u64>,
    /// When the hashes are made.
    pub(crate) hashing: Hashing,
    /// Whether a SHA-256 is made with them, to be checked.
    #[serde(default)]
    pub(crate) sha256: bool,
    /// The map of where the object will hold data, to be put beside it.
    pub(crate) allocation: Option<Pinned>,
    /// Of the object in a user's bucket.
    pub(crate) metadata: Metadata,
    /// What a record that is filled with another image's bytes takes over of that image's properties.
    #[serde(default)]
    pub(crate) properties: BTreeMap<String, String>,
    /// The upload that takes the parts.
    pub(crate) upload: Option<UploadId>,
    /// What the task says beside its success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remark: Option<String>,
}

impl Plan {
    /// Whether the source's bytes are stored as they come and are a disk, whose zeros nobody has told yet.
    pub(crate) fn finds_zeros(&self) -> bool {
        matches!(self.recipe, Recipe::Verbatim { .. }) && self.format.is_verbatim()
    }

    /// Glance's name for an OVA's bytes is that of the disk inside, with the archive as envelope.
    pub(crate) fn disk_format(&self) -> Format {
        if self.format == Format::Ova { self.inside.unwrap_or(Format::Vmdk) } else { self.format }
    }
}

/// When the hashes of an image are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hashing {
    /// They are known, or never will be.
    Known(Option<ImageHashes>),
    /// Before the image becomes active.
    First(Relay),
    /// Once it is active.
    Later(Relay),
}

impl Hashing {
    /// How hashes that are to be made are made of a large object.
    pub(crate) fn relay(&self) -> Flow<Relay> {
        match self {
            Self::First(relay) | Self::Later(relay) => Ok(*relay),
            Self::Known(_) => Err(Stop::internal("hashes that are known are still to be made")),
        }
    }
}

/// What a source was spooled to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spooled {
    /// The object.
    pub(crate) object: Pinned,
    /// Its hashes.
    pub(crate) hashes: ImageHashes,
    /// The map of where it holds data.
    pub(crate) allocation: Pinned,
}

/// How far the planning of a task is.
#[derive(Default)]
pub(crate) struct Saved {
    pub(crate) plan: Option<Plan>,
    pub(crate) order: Option<SpoolOrder>,
    pub(crate) spooled: Option<Spooled>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

impl Stores {
    /// All that calls of this task have saved.
    pub(crate) async fn saved(&self, id: TaskId) -> Flow<Saved> {
        let plan = self.plan(id).await?;
        if plan.is_some() {
            return Ok(Saved { plan, ..Saved::default() });
        }
        let order = self.load(&self.settings.spool_order(id)).await?;
        let spooled = if order.is_some() { self.load(&self.settings.spooled(id)).await? } else { None };
        Ok(Saved { plan, order, spooled })
    }

    pub(crate) async fn plan(&self, id: TaskId) -> Flow<Option<Plan>> {
        self.load(&self.settings.plan(id)).await
    }

    /// Something that was saved, in the version of this function.
    pub(crate) async fn load<T: DeserializeOwned>(&self, at: &ObjectRef) -> Flow<Option<T>> {
        self.objects.get(at).await?.map(|bytes| decoded(&bytes)).transpose()
    }

    /// The same for what may be larger than a small object.
    pub(crate) async fn load_large<T: DeserializeOwned>(&self, at: &ObjectRef) -> Flow<Option<T>> {
        let Some(object) = self.objects.head(at).await? else { return Ok(None) };
        let source = StoredSource::new(&self.objects, &Pinned::new(at.clone(), object));
        decoded(&whole(&source).await?).map(Some)
    }

    /// Saves something, large or small, that every call would save alike.
    pub(crate) async fn save_same<T: Serialize>(&self, at: &ObjectRef, content: &T) -> Flow<()> {
        self.put_once(at, content).await.map(drop)
    }

    /// Saves something once; what an earlier call saved, if one did.
    pub(crate) async fn save_once<T: Serialize + DeserializeOwned>(
        &self,
        at: &ObjectRef,
        content: &T,
    ) -> Flow<Option<T>> {
        if self.put_once(at, content).await? {
            return Ok(None);
        }
        // Gone again: the task has ended meanwhile.
        self.load(at).await?.map(Some).ok_or(Stop::Ended)
    }

    /// Whether this call was the first to save something there.
    async fn put_once<T: Serialize>(&self, at: &ObjectRef, content: &T) -> Flow<bool> {
        let bytes = serde_json::to_vec(&Versioned { version: VERSION, content }).map_err(Stop::internal)?;
        match self.objects.put_stream(at, bytes.len() as u64, one(Bytes::from(bytes)), true).await {
            Ok(_) => Ok(true),
            Err(ObjectError::Precondition(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Flow<T> {
    // Of another version nothing but the number is certain to be readable.
    let Version { version } = serde_json::from_slice(bytes).map_err(Stop::internal)?;
    check_version("a plan", version)?;
    let saved: Versioned<T> = serde_json::from_slice(bytes).map_err(Stop::internal)?;
    Ok(saved.content)
}

/// Whether something was made by this version of the functions.
pub(crate) fn check_version(what: &str, found: u32) -> Flow<()> {
    if found == VERSION {
        return Ok(());
    }
    let message = format!(
        "{what} is of version {found}, this function of version {VERSION}: it was deployed meanwhile; ask again"
    );
    Err(Stop::failed(FailureCode::Aborted, message))
}
