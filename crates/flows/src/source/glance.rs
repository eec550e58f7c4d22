//! An image of a Glance elsewhere: its record, fetched once and kept.
//!
//! Invariants:
//! - The record is fetched and checked once, and kept: all phases go by the same.
//! - A caller's token stands in nothing that is kept, shown or logged here: who opens a source reads it anew.

use std::sync::Arc;

use image_tasks_domain::{GlanceEndpoints, GlanceImage, Image, TaskId};

use super::remote::{Remote, TOKEN};
use crate::error::Flow;
use crate::job::RemoteAsk;
use crate::ports::Glances;
use crate::retry::retry_source;
use crate::stores::Stores;

/// The Glances elsewhere that images may be cloned from.
pub struct GlanceImages {
    /// Those that the operator allows.
    pub endpoints: GlanceEndpoints,
    /// Their records.
    pub glances: Arc<dyn Glances>,
    /// Their bytes.
    pub remote: Remote,
}

impl GlanceImages {
    /// What the image's record says there now, kept for the task.
    pub(crate) async fn fetch(&self, stores: &Stores, id: TaskId, from: &GlanceImage) -> Flow<Image> {
        let token = self.remote.secret(stores, id, TOKEN).await?;
        let body = retry_source(|| self.glances.record(from, &token)).await?;
        let record = from.record(&body, stores.clock.now())?;
        // What can't be imported is told before anything is kept.
        from.import(&record)?;
        let at = stores.settings.record(id);
        Ok(stores.save_once(&at, &record).await?.unwrap_or(record))
    }

    /// What a task at work asks for.
    pub(crate) async fn ask(&self, stores: &Stores, id: TaskId, from: &GlanceImage) -> Flow<RemoteAsk> {
        let record = match stores.load(&stores.settings.record(id)).await? {
            Some(record) => record,
            // A task that fills a record begins before it asks; or somebody has just ended the task.
            None => {
                let record = self.fetch(stores, id, from).await?;
                stores.unended(id).await?;
                record
            }
        };
        Ok(RemoteAsk { input: from.import(&record)?, record: Some(record), told: None, layer: None })
    }
}
