//! What callers do with images: look at, list, fetch.

use std::sync::Arc;
use std::time::Duration;

use crate::caller::Caller;
use crate::image::{Image, ImageId, ImageStatus};
use crate::input::{InvalidInput, quoted};
use crate::policy;
use crate::ports::{ImageLinks, ImagePage, ImageQuery, ImageStore};
use crate::rejection::{Answer, Rejection};
use crate::tasks::MAX_LIMIT;

/// How long a download's URL may be used to begin a download; one that has begun goes on. At most: a URL ends with the
/// credentials that signed it, and a function's role has temporary ones (S3 user guide, "Sharing objects with presigned
/// URLs").
const LINK_LIFE: Duration = Duration::from_secs(3600);

/// The use cases of images.
#[derive(Clone)]
pub struct Images {
    /// Images at rest.
    pub store: Arc<dyn ImageStore>,
    /// Where their bytes are fetched.
    pub links: Arc<dyn ImageLinks>,
}

impl Images {
    /// One image: the caller's, or a public or community one.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] for unknown, malformed and hidden ids.
    pub async fn get(&self, caller: &Caller, id: &str) -> Answer<Image> {
        self.visible(caller, id)
            .await?
            .ok_or_else(|| Rejection::NotFound { kind: "image", id: id.to_owned() })
    }

    /// The caller's images and public ones, newest first.
    ///
    /// # Errors
    /// [`Rejection::Invalid`] for a marker that is no image the caller sees.
    pub async fn list(&self, caller: &Caller, limit: usize, marker: Option<String>) -> Answer<ImagePage> {
        let after = match marker {
            None => None,
            Some(marker) => match self.visible(caller, &marker).await? {
                Some(image) => Some(image),
                None => {
                    let told = format!("{} is not an image in this list", quoted(&marker));
                    return Err(InvalidInput::new("marker", told).into());
                }
            },
        };
        if limit == 0 {
            return Ok(ImagePage { images: Vec::new(), more: false });
        }
        let visible_to = (!caller.is_admin()).then(|| caller.project.clone());
        Ok(self.store.list(&ImageQuery { visible_to, limit: limit.min(MAX_LIMIT), after }).await?)
    }

    /// Where the image's bytes are; `None` while there are none.
    ///
    /// # Errors
    /// As [`Images::get`].
    pub async fn download_url(&self, caller: &Caller, id: &str) -> Answer<Option<String>> {
        let image = self.get(caller, id).await?;
        if image.status != ImageStatus::Active || image.stored.is_none() {
            return Ok(None);
        }
        Ok(Some(self.links.download_url(&image, LINK_LIFE).await?))
    }

    async fn visible(&self, caller: &Caller, id: &str) -> Answer<Option<Image>> {
        let Ok(id) = id.parse::<ImageId>() else { return Ok(None) };
        Ok(self.store.get(id).await?.filter(|image| policy::caller_sees_image(caller, image)))
    }
}
