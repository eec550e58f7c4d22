//! How bytes come into an image's record: staged and imported, uploaded at once, fetched from the web.
//!
//! Invariants:
//! - Bytes that were uploaded become an image's only by a task, as any import: none are active unjudged.
//! - An upload has a key of its own. What is left of one that leads to nothing goes with the bucket's rule for staging.

mod multipart;

pub use multipart::{MOST_URLS, PartUrls};

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::caller::Caller;
use crate::image::{Image, ImageId, ImageStatus, StagedBytes};
use crate::image_import::{ImageImport, ImportMethod, Known, check_stores, formats};
use crate::images::Images;
use crate::policy;
use crate::ports::{MultipartUploads, Staging};
use crate::rejection::{Answer, Rejection};
use crate::secret::Secret;
use crate::task::{Task, TaskId};
use crate::tasks::{self, Tasks};

/// From one look at an upload's import to the next.
const PAUSE: Duration = Duration::from_millis(300);
/// Most looks, for some 20 s in all: API Gateway gives up after 30 s, and the bytes were staged before.
const LOOKS: usize = 60;

/// The use cases of uploads.
#[derive(Clone, Copy)]
pub struct Uploads<'a> {
    /// Images.
    pub images: &'a Images,
    /// Tasks, which do the work.
    pub tasks: &'a Tasks,
    /// Where bytes wait.
    pub staging: &'a dyn Staging,
    /// How clients bring them there themselves.
    pub multipart: &'a dyn MultipartUploads,
    /// Largest image, bytes.
    pub max_image_bytes: u64,
}

impl Uploads<'_> {
    /// Keeps bytes for an image that has none, until they are imported.
    ///
    /// # Errors
    /// [`Rejection`]: forbidden for who may not change the image; a conflict where it has bytes, or waits for some.
    pub async fn stage(&self, caller: &Caller, id: &str, bytes: Vec<u8>) -> Answer<()> {
        let image = self.empty(caller, id).await?;
        let staged = self.put(image.id, bytes).await?;
        let kept = self.images.change(caller, id, |image| {
            policy::check_change(caller, image)?;
            check_empty(image)?;
            (image.status, image.staged) = (ImageStatus::Uploading, Some(staged));
            Ok(())
        });
        let kept = kept.await.map(drop);
        if kept.is_err() {
            self.forget(image.id, staged).await;
        }
        kept
    }

    /// Starts the import of what is staged, or of what lies elsewhere; its task.
    ///
    /// # Errors
    /// [`Rejection`]: invalid what can't be taken; a conflict where the image isn't in the state that the method needs,
    /// or has no formats.
    pub async fn import(
        &self,
        caller: &Caller,
        id: &str,
        body: &Value,
        request_id: &str,
        token: Option<Secret>,
    ) -> Answer<Task> {
        let image = self.changeable(caller, id).await?;
        let Tasks { sources, regions, glances, .. } = self.tasks;
        let method = ImportMethod::parse(body, Known { sources, regions, glances })?;
        check_stores(body, self.tasks.regions.here())?;
        let staged = match (&method, image.status, image.staged) {
            (ImportMethod::GlanceDirect, ImageStatus::Uploading, Some(staged)) => Some(staged),
            (ImportMethod::GlanceDirect, ..) if image.upload.is_some() => return Err(has_bytes(&image)),
            (ImportMethod::GlanceDirect, ..) => {
                let told = format!("Image {id} is {}; stage its bytes first", image.status.name());
                return Err(Rejection::Conflict(told));
            }
            (_, ImageStatus::Queued, _) => None,
            _ => return Err(has_bytes(&image)),
        };
        check_formats(&image)?;
        let token = match &method {
            ImportMethod::GlanceDownload(source) => tasks::token_for(source, token)?,
            ImportMethod::GlanceDirect | ImportMethod::WebDownload(_) | ImportMethod::UnknownGlance(_) => {
                None
            }
        };
        self.start(caller, (image.id, staged), body, request_id, token).await
    }

    /// Uploads and imports at once; the task.
    ///
    /// # Errors
    /// As [`Uploads::stage`] and [`Uploads::import`].
    pub async fn upload(&self, caller: &Caller, id: &str, bytes: Vec<u8>, request_id: &str) -> Answer<Task> {
        let image = self.empty(caller, id).await?;
        check_formats(&image)?;
        let staged = self.put(image.id, bytes).await?;
        let (into, request) = ((image.id, Some(staged)), ImageImport::direct());
        let started = self.start(caller, into, &request, request_id, None).await;
        if started.is_err() {
            self.forget(image.id, staged).await;
        }
        started
    }

    /// An upload's task once it has ended, if that is soon.
    ///
    /// # Errors
    /// [`Rejection::Store`].
    pub async fn ended(&self, id: TaskId) -> Answer<Option<Task>> {
        for _ in 0..LOOKS {
            if let Some(task) = self.tasks.store.get(id).await?.filter(|task| task.status.is_end()) {
                return Ok(Some(task));
            }
            self.tasks.clock.sleep(PAUSE).await;
        }
        Ok(None)
    }

    async fn changeable(&self, caller: &Caller, id: &str) -> Answer<Image> {
        let image = self.images.get(caller, id).await?;
        policy::check_change(caller, &image)?;
        Ok(image)
    }

    /// An image that waits for bytes.
    async fn empty(&self, caller: &Caller, id: &str) -> Answer<Image> {
        let image = self.changeable(caller, id).await?;
        check_empty(&image)?;
        Ok(image)
    }

    async fn put(&self, image: ImageId, bytes: Vec<u8>) -> Answer<StagedBytes> {
        let staged = StagedBytes(Uuid::new_v4());
        self.staging.put(image, staged, bytes).await?;
        Ok(staged)
    }

    async fn forget(&self, image: ImageId, staged: StagedBytes) {
        if let Err(error) = self.staging.remove(image, staged).await {
            tracing::warn!(image_id = %image, error = &error as &dyn std::error::Error, "staged bytes are left");
        }
    }

    async fn start(
        &self,
        caller: &Caller,
        (image, staged): (ImageId, Option<StagedBytes>),
        request: &Value,
        request_id: &str,
        token: Option<Secret>,
    ) -> Answer<Task> {
        let input = ImageImport::input(image, request, staged);
        let remarks = ImportMethod::remarks(request).join(" ");
        self.tasks.fill(caller, input, remarks, request_id, token).await
    }
}

fn has_bytes(image: &Image) -> Rejection {
    if image.upload.is_some() {
        let told = "is being uploaded in parts; complete that, or give it up by DELETE .../upload";
        return Rejection::Conflict(format!("Image {} {told}", image.id));
    }
    let status = image.status.name();
    Rejection::Conflict(format!("Image {} is {status}; bytes come only into one that is queued", image.id))
}

fn check_empty(image: &Image) -> Answer<()> {
    if image.status == ImageStatus::Queued { Ok(()) } else { Err(has_bytes(image)) }
}

fn check_formats(image: &Image) -> Answer<()> {
    formats(image).map(drop).map_err(|missing| Rejection::Conflict(missing.to_string()))
}
