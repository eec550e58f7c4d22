//! What callers do with images: look at, list, fetch, make, change, share, delete.
//!
//! Invariants:
//! - An image that a caller may not see and one that isn't are the same: not found.
//! - A change is decided on a record as it was read, and written only if that still holds; else it is decided anew.
//! - An image is gone for everybody before its id is, and its bytes are gone before the record is.

mod actions;
mod create;
mod delete;
mod members;
mod page;
mod patch;
mod search;
mod usage;

pub use members::Share;
pub use page::{Offer, Page};
pub use patch::{Dialect, Patch};
pub use search::{
    Comparison, Condition, ImageSearch, Listing, NumberAttribute, Sort, SortKey, TextAttribute, TimeAttribute,
};
pub use usage::{ImageQuota, Usage};

use std::sync::Arc;
use std::time::Duration;

use crate::caller::Caller;
use crate::image::{Image, ImageId, ImageStatus};
use crate::image_properties::has_room;
use crate::input::{InvalidInput, quoted};
use crate::policy;
use crate::ports::{Clock, ImageBytes, ImageLinks, ImagePage, ImageRecords, ImageTasks, StoreError};
use crate::rejection::{Answer, Rejection};
use crate::task::Task;
use crate::tasks::MAX_LIMIT;

/// How long a URL may be used to begin a download, or to put a part; what has begun goes on. At most: a URL ends with the
/// credentials that signed it, and a function's role has temporary ones (S3 user guide, "Sharing objects with presigned
/// URLs").
pub(crate) const LINK_LIFE: Duration = Duration::from_secs(3600);

/// Most tasks of an image that are shown.
const MOST_TASKS: usize = 100;

/// Times that a change is decided anew because the record changed meanwhile: each time somebody else got on.
const TRIES: usize = 16;

/// The use cases of images.
#[derive(Clone)]
pub struct Images {
    /// Images at rest.
    pub store: Arc<dyn ImageRecords>,
    /// Where their bytes are fetched.
    pub links: Arc<dyn ImageLinks>,
    /// Their bytes.
    pub bytes: Arc<dyn ImageBytes>,
    /// Their tasks.
    pub tasks: Arc<dyn ImageTasks>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Most images of a project.
    pub quota: ImageQuota,
}

impl Images {
    /// One image: the caller's, a public or community one, or one that is shared with it.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] for unknown, malformed and hidden ids.
    pub async fn get(&self, caller: &Caller, id: &str) -> Answer<Image> {
        self.visible(caller, id)
            .await?
            .ok_or_else(|| Rejection::NotFound { kind: "image", id: id.to_owned() })
    }

    /// A page of images.
    ///
    /// # Errors
    /// [`Rejection::Invalid`] for a marker that is no image the caller sees, and where too many images would have to be
    /// looked at.
    pub async fn list(&self, caller: &Caller, listing: Listing) -> Answer<ImagePage> {
        let after = match &listing.marker {
            None => None,
            Some(marker) => match self.visible(caller, marker).await? {
                Some(image) => Some(image),
                None => {
                    let told = format!("{} is not an image in this list", quoted(marker));
                    return Err(InvalidInput::new("marker", told).into());
                }
            },
        };
        if listing.limit == 0 {
            return Ok(ImagePage { images: Vec::new(), more: false });
        }
        let listing = Listing { limit: listing.limit.min(MAX_LIMIT), ..listing };
        let found = self.store.find(&ImageSearch { caller: caller.clone(), listing, after }).await?;
        if !found.whole {
            let told = format!(
                "{} images and more would have to be looked at; ask for those of one owner, or of one name",
                found.items_read
            );
            return Err(InvalidInput::new("The query", told).into());
        }
        Ok(found.page)
    }

    /// Where the image's bytes are; `None` while there are none.
    ///
    /// # Errors
    /// As [`Images::get`]; [`Rejection::Forbidden`] for a deactivated image.
    pub async fn download_url(&self, caller: &Caller, id: &str) -> Answer<Option<String>> {
        let image = self.get(caller, id).await?;
        policy::check_download(caller, &image)?;
        let is_there = matches!(image.status, ImageStatus::Active | ImageStatus::Deactivated);
        if !is_there || image.stored.is_none() {
            return Ok(None);
        }
        Ok(Some(self.links.download_url(&image, LINK_LIFE).await?))
    }

    /// The newest tasks that make an image or work on it, as far as the caller may see them.
    ///
    /// # Errors
    /// As [`Images::get`].
    pub async fn tasks(&self, caller: &Caller, id: &str) -> Answer<Vec<Task>> {
        let image = self.get(caller, id).await?;
        let now = self.clock.now();
        let mut tasks = self.tasks.tasks_of(image.id, MOST_TASKS).await?;
        tasks.retain(|task| !task.is_expired(now) && policy::caller_sees_task(caller, task));
        Ok(tasks)
    }

    /// Changes an image by a patch: all of it, or nothing.
    ///
    /// # Errors
    /// As [`Images::get`], and what [`Patch`] says.
    pub async fn patch(&self, caller: &Caller, id: &str, patch: &Patch) -> Answer<Image> {
        self.change(caller, id, |image| {
            policy::check_change(caller, image)?;
            patch.apply(caller, image)
        })
        .await
    }

    /// Changes a record as `change` does, decided on what it is when that is written. What differs makes it younger,
    /// but for its members: sharing an image doesn't change it.
    pub(crate) async fn change(
        &self,
        caller: &Caller,
        id: &str,
        change: impl Fn(&mut Image) -> Answer<()>,
    ) -> Answer<Image> {
        for _ in 0..TRIES {
            let was = self.get(caller, id).await?;
            let mut is = was.clone();
            change(&mut is)?;
            if is == was {
                return Ok(was);
            }
            check_not_leaving(&was)?;
            check_size(&is)?;
            let shared = Image { members: was.members.clone(), ..is.clone() };
            if shared != was {
                is.updated_at = self.clock.now().max(was.updated_at);
            }
            match self.store.replace(&was, &is).await {
                Ok(()) => return Ok(is),
                Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(kept_changing(id))
    }

    async fn visible(&self, caller: &Caller, id: &str) -> Answer<Option<Image>> {
        let Ok(id) = id.parse::<ImageId>() else { return Ok(None) };
        Ok(self.store.get(id).await?.filter(|image| policy::caller_sees_image(caller, image)))
    }
}

fn kept_changing(id: &str) -> Rejection {
    Rejection::Conflict(format!("Image {id} keeps being changed by others; send the request again"))
}

fn check_not_leaving(image: &Image) -> Answer<()> {
    if image.status == ImageStatus::PendingDelete {
        return Err(Rejection::Conflict(format!("Image {} is being deleted", image.id)));
    }
    Ok(())
}

fn check_size(image: &Image) -> Answer<()> {
    has_room(image).map_err(|(_, told)| Rejection::TooLarge(told))
}

#[cfg(test)]
mod tests;
