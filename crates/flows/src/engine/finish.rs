//! What the sink asks for once all pieces are made: into an image seal, judge, hash, publish; into a bucket judge, seal.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use disk_image::{AllocationMap, Limits};
use image_tasks_domain::image::HASH_ALGORITHM;
use image_tasks_domain::ports::StoreError;
use image_tasks_domain::{
    FailureCode, ImageHashes, ImageId, Publication, StoredObject, Task, TaskId, Unsettled,
};
use serde_json::{Value, json};

use super::Engine;
use crate::boot;
use crate::deadline::Deadline;
use crate::digests::base64;
use crate::disk::DiskSource;
use crate::error::{Flow, Stop};
use crate::events::{Next, Round};
use crate::hash::{Seen, States};
use crate::job::{Ask, Hashing, Plan};
use crate::judge;
use crate::ports::{ObjectError, ObjectInfo, ObjectResult};
use crate::recipe::{Recipe, Site};
use crate::retry::retry;
use crate::sink::bucket::BucketSink;
use crate::sink::image::ImageSink;
use crate::sink::upload::Upload;
use crate::sink::{CopyInto, Sink, one};
use crate::source::{Origin, Pinned, StoredSource};

impl Engine {
    pub(super) async fn finish(
        &self,
        site: &Site<'_>,
        plan: &Plan,
        seen: Option<Seen>,
        deadline: Deadline,
    ) -> Flow<Next> {
        match &site.job.sink {
            Sink::Image(sink) => self.finish_image(site, plan, sink, seen, deadline).await,
            Sink::Bucket(sink) => self.finish_export(site, plan, sink, seen).await,
        }
    }

    /// The object, made of its parts unless an earlier call did; or what comes first: the round that makes these.
    async fn sealed(&self, site: &Site<'_>, plan: &Plan) -> Flow<ControlFlow<Next, ObjectInfo>> {
        let sink = &site.job.sink;
        let object = match (sink.made().await?, &plan.upload) {
            (Some(object), _) => object,
            (None, Some(id)) => {
                let upload = Upload { sink, id };
                let parts = plan.recipe.parts(site).await?;
                match (
                    upload.seal(&parts, |crc| check_crc(site, plan, Some(crc))).await?,
                    plan.recipe.round_of_parts(),
                ) {
                    (Some(object), _) => object,
                    (None, Round::Seal) => {
                        let pieces = u32::try_from(parts.len()).map_err(Stop::internal)?;
                        return Ok(ControlFlow::Break(Round::Seal.of(pieces)));
                    }
                    (None, Round::Move | Round::Hash) => {
                        return Err(Stop::internal("parts are missing that were made"));
                    }
                }
            }
            (None, None) => return Err(Stop::Ended),
        };
        if plan.recipe.object_size().is_some_and(|planned| planned != object.size) {
            return Err(Stop::internal("the stored object has another size than planned"));
        }
        check_crc(site, plan, object.crc64nvme)?;
        Ok(ControlFlow::Continue(object))
    }

    /// Seal, judge, hash, publish; or hash once it is published.
    async fn finish_image(
        &self,
        site: &Site<'_>,
        plan: &Plan,
        sink: &ImageSink,
        seen: Option<Seen>,
        deadline: Deadline,
    ) -> Flow<Next> {
        let (stores, task) = (&self.stores, &site.job.task);
        let object = match self.sealed(site, plan).await? {
            ControlFlow::Continue(object) => object,
            ControlFlow::Break(next) => return Ok(next),
        };
        let crc = object.crc64nvme.ok_or_else(no_checksum)?;
        let object = Pinned::new(sink.at.clone(), object);
        let most = self.kind.remote().map_or(u64::MAX, |remote| remote.limits().max_virtual_size);
        let limits = Limits { max_virtual_size: most };
        // A relay begins only once the object has been judged: where it has come to its end, that is done.
        let relayed = match (&plan.hashing, &seen) {
            (Hashing::First(relay), None) => States::of(stores, task, plan, &object, *relay).last().await?,
            _ => None,
        };
        let read = match relayed {
            None => Some(judge::sealed(&StoredSource::new(&stores.objects, &object), plan, &limits).await?),
            Some(_) => None,
        };
        let found = match &site.job.ask {
            Ask::Remote(ask) if ask.record.is_none() => {
                let object = Box::new(StoredSource::new(&stores.objects, &object));
                boot::found(object, plan.format, read).await?
            }
            // A copy has what its record says.
            Ask::Remote(_) | Ask::Image(_) | Ask::Region { .. } => BTreeMap::new(),
        };
        let publication = |hashes: Option<ImageHashes>, hashes_follow| Publication {
            image: sink.image,
            disk_format: plan.disk_format().name().to_owned(),
            container_format: plan.container.clone(),
            size: object.size,
            virtual_size: plan.virtual_size,
            hashes,
            hashes_follow,
            remark: plan.remark.clone(),
            found: found.clone(),
            properties: plan.properties.clone(),
            stored: StoredObject {
                bucket: object.at.bucket.clone(),
                key: object.at.key.clone(),
                etag: object.etag.clone(),
                crc64nvme: base64(crc),
            },
        };
        let (hashes, allocation) = match &plan.hashing {
            Hashing::Later(_) => {
                return match self.publish(task, &publication(None, true)).await {
                    // Ended: by a call that ran beside this one, or against us. The next one sees which.
                    Ok(()) | Err(Stop::Ended) => Ok(Next::Next),
                    Err(stop) => Err(stop),
                };
            }
            Hashing::Known(hashes) => (hashes.clone(), None),
            Hashing::First(relay) => {
                let hashed = match seen.or(relayed) {
                    Some(seen) => ControlFlow::Continue(seen),
                    None => States::of(stores, task, plan, &object, *relay).make(deadline).await?,
                };
                let Seen { found, allocation } = match hashed {
                    ControlFlow::Continue(seen) => seen,
                    ControlFlow::Break(round) => return Ok(round),
                };
                // What was spooled was checked on its way; what isn't is stored as it is where hashes were given.
                if let (Origin::Remote { .. }, Recipe::Verbatim { .. }) = (&plan.origin, &plan.recipe) {
                    site.job.remote()?.given_hashes().check(&found)?;
                }
                (Some(found.hashes), allocation)
            }
        };
        retry(async || match Self::put_allocation(plan, sink, allocation.as_ref()).await {
            Ok(()) => Ok(()),
            Err(e) => Err(site.not_copied(e, CopyInto::Whole).await),
        })
        .await?;
        self.publish(task, &publication(hashes, false)).await?;
        self.undo().succeeded(task).await?;
        Ok(Next::Done)
    }

    /// Image active and task a success, in one transaction.
    async fn publish(&self, task: &Task, publication: &Publication) -> Flow<()> {
        let result = json!({"image_id": publication.image});
        let (ttl, now) = (self.stores.settings.task_ttl, self.stores.clock.now());
        Ok(self.stores.life.publish(task.id, publication, &result, ttl, now).await?)
    }

    /// Puts beside an image where it holds data: the map that was found, or that the plan names.
    async fn put_allocation(
        plan: &Plan,
        sink: &ImageSink,
        found: Option<&AllocationMap>,
    ) -> ObjectResult<()> {
        let (store, at) = (&sink.store, &sink.allocation());
        let put = match (found, &plan.allocation) {
            (Some(map), _) => {
                let map = Bytes::from(map.encode());
                store.put_stream(at, map.len() as u64, one(map), true).await
            }
            (None, Some(map)) => store.copy(at, &map.at, &map.etag, true).await,
            (None, None) => return Ok(()),
        };
        match put {
            // An earlier call's, or one's beside this.
            Err(ObjectError::Precondition(_)) if store.head(at).await?.is_some() => Ok(()),
            put => put.map(drop),
        }
    }

    /// A task that has made its image active and left the hashes to be made, with its plan.
    pub(super) async fn hashes_due(&self, id: TaskId) -> Flow<Option<(Task, Option<Plan>)>> {
        let Some(task) = self.stores.tasks.get(id).await? else { return Ok(None) };
        match task.unsettled {
            Some(Unsettled::Hashing { .. }) => {
                let plan = self.stores.plan(id).await?;
                Ok(Some((task, plan)))
            }
            _ => Ok(None),
        }
    }

    /// The image that a task has made, where it lies, and its object if that is there.
    pub(super) async fn made(&self, task: &Task) -> Flow<(ImageId, ImageSink, Option<Pinned>)> {
        let image = task.image_id.ok_or_else(|| Stop::internal("a task that made no image"))?;
        let sink = ImageSink::new(image, task.id, &self.stores.objects, &self.stores.settings);
        let object = self.stores.objects.head(&sink.at).await?;
        let object = object.map(|object| Pinned::new(sink.at.clone(), object));
        Ok((image, sink, object))
    }

    /// Hashes an image that is active.
    pub(super) async fn add_hashes(&self, task: &Task, plan: Option<Plan>, deadline: Deadline) -> Flow<Next> {
        let stores = &self.stores;
        let (image, sink, object) = self.made(task).await?;
        match (object, plan) {
            (Some(object), Some(plan)) => {
                let states = States::of(stores, task, &plan, &object, plan.hashing.relay()?);
                let hashed = match states.last().await? {
                    Some(seen) => ControlFlow::Continue(seen),
                    None => states.make(deadline).await?,
                };
                let seen = match hashed {
                    ControlFlow::Continue(seen) => seen,
                    ControlFlow::Break(round) => return Ok(round),
                };
                let map = seen.allocation.as_ref();
                retry(async || Ok(Self::put_allocation(&plan, &sink, map).await?)).await?;
                match stores
                    .images
                    .set_hashes(image, &object.etag, &seen.found.hashes, stores.clock.now())
                    .await
                {
                    Ok(()) => {}
                    // Deleted meanwhile, perhaps before the map was put beside it.
                    Err(StoreError::Conflict) => stores.objects.delete(&sink.allocation()).await?,
                    Err(e) => return Err(e.into()),
                }
            }
            (None, _) => {}
            (Some(_), None) => {
                tracing::error!(task_id = %task.id, "the plan is gone before the hashes were made")
            }
        }
        stores.end_hashing(task.id).await?;
        self.undo().succeeded(task).await?;
        Ok(Next::Done)
    }

    /// Judges an export's output by what it is made of: once it is sealed, it is the user's.
    pub(super) async fn judge_output(&self, site: &Site<'_>, plan: &Plan) -> Flow<()> {
        match &plan.recipe {
            Recipe::Raw { cut, disk, .. } => {
                let output = DiskSource::new(site.disk(disk).await?, cut.size);
                judge::ends(&output, plan.format).await.map(drop)
            }
            // Copies are the image's own bytes, which were judged when it came in; a qcow2 is our own, whatever disk it holds.
            Recipe::Verbatim { .. }
            | Recipe::ServerCopy { .. }
            | Recipe::Qcow2 { .. }
            | Recipe::Qcow2ByCopy { .. } => Ok(()),
        }
    }

    /// Judge, seal; then the task is a success.
    async fn finish_export(
        &self,
        site: &Site<'_>,
        plan: &Plan,
        sink: &BucketSink,
        seen: Option<Seen>,
    ) -> Flow<Next> {
        if !plan.one_call {
            self.judge_output(site, plan).await?;
        }
        let object = match self.sealed(site, plan).await? {
            ControlFlow::Continue(object) => object,
            ControlFlow::Break(next) => return Ok(next),
        };
        let mut result = json!({
            "export_location": sink.location(),
            "disk_format": plan.format.name(),
            "size": object.size,
            "crc64nvme": base64(object.crc64nvme.ok_or_else(no_checksum)?),
        });
        let known = match &plan.hashing {
            Hashing::Known(hashes) => hashes.clone(),
            Hashing::First(_) | Hashing::Later(_) => None,
        };
        // Known only where the bytes passed one worker, or are those of the image.
        if let (Some(hashes), Value::Object(result)) =
            (known.or(seen.map(|seen| seen.found.hashes)), &mut result)
        {
            result.insert("checksum".to_owned(), hashes.md5.into());
            result.insert("os_hash_algo".to_owned(), HASH_ALGORITHM.into());
            result.insert("os_hash_value".to_owned(), hashes.sha512.into());
        }
        let (ttl, now) = (self.stores.settings.task_ttl, self.stores.clock.now());
        self.stores.life.succeed_alone(site.id(), &result, ttl, now).await?;
        self.undo().succeeded(&site.job.task).await?;
        Ok(Next::Done)
    }
}

/// Whether a copy is its origin, by S3's checksum of the whole.
fn check_crc(site: &Site<'_>, plan: &Plan, found: Option<u64>) -> Flow<()> {
    let Some(expected) = plan.recipe.crc64nvme() else { return Ok(()) };
    if found.map(base64).as_ref() == Some(expected) {
        return Ok(());
    }
    let message = match site.origin {
        Origin::Region { .. } => {
            "S3's checksum of the copy is not the source's: the source's record or bytes are damaged"
        }
        _ => "the copy has another checksum than the stored image",
    };
    Err(Stop::failed(FailureCode::ChecksumMismatch, message))
}

fn no_checksum() -> Stop {
    Stop::failed(FailureCode::ChecksumMismatch, "the store has no checksum of the stored object")
}
