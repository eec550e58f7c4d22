//! [`MultipartUploads`]: what a client puts by the URLs becomes one staged object, whole or not at all.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::image::{ImageId, MultipartUpload, StagedBytes};
use crate::ports::{Joined, MultipartUploads, StagedPart};
use crate::transfer::{MIN_PART, TransferPlan};

/// A client that knows a URL and nothing else.
#[async_trait]
pub trait PutPart: Send + Sync {
    /// Puts bytes there: the answer's ETag, as it is sent; `None` where they are refused.
    async fn put(&self, url: &str, bytes: Vec<u8>) -> Option<String>;
}

/// [`MultipartUploads`].
pub async fn multipart_uploads(uploads: &dyn MultipartUploads, client: &dyn PutPart) {
    parts_in_any_order_become_one_object(uploads, client).await;
    an_upload_that_is_given_up_is_gone(uploads, client).await;
}

/// Bytes behind the first part.
const REST: u64 = 9;
/// CRC64NVME of [`MIN_PART`] bytes that are 7 and [`REST`] bytes that are 8, computed apart from all adapters.
const CRC64NVME: &str = "tmVGwgAk96Q=";
/// A CRC64NVME, but not theirs.
const OTHER: &str = "rosUhgp5mIg=";

struct Upload<'a> {
    uploads: &'a dyn MultipartUploads,
    client: &'a dyn PutPart,
    image: ImageId,
    upload: MultipartUpload,
}

impl<'a> Upload<'a> {
    /// One of two parts.
    async fn begin(uploads: &'a dyn MultipartUploads, client: &'a dyn PutPart) -> Self {
        let (image, staged) = (ImageId(Uuid::new_v4()), StagedBytes(Uuid::new_v4()));
        let store_id = uploads.begin_upload(image, staged).await.expect("begin");
        let plan = TransferPlan { size: MIN_PART + REST, part_size: MIN_PART };
        Self { uploads, client, image, upload: MultipartUpload { staged, store_id, plan } }
    }

    async fn put(&self, number: u32, bytes: Vec<u8>) -> Option<String> {
        let part = self.upload.plan.part(number).expect("a part");
        let hour = Duration::from_secs(3600);
        let url = self.uploads.part_url(self.image, &self.upload, part, hour).await.expect("a URL");
        self.client.put(&url, bytes).await
    }

    async fn parts(&self) -> Option<Vec<StagedPart>> {
        self.uploads.parts(self.image, &self.upload).await.expect("parts")
    }

    async fn join(&self, parts: &[StagedPart], crc64nvme: Option<&str>) -> Joined {
        self.uploads.join(self.image, &self.upload, parts, crc64nvme).await.expect("join")
    }

    async fn joined(&self) -> Option<(u64, String)> {
        let joined = self.uploads.joined(self.image, &self.upload).await.expect("joined");
        joined.map(|joined| (joined.size, joined.crc64nvme))
    }
}

fn filled(byte: u8, length: u64) -> Vec<u8> {
    vec![byte; usize::try_from(length).expect("a length")]
}

async fn parts_in_any_order_become_one_object(uploads: &dyn MultipartUploads, client: &dyn PutPart) {
    let upload = Upload::begin(uploads, client).await;
    assert_eq!(upload.parts().await, Some(vec![]));
    assert_eq!(upload.joined().await, None);
    for length in [REST - 1, REST + 1] {
        assert_eq!(upload.put(2, filled(8, length)).await, None, "a part of another length");
    }
    let last = upload.put(2, filled(8, REST)).await.expect("the last part first");
    let replaced = upload.put(1, filled(1, MIN_PART)).await.expect("wrong bytes");
    let stale = upload.parts().await.expect("both parts");
    let first = upload.put(1, filled(7, MIN_PART)).await.expect("the same part again");
    assert_ne!(replaced, first);
    let parts = upload.parts().await.expect("both parts");
    let shown: Vec<_> = parts.iter().map(|part| (part.number, part.size, part.etag.as_str())).collect();
    assert_eq!(shown, [(1, MIN_PART, first.trim_matches('"')), (2, REST, last.trim_matches('"'))]);

    assert_eq!(upload.join(&stale, None).await, Joined::OtherParts);
    assert_eq!(upload.join(&parts, Some(OTHER)).await, Joined::OtherChecksum);
    assert_eq!(upload.joined().await, None, "what is refused changes nothing");
    assert_eq!(upload.join(&parts, Some(CRC64NVME)).await, Joined::Whole);
    let whole = Some((MIN_PART + REST, CRC64NVME.to_owned()));
    assert_eq!(upload.joined().await, whole);
    assert_eq!(upload.parts().await, None, "it is no upload any more");
    assert_eq!(upload.join(&parts, Some(CRC64NVME)).await, Joined::Gone);
    assert_eq!(upload.put(1, filled(7, MIN_PART)).await, None);
    assert_eq!(upload.joined().await, whole);
    for _ in 0..2 {
        uploads.abort(upload.image, &upload.upload).await.expect("abort");
        assert_eq!(upload.joined().await, None, "what became of it is removed too");
    }
}

async fn an_upload_that_is_given_up_is_gone(uploads: &dyn MultipartUploads, client: &dyn PutPart) {
    let (upload, other) = (Upload::begin(uploads, client).await, Upload::begin(uploads, client).await);
    for upload in [&upload, &other] {
        upload.put(1, filled(7, MIN_PART)).await.expect("a part");
        upload.put(2, filled(8, REST)).await.expect("a part");
    }
    let parts = upload.parts().await.expect("both parts");
    for _ in 0..2 {
        uploads.abort(upload.image, &upload.upload).await.expect("abort");
        assert_eq!(upload.parts().await, None);
    }
    assert_eq!(upload.put(1, filled(7, MIN_PART)).await, None);
    assert_eq!(upload.join(&parts, None).await, Joined::Gone);
    assert_eq!(upload.joined().await, None);
    // Nobody else's is touched. Without a checksum to compare with, the store makes its own.
    let parts = other.parts().await.expect("both parts");
    assert_eq!(other.join(&parts, None).await, Joined::Whole);
    assert_eq!(other.joined().await, Some((MIN_PART + REST, CRC64NVME.to_owned())));
    uploads.abort(other.image, &other.upload).await.expect("abort");
}
