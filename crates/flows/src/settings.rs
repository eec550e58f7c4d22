//! What an operator decides, and where things are kept.

use std::time::Duration;

use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::{ImageId, TaskId};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::bounds::{Cut, ExportCut, Relay};
use crate::ports::ObjectRef;

/// Where things are kept, and how long.
///
/// Every key but a claim's carries the id of the task that writes there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bucket of image objects.
    pub images_bucket: String,
    /// Bucket of plans and spooled sources.
    pub work_bucket: String,
    /// From a task's end to its expiry.
    pub task_ttl: Duration,
}

/// Where exports may go, and how they are cut.
#[derive(Debug, Clone)]
pub struct ExportRules {
    /// Which buckets may receive.
    pub receivers: ExportPolicy,
    /// How objects are cut.
    pub cut: ExportCut,
}

/// What may come in from outside of this cloud.
#[derive(Debug, Clone)]
pub struct ImportPolicy {
    /// Where images may come from.
    pub sources: SourcePolicy,
    /// Largest size and virtual size of an image, bytes.
    pub max_image_bytes: u64,
    /// Format that a disk is stored in where nobody asks for one.
    pub output: OutputFormat,
    /// Images up to this many bytes become active with their hashes; those of larger ones follow.
    pub hash_before_active: u64,
    /// How objects are cut.
    pub cut: Cut,
    /// How they are hashed.
    pub relay: Relay,
    /// How long a task waits for a source whose server is busy, without a byte of progress.
    pub source_wait: Duration,
}

impl Settings {
    /// The bytes that a task makes of an image.
    pub(crate) fn image(&self, image: ImageId, task: TaskId) -> ObjectRef {
        ObjectRef { bucket: self.images_bucket.clone(), key: image.object_key(task) }
    }

    /// Prefix of all that is kept for a task while it works.
    pub(crate) fn work_prefix(id: TaskId) -> String {
        format!("work/{id}/")
    }

    fn work(&self, id: TaskId, name: &str) -> ObjectRef {
        ObjectRef { bucket: self.work_bucket.clone(), key: format!("{}{name}", Self::work_prefix(id)) }
    }

    /// What is to be done.
    pub(crate) fn plan(&self, id: TaskId) -> ObjectRef {
        self.work(id, "plan.json")
    }

    /// The order to spool the source first.
    pub(crate) fn spool_order(&self, id: TaskId) -> ObjectRef {
        self.work(id, "spool.json")
    }

    /// What came of that order.
    pub(crate) fn spooled(&self, id: TaskId) -> ObjectRef {
        self.work(id, "spooled.json")
    }

    /// What a Glance elsewhere says of the image that is cloned.
    pub(crate) fn record(&self, id: TaskId) -> ObjectRef {
        self.work(id, "record.json")
    }

    /// What a file of checksums says of the source.
    pub(crate) fn sums(&self, id: TaskId) -> ObjectRef {
        self.work(id, "sums.json")
    }

    /// The layer of a registry's image that is the disk.
    pub(crate) fn layer(&self, id: TaskId) -> ObjectRef {
        self.work(id, "layer.json")
    }

    /// Something that one call makes for a plan. A call beside it makes its own, and the plan that is saved first names which.
    pub(crate) fn attempt(&self, id: TaskId, attempt: Uuid, name: &str) -> ObjectRef {
        self.work(id, &format!("{attempt}/{name}"))
    }

    /// Which blob of a qcow2 begins at that byte of the disk.
    pub(crate) fn blob(&self, id: TaskId, start: u64) -> ObjectRef {
        self.work(id, &format!("blob/{start}.json"))
    }

    /// Bytes of a blob that begins there: those that one call writes.
    pub(crate) fn blob_bytes(&self, id: TaskId, start: u64, attempt: Uuid) -> ObjectRef {
        self.work(id, &format!("blob/{start}/{attempt}"))
    }

    /// Their index.
    pub(crate) fn blob_index(&self, id: TaskId, start: u64, attempt: Uuid) -> ObjectRef {
        self.work(id, &format!("blob/{start}/{attempt}.index"))
    }

    /// All blobs of a qcow2, in order.
    pub(crate) fn blobs(&self, id: TaskId) -> ObjectRef {
        self.work(id, "blobs.json")
    }

    /// State of the hashes behind a chunk of what `of` tells.
    pub(crate) fn hash(&self, id: TaskId, of: &str, chunk: u32) -> ObjectRef {
        self.work(id, &format!("hash/{of}/{chunk}.json"))
    }

    /// Which task may make the object of that name in a receiving bucket; outlives no task.
    pub(crate) fn claim(&self, to: &ObjectRef) -> ObjectRef {
        let name = hex::encode(Sha256::digest(format!("{}/{}", to.bucket, to.key)));
        ObjectRef { bucket: self.work_bucket.clone(), key: format!("work/claims/{name}") }
    }
}

/// Where an object that is a disk holds data: a map beside it.
pub(crate) fn allocation_of(object: &ObjectRef) -> ObjectRef {
    ObjectRef { bucket: object.bucket.clone(), key: format!("{}.allocation", object.key) }
}
