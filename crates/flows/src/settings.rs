//! What an operator decides.

use std::time::Duration;

use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::source::SourcePolicy;
use image_tasks_domain::{ImageId, TaskId};

use sha2::{Digest as _, Sha256};

use crate::bounds::{Cut, ExportCut};
use crate::digests::hex;
use crate::ports::ObjectRef;

/// Where things are kept, and how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bucket of image objects.
    pub images_bucket: String,
    /// Bucket of plans and staged sources.
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

/// What an import may bring in.
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
}

impl Settings {
    /// An image's bytes.
    pub(crate) fn image(&self, id: ImageId) -> ObjectRef {
        ObjectRef { bucket: self.images_bucket.clone(), key: id.object_key() }
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

    /// What a Glance elsewhere says of the image that is cloned.
    pub(crate) fn record(&self, id: TaskId) -> ObjectRef {
        self.work(id, "record")
    }

    /// The spooled source.
    pub(crate) fn staged(&self, id: TaskId) -> ObjectRef {
        self.work(id, "staged")
    }

    /// Where the spooled bytes hold data, should they be stored as a disk.
    pub(crate) fn staged_allocation(&self, id: TaskId) -> ObjectRef {
        self.work(id, "allocation")
    }

    /// Where in the image its disk is: the range map.
    pub(crate) fn range_map(&self, id: TaskId) -> ObjectRef {
        self.work(id, "map")
    }

    /// Index of a qcow2's blob.
    pub(crate) fn blob_index(&self, id: TaskId, blob: usize) -> ObjectRef {
        self.work(id, &format!("index/{blob}"))
    }

    /// Bytes of a qcow2's blob that is too short for a part.
    pub(crate) fn blob(&self, id: TaskId, blob: usize) -> ObjectRef {
        self.work(id, &format!("blob/{blob}"))
    }

    /// Which task may make the object of that name; outlives no task.
    pub(crate) fn claim(&self, to: &ObjectRef) -> ObjectRef {
        let name = hex(&Sha256::digest(format!("{}/{}", to.bucket, to.key)));
        ObjectRef { bucket: self.work_bucket.clone(), key: format!("work/claims/{name}") }
    }

    /// Where an image holds data, beside its bytes.
    pub(crate) fn allocation(&self, id: ImageId) -> ObjectRef {
        ObjectRef { bucket: self.images_bucket.clone(), key: format!("{}.allocation", id.object_key()) }
    }

    /// A part's zeros.
    pub(crate) fn zeros(&self, id: TaskId) -> ObjectRef {
        self.work(id, "zeros")
    }

    /// State of the hashes.
    pub(crate) fn hash(&self, id: TaskId) -> ObjectRef {
        self.work(id, "hash")
    }
}
