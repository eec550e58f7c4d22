//! A round in which an image's object is hashed, before or after the image is active.

use image_tasks_domain::TaskId;
use image_tasks_domain::transfer::Batch;

use super::Engine;
use crate::deadline::Deadline;
use crate::error::{Flow, Stop};
use crate::hash::States;

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
        let (_, _, object) = self.made(&task).await?;
        let object = object.ok_or(Stop::Ended)?;
        let hasher = States::of(stores, &task, &plan, &object, plan.hashing.relay()?).hasher().await?;
        let next = hasher.relay(item.first, deadline).await?;
        Ok(next.map(|first| Batch { first, ..item }))
    }
}
