//! Uploads in parts into the local stack's S3: `cargo local test`.

use std::time::Duration;

use async_trait::async_trait;
use image_tasks_aws::{S3Images, S3Objects};
use image_tasks_domain::conformance::{PutPart, importing, multipart_uploads};
use image_tasks_domain::ports::{ImageBytes, MultipartUploads};
use image_tasks_domain::transfer::TransferPlan;
use image_tasks_domain::{Image, ImageId, ImageStatus, MultipartUpload, StagedBytes};
use image_tasks_local::Stack;
use uuid::Uuid;

/// A client of HTTP.
struct Http;

#[async_trait]
impl PutPart for Http {
    async fn put(&self, url: &str, bytes: Vec<u8>) -> Option<String> {
        let answer = reqwest::Client::new().put(url).body(bytes).send().await.unwrap();
        let etag = answer.headers().get("etag").map(|etag| etag.to_str().unwrap().to_owned());
        etag.filter(|_| answer.status().is_success())
    }
}

fn images() -> S3Images {
    let stack = Stack::from_env().unwrap();
    S3Images::new(S3Objects::new(stack.s3()), stack.work_bucket())
}

#[tokio::test]
async fn uploads_in_parts_keep_what_the_port_demands() {
    multipart_uploads(&images(), &Http).await;
}

#[tokio::test]
async fn a_parts_url_needs_its_length_and_no_header_of_its_own() {
    let uploads = images();
    let (image, staged) = (ImageId(Uuid::new_v4()), StagedBytes(Uuid::new_v4()));
    let store_id = uploads.begin_upload(image, staged).await.unwrap();
    let upload = MultipartUpload { staged, store_id, plan: TransferPlan { size: 3, part_size: 64 } };
    let part = upload.plan.part(1).unwrap();
    let url = uploads.part_url(image, &upload, part, Duration::from_secs(60)).await.unwrap();
    assert!(url.contains("X-Amz-SignedHeaders=content-length%3Bhost&"), "{url}");
    assert!(url.contains("X-Amz-Expires=60") && !url.to_lowercase().contains("checksum"), "{url}");
    let forged = [
        url.replace("partNumber=1", "partNumber=2"),
        url.replace("Expires=60", "Expires=3600"),
        url.replace(&staged.0.to_string(), "other"),
    ];
    for url in forged {
        assert_eq!(Http.put(&url, b"abc".to_vec()).await, None, "{url}");
    }
    Http.put(&url, b"abc".to_vec()).await.unwrap();

    // An image is removed with the upload that it waits for.
    let record = importing("uploads", 0);
    let record =
        Image { id: image, status: ImageStatus::PendingDelete, upload: Some(upload.clone()), ..record };
    for _ in 0..2 {
        uploads.remove_bytes(&record).await.unwrap();
        assert_eq!(uploads.parts(image, &upload).await.unwrap(), None);
    }
}
