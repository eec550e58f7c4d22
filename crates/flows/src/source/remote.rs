//! Bytes from outside of this cloud: a server or bucket that a user names, a Glance elsewhere.
//!
//! Threat model: the bytes are hostile, and so is the server: it may answer the next request differently. What is looked at
//! here refuses early and decides what is made; it proves nothing of what will be stored, which the [judge](crate::judge) does.

use std::sync::Arc;

use disk_image::{Format, Inspection, Layout, Limits, Regions, Text, inspect};
use image_tasks_domain::ports::Credentials;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode, ImportInput, Login, Secret, SourceHeaders, TaskId};

use super::manifest::Manifest;
use super::mirrors::{Mirrors, is_of_place};
use super::patient::{Patient, Waits};
use super::press::Unpacking;
use super::read::{Unused, drive, walk};
use super::{Origin, Pinned, StoredSource};
use crate::bounds::{MIRRORS, TINY};
use crate::error::{Flow, Stop};
use crate::job::{Draft, Hashing, Plan, RemoteAsk, SpoolOrder, Spooled};
use crate::ports::{Source, SourceInfo, SourcePin, Sources};
use crate::recipe::choice::{Made, STORED, Target};
use crate::recipe::maps::{Attempt, DiskMap};
use crate::recipe::{Recipe, qcow2};
use crate::retry::retry_source;
use crate::settings::ImportPolicy;
use crate::stores::Stores;
use image_tasks_domain::copying::CopyCut;

/// Sources outside of this cloud.
pub struct Remote {
    /// Opens them.
    pub sources: Arc<dyn Sources>,
    /// What may come in.
    pub policy: ImportPolicy,
    /// The callers' tokens and headers, where sources ask for such.
    pub credentials: Arc<dyn Credentials>,
}

/// What is sent to a Glance elsewhere.
pub(crate) const TOKEN: &str = "the token that came with the task";

/// What was found.
enum Found {
    /// A disk image, sound as far as can be known without reading its data; and what is to be remarked on it.
    Disk(Layout, Option<String>),
    /// A compressed stream: it has to be unpacked first.
    Stream,
}

impl Remote {
    /// Opens a task's source at one of its places, at that version if one is named.
    pub(crate) async fn open(
        &self,
        stores: &Stores,
        id: TaskId,
        ask: &RemoteAsk,
        (location, pin): (&SourceLocation, Option<&SourcePin>),
    ) -> Flow<Box<dyn Source>> {
        let login = self.login(stores, id, ask).await?;
        let waits = self.waits(stores, id);
        let open = async || waits.out(|| self.sources.open(location, login.as_ref(), pin), || {}).await;
        let source = retry_source(open).await?;
        Ok(Box::new(Patient::new(source, waits)))
    }

    /// Opens what a plan names. Where the user gave a hash, other places of the same bytes may stand in for it.
    pub(crate) async fn open_planned(
        &self,
        stores: &Stores,
        id: TaskId,
        ask: &RemoteAsk,
        (location, pin): (&SourceLocation, &SourcePin),
    ) -> Flow<Box<dyn Source>> {
        let opened = self.open(stores, id, ask, (location, Some(pin))).await;
        if ask.record.is_some() || !ask.given_hashes().is_some() {
            return opened;
        }
        let first = match opened {
            Ok(source) => Some(source),
            Err(Stop::Failed(failure)) if is_of_place(&failure) => None,
            Err(stop) => return Err(stop),
        };
        let places = ask.input.locations().cloned().collect();
        let with = (self.login(stores, id, ask).await?, self.waits(stores, id));
        Ok(Box::new(Mirrors::new(Arc::clone(&self.sources), places, with, pin, first)))
    }

    fn waits(&self, stores: &Stores, id: TaskId) -> Waits {
        Waits { stores: stores.clone(), id, most: self.policy.source_wait }
    }

    /// What the source's server is told of who asks, if it wants to be told.
    async fn login(&self, stores: &Stores, id: TaskId, ask: &RemoteAsk) -> Flow<Option<Login>> {
        if ask.record.is_some() {
            return Ok(Some(Login::Token(self.secret(stores, id, TOKEN).await?)));
        }
        if ask.input.headers.is_none() {
            return Ok(None);
        }
        let headers =
            SourceHeaders::from_kept(&self.secret(stores, id, "what import_from_headers says").await?);
        headers
            .map(|headers| Some(Login::Headers(headers)))
            .ok_or_else(|| Stop::internal("headers that can't be read"))
    }

    /// What came with the task to be used elsewhere; `what` names it.
    pub(crate) async fn secret(&self, stores: &Stores, id: TaskId, what: &str) -> Flow<Secret> {
        if let Some(secret) = self.credentials.token(id, stores.clock.now()).await? {
            return Ok(secret);
        }
        // It goes with the task's end, and with the time.
        if stores.tasks.get(id).await?.is_none_or(|task| task.status.is_end()) {
            return Err(Stop::Ended);
        }
        let message = format!("{what} is not kept any longer; ask again");
        Err(Stop::failed(FailureCode::SourceDenied, message))
    }

    /// Looks at the source, or at what it was spooled to, and decides how it is brought in.
    pub(crate) async fn look(
        &self,
        stores: &Stores,
        id: TaskId,
        ask: &RemoteAsk,
        spooled: Option<Spooled>,
    ) -> Flow<Draft> {
        if let Some(Spooled { object, .. }) = &spooled {
            let (origin, source) =
                (Origin::Spool(object.clone()), StoredSource::new(&stores.objects, object));
            return self.look_through(stores, id, ask, (origin, Box::new(source)), spooled).await;
        }
        // Nothing is stored yet, so whoever has the bytes may give them.
        let mut places = ask.input.locations().peekable();
        while let Some(location) = places.next() {
            match self.look_at(stores, id, ask, location).await {
                Err(Stop::Failed(failure)) if places.peek().is_some() && is_of_place(&failure) => {
                    tracing::info!(task_id = %id, reason = %failure, "the next place is tried");
                }
                drafted => return drafted,
            }
        }
        Err(Stop::internal("a source without a place"))
    }

    /// Looks at the source at one of its places, which may lead to several mirrors.
    async fn look_at(
        &self,
        stores: &Stores,
        id: TaskId,
        ask: &RemoteAsk,
        location: &SourceLocation,
    ) -> Flow<Draft> {
        let mut left = MIRRORS;
        loop {
            let source = self.open(stores, id, ask, (location, ask.pin().as_ref())).await?;
            let mut info = source.info().clone();
            let is_mirror = info.pin.mirror.is_some();
            info.size = info.size.or(ask.pin().and_then(|pin| pin.size));
            if let Some(size) = info.size {
                self.check_quota(size)?;
            }
            // A file in an archive is no image of its own before it is taken out.
            let is_inside = ask.layer.as_ref().is_some_and(|layer| layer.holds_files);
            if !info.ranges || info.size.is_none() || is_inside || self.spools_unpinned(ask, location, &info)
            {
                return Ok(Draft::Spool(Box::new(SpoolOrder { info, location: Some(location.clone()) })));
            }
            let origin = Origin::Remote { location: location.clone(), pin: info.pin };
            left -= 1;
            match self.look_through(stores, id, ask, (origin, source), None).await {
                Err(Stop::Failed(failure)) if is_mirror && left > 0 && is_of_place(&failure) => {
                    tracing::info!(task_id = %id, reason = %failure, "another mirror is looked for");
                }
                drafted => return drafted,
            }
        }
    }

    /// Whether a source that could change unseen is read in one go instead of by range.
    fn spools_unpinned(&self, ask: &RemoteAsk, location: &SourceLocation, info: &SourceInfo) -> bool {
        is_unpinned(ask, location, &info.pin)
            && info.size.is_some_and(|size| size <= self.policy.cut.spool_unpinned)
    }

    /// Looks at what was opened, and decides how it is brought in.
    async fn look_through(
        &self,
        stores: &Stores,
        id: TaskId,
        ask: &RemoteAsk,
        (origin, source): (Origin, Box<dyn Source>),
        spooled: Option<Spooled>,
    ) -> Flow<Draft> {
        let spool = || {
            let location = match &origin {
                Origin::Remote { location, .. } => Some(location.clone()),
                Origin::Spool(_) | Origin::Image(_) | Origin::Region { .. } => None,
            };
            Ok(Draft::Spool(Box::new(SpoolOrder { info: source.info().clone(), location })))
        };
        let size = source.info().size.ok_or_else(|| Stop::internal("an origin without a size"))?;
        let (layout, looks) = match self.inspect(&*source, size, &ask.input).await? {
            Found::Disk(layout, remark) => (layout, remark),
            Found::Stream if ask.record.is_some() => {
                let message = "the image is a compressed stream, not of the format that its record says";
                return Err(Stop::failed(FailureCode::FormatMismatch, message));
            }
            Found::Stream if spooled.is_some() => {
                let message = "the source is compressed more than once; unpack it once and send that";
                return Err(Stop::failed(FailureCode::UnsupportedFormat, message));
            }
            Found::Stream => return spool(),
        };
        let (said, member) = (&ask.input.image, ask.input.member.as_deref());
        let target = Target::of(&layout, said, member, self.policy.output)?;
        let converted = target.made != Made::AsIs;
        let checked_later = ask.given_hashes().is_some() && spooled.is_none();
        if converted && checked_later {
            // A conversion reads the source in any order, and not all of it: only a spool sees its hashes.
            return spool();
        }
        let unlisted = match self.check_manifest(&*source, &layout, ask, spooled.is_some()).await? {
            Manifest::Spool => return spool(),
            Manifest::Known(remark) => remark,
        };
        let attempt = Attempt::new(stores, id, self.policy.cut.stage_part);
        let (recipe, map) = self.recipe(attempt, &*source, &layout, target.made, spooled.as_ref()).await?;
        let one_call = self.is_one_call(&recipe);
        let virtual_size = match &recipe {
            Recipe::Qcow2 { size, .. } => qcow2::virtual_size(*size)?,
            _ => layout.virtual_size(),
        };
        // What was spooled was hashed on its way.
        let known = spooled.map(|spooled| spooled.hashes).filter(|_| !converted);
        let is_large = recipe.most_bytes() > self.policy.hash_before_active;
        let hashing = match known {
            Some(hashes) => Hashing::Known(Some(hashes)),
            None if is_large && !one_call && !checked_later => Hashing::Later(self.policy.relay),
            None => Hashing::First(self.policy.relay),
        };
        let unpinned = match &origin {
            Origin::Remote { location, pin } if is_unpinned(ask, location, pin) => Some(UNPINNED.to_owned()),
            _ => None,
        };
        let looks = looks.filter(|_| ask.record.is_none());
        let remarks: Vec<_> = [looks, unlisted, unpinned].into_iter().flatten().collect();
        Ok(Draft::Plan(Box::new(Plan {
            remark: (!remarks.is_empty()).then(|| remarks.join(" ")),
            origin,
            recipe,
            one_call,
            allocation: map.filter(|_| target.format.is_verbatim()),
            format: target.format,
            inside: layout.disk_format(),
            container: target.container,
            virtual_size: Some(virtual_size),
            hashing,
            sha256: checked_later && ask.given_hashes().sha256.is_some(),
            metadata: Default::default(),
            properties: Default::default(),
            upload: None,
        })))
    }

    /// Goes through the image's whole map, and decides how what it holds becomes the object; with it the map of where that
    /// will hold data, as far as it is known.
    async fn recipe(
        &self,
        attempt: Attempt<'_>,
        source: &dyn Source,
        layout: &Layout,
        made: Made,
        spooled: Option<&Spooled>,
    ) -> Flow<(Recipe, Option<Pinned>)> {
        let size = layout.virtual_size();
        let known = spooled.map(|spooled| spooled.allocation.clone());
        let cut = |size| {
            let plan = self.policy.cut.plan(size);
            plan.map_err(|e| Failure::new(FailureCode::SourceTooLarge, e.to_string()))
        };
        Ok(match made {
            Made::AsIs => {
                walk(source, layout, &mut Unused).await?;
                let cut = cut(layout.file_size())?;
                if spooled.is_none() {
                    return Ok((Recipe::Verbatim { cut }, None));
                }
                let size = cut.size;
                let cut =
                    if size < self.policy.cut.single_below { CopyCut::Whole } else { CopyCut::Parts(cut) };
                (Recipe::ServerCopy { size, cut, crc64nvme: None }, known)
            }
            Made::Raw => {
                let cut = cut(size)?;
                let (disk, data) = attempt.map_disk(source, layout).await?;
                let map = attempt.put("allocation", data.encode()).await?;
                let is_small = size < self.policy.cut.single_below;
                let zeros = if is_small { None } else { attempt.zeros(&cut, &data).await? };
                (Recipe::Raw { cut, disk, zeros }, Some(map))
            }
            Made::Qcow2 => {
                let cut = self.policy.cut.blobs;
                qcow2::ranges(size, &cut)?;
                let disk = if layout.format().is_verbatim() {
                    walk(source, layout, &mut Unused).await?;
                    DiskMap::Verbatim(known)
                } else {
                    attempt.map_disk(source, layout).await?.0
                };
                (Recipe::Qcow2 { size, codec: STORED, cut, disk }, None)
            }
        })
    }

    /// Whether planning makes the object from start to end.
    fn is_one_call(&self, recipe: &Recipe) -> bool {
        let size = recipe.most_bytes();
        let is_small = size < self.policy.cut.single_below;
        is_small && (size <= TINY || !matches!(recipe, Recipe::Qcow2 { .. }))
    }

    /// Signature and headers of a source of known size that can be read by range.
    async fn inspect(&self, source: &dyn Source, size: u64, input: &ImportInput) -> Flow<Found> {
        self.check_quota(size)?;
        let mut regions = Regions::new(size);
        let declared = said_to_be(input);
        let mut inspected = drive(source, &mut regions, |regions| inspect(regions, declared)).await;
        // Nothing was declared and no format is found: a caller who asks for an opaque one has declared that.
        let asked = input.image.disk_format.and_then(Format::from_name);
        if let (None, Some(asked)) = (declared, asked.filter(|asked| asked.is_opaque()))
            && let Err(Stop::Failed(failure)) = &inspected
            && matches!(failure.code, FailureCode::UnknownFormat | FailureCode::UnsupportedFormat)
        {
            inspected = drive(source, &mut regions, |regions| inspect(regions, Some(asked))).await;
        }
        let format = match inspected? {
            Inspection::Disk(format) => format,
            Inspection::Stream(_) => return Ok(Found::Stream),
        };
        let member = input.member.as_deref();
        if member.is_some() && format != Format::Ova {
            let message = format!("import_from_member names a disk in an ova, but the source is {format}");
            return Err(Stop::failed(FailureCode::FormatMismatch, message));
        }
        let limits = self.limits();
        let open = |regions: &Regions| match format {
            Format::Ova => Layout::open_ova(regions, member, &limits),
            _ => Layout::open(regions, format, &limits),
        };
        let layout = drive(source, &mut regions, open).await?;
        let text = match format {
            Format::Raw | Format::Ami => drive(source, &mut regions, disk_image::text).await?,
            _ => None,
        };
        Ok(Found::Disk(layout, text.map(remark_on)))
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { max_virtual_size: self.policy.max_image_bytes }
    }

    fn check_quota(&self, size: u64) -> Flow<()> {
        let most = self.policy.max_image_bytes;
        if size > most {
            let message = format!("the source has {size} bytes, the quota is {most}");
            return Err(Stop::failed(FailureCode::SourceTooLarge, message));
        }
        Ok(())
    }
}

/// What is remarked on a text that is said to be a disk.
fn remark_on(text: Text) -> String {
    let like = match text {
        Text::WebPage => "a web page",
        Text::Plain => "a text",
    };
    format!(
        "The source begins like {like}, but was declared to be a raw disk; if a server sent that instead of the file, \
         delete the image and ask again."
    )
}

/// What the source is said to be. Who asks for a kernel or ramdisk has said that it is one: only as that it stays packed.
fn said_to_be(input: &ImportInput) -> Option<Format> {
    let declared = input.declared_format.and_then(Format::from_name);
    let asked = input.image.disk_format.and_then(Format::from_name);
    asked.filter(|asked| asked.is_boot_file() && declared.is_none_or(Format::is_opaque)).or(declared)
}

/// What a task says that succeeds with a source like that.
const UNPINNED: &str = "The source's server sends neither ETag nor Last-Modified, so it could have changed unseen while \
                        it was read; give os_hash_value to be certain.";

/// Whether nothing tells one version of the source from another, nor proves the bytes.
fn is_unpinned(ask: &RemoteAsk, location: &SourceLocation, pin: &SourcePin) -> bool {
    let is_known = ask.record.is_some() || ask.given_hashes().is_some();
    matches!(location, SourceLocation::Http(_))
        && !is_known
        && pin.etag.is_none()
        && pin.last_modified.is_none()
}

impl RemoteAsk {
    /// Whether a compressed stream holds the image, and isn't the image itself.
    fn unpacks(&self) -> bool {
        self.record.is_none() && !said_to_be(&self.input).is_some_and(Format::is_boot_file)
    }

    /// What is done to the bytes while they are spooled.
    pub(crate) fn unpacking(&self) -> Unpacking {
        match &self.layer {
            Some(layer) if layer.holds_files => Unpacking::Layer,
            _ if self.unpacks() => Unpacking::Stream,
            _ => Unpacking::Nothing,
        }
    }

    /// What is known of the source before it is opened. Glance has no ETag: its record's size and hashes identify the bytes.
    /// A layer is identified by size and digest.
    fn pin(&self) -> Option<SourcePin> {
        let layer = self.layer.as_ref().map(|layer| layer.size);
        let size = layer.or(self.record.as_ref().and_then(|record| record.size))?;
        Some(SourcePin { size: Some(size), ..SourcePin::default() })
    }
}
