//! `POST /v2/images`: a record, without bytes as yet.

use serde_json::Value;
use uuid::Uuid;

use super::{Images, check_size, patch};
use crate::caller::Caller;
use crate::image::{Image, ImageId};
use crate::image_properties::ImageProperties;
use crate::input::Members;
use crate::policy;
use crate::ports::StoreError;
use crate::rejection::{Answer, Rejection};

impl Images {
    /// Whether the caller may make images at all.
    ///
    /// # Errors
    /// [`Rejection::Forbidden`].
    pub fn check_may_create(&self, caller: &Caller) -> Answer<()> {
        policy::check_create_images(caller)
    }

    /// Makes a record of what the object says.
    ///
    /// # Errors
    /// [`Rejection`]: forbidden what the service decides or an admin alone may say; invalid what has no such value;
    /// a conflict for an id that is an image's or was; too much beyond the project's quota.
    pub async fn create(&self, caller: &Caller, said: &Value) -> Answer<Image> {
        self.check_may_create(caller)?;
        let members = Members::of(said, "The request body", "")?;
        for (name, _) in members.iter() {
            if name != "id" {
                patch::check_settable(name)?;
            }
        }
        let said = ImageProperties::of(&members)?;
        let owner = said.owner.as_deref().unwrap_or(&caller.project);
        policy::check_owner(caller, owner)?;
        let now = self.clock.now();
        let id = said.id.unwrap_or_else(|| ImageId(Uuid::new_v4()));
        let nothing_said =
            Image { disk_format: said.disk_format.map(str::to_owned), ..Image::queued(id, owner, now) };
        let image = said.describe(nothing_said);
        policy::check_visibility(caller, image.visibility)?;
        check_size(&image)?;
        self.quota.check(&*self.store, &image.owner, now).await?;
        match self.store.add(&image).await {
            Ok(()) => Ok(image),
            Err(StoreError::Conflict) => {
                Err(Rejection::Conflict(format!("Image id {} is in use, or was once", image.id)))
            }
            Err(e) => Err(e.into()),
        }
    }
}
