//! A round in which an image's object is hashed, before or after the image is active.

use image_tasks_domain::TaskId;
use image_tasks_domain::transfer::Batch;

use super::Engine;
use crate::deadline::Deadline;
use crate::error::{Flow, Stop};
use crate::hash::States;
use crate::job::Hashing;
use crate::sink::image::ImageSink;
use crate::source::Pinned;

impl Engine {
    /// Takes a worker's turns until the time is up; what is left of them then.
    pub(super) async fn hash_round(
        &self,
        id: TaskId,
        item: Batch,
        deadline: Deadline,
    ) -> Flow<Option<Batch>> {
        let stores = &self.stores;
        let task = stores.hashes_wanted(id).await?;
        let plan = stores.plan(id).await?.ok_or(Stop::Ended)?;
        let (Hashing::First(relay) | Hashing::Later(relay)) = &plan.hashing else {
            return Err(Stop::internal("a relay for hashes that are known"));
        };
        let image = task.image_id.ok_or_else(|| Stop::internal("a task that made no image"))?;
        let sink = ImageSink::new(image, id, &stores.objects, &stores.settings);
        let object = stores.objects.head(&sink.at).await?.ok_or(Stop::Ended)?;
        let object = Pinned::new(sink.at, object);
        let hasher = States::of(stores, &task, &plan, &object, *relay).hasher().await?;
        let next = hasher.relay(item.first, deadline).await?;
        Ok(next.map(|first| Batch { first, ..item }))
    }
}
