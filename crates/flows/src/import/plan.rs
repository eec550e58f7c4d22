//! Phase `plan`: open and inspect the source, decide how it is brought in; small images from start to end.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use disk_image::{AllocationScanner, ByteRange, Format, Layout};
use image_tasks_domain::progress::{Meter, Progress};
use image_tasks_domain::{Failure, FailureCode, TaskId};

use super::hash::Seen;
use super::inspection::{Found, too_slow};
use super::saved::{Planned, Saved};
use super::{Importer, Job};
use crate::deadline::Deadline;
use crate::digests::{hashed, scanned};
use crate::disk::{self, Disk};
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::origin::{Origin, Patience, open_pinned};
use crate::ports::{Body, ObjectError, ObjectRef, Source, SourceInfo};

impl Importer {
    /// Plans an import.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn plan(&self, id: TaskId, deadline: Deadline) -> Result<Next, Failure> {
        let planned = tokio::select! {
            planned = self.try_plan(id, deadline) => planned,
            () = deadline.reached() => {
                Err(too_slow("the source did not deliver what was asked of it in the time of one call"))
            }
        };
        match planned {
            Ok(next) => Ok(next),
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Done),
        }
    }

    async fn try_plan(&self, id: TaskId, deadline: Deadline) -> Step<Next> {
        let job = self.begun(id).await?;
        let (origin, staged) = match self.saved(id).await? {
            Some(Saved::Planned(planned)) => return self.follow(&job, *planned, deadline).await,
            Some(Saved::Stage(_)) => return Ok(Next::Stage),
            Some(Saved::Staged { object, digests, allocation }) => {
                (Origin::Staged(object), Some((digests, allocation)))
            }
            None => {
                let source = open_pinned(&*self.sources, &job.input.source, None).await?;
                let info = source.info().clone();
                if let Some(size) = info.size {
                    self.check_quota(size)?;
                }
                if !info.ranges || info.size.is_none() {
                    return self.ask_for_stage(id, info).await;
                }
                (Origin::Source { location: job.input.source.clone(), pin: info.pin }, None)
            }
        };
        let source = self.open(id, &origin).await?;
        let size = source.info().size.ok_or_else(|| Stop::internal("an origin without a size"))?;
        let layout = match self.inspect(&*source, size, &job.input).await? {
            Found::Disk(layout) => layout,
            Found::Stream if matches!(origin, Origin::Staged(_)) => {
                let message = "the source is compressed more than once";
                return Err(Failure::new(FailureCode::UnsupportedFormat, message).into());
            }
            Found::Stream => {
                return self.ask_for_stage(id, source.info().clone()).await;
            }
        };
        let target = Target::of(&layout, &job)?;
        let hashes_given = job.input.checksum.is_some() || job.input.sha512.is_some();
        if target.converted && hashes_given && matches!(origin, Origin::Source { .. }) {
            // A conversion reads the source in any order, and not all of it: only a spool sees its hashes.
            return self.ask_for_stage(id, source.info().clone()).await;
        }
        let (size, maps) = if target.converted {
            (layout.virtual_size(), Some(self.map_disk(&job, &*source, &layout).await?))
        } else {
            self.walk(&*source, &layout, None).await?;
            (size, None)
        };
        let transfer = self
            .policy
            .cut
            .plan(size)
            .map_err(|e| Failure::new(FailureCode::SourceTooLarge, e.to_string()))?;
        let upload = if size < self.policy.cut.single_below {
            None
        } else {
            // Of an earlier call that died before it could save the plan.
            self.cleaner().uploads(job.image_id).await?;
            Some(self.objects.create_upload(&self.settings.image(job.image_id)).await?)
        };
        let convert = match maps {
            None => None,
            Some((convert, _)) if upload.is_none() => Some(convert),
            Some((mut convert, allocation)) => {
                convert.zeros = self.zeros(id, &transfer, &allocation).await?;
                Some(convert)
            }
        };
        // Of the bytes that were spooled.
        let (digests, allocation) = staged.filter(|_| convert.is_none()).unzip();
        let planned = Planned {
            origin,
            disk_format: target.disk_format,
            container_format: target.container_format,
            virtual_size: layout.virtual_size(),
            transfer,
            upload,
            digests,
            allocation,
            convert,
        };
        self.save(id, &Saved::Planned(Box::new(planned.clone()))).await?;
        self.follow(&job, planned, deadline).await
    }

    async fn ask_for_stage(&self, id: TaskId, info: SourceInfo) -> Step<Next> {
        let total = info.size.unwrap_or(0);
        self.save(id, &Saved::Stage(info)).await?;
        self.set_staged(id, total).await?;
        Ok(Next::Stage)
    }

    /// Does what a plan says, as far as it is this phase's.
    async fn follow(&self, job: &Job, planned: Planned, deadline: Deadline) -> Step<Next> {
        if planned.upload.is_some() {
            let meter = |total| Meter { done: 0, total };
            let size = planned.transfer.size;
            let to_hash = if planned.digests.is_some() { 0 } else { size };
            let work = Progress { copied: meter(size), hashed: meter(to_hash), ..job.task.progress };
            self.tasks.set_work(job.task.id, &work).await?;
            return Ok(Next::Transfer { batches: planned.transfer.batches() });
        }
        let seen = self.store_whole(job, &planned).await?;
        match self.conclude(job, &planned, seen, deadline).await? {
            Next::Finish => Err(Failure::transient("a small image could not be hashed in one call").into()),
            next => Ok(next),
        }
    }

    /// Stores a small image in one request; what its bytes told, unless an earlier call has stored it.
    async fn store_whole(&self, job: &Job, planned: &Planned) -> Step<Option<Seen>> {
        let (id, at) = (job.task.id, self.settings.image(job.image_id));
        if let (Origin::Staged(object), None) = (&planned.origin, &planned.convert) {
            return match self.objects.copy(&at, &self.settings.staged(id), &object.etag, true).await {
                Ok(_) | Err(ObjectError::Precondition(_)) => Ok(None),
                Err(e) => Err(e.into()),
            };
        }
        let bytes = self.bytes(id, planned).await?;
        let mut patience = Patience::default();
        loop {
            match self.put_seen(&bytes, &at, planned).await {
                Ok(seen) => return Ok(seen),
                Err(stop) => patience.after_stop(stop).await?,
            }
        }
    }

    async fn put_seen(&self, bytes: &Bytes, at: &ObjectRef, planned: &Planned) -> Step<Option<Seen>> {
        let size = planned.transfer.size;
        let (mut body, hasher) = hashed(bytes.body(0..size).await?);
        let mut scanner = None;
        if planned.is_verbatim() {
            let (watched, found) = scanned(body);
            (body, scanner) = (watched, Some(found));
        }
        let stored = match self.objects.put_stream(at, size, body, true).await {
            Ok(stored) => stored,
            Err(ObjectError::Precondition(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if stored.size != size || stored.crc64nvme.is_some_and(|crc| crc != hasher.crc64nvme()) {
            return Err(Stop::internal("the store holds other bytes than it was given"));
        }
        let taken = |scanner: Arc<Mutex<AllocationScanner>>| {
            mem::take(&mut *scanner.lock().unwrap_or_else(PoisonError::into_inner))
        };
        let allocation = scanner.map(|scanner| taken(scanner).finish());
        Ok(Some(Seen { digests: hasher.digests(), allocation }))
    }

    /// What a plan stores, to be read by range.
    pub(super) async fn bytes(&self, id: TaskId, planned: &Planned) -> Step<Bytes> {
        Ok(match &planned.convert {
            Some(convert) => Bytes::Disk(self.disk(id, &planned.origin, convert).await?),
            None => Bytes::AsIs(self.open(id, &planned.origin).await?),
        })
    }

    /// Opens an origin for reads by range.
    pub(super) async fn open(&self, id: TaskId, origin: &Origin) -> Step<Box<dyn Source>> {
        origin.open(&*self.sources, &self.objects, self.settings.staged(id)).await
    }
}

/// The bytes that an import stores.
pub(super) enum Bytes {
    /// The source's own.
    AsIs(Box<dyn Source>),
    /// The disk inside it.
    Disk(Arc<Disk>),
}

impl Bytes {
    pub(super) async fn body(&self, range: Range<u64>) -> Step<Body> {
        Ok(match self {
            // No range of HTTP or S3 is empty.
            Self::AsIs(_) if range.is_empty() => Box::pin(futures::stream::empty()),
            Self::AsIs(source) => source.read(ByteRange { start: range.start, end: range.end }).await?,
            Self::Disk(disk) => disk::body(Arc::clone(disk), range),
        })
    }
}

/// What will be stored.
struct Target {
    disk_format: String,
    container_format: String,
    /// Whether that isn't the source as it is.
    converted: bool,
}

impl Target {
    fn of(layout: &Layout, job: &Job) -> Step<Self> {
        let found = layout.format();
        let wanted = job.input.image.disk_format.and_then(Format::from_name).unwrap_or(found);
        let container_format = job.input.image.container_format.unwrap_or("bare").to_owned();
        let disk_format = wanted.name().to_owned();
        if found == Format::Ova && matches!(wanted, Format::Ova | Format::Vmdk) {
            let (disk_format, container_format) = (Format::Vmdk.name().to_owned(), "ova".to_owned());
            return Ok(Self { disk_format, container_format, converted: false });
        }
        // Opaque formats are the same bytes by another name.
        if wanted == found || wanted.is_opaque() && found.is_opaque() {
            return Ok(Self { disk_format, container_format, converted: false });
        }
        if wanted == Format::Raw {
            return Ok(Self { disk_format, container_format, converted: true });
        }
        let message = format!("the image is {found}; it can't be stored as {wanted}, only as {found} or raw");
        Err(Failure::new(FailureCode::UnsupportedFormat, message).into())
    }
}
