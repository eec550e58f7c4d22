//! What must hold at the end of a run.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use image_tasks_domain::ports::{Credentials as _, ImageQuery, ImageStore};
use image_tasks_domain::{ImageStatus, Task, TaskStatus};

use super::cloud::{Cloud, Ran, TAKEN};
use crate::cases::Case;

impl Cloud {
    /// What somebody else wrote is there, and as it was written. It is taken away: what is left must be the task's.
    fn check_taken(&self) -> Option<String> {
        let at = self.play.exported_to().filter(|_| self.taken.load(Ordering::SeqCst))?;
        let found = self.play.objects().bytes(&at.bucket, &at.key);
        self.play.objects().remove(&at);
        (found.as_deref() != Some(TAKEN)).then(|| "somebody else's object isn't as it was written".to_owned())
    }

    /// All that must hold once nothing is on its way.
    pub(super) async fn check(self: &Arc<Self>, case: &Case, task: Task) -> Result<Ran, String> {
        self.chaos.end();
        // As it was when it expired.
        self.play.store().put_task(task.clone());
        let mut wrong = self.check_taken().into_iter().collect::<Vec<_>>();
        let context = "at the end";
        let checked = AssertUnwindSafe(self.play.check(&case.made, context)).catch_unwind().await;
        let status = checked.map_err(|panic| {
            let told = panic.downcast_ref::<String>().cloned();
            told.or_else(|| panic.downcast_ref::<&str>().map(|told| (*told).to_owned())).unwrap_or_default()
        })?;
        wrong.extend(self.chaos.wrong());
        if self.cancelled.load(Ordering::SeqCst) && status == TaskStatus::Success {
            wrong.push("a cancel was answered 202, and the task is a success".into());
        }
        // A start that is refused is told to who asked for it.
        let refused = task.message.starts_with("StartFailed: ");
        if self.script.must_succeed() && status != TaskStatus::Success && !refused {
            wrong.push(format!("what went wrong passes, and the task failed: {}", task.message));
        }
        let store = self.play.store();
        if store.token(task.id, task.created_at).await.unwrap().is_some() {
            wrong.push("the caller's token outlives its task".into());
        }
        let all = ImageQuery { visible_to: None, limit: 100, after: None };
        for image in ImageStore::list(store, &all).await.unwrap().images {
            if image.status == ImageStatus::Importing {
                wrong.push(format!("image {} is importing for ever", image.id));
            }
        }
        match wrong.first() {
            Some(first) => Err(first.clone()),
            None => Ok(Ran { status, met: self.chaos.met(), calls: self.chaos.calls() }),
        }
    }
}
