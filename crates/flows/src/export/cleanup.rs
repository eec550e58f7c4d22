//! Removing what an export made.
//!
//! Invariants as of [`crate::cleanup`]; what is in the user's bucket is removed only where it is certainly the task's own.

use image_tasks_domain::export_input::ExportPolicy;
use image_tasks_domain::{ExportInput, Task};

use super::metadata::TASK;
use super::{object, saved};
use crate::error::Step;
use crate::ports::{Metadata, ObjectError, ObjectRef, ObjectResult, Objects, Receivers};
use crate::settings::Settings;
use std::sync::Arc;

/// Removes things.
pub(crate) struct ExportCleaner<'a> {
    pub(crate) objects: &'a dyn Objects,
    pub(crate) receivers: &'a dyn Receivers,
    pub(crate) rules: &'a ExportPolicy,
    pub(crate) settings: &'a Settings,
}

impl ExportCleaner<'_> {
    /// What a task in work has under way: uploads and plan. The task has to be ended next.
    pub(crate) async fn halt(&self, task: &Task) -> Step<()> {
        if let Some((to, store)) = self.receiver(task) {
            if let Some(planned) = saved::saved(self.objects, self.settings, task.id).await? {
                present(store.abort(&to, &planned.upload).await)?;
            }
            if self.has_claim(task, &to).await? {
                abort_all(&*store, &to).await?;
            }
        }
        self.work(task).await
    }

    /// All that a failed task made.
    pub(crate) async fn remove(&self, task: &Task) -> Step<()> {
        self.halt(task).await?;
        if let Some((to, store)) = self.receiver(task)
            && present(is_own(&*store, &to, task).await)? == Some(true)
        {
            store.delete(&to).await?;
        }
        self.release(task).await
    }

    /// What a task leaves beside its product.
    pub(crate) async fn release(&self, task: &Task) -> Step<()> {
        self.work(task).await?;
        if let Some((to, _)) = self.receiver(task)
            && self.has_claim(task, &to).await?
        {
            self.objects.delete(&self.settings.claim(&to)).await?;
        }
        Ok(())
    }

    async fn work(&self, task: &Task) -> Step<()> {
        let prefix = Settings::work_prefix(task.id);
        for (at, upload) in self.objects.uploads(&self.settings.work_bucket, &prefix).await? {
            self.objects.abort(&at, &upload).await?;
        }
        Ok(self.objects.delete_prefix(&self.settings.work_bucket, &prefix).await?)
    }

    async fn has_claim(&self, task: &Task, to: &ObjectRef) -> Step<bool> {
        let claim = self.objects.get(&self.settings.claim(to)).await?;
        Ok(claim.is_some_and(|by| by == task.id.to_string()))
    }

    /// The object to make and its store; none for an input that was never good for anything.
    fn receiver(&self, task: &Task) -> Option<(ObjectRef, Arc<dyn Objects>)> {
        let input = ExportInput::parse(&task.input).ok()?;
        // A bucket that isn't allowed any more is looked for in this region: nothing says where else.
        let region = self.rules.region(&input.bucket).ok().flatten();
        Some((object(&input.bucket, &input.key), self.receivers.objects(region, &Metadata::new())))
    }
}

/// Whether the object is there and this task's.
pub(super) async fn is_own(store: &dyn Objects, at: &ObjectRef, task: &Task) -> ObjectResult<bool> {
    let found = store.metadata(at).await?;
    Ok(found.is_some_and(|found| found.get(TASK) == Some(&task.id.to_string())))
}

/// Gives up all unfinished uploads to exactly that object: under the claim they are the task's.
pub(super) async fn abort_all(store: &dyn Objects, to: &ObjectRef) -> Step<()> {
    let found = present(store.uploads(&to.bucket, &to.key).await)?.unwrap_or_default();
    for (_, upload) in found.into_iter().filter(|(at, _)| at == to) {
        present(store.abort(to, &upload).await)?;
    }
    Ok(())
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
