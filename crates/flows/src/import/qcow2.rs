//! Import as qcow2: its share of the phases `transfer` and `finish`.
//!
//! The object's length isn't known before all blobs are made, nor are its zeros the disk's: it is hashed byte by byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use disk_image::write::parts::BlobRange;
use disk_image::write::qcow2::Codec;
use image_tasks_domain::TaskId;
use image_tasks_domain::progress::Step as Meter;
use image_tasks_domain::transfer::Batch;

use super::inspection::too_slow;
use super::{Importer, Job};
use crate::bounds::PARTS_AT_ONCE;
use crate::deadline::Deadline;
use crate::disk::Disk;
use crate::error::{Step, Stop};
use crate::parts::{Destination, complete, make};
use crate::ports::{ObjectRef, UploadId};
use crate::qcow2::{Bench, Pieces};

/// As Glance's conversion: guests run on the image, and an export compresses what is sent away.
pub(super) const STORED: Codec = Codec::None;

/// Where an image's parts go.
fn destination<'a>(importer: &'a Importer, at: &'a ObjectRef, upload: &'a UploadId) -> Destination<'a> {
    Destination { store: &*importer.objects, at, upload, refused: &Stop::from }
}

impl Importer {
    /// The disk by ranges that become blobs.
    pub(super) fn pieces(&self, id: TaskId, size: u64, ranges: &[BlobRange]) -> Step<Pieces> {
        let bench = Bench { objects: self.objects.clone(), settings: self.settings.clone(), id };
        Pieces::new(size, STORED, ranges.to_vec(), bench)
    }

    /// Makes these blobs; what is left when the time is up.
    pub(super) async fn make_blobs(
        &self,
        job: &Job,
        (pieces, left): (&Pieces, BTreeSet<u32>),
        disk: &Arc<Disk>,
        upload: &UploadId,
        deadline: Deadline,
    ) -> Step<Option<Batch>> {
        let (id, at) = (job.task.id, self.settings.image(job.image_id));
        let to = &destination(self, &at, upload);
        let piece = |number| async move {
            let bytes = pieces.make(to, disk, number).await?;
            Ok(self.tasks.advance(id, Meter::Copied, bytes).await?)
        };
        make(left, PARTS_AT_ONCE, deadline, piece, || {
            too_slow("the source did not deliver a single range of its disk in the time of one call")
        })
        .await
    }

    /// Makes the blobs one object, unless an earlier call did.
    pub(super) async fn assemble(
        &self,
        job: &Job,
        upload: &UploadId,
        size: u64,
        ranges: &[BlobRange],
    ) -> Step<()> {
        let at = self.settings.image(job.image_id);
        if self.objects.head(&at).await?.is_some() {
            return Ok(());
        }
        let pieces = self.pieces(job.task.id, size, ranges)?;
        let expected = pieces.first_part(&destination(self, &at, upload)).await?;
        let parts = self.objects.parts(&at, upload).await?;
        expected.check(&parts)?;
        complete(&*self.objects, &at, upload, &parts).await
    }
}
