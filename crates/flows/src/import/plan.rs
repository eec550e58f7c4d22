//! Phase `plan`: open and inspect the source, decide how it is brought in; small images from start to end.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use disk_image::{AllocationScanner, ByteRange, Format, Layout};
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::progress::{Meter, Progress};
use image_tasks_domain::transfer::batches;
use image_tasks_domain::{Failure, FailureCode, TaskId};

use super::hash::Seen;
use super::inspection::{Found, too_slow};
use super::qcow2::STORED;
use super::saved::{Form, Planned, Saved};
use super::{Importer, Job};
use crate::bounds::TINY;
use crate::deadline::Deadline;
use crate::digests::{hashed, scanned};
use crate::disk::{self, Disk};
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::origin::{Origin, Patience, Staged};
use crate::ports::{Body, ObjectError, ObjectRef, Source, SourceInfo};
use crate::qcow2;

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
                let source = self.open_source(id, &job.asked, job.asked.pin().as_ref()).await?;
                let mut info = source.info().clone();
                info.size = info.size.or(job.asked.pin().and_then(|pin| pin.size));
                if let Some(size) = info.size {
                    self.check_quota(size)?;
                }
                if !info.ranges || info.size.is_none() {
                    return self.ask_for_stage(id, info).await;
                }
                (Origin::Source { location: job.asked.input.source.clone(), pin: info.pin }, None)
            }
        };
        let source = self.open(id, &origin).await?;
        let size = source.info().size.ok_or_else(|| Stop::internal("an origin without a size"))?;
        let layout = match self.inspect(&*source, size, &job.asked.input).await? {
            Found::Disk(layout) => layout,
            Found::Stream if job.asked.clone.is_some() => {
                let message = "the image is a compressed stream, not of the format that its record says";
                return Err(Failure::new(FailureCode::FormatMismatch, message).into());
            }
            Found::Stream if matches!(origin, Origin::Staged(_)) => {
                let message = "the source is compressed more than once";
                return Err(Failure::new(FailureCode::UnsupportedFormat, message).into());
            }
            Found::Stream => {
                return self.ask_for_stage(id, source.info().clone()).await;
            }
        };
        let target = Target::of(&layout, &job, self.policy.output)?;
        let hashes_given = job.asked.input.checksum.is_some() || job.asked.input.sha512.is_some();
        let converted = target.made != Made::AsIs;
        let checked_later = hashes_given && matches!(origin, Origin::Source { .. });
        if converted && checked_later {
            // A conversion reads the source in any order, and not all of it: only a spool sees its hashes.
            return self.ask_for_stage(id, source.info().clone()).await;
        }
        let spooled = staged.as_ref().map(|(_, allocation)| allocation);
        let form = self.form(&job, &*source, &layout, target.made, spooled).await?;
        let upload = if self.is_one_call(&form) {
            None
        } else {
            // Of an earlier call that died before it could save the plan.
            self.cleaner().uploads(job.image_id).await?;
            Some(self.objects.create_upload(&self.settings.image(job.image_id)).await?)
        };
        let virtual_size = match &form {
            Form::Qcow2 { size, .. } => qcow2::virtual_size(*size)?,
            Form::AsIs { .. } | Form::Raw { .. } => layout.virtual_size(),
        };
        // Of the bytes that were spooled.
        let (digests, allocation) = staged.filter(|_| !converted).unzip();
        // Unless one request has told them, the spool has, or they are to be held against those that were given.
        let hashes_follow = form.most_bytes() > self.policy.hash_before_active
            && upload.is_some()
            && digests.is_none()
            && !checked_later;
        let planned = Planned {
            origin,
            disk_format: target.disk_format,
            container_format: target.container_format,
            virtual_size,
            form,
            upload,
            digests,
            hashes_follow,
            allocation,
        };
        self.save(id, &Saved::Planned(Box::new(planned.clone()))).await?;
        self.follow(&job, planned, deadline).await
    }

    /// Goes through the image's whole map, and decides how what it holds becomes the object.
    /// `spooled`: the allocation map of all of the source's bytes.
    async fn form(
        &self,
        job: &Job,
        source: &dyn Source,
        layout: &Layout,
        made: Made,
        spooled: Option<&Staged>,
    ) -> Step<Form> {
        let id = job.task.id;
        let size = layout.virtual_size();
        let cut = |size| {
            let plan = self.policy.cut.plan(size);
            plan.map_err(|e| Failure::new(FailureCode::SourceTooLarge, e.to_string()))
        };
        Ok(match made {
            Made::AsIs => {
                self.walk(source, layout, None).await?;
                Form::AsIs { transfer: cut(layout.file_size())? }
            }
            Made::Raw => {
                let (map, data) = self.map_disk(id, source, layout).await?;
                let at = self.settings.allocation(job.image_id);
                let allocation = self.put_whole(&at, bytes::Bytes::from(data.encode())).await?;
                let transfer = cut(size)?;
                let zeros = if size < self.policy.cut.single_below {
                    None
                } else {
                    self.zeros(id, &transfer, &data).await?
                };
                Form::Raw { transfer, map, allocation, zeros }
            }
            Made::Qcow2 => {
                let ranges = qcow2::ranges(size)?;
                let (map, allocation, data) = if layout.format().is_verbatim() {
                    self.walk(source, layout, None).await?;
                    let data = match spooled {
                        Some(stored) => {
                            Some(self.allocation(self.settings.staged_allocation(id), stored).await?)
                        }
                        None => None,
                    };
                    (None, spooled.cloned(), data)
                } else {
                    let (map, data) = self.map_disk(id, source, layout).await?;
                    (Some(map), None, Some(data))
                };
                let ranges = match data {
                    Some(data) => qcow2::holding(ranges, &data),
                    None => ranges,
                };
                qcow2::check_parts(&ranges)?;
                Form::Qcow2 { size, ranges, map, allocation }
            }
        })
    }

    /// Whether this phase makes the object from start to end.
    fn is_one_call(&self, form: &Form) -> bool {
        let single_below = self.policy.cut.single_below;
        match form {
            Form::AsIs { transfer } | Form::Raw { transfer, .. } => transfer.size < single_below,
            Form::Qcow2 { size, .. } => *size < single_below && *size <= TINY,
        }
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
            let (size, batches) = match &planned.form {
                Form::AsIs { transfer } | Form::Raw { transfer, .. } => (transfer.size, transfer.batches()),
                Form::Qcow2 { size, ranges, .. } => {
                    (*size, batches(u32::try_from(ranges.len()).map_err(Stop::internal)?))
                }
            };
            let unhashed = planned.digests.is_some() || planned.hashes_follow;
            let to_hash = if unhashed { 0 } else { size };
            let work = Progress { copied: meter(size), hashed: meter(to_hash), ..job.task.progress };
            self.tasks.set_work(job.task.id, &work).await?;
            return Ok(Next::Transfer { batches });
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
        if let (Origin::Staged(object), Form::AsIs { .. }) = (&planned.origin, &planned.form) {
            return match self.objects.copy(&at, &self.settings.staged(id), &object.etag, true).await {
                Ok(_) | Err(ObjectError::Precondition(_)) => Ok(None),
                Err(e) => Err(e.into()),
            };
        }
        let (bytes, size) = match &planned.form {
            Form::AsIs { transfer } | Form::Raw { transfer, .. } => {
                (self.bytes(id, planned).await?, transfer.size)
            }
            Form::Qcow2 { size, map, allocation, .. } => {
                let disk = self.disk(id, &planned.origin, map.as_ref(), allocation.as_ref()).await?;
                let (len, body) = qcow2::small(disk, *size, STORED).await?;
                (Bytes::Made(Box::new(body)), len)
            }
        };
        let mut patience = Patience::default();
        loop {
            match self.put_seen(&bytes, &at, size, planned.is_verbatim()).await {
                Ok(seen) => return Ok(seen),
                Err(stop) => patience.after_stop(stop).await?,
            }
        }
    }

    async fn put_seen(&self, bytes: &Bytes, at: &ObjectRef, size: u64, scan: bool) -> Step<Option<Seen>> {
        let (mut body, hasher) = hashed(bytes.body(0..size).await?);
        let mut scanner = None;
        if scan {
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

    /// What a plan stores, to be read by range. A qcow2 can't be: it has to be made.
    pub(super) async fn bytes(&self, id: TaskId, planned: &Planned) -> Step<Bytes> {
        Ok(match &planned.form {
            Form::AsIs { .. } => Bytes::AsIs(self.open(id, &planned.origin).await?),
            Form::Raw { map, .. } => Bytes::Disk(self.disk(id, &planned.origin, Some(map), None).await?),
            Form::Qcow2 { .. } => return Err(Stop::internal("a qcow2 is made, not read")),
        })
    }

    /// Opens an origin for reads by range.
    pub(super) async fn open(&self, id: TaskId, origin: &Origin) -> Step<Box<dyn Source>> {
        let token = match origin {
            Origin::Source { .. } => self.token(id).await?,
            Origin::Staged(_) => None,
        };
        origin.open(&*self.sources, token.as_ref(), &self.objects, self.settings.staged(id)).await
    }
}

/// The bytes that an import stores.
pub(super) enum Bytes {
    /// The source's own.
    AsIs(Box<dyn Source>),
    /// The disk inside it.
    Disk(Arc<Disk>),
    /// The whole of what is in memory.
    Made(Box<dyn Fn() -> Body + Send + Sync>),
}

impl Bytes {
    pub(super) async fn body(&self, range: Range<u64>) -> Step<Body> {
        Ok(match self {
            // No range of HTTP or S3 is empty.
            Self::AsIs(_) if range.is_empty() => Box::pin(futures::stream::empty()),
            Self::AsIs(source) => source.read(ByteRange { start: range.start, end: range.end }).await?,
            Self::Disk(disk) => disk::body(Arc::clone(disk), range),
            Self::Made(body) => body(),
        })
    }
}

/// What will be stored.
struct Target {
    disk_format: String,
    container_format: String,
    made: Made,
}

/// What is made of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Nothing: it is stored as it is.
    AsIs,
    /// The disk inside it.
    Raw,
    /// A qcow2 of that disk.
    Qcow2,
}

impl Target {
    fn of(layout: &Layout, job: &Job, output: OutputFormat) -> Step<Self> {
        let (found, said) = (layout.format(), &job.asked.input.image);
        let wanted = said.disk_format.and_then(Format::from_name);
        let wanted = wanted.unwrap_or_else(|| by_default(layout, said.container_format, output));
        if found == Format::Ova && matches!(wanted, Format::Ova | Format::Vmdk) {
            if job.asked.input.member.is_some() {
                let message = "import_from_member takes one disk out of the ova: ask for it as raw or qcow2, in \
                               image_properties.disk_format; else the ova is stored whole";
                return Err(Failure::new(FailureCode::UnsupportedFormat, message).into());
            }
            let (disk_format, container_format) = (Format::Vmdk.name().to_owned(), "ova".to_owned());
            return Ok(Self { disk_format, container_format, made: Made::AsIs });
        }
        let container_format = said.container_format.unwrap_or("bare").to_owned();
        if container_format == Format::Ova.name() {
            let message = format!("container_format is ova, but a {found} stored as {wanted} is none");
            return Err(Failure::new(FailureCode::FormatMismatch, message).into());
        }
        // Opaque formats are the same bytes by another name.
        let made = if wanted == found || wanted.is_opaque() && found.is_opaque() {
            Made::AsIs
        } else if wanted == Format::Raw {
            Made::Raw
        } else if wanted == Format::Qcow2 && layout.virtual_size() > 0 {
            Made::Qcow2
        } else {
            let message = match wanted {
                Format::Qcow2 => "the image has no bytes, and a qcow2 of none is of no use".to_owned(),
                _ => format!(
                    "the image is {found}; it can't be stored as {wanted}, only as {found}, raw or qcow2"
                ),
            };
            return Err(Failure::new(FailureCode::UnsupportedFormat, message).into());
        };
        Ok(Self { disk_format: wanted.name().to_owned(), container_format, made })
    }
}

/// The format that an image gets where nobody asks for one: the operator's, for whatever is a disk and not asked for as an OVA.
///
/// An ISO stays, as Glance's image_conversion plugin has it. Kernels, ramdisks and the partitions that go with them stay: a
/// hypervisor is handed their bytes.
fn by_default(layout: &Layout, container: Option<&str>, output: OutputFormat) -> Format {
    let found = layout.format();
    let is_disk = !matches!(found, Format::Iso | Format::Ami | Format::Ari | Format::Aki);
    let wanted = match output {
        OutputFormat::AsIs => found,
        OutputFormat::Raw => Format::Raw,
        OutputFormat::Qcow2 => Format::Qcow2,
    };
    let stays = !is_disk || container == Some(Format::Ova.name()) || layout.virtual_size() == 0;
    if stays { found } else { wanted }
}
