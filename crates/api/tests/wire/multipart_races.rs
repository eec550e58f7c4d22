//! Uploads in parts that others come between, and answers that get lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::memory::MemoryStore;
use image_tasks_domain::ports::{
    Joined, MultipartUploads, StagedObject, StagedPart, StoreError, StoreResult,
};
use image_tasks_domain::transfer::PartRange;
use image_tasks_domain::{Image, ImageId, ImageStatus, MultipartUpload, StagedBytes};
use serde_json::json;

use crate::multipart::{CRC64NVME, begin, complete, give_up, put_parts, upload};
use crate::service::{ALICE, Service};
use crate::uploads::{formats, image, record};

/// What happens once an upload was begun, or its parts were joined, and before the record is written.
enum Meanwhile {
    /// The record becomes this.
    Written(Box<Image>),
    /// The image is deleted.
    Deleted(ImageId),
    /// The answer is lost.
    Lost,
}

struct Interrupted {
    store: Arc<MemoryStore>,
    next: Mutex<Option<Meanwhile>>,
}

impl Interrupted {
    /// The service's uploads, with that coming between next.
    fn of(service: &mut Service, next: Meanwhile) {
        let store = service.store.clone();
        service.app.multipart = Arc::new(Self { store, next: Mutex::new(Some(next)) });
    }

    fn happens(&self) -> StoreResult<()> {
        match self.next.lock().unwrap().take() {
            Some(Meanwhile::Written(image)) => self.store.put_image(*image),
            Some(Meanwhile::Deleted(image)) => self.store.remove_image(image),
            Some(Meanwhile::Lost) => return Err(StoreError::Unavailable("a test says so".into())),
            None => {}
        }
        Ok(())
    }
}

#[async_trait]
impl MultipartUploads for Interrupted {
    async fn begin_upload(&self, image: ImageId, staged: StagedBytes) -> StoreResult<String> {
        let begun = self.store.begin_upload(image, staged).await;
        self.happens().and(begun)
    }

    async fn part_url(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        part: PartRange,
        valid_for: Duration,
    ) -> StoreResult<String> {
        self.store.part_url(image, upload, part, valid_for).await
    }

    async fn parts(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<Vec<StagedPart>>> {
        self.store.parts(image, upload).await
    }

    async fn join(
        &self,
        image: ImageId,
        upload: &MultipartUpload,
        parts: &[StagedPart],
        crc64nvme: Option<&str>,
    ) -> StoreResult<Joined> {
        let joined = self.store.join(image, upload, parts, crc64nvme).await;
        self.happens().and(joined)
    }

    async fn joined(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<Option<StagedObject>> {
        self.store.joined(image, upload).await
    }

    async fn abort(&self, image: ImageId, upload: &MultipartUpload) -> StoreResult<()> {
        self.store.abort(image, upload).await
    }
}

#[tokio::test]
async fn of_two_that_begin_at_once_one_is_refused_and_leaves_nothing() {
    let mut service = Service::new();
    let id = record(&service, formats()).await;
    let theirs = StagedBytes(uuid::Uuid::new_v4());
    let taken = Image { status: ImageStatus::Uploading, staged: Some(theirs), ..image(&service, &id).await };
    Interrupted::of(&mut service, Meanwhile::Written(Box::new(taken.clone())));
    let refused = upload(&service, ALICE, &id, &json!({"size": 9})).await;
    assert!(refused.error(409).contains("is uploading"), "{refused:?}");
    assert!(service.store.open_uploads().is_empty());
    assert_eq!(image(&service, &id).await, taken);
}

#[tokio::test]
async fn what_is_joined_for_an_image_that_is_gone_is_removed() {
    let mut service = Service::new();
    let id = record(&service, formats()).await;
    let upload_id = begin(&service, &id).await;
    let said = json!({"upload_id": upload_id, "parts": put_parts(&service, &id, &upload_id).await});
    Interrupted::of(&mut service, Meanwhile::Deleted(id.parse().unwrap()));
    complete(&service, ALICE, &id, &said).await.error(404);
    assert!(service.store.staged().is_empty());
}

#[tokio::test]
async fn what_is_joined_after_it_was_given_up_is_removed() {
    let mut service = Service::new();
    let id = record(&service, formats()).await;
    let queued = image(&service, &id).await;
    let upload_id = begin(&service, &id).await;
    let said = json!({"upload_id": upload_id, "parts": put_parts(&service, &id, &upload_id).await});
    Interrupted::of(&mut service, Meanwhile::Written(Box::new(queued.clone())));
    assert!(complete(&service, ALICE, &id, &said).await.error(409).contains("which is queued"));
    assert!(service.store.staged().is_empty());
    assert_eq!(image(&service, &id).await, queued);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_sent_again() {
    let mut service = Service::new();
    let id = record(&service, formats()).await;
    let upload_id = begin(&service, &id).await;
    let parts = put_parts(&service, &id, &upload_id).await;
    let said = |crc: &str| json!({"upload_id": upload_id, "parts": parts, "crc64nvme": crc});
    Interrupted::of(&mut service, Meanwhile::Lost);
    let lost = complete(&service, ALICE, &id, &said(CRC64NVME)).await;
    lost.error(503);
    assert_eq!(lost.header("retry-after"), "1");
    assert!(image(&service, &id).await.upload.is_some());
    let told = complete(&service, ALICE, &id, &said("AAAAAAAAAAA=")).await;
    assert!(told.error(400).starts_with("crc64nvme: "), "{told:?}");
    complete(&service, ALICE, &id, &said(CRC64NVME)).await.ok(204);
    let staged = image(&service, &id).await;
    assert_eq!((staged.status, staged.upload), (ImageStatus::Uploading, None));
    assert_eq!(service.store.staged().len(), 1);
    give_up(&service, ALICE, &id).await.error(409);
}
