//! What is done to an image by calls of their own: tags, and handing it out or not.

use super::Images;
use crate::caller::Caller;
use crate::image::{Image, ImageStatus};
use crate::input::InvalidInput;
use crate::policy;
use crate::rejection::{Answer, Rejection};

/// Longest tag, in characters: Glance's column.
const MAX_TAG: usize = 255;

impl Images {
    /// Adds a tag; again is the same as once.
    ///
    /// # Errors
    /// As [`Images::get`]; forbidden for who may not change the image.
    pub async fn tag(&self, caller: &Caller, id: &str, tag: &str) -> Answer<()> {
        if !(1..=MAX_TAG).contains(&tag.chars().count()) {
            return Err(InvalidInput::new("tag", format!("must have 1 to {MAX_TAG} characters")).into());
        }
        let tagged = self.change(caller, id, |image| {
            policy::check_change(caller, image)?;
            if let Err(place) = image.tags.binary_search_by(|known| known.as_str().cmp(tag)) {
                image.tags.insert(place, tag.to_owned());
            }
            Ok(())
        });
        tagged.await.map(drop)
    }

    /// Removes a tag.
    ///
    /// # Errors
    /// As [`Images::tag`]; [`Rejection::NotFound`] where the image hasn't it.
    pub async fn untag(&self, caller: &Caller, id: &str, tag: &str) -> Answer<()> {
        let untagged = self.change(caller, id, |image| {
            policy::check_change(caller, image)?;
            let there = image.tags.len();
            image.tags.retain(|known| known != tag);
            if image.tags.len() == there {
                return Err(Rejection::NotFound { kind: "tag", id: tag.to_owned() });
            }
            Ok(())
        });
        untagged.await.map(drop)
    }

    /// Hands an active image out to nobody any more; again is the same as once.
    ///
    /// # Errors
    /// As [`Images::get`]; forbidden for who may not change the image, and for one that isn't active.
    pub async fn deactivate(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.become_status(caller, id, "deactivate", ImageStatus::Active, ImageStatus::Deactivated).await
    }

    /// Hands it out again.
    ///
    /// # Errors
    /// As [`Images::deactivate`].
    pub async fn reactivate(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.become_status(caller, id, "reactivate", ImageStatus::Deactivated, ImageStatus::Active).await
    }

    async fn become_status(
        &self,
        caller: &Caller,
        id: &str,
        action: &str,
        from: ImageStatus,
        to: ImageStatus,
    ) -> Answer<()> {
        let changed = self.change(caller, id, |image: &mut Image| {
            policy::check_change(caller, image)?;
            if image.status != from && image.status != to {
                let told = format!("Not allowed to {action} an image that is {}", image.status.name());
                return Err(Rejection::Forbidden(told));
            }
            image.status = to;
            Ok(())
        });
        changed.await.map(drop)
    }
}
