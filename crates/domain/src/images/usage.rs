//! How many images a project has, and may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Images;
use crate::caller::Caller;
use crate::ports::ImageRecords;
use crate::rejection::{Answer, Rejection};
use crate::time::Timestamp;

/// What a project uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images, whatever their status.
    pub images: usize,
    /// Those that are being made.
    pub importing: usize,
    /// Bytes stored.
    pub bytes: u64,
}

impl Images {
    /// What the caller's project uses.
    ///
    /// # Errors
    /// [`Rejection::Store`].
    pub async fn usage(&self, caller: &Caller) -> Answer<Usage> {
        Ok(self.store.usage(&caller.project).await?)
    }
}

/// How many images a project may have.
///
/// Images that tasks have yet to begin don't count, and of those that are made at the same time some may pass beyond it:
/// the quota bounds what lists read, it isn't a bill. So a project that was far below it a moment ago isn't counted anew
/// for each image. A clone shares what is known.
#[derive(Debug, Clone)]
pub struct ImageQuota {
    /// Most images of a project.
    pub most: usize,
    counted: Arc<Mutex<HashMap<String, Counted>>>,
}

/// What one process knows of a project.
#[derive(Debug)]
struct Counted {
    /// When its images were counted.
    at: Timestamp,
    /// How many more it may have before they are counted anew.
    room: usize,
}

/// How long a count is good for.
const COUNT_LIFE: Duration = Duration::from_secs(10);
/// Projects whose counts are kept; with one more, all are forgotten.
const MOST_COUNTED: usize = 1000;

impl ImageQuota {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self { most, counted: Arc::default() }
    }

    /// Whether a project may have one more image.
    ///
    /// # Errors
    /// [`Rejection::TooLarge`].
    pub(crate) async fn check(
        &self,
        records: &dyn ImageRecords,
        project: &str,
        now: Timestamp,
    ) -> Answer<()> {
        if self.takes_of_room(project, now) {
            return Ok(());
        }
        let count = records.count(project, self.most).await?;
        if count >= self.most {
            let most = self.most;
            return Err(Rejection::TooLarge(format!(
                "Project {project} has {most} images, which is its quota; delete some, or ask the operator for more"
            )));
        }
        // Of what is left up to half the quota, a half: other processes know as little of this one.
        let room = (self.most / 2).saturating_sub(count) / 2;
        let mut counted = self.counted();
        if counted.len() >= MOST_COUNTED {
            counted.clear();
        }
        counted.insert(project.to_owned(), Counted { at: now, room });
        Ok(())
    }

    /// Whether the last count still leaves room for one more, which is taken then.
    fn takes_of_room(&self, project: &str, now: Timestamp) -> bool {
        let mut counted = self.counted();
        let known = counted.get_mut(project).filter(|counted| now < counted.at.plus(COUNT_LIFE));
        let Some(known) = known.filter(|counted| counted.room > 0) else { return false };
        known.room -= 1;
        true
    }

    fn counted(&self) -> MutexGuard<'_, HashMap<String, Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
