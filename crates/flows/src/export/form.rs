//! Which form an export takes: the least work that makes the object asked for.

use std::sync::Arc;

use bytes::Bytes;
use disk_image::write::qcow2::{Codec, CopyPlan};
use disk_image::{AllocationMap, Error, Format, Layout, Limits, MapWriter, Regions};
use image_tasks_domain::export_input::{ExportCompression, ExportFormat};
use image_tasks_domain::image::HASH_ALGORITHM;
use image_tasks_domain::transfer::{MAX_PARTS, TransferPlan};
use image_tasks_domain::{Failure, FailureCode, Image, TaskId};

use super::saved::{Form, Stored};
use super::{Exporter, Job, not_found, object};
use crate::bounds::STAGE_PART;
use crate::digests::Digests;
use crate::disk::{Disk, Mapped, Places, whole};
use crate::error::{Step, Stop, refused};
use crate::import::spool::Spool;
use crate::origin::{Staged, StoredSource, drive, fetch};
use crate::ports::Source;
use crate::qcow2::{too_large, unwritable};

impl Exporter {
    /// The stored image: what it is, and where its disk is in it. An image that is mapped is walked to its end.
    pub(super) async fn stored(&self, job: &Job, image: &Image) -> Step<Stored> {
        let gone = || not_found(format!("image {} has no bytes", image.id));
        let place = image.stored.as_ref().ok_or_else(gone)?;
        let at = object(&place.bucket, &place.key);
        let head = self.objects.head(&at).await?.ok_or_else(gone)?;
        let md5 = image.checksum.clone();
        let sha512 =
            image.os_hash_value.clone().filter(|_| image.os_hash_algo.as_deref() == Some(HASH_ALGORITHM));
        let mut stored = Stored {
            at,
            etag: place.etag.clone(),
            size: head.size,
            crc64nvme: place.crc64nvme.clone(),
            digests: md5.zip(sha512).map(|(md5, sha512)| Digests { md5, sha512 }),
            virtual_size: head.size,
            map: None,
            allocation: None,
        };
        let format = self.format(image)?;
        if format.is_verbatim() {
            let allocation = self.objects.head(&self.settings.allocation(image.id)).await?;
            stored.allocation = allocation.map(|a| Staged { etag: a.etag, size: a.size });
        } else if !is_as_asked(format, job) {
            let source = self.source(&stored);
            let limits = Limits { max_virtual_size: image.virtual_size.unwrap_or(u64::MAX) };
            let mut regions = Regions::new(stored.size);
            let layout =
                drive(&source, &mut regions, |regions| Layout::open(regions, format, &limits)).await?;
            stored.virtual_size = layout.virtual_size();
            stored.map = Some(self.mapped(job.task.id, &source, &layout).await?);
        }
        Ok(stored)
    }

    /// How the stored image becomes what is asked for.
    pub(super) fn form(&self, job: &Job, image: &Image, stored: &Stored) -> Step<Form> {
        let cut = &self.rules.cut;
        let format = self.format(image)?;
        if is_as_asked(format, job) {
            return Ok(Form::Copy(by_parts(stored.size, cut.copy_part)?));
        }
        Ok(match (job.input.format, job.input.compression) {
            (ExportFormat::Raw, _) => Form::Raw(by_parts(stored.virtual_size, cut.part)?),
            (ExportFormat::Qcow2, Some(ExportCompression::None)) if format.is_verbatim() => {
                Form::CopyQcow2 { max_part: cut.copy_part }
            }
            (ExportFormat::Qcow2, Some(ExportCompression::None)) => Form::Qcow2(Codec::None),
            (ExportFormat::Qcow2, Some(ExportCompression::Zstd)) => Form::Qcow2(Codec::Zstd),
            (ExportFormat::Qcow2, Some(ExportCompression::Zlib) | None) => Form::Qcow2(Codec::Zlib),
        })
    }

    fn format(&self, image: &Image) -> Step<Format> {
        let (disk, container) = (image.disk_format.as_deref(), image.container_format.as_deref());
        let found =
            if container == Some("ova") { Some(Format::Ova) } else { disk.and_then(Format::from_name) };
        found.ok_or_else(|| {
            let message = format!("an image of format {} can't be exported", disk.unwrap_or("unknown"));
            Failure::new(FailureCode::UnsupportedFormat, message).into()
        })
    }

    /// The stored image's bytes.
    pub(super) fn source(&self, stored: &Stored) -> StoredSource {
        StoredSource::new(Arc::clone(&self.objects), stored.at.clone(), &stored.etag, stored.size)
    }

    /// The disk in the stored image.
    pub(super) async fn disk(&self, id: TaskId, stored: &Stored) -> Step<Arc<Disk>> {
        let places = match &stored.map {
            None => Places::Verbatim(self.allocation(stored).await?),
            Some(mapped) => mapped.places(&self.objects, self.settings.range_map(id)),
        };
        Ok(Arc::new(Disk { source: Box::new(self.source(stored)), places }))
    }

    async fn allocation(&self, stored: &Stored) -> Step<Option<AllocationMap>> {
        let Some(Staged { etag, size }) = &stored.allocation else { return Ok(None) };
        let at = object(&stored.at.bucket, &format!("{}.allocation", stored.at.key));
        let bytes = whole(&StoredSource::new(Arc::clone(&self.objects), at, etag, *size)).await?;
        let map = AllocationMap::decode(&bytes).map_err(unsound)?;
        // Of something else, it would leave out what it doesn't know.
        if map.virtual_size() != stored.virtual_size {
            return Err(Stop::internal("the allocation map is not that of the image"));
        }
        Ok(Some(map))
    }

    /// Which ranges of a raw image S3 copies.
    pub(super) async fn copy_plan(&self, stored: &Stored, max_part: u64) -> Step<CopyPlan> {
        let whole = 0..stored.virtual_size;
        let data = match self.allocation(stored).await? {
            Some(map) => map.data().to_vec(),
            None if whole.is_empty() => Vec::new(),
            None => vec![whole],
        };
        CopyPlan::new(stored.virtual_size, &data, max_part).map_err(unwritable)
    }

    /// Walks the whole disk and stores its map.
    async fn mapped(&self, id: TaskId, source: &dyn Source, layout: &Layout) -> Step<Mapped> {
        let mut writer = MapWriter::new(layout.virtual_size(), layout.file_size());
        let mut spool = Spool::new(Arc::clone(&self.objects), self.settings.range_map(id), STAGE_PART);
        let mut regions = Regions::new(layout.file_size());
        let mut walker = layout.walk();
        loop {
            match walker.next(&regions) {
                Ok(Some(extent)) => {
                    writer.push(&extent).map_err(unsound)?;
                    let ready = writer.take();
                    if !ready.is_empty() {
                        spool.write(Bytes::from(ready)).await?;
                    }
                }
                Ok(None) => break,
                Err(Error::Refused(refusal)) => return Err(refusal.into()),
                Err(Error::Need(ranges)) => {
                    regions.clear();
                    fetch(source, &mut regions, &ranges).await?;
                }
            }
        }
        let (rest, map) = writer.finish().map_err(unsound)?;
        spool.write(Bytes::from(rest)).await?;
        let object = spool.finish().await?;
        Ok(Mapped { map, sidecar: Staged { etag: object.etag, size: object.size } })
    }
}

/// Whether the stored bytes are what the export shall be.
fn is_as_asked(format: Format, job: &Job) -> bool {
    match job.input.format {
        ExportFormat::Raw => format.is_verbatim(),
        ExportFormat::Qcow2 => format == Format::Qcow2 && job.input.compression.is_none(),
    }
}

/// Parts of that size, larger ones where S3 takes no more of them.
fn by_parts(size: u64, part: u64) -> Step<TransferPlan> {
    let plan = TransferPlan::new(size).map_err(too_large)?;
    Ok(TransferPlan {
        part_size: if size.div_ceil(part) > MAX_PARTS { plan.part_size } else { part },
        ..plan
    })
}

pub(super) fn too_slow(what: &str) -> Stop {
    Failure::new(FailureCode::TimedOut, format!("{what} in the time of one call")).into()
}

fn unsound(error: Error) -> Stop {
    match error {
        Error::Refused(refusal) => Stop::Failed(refused(refusal)),
        Error::Need(_) => Stop::internal("a map that needs what it was given"),
    }
}
