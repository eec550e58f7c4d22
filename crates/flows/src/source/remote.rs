//! Bytes from outside of this cloud: a server or bucket that a user names, a Glance elsewhere.
//!
//! Threat model: the bytes are hostile, and so is the server: it may answer the next request differently. What is looked at
//! here refuses early and decides what is made; it proves nothing of what will be stored, which the [judge](crate::judge) does.

use std::sync::Arc;

use disk_image::{Format, Inspection, Layout, Limits, Regions, inspect};
use image_tasks_domain::ports::Credentials;
use image_tasks_domain::{Failure, FailureCode, ImportInput, Secret, TaskId};

use super::read::{Unused, drive, walk};
use super::{Origin, Pinned, StoredSource};
use crate::bounds::TINY;
use crate::error::{Flow, Stop};
use crate::job::{Draft, Hashing, Plan, RemoteAsk, Spooled};
use crate::ports::{Source, SourcePin, Sources};
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
    /// The callers' tokens, where sources ask for one.
    pub credentials: Option<Arc<dyn Credentials>>,
}

/// What was found.
enum Found {
    /// A disk image, sound as far as can be known without reading its data.
    Disk(Layout),
    /// A compressed stream: it has to be unpacked first.
    Stream,
}

impl Remote {
    /// Opens a job's source, at that version if one is named.
    pub(crate) async fn open(
        &self,
        stores: &Stores,
        id: TaskId,
        ask: &RemoteAsk,
        pin: Option<&SourcePin>,
    ) -> Flow<Box<dyn Source>> {
        let token = self.token(stores, id).await?;
        Ok(retry_source(|| self.sources.open(&ask.input.source, token.as_ref(), pin)).await?)
    }

    /// The token that goes with a task's reads, if its source asks for one.
    pub(crate) async fn token(&self, stores: &Stores, id: TaskId) -> Flow<Option<Secret>> {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        if let Some(token) = credentials.token(id, stores.clock.now()).await? {
            return Ok(Some(token));
        }
        // It goes with the task's end, and with the time.
        if stores.tasks.get(id).await?.is_none_or(|task| task.status.is_end()) {
            return Err(Stop::Ended);
        }
        let message = "the token that came with the task is not kept any longer; ask again";
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
        let (origin, source): (_, Box<dyn Source>) = match &spooled {
            Some(Spooled { object, .. }) => {
                (Origin::Spool(object.clone()), Box::new(StoredSource::new(&stores.objects, object)))
            }
            None => {
                let source = self.open(stores, id, ask, ask.pin().as_ref()).await?;
                let mut info = source.info().clone();
                info.size = info.size.or(ask.record.as_ref().and_then(|record| record.size));
                if let Some(size) = info.size {
                    self.check_quota(size)?;
                }
                if !info.ranges || info.size.is_none() {
                    return Ok(Draft::Spool(info));
                }
                (Origin::Remote { location: ask.input.source.clone(), pin: info.pin }, source)
            }
        };
        let size = source.info().size.ok_or_else(|| Stop::internal("an origin without a size"))?;
        let layout = match self.inspect(&*source, size, &ask.input).await? {
            Found::Disk(layout) => layout,
            Found::Stream if ask.record.is_some() => {
                let message = "the image is a compressed stream, not of the format that its record says";
                return Err(Stop::failed(FailureCode::FormatMismatch, message));
            }
            Found::Stream if spooled.is_some() => {
                let message = "the source is compressed more than once";
                return Err(Stop::failed(FailureCode::UnsupportedFormat, message));
            }
            Found::Stream => return Ok(Draft::Spool(source.info().clone())),
        };
        let (said, member) = (&ask.input.image, ask.input.member.as_deref());
        let target = Target::of(&layout, said, member, self.policy.output)?;
        let converted = target.made != Made::AsIs;
        let checked_later = ask.given_hashes().is_some() && spooled.is_none();
        if converted && checked_later {
            // A conversion reads the source in any order, and not all of it: only a spool sees its hashes.
            return Ok(Draft::Spool(source.info().clone()));
        }
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
        Ok(Draft::Plan(Box::new(Plan {
            origin,
            recipe,
            one_call,
            allocation: map.filter(|_| target.format.is_verbatim()),
            format: target.format,
            container: target.container,
            virtual_size: Some(virtual_size),
            hashing,
            sha256: checked_later && ask.given_hashes().sha256.is_some(),
            metadata: Default::default(),
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
        Ok(Found::Disk(drive(source, &mut regions, open).await?))
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

/// What the source is said to be. Who asks for a kernel or ramdisk has said that it is one: only as that it stays packed.
fn said_to_be(input: &ImportInput) -> Option<Format> {
    let declared = input.declared_format.and_then(Format::from_name);
    let asked = input.image.disk_format.and_then(Format::from_name);
    asked.filter(|asked| asked.is_boot_file() && declared.is_none_or(Format::is_opaque)).or(declared)
}

impl RemoteAsk {
    /// Whether a compressed stream holds the image, and isn't the image itself.
    pub(crate) fn unpacks(&self) -> bool {
        self.record.is_none() && !said_to_be(&self.input).is_some_and(Format::is_boot_file)
    }

    /// What is known of the source before it is opened. Glance has no ETag: its record's size and hashes identify the bytes.
    fn pin(&self) -> Option<SourcePin> {
        let size = self.record.as_ref()?.size?;
        Some(SourcePin { size: Some(size), ..SourcePin::default() })
    }
}
