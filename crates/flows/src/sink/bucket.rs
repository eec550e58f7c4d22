//! A bucket that a user names: an object made once, under a name that isn't ours.
//!
//! Invariants:
//! - Nothing is ever overwritten: the object is made by one request that refuses to.
//! - While a task is at work it alone may make an object of that name (its claim, `Settings::claim`), so every unfinished
//!   upload to that name is its own or a remnant, also one whose id got lost.
//! - An object in the user's bucket is the task's own only if its metadata say so; no other is ever deleted.

use std::sync::Arc;

use bytes::Bytes;
use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::ports::TaskStore;
use image_tasks_domain::{ExportInput, Failure, FailureCode, TaskId, TaskStatus};

use super::metadata::TASK;
use super::one;
use crate::error::{Flow, Stop};
use crate::ports::{Metadata, ObjectError, ObjectInfo, ObjectRef, ObjectResult, Objects, Receivers};
use crate::stores::Stores;

/// The object that an export makes.
pub(crate) struct BucketSink {
    pub(crate) at: ObjectRef,
    pub(crate) store: Arc<dyn Objects>,
    task: TaskId,
    location: String,
    tasks: Arc<dyn TaskStore>,
    receivers: Arc<dyn Receivers>,
    region: Option<String>,
    /// Where claims are kept.
    work: Arc<dyn Objects>,
    claim: ObjectRef,
}

impl BucketSink {
    /// The sink of an export, if its bucket may receive it now. It was allowed at the POST; since then the operator may have
    /// changed that.
    pub(crate) fn allowed(
        input: &ExportInput,
        task: TaskId,
        stores: &Stores,
        receivers: &Arc<dyn Receivers>,
        policy: &ExportPolicy,
    ) -> Flow<Self> {
        let region = policy.region(&input.bucket);
        let region = region.map_err(|message| Failure::new(FailureCode::BucketNotAllowed, message))?;
        Ok(Self::new(input, task, stores, receivers, region))
    }

    /// The sink of an export that is to be undone. A bucket that isn't allowed any more is looked for in this region: nothing
    /// says where else.
    pub(crate) fn ended(
        input: &ExportInput,
        task: TaskId,
        stores: &Stores,
        receivers: &Arc<dyn Receivers>,
        policy: &ExportPolicy,
    ) -> Self {
        Self::new(input, task, stores, receivers, policy.region(&input.bucket).ok().flatten())
    }

    fn new(
        input: &ExportInput,
        task: TaskId,
        stores: &Stores,
        receivers: &Arc<dyn Receivers>,
        region: Option<&str>,
    ) -> Self {
        let at = ObjectRef { bucket: input.bucket.clone(), key: input.key.clone() };
        Self {
            claim: stores.settings.claim(&at),
            at,
            store: receivers.objects(region, &Metadata::new()),
            task,
            location: input.location(),
            tasks: Arc::clone(&stores.tasks),
            receivers: Arc::clone(receivers),
            region: region.map(str::to_owned),
            work: Arc::clone(&stores.objects),
        }
    }

    pub(crate) fn beginning(&self, metadata: &Metadata) -> Arc<dyn Objects> {
        self.receivers.objects(self.region.as_deref(), metadata)
    }

    /// The object as users write it.
    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// Makes this task the only one that may make an object of that name.
    pub(crate) async fn claim(&self) -> Flow<()> {
        let by = self.task.to_string();
        let body = one(Bytes::from(by.clone()));
        match self.work.put_stream(&self.claim, by.len() as u64, body, true).await {
            Ok(_) => Ok(()),
            Err(ObjectError::Precondition(_)) => self.claimed().await,
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the claim that is there is this task's.
    async fn claimed(&self) -> Flow<()> {
        let claim = self.work.get(&self.claim).await?;
        let by = claim.as_deref().map(|by| String::from_utf8_lossy(by).parse::<TaskId>());
        match by {
            Some(Ok(by)) if by == self.task => Ok(()),
            Some(Ok(by)) if !self.has_ended(by).await? => Err(Stop::failed(
                FailureCode::ObjectExists,
                format!("another export to {} is under way", self.location),
            )),
            // Given up in between, or about to be.
            _ => Err(Stop::Store(Failure::transient("another export to that name was just ending"))),
        }
    }

    async fn has_ended(&self, id: TaskId) -> Flow<bool> {
        Ok(self.tasks.get(id).await?.is_none_or(|task| task.status.is_end()))
    }

    async fn has_claim(&self) -> Flow<bool> {
        let claim = self.work.get(&self.claim).await?;
        Ok(claim.is_some_and(|by| by == self.task.to_string()))
    }

    pub(crate) async fn made(&self) -> Flow<Option<ObjectInfo>> {
        let Some(object) = self.store.head(&self.at).await.map_err(|e| self.refused(e))? else {
            return Ok(None);
        };
        let metadata = self.store.metadata(&self.at).await.map_err(|e| self.refused(e))?;
        // Removed in between.
        let Some(metadata) = metadata else { return Ok(None) };
        if self.names_task(&metadata) {
            return Ok(Some(object));
        }
        if self.is_remains(&metadata).await? {
            let message = "what a failed export has left under that name was about to be removed";
            return Err(Stop::Store(Failure::transient(message)));
        }
        let message =
            format!("{} exists already and is never overwritten; remove it or name another", self.location);
        Err(Stop::failed(FailureCode::ObjectExists, message))
    }

    async fn is_own(&self) -> ObjectResult<bool> {
        let found = self.store.metadata(&self.at).await?;
        Ok(found.is_some_and(|found| self.names_task(&found)))
    }

    fn names_task(&self, metadata: &Metadata) -> bool {
        metadata.get(TASK) == Some(&self.task.to_string())
    }

    /// Whether an object is of a task that failed. A worker that outlived it has made it, and removes it in a moment.
    async fn is_remains(&self, metadata: &Metadata) -> Flow<bool> {
        let Some(Ok(id)) = metadata.get(TASK).map(|id| id.parse()) else { return Ok(false) };
        let task = self.tasks.get(id).await?;
        Ok(task.is_some_and(|task| task.status == TaskStatus::Failure && task.unsettled.is_some()))
    }

    /// Removes all that the task may have made here, and its claim.
    pub(crate) async fn undo(&self) -> Flow<()> {
        self.abort_uploads().await?;
        if present(self.is_own().await)? == Some(true) {
            self.store.delete(&self.at).await?;
        }
        self.give_up_claim().await
    }

    /// Removes what the task may have left beside its product: uploads under its claim, and the claim.
    pub(crate) async fn release(&self) -> Flow<()> {
        self.abort_uploads().await?;
        self.give_up_claim().await
    }

    /// Gives up the unfinished uploads to that name, unless another task claims it: then they may be its own, and its end
    /// gives them up. A worker that outlives its task can begin one when the task's claim is gone already.
    async fn abort_uploads(&self) -> Flow<()> {
        let listed = present(self.store.uploads(&self.at.bucket, &self.at.key).await)?;
        let mut uploads = listed.unwrap_or_default();
        uploads.retain(|(at, _)| *at == self.at);
        // Looked at after they were listed: whoever claims the name from here on begins others.
        if uploads.is_empty() || self.is_claimed_by_another().await? {
            return Ok(());
        }
        for (at, upload) in uploads {
            present(self.store.abort(&at, &upload).await)?;
        }
        Ok(())
    }

    async fn is_claimed_by_another(&self) -> Flow<bool> {
        let claim = self.work.get(&self.claim).await?;
        Ok(claim.is_some_and(|by| by != self.task.to_string()))
    }

    async fn give_up_claim(&self) -> Flow<()> {
        if self.has_claim().await? {
            self.work.delete(&self.claim).await?;
        }
        Ok(())
    }

    pub(crate) fn conflicted(&self) -> Stop {
        let message = format!(
            "somebody else wrote or deleted {} while the export was made, and nothing is ever overwritten; ask again",
            self.location
        );
        Stop::failed(FailureCode::ObjectExists, message)
    }

    pub(crate) fn refused(&self, error: ObjectError) -> Stop {
        let bucket = &self.at.bucket;
        match error {
            ObjectError::NotFound(what) => {
                tracing::warn!(%what, "the receiving bucket is not there");
                Stop::failed(FailureCode::BucketNotFound, format!("there is no bucket '{bucket}'"))
            }
            ObjectError::Denied(what) => {
                tracing::warn!(%what, "the receiving bucket refuses us");
                let message =
                    format!("bucket '{bucket}' refuses this service; its policy must let exports in");
                Stop::failed(FailureCode::BucketNotAllowed, message)
            }
            ObjectError::Elsewhere(what) => {
                tracing::error!(%what, "EXPORT_BUCKETS names a bucket with the wrong region");
                let message = format!(
                    "bucket '{bucket}' is not in the region that the operator named; tell the operator"
                );
                Stop::failed(FailureCode::BucketNotFound, message)
            }
            other => other.into(),
        }
    }
}

/// In a bucket that is gone, refuses us, or isn't where the operator says there is nothing that we could remove.
fn present<T>(result: ObjectResult<T>) -> ObjectResult<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e @ (ObjectError::NotFound(_) | ObjectError::Denied(_) | ObjectError::Elsewhere(_))) => {
            tracing::warn!(error = %e, "a receiving bucket can't be cleaned up");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}
