//! Uploads of any size: parts that a client puts into staging itself, by URLs that the service signs.
//!
//! Threat model: the requests are an attacker's, and so are the parts. What is uploaded, and where, says the record
//! alone; a client names an upload only so that it never goes on with another one.
//!
//! Invariants:
//! - An upload that no record names is given up. What can't be given up then goes with the bucket's rule for staging.
//! - What is staged has the size that the upload was begun with, and the checksum that was said.
//! - Completing again is the same as once, also where the first answer was lost.

mod request;

use serde_json::Value;
use uuid::Uuid;

use self::request::{Completion, PartsRequest, check_size};
use super::{Uploads, check_empty};
use crate::caller::Caller;
use crate::image::{Image, ImageId, ImageStatus, MultipartUpload, StagedBytes};
use crate::images::LINK_LIFE;
use crate::input::{Checked, InvalidInput};
use crate::policy;
use crate::ports::Joined;
use crate::rejection::{Answer, Rejection};
use crate::time::Timestamp;
use crate::transfer::{PartRange, TransferPlan};

/// Most URLs of one answer: with a function's credentials in each they are some 200 KB.
pub const MOST_URLS: usize = 100;

/// Where the next parts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartUrls {
    /// The upload's id.
    pub upload: StagedBytes,
    /// How the file is cut.
    pub plan: TransferPlan,
    /// Parts and their URLs.
    pub parts: Vec<(PartRange, String)>,
    /// When the URLs end at the latest. They end with the credentials that signed them, which may be earlier.
    pub expires_at: Timestamp,
    /// Whether the upload was begun by this call.
    pub begun: bool,
}

impl Uploads<'_> {
    /// Begins an upload in parts, or goes on with the one that is under way: URLs for the parts that are asked for, or
    /// for the first ones. Until it is complete the image is `uploading`, and nothing is staged.
    ///
    /// # Errors
    /// [`Rejection`]: forbidden for who may not change the image; invalid what can't be taken, too large what no image
    /// may have; a conflict where the image isn't in the state that it needs, or another upload is under way.
    pub async fn parts(&self, caller: &Caller, id: &str, body: &Value) -> Answer<PartUrls> {
        let image = self.changeable(caller, id).await?;
        match PartsRequest::parse(body)? {
            PartsRequest::Begin(size) => self.begin(caller, &image, size).await,
            PartsRequest::More(named, numbers) => {
                let upload = under_way(&image, named)?;
                let part = |number: u32| {
                    let none = || {
                        let told = format!("there is no part {number}: the last is {}", upload.plan.parts());
                        InvalidInput::new("part_numbers", told)
                    };
                    upload.plan.part(number).ok_or_else(none)
                };
                let parts = numbers.into_iter().map(part).collect::<Checked<Vec<_>>>()?;
                self.urls(image.id, upload, parts, false).await
            }
        }
    }

    async fn begin(&self, caller: &Caller, image: &Image, size: u64) -> Answer<PartUrls> {
        check_empty(image)?;
        let most = self.max_image_bytes;
        if size > most {
            let told = format!("size: {size} bytes are more than an image may have here, which is {most}");
            return Err(Rejection::TooLarge(told));
        }
        let plan = TransferPlan::new(size).map_err(|e| Rejection::TooLarge(format!("size: {e}")))?;
        let staged = StagedBytes(Uuid::new_v4());
        let upload =
            MultipartUpload { staged, store_id: self.multipart.begin_upload(image.id, staged).await?, plan };
        let begun = self.keep(caller, image, &upload).await;
        if begun.is_err() {
            self.drop_upload(image.id, &upload).await;
        }
        begun
    }

    /// Writes an upload into the record, and signs its first URLs.
    async fn keep(&self, caller: &Caller, image: &Image, upload: &MultipartUpload) -> Answer<PartUrls> {
        let first = (1..).take(MOST_URLS).map_while(|number| upload.plan.part(number)).collect();
        let urls = self.urls(image.id, upload, first, true).await?;
        let id = image.id.to_string();
        let kept = self.images.change(caller, &id, |image| {
            policy::check_change(caller, image)?;
            check_empty(image)?;
            (image.status, image.upload) = (ImageStatus::Uploading, Some(upload.clone()));
            Ok(())
        });
        kept.await.map(|_| urls)
    }

    async fn urls(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        parts: Vec<PartRange>,
        begun: bool,
    ) -> Answer<PartUrls> {
        let expires_at = self.images.clock.now().plus(LINK_LIFE);
        let mut urls = Vec::with_capacity(parts.len());
        for part in parts {
            urls.push((part, self.multipart.part_url(image, upload, part, LINK_LIFE).await?));
        }
        Ok(PartUrls { upload: upload.staged, plan: upload.plan, parts: urls, expires_at, begun })
    }

    /// Joins the parts: they are staged then.
    ///
    /// # Errors
    /// As [`Uploads::parts`]; invalid parts that aren't the ones that are stored, bytes of another size than was said,
    /// and another checksum.
    pub async fn complete(&self, caller: &Caller, id: &str, body: &Value) -> Answer<()> {
        let image = self.changeable(caller, id).await?;
        let said = Completion::parse(body)?;
        if is_complete(&image, said.upload) {
            return Ok(());
        }
        let upload = under_way(&image, said.upload)?;
        self.join(&image, upload, &said).await?;
        let kept = self.images.change(caller, id, |image| {
            policy::check_change(caller, image)?;
            if !is_complete(image, upload.staged) {
                under_way(image, upload.staged)?;
                (image.upload, image.staged) = (None, Some(upload.staged));
            }
            Ok(())
        });
        let kept = kept.await.map(drop);
        if kept.is_err() {
            self.drop_unless_named(image.id, upload).await;
        }
        kept
    }

    async fn join(&self, image: &Image, upload: &MultipartUpload, said: &Completion) -> Answer<()> {
        let crc64nvme = said.crc64nvme.as_deref();
        if let Some(stored) = self.multipart.parts(image.id, upload).await? {
            said.check(&upload.plan, &stored)?;
            match self.multipart.join(image.id, upload, &stored, crc64nvme).await? {
                Joined::Whole => return Ok(()),
                Joined::OtherChecksum => return Err(other_checksum().into()),
                Joined::OtherParts => {
                    let told = "a part was uploaded once more meanwhile; send the ETags that are true now";
                    return Err(InvalidInput::new("parts", told).into());
                }
                Joined::Gone => {}
            }
        }
        // Joined before, by a call whose answer was lost or that took too long.
        let Some(whole) = self.multipart.joined(image.id, upload).await? else {
            let StagedBytes(named) = upload.staged;
            let told = format!("Upload {named} has expired; give it up by DELETE .../upload, and begin anew");
            return Err(Rejection::Conflict(told));
        };
        check_size(&upload.plan, whole.size)?;
        if crc64nvme.is_some_and(|said| said != whole.crc64nvme) {
            return Err(other_checksum().into());
        }
        Ok(())
    }

    /// Gives the upload that is under way up; the record is without bytes again.
    ///
    /// # Errors
    /// [`Rejection`]: forbidden for who may not change the image; a conflict where no upload is under way.
    pub async fn give_up(&self, caller: &Caller, id: &str) -> Answer<()> {
        let image = self.changeable(caller, id).await?;
        let Some(upload) = image.upload.as_ref().filter(|_| image.status == ImageStatus::Uploading) else {
            return Err(none_under_way(&image, None));
        };
        let given_up = self.images.change(caller, id, |image| {
            policy::check_change(caller, image)?;
            under_way(image, upload.staged)?;
            (image.status, image.upload) = (ImageStatus::Queued, None);
            Ok(())
        });
        given_up.await?;
        self.drop_upload(image.id, upload).await;
        Ok(())
    }

    /// Whoever gave the upload up, or deleted the image, may have done so before the parts were joined.
    async fn drop_unless_named(&self, image: ImageId, upload: &MultipartUpload) {
        let names =
            |record: Image| record.staged == Some(upload.staged) || record.upload.as_ref() == Some(upload);
        // What can't be read may still be the record's.
        if self.images.store.get(image).await.is_ok_and(|record| !record.is_some_and(names)) {
            self.drop_upload(image, upload).await;
        }
    }

    async fn drop_upload(&self, image: ImageId, upload: &MultipartUpload) {
        if let Err(error) = self.multipart.abort(image, upload).await {
            tracing::warn!(image_id = %image, error = &error as &dyn std::error::Error, "an upload is left");
        }
    }
}

/// The upload of that id, which the image waits for.
fn under_way(image: &Image, named: StagedBytes) -> Answer<&MultipartUpload> {
    let upload = image.upload.as_ref().filter(|upload| upload.staged == named);
    let upload = upload.filter(|_| image.status == ImageStatus::Uploading);
    upload.ok_or_else(|| none_under_way(image, Some(named)))
}

fn none_under_way(image: &Image, upload: Option<StagedBytes>) -> Rejection {
    let (id, status) = (image.id, image.status.name());
    let named = upload.map(|StagedBytes(upload)| format!(" {upload}")).unwrap_or_default();
    Rejection::Conflict(format!("Image {id}, which is {status}, has no upload{named} under way"))
}

/// Whether that upload is what the image has staged.
fn is_complete(image: &Image, upload: StagedBytes) -> bool {
    image.staged == Some(upload)
}

fn other_checksum() -> InvalidInput {
    InvalidInput::new("crc64nvme", "the parts make a file with another CRC64NVME; upload what differs again")
}
