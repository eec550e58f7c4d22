//! `DELETE /v2/images/{id}`: the bytes go, and the record with them.

use super::{Images, TRIES, kept_changing};
use crate::caller::Caller;
use crate::image::{Image, ImageStatus};
use crate::policy;
use crate::ports::StoreError;
use crate::rejection::{Answer, Rejection};

impl Images {
    /// Deletes an image. It is marked first, so that nobody uses it any more; then its bytes go, then its record.
    /// Where the bytes can't be removed now, the mark stays, and deleting again goes on from there.
    ///
    /// # Errors
    /// As [`Images::get`]; forbidden for a protected image; a conflict while a task makes it.
    pub async fn delete(&self, caller: &Caller, id: &str) -> Answer<()> {
        for _ in 0..TRIES {
            let image = self.get(caller, id).await?;
            policy::check_change(caller, &image)?;
            if image.protected {
                let told = format!("Image {id} is protected; set protected to false to delete it");
                return Err(Rejection::Forbidden(told));
            }
            let leaves = match image.status {
                ImageStatus::Importing => {
                    let told = format!("Image {id} is being made by a task; cancel that task instead");
                    return Err(Rejection::Conflict(told));
                }
                // Nobody has bytes of it.
                ImageStatus::Queued => self.store.remove(&image).await,
                ImageStatus::Uploading | ImageStatus::Active | ImageStatus::Deactivated => {
                    let marked = Image { status: ImageStatus::PendingDelete, ..image.clone() };
                    match self.store.replace(&image, &marked).await {
                        Ok(()) => self.remove_all(&marked).await,
                        refused => refused,
                    }
                }
                ImageStatus::PendingDelete => self.remove_all(&image).await,
            };
            match leaves {
                Ok(()) => return Ok(()),
                Err(StoreError::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(kept_changing(id))
    }

    async fn remove_all(&self, image: &Image) -> Result<(), StoreError> {
        self.bytes.remove_bytes(image).await?;
        self.store.remove(image).await
    }
}
