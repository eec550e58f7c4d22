//! What a task asks for: what an import's input says, or what a Glance elsewhere says of the image that a clone is of.
//!
//! Invariants:
//! - The record of a clone's source is fetched once, checked and kept before the task is at work: all phases go by the same.
//! - A caller's token stands in nothing that is kept, shown or logged here: who opens a source reads it anew.

use std::sync::Arc;

use bytes::Bytes;
use image_tasks_domain::ports::Credentials;
use image_tasks_domain::regions::Regions;
use image_tasks_domain::{
    CloneInput, CloneSource, Failure, FailureCode, GlanceEndpoints, GlanceImage, Image, ImageId, ImageStatus,
    ImportInput, Secret, Task, TaskId, Timestamp, Visibility,
};
use uuid::Uuid;

use super::Importer;
use crate::clone::new_image;
use crate::error::{Step, Stop};
use crate::origin::{open_pinned, patiently};
use crate::ports::{Glances, Source, SourcePin};

/// What an importer's tasks are.
pub enum Asks {
    /// Imports.
    Imports,
    /// Clones from Glances elsewhere.
    Clones(RemoteClones),
}

/// What clones from Glances elsewhere need.
pub struct RemoteClones {
    /// The regions that are known: what is there is cloned otherwise.
    pub regions: Regions,
    /// The endpoints that are allowed.
    pub endpoints: GlanceEndpoints,
    /// What is there.
    pub glances: Arc<dyn Glances>,
    /// The callers' tokens.
    pub credentials: Arc<dyn Credentials>,
}

/// What a task asks for.
pub(super) struct Asked {
    pub(super) input: ImportInput,
    /// Of a clone: the image is stored as it is there, neither converted nor unpacked.
    pub(super) clone: Option<Remote>,
}

/// An image elsewhere, and what differs in its copy.
pub(super) struct Remote {
    input: CloneInput,
    record: Image,
}

impl Asked {
    /// The record of the image that a task will make.
    pub(super) fn new_image(&self, task: &Task, now: Timestamp) -> Image {
        match &self.clone {
            Some(Remote { input, record }) => new_image(task, input, record, now),
            None => imported(task, &self.input, now),
        }
    }

    /// What is known of the source before it is opened. Glance has no ETag: its record's size and hashes identify the bytes.
    pub(super) fn pin(&self) -> Option<SourcePin> {
        let size = self.clone.as_ref()?.record.size?;
        Some(SourcePin { size: Some(size), ..SourcePin::default() })
    }
}

impl Importer {
    /// What a pending task asks for; of a clone the record is fetched and kept.
    pub(super) async fn asked_first(&self, task: &Task) -> Step<Asked> {
        let Asks::Clones(remote) = &self.asks else { return self.asked(task).await };
        let (input, from) = remote.input(task)?;
        let token = self.token(task.id).await?;
        let token = token.as_ref().ok_or_else(|| Stop::internal("a clone from elsewhere without a token"))?;
        let body = patiently(|| remote.glances.record(&from, token)).await?;
        let asked = asked_of(input, &from, from.record(&body, self.clock.now())?)?;
        if let Some(Remote { record, .. }) = &asked.clone {
            let bytes = serde_json::to_vec(record).map_err(Stop::internal)?;
            self.objects.put(&self.settings.record(task.id), Bytes::from(bytes)).await?;
        }
        Ok(asked)
    }

    /// What a task at work asks for. It was checked at the POST; since then the operator may have narrowed what is allowed.
    pub(super) async fn asked(&self, task: &Task) -> Step<Asked> {
        let Asks::Clones(remote) = &self.asks else {
            let input = ImportInput::parse(&task.input, &self.policy.sources).map_err(forbidden)?;
            return Ok(Asked { input, clone: None });
        };
        let (input, from) = remote.input(task)?;
        // None while the task is at work: somebody has just ended it.
        let kept = self.objects.get(&self.settings.record(task.id)).await?.ok_or(Stop::Ended)?;
        asked_of(input, &from, serde_json::from_slice(&kept).map_err(Stop::internal)?)
    }

    /// Opens a task's source.
    pub(super) async fn open_source(
        &self,
        id: TaskId,
        asked: &Asked,
        pin: Option<&SourcePin>,
    ) -> Step<Box<dyn Source>> {
        let token = self.token(id).await?;
        Ok(open_pinned(&*self.sources, &asked.input.source, token.as_ref(), pin).await?)
    }

    /// The token that goes with a task's reads, if its source asks for one.
    pub(super) async fn token(&self, id: TaskId) -> Step<Option<Secret>> {
        let Asks::Clones(remote) = &self.asks else { return Ok(None) };
        if let Some(token) = remote.credentials.token(id, self.clock.now()).await? {
            return Ok(Some(token));
        }
        // It goes with the task's end, and with the time.
        let ended = self.tasks.get(id).await?.is_none_or(|task| task.status.is_end());
        if ended {
            return Err(Stop::Ended);
        }
        let message = "the token that came with the task is not kept any longer; ask again";
        Err(Failure::new(FailureCode::SourceDenied, message).into())
    }
}

impl RemoteClones {
    fn input(&self, task: &Task) -> Step<(CloneInput, GlanceImage)> {
        let input = CloneInput::parse(&task.input, &self.regions, &self.endpoints).map_err(forbidden)?;
        match input.source.clone() {
            CloneSource::Glance(image) => Ok((input, image)),
            CloneSource::Region { .. } => Err(Stop::internal("a clone from a region is no import")),
        }
    }
}

fn forbidden(refused: image_tasks_domain::InvalidInput) -> Stop {
    Failure::new(FailureCode::SourceForbidden, refused.to_string()).into()
}

fn asked_of(input: CloneInput, from: &GlanceImage, record: Image) -> Step<Asked> {
    let import = from.import(&record)?;
    Ok(Asked { input: import, clone: Some(Remote { input, record }) })
}

fn imported(task: &Task, input: &ImportInput, now: Timestamp) -> Image {
    let said = &input.image;
    Image {
        id: said.id.unwrap_or_else(|| ImageId(Uuid::new_v4())),
        owner: task.owner.clone(),
        name: said.name.clone(),
        status: ImageStatus::Importing,
        // What Glance gives an image of which nothing is said.
        visibility: said.visibility.unwrap_or(Visibility::Shared),
        disk_format: None,
        container_format: said.container_format.map(str::to_owned),
        size: None,
        virtual_size: None,
        checksum: None,
        os_hash_algo: None,
        os_hash_value: None,
        min_disk: said.min_disk,
        min_ram: said.min_ram,
        protected: said.protected,
        os_hidden: said.os_hidden,
        tags: said.tags.iter().cloned().collect(),
        properties: said.extra.clone(),
        created_at: now,
        updated_at: now,
        stored: None,
    }
}
