//! What S3 refuses and how it fails, in the local stack's S3: `cargo local test`.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use image_tasks_flows::ports::{CopiedRange, ObjectError, ObjectRef, Objects, StoredPart};
use image_tasks_local::{Disturbance, Disturbed, Stack, pattern};

use crate::objects::{MIB, body, combined, crc, range, store};

/// The next `times` calls of an operation on an object fail so.
fn fail(operation: &str, at: &ObjectRef, (code, status): (&'static str, u16), times: u64) -> Disturbed {
    let stack = Stack::from_env().unwrap();
    let name = uuid::Uuid::new_v4().to_string();
    let about = format!("{}/{}", at.bucket, at.key);
    stack.disturb(&name, &[operation], &about, Disturbance { pass: 0, code, status, times }).unwrap()
}

#[tokio::test]
async fn a_small_source_is_copied_whole_and_never_by_range() {
    let (store, at) = store("small-copies");
    for size in [1, 5 * MIB, 5 * MIB + 1] {
        let (source, target) = (at(&format!("source-{size}")), at(&format!("target-{size}")));
        let etag = store.put_stream(&source, size, body(7, 0, size), true).await.unwrap().etag;
        let upload = store.create_upload(&target).await.unwrap();
        let whole = CopiedRange { from: &source, etag: &etag, size, range: range(0, size) };
        let part = store.copy_part(&target, &upload, 1, whole).await.unwrap();
        let expected = crc(&pattern::bytes(7, 0, usize::try_from(size).unwrap()));
        assert_eq!((part.size, part.crc64nvme), (size, expected));
        let done = store.complete(&target, &upload, &[part], expected, true).await.unwrap();
        assert_eq!((done.size, done.crc64nvme), (size, Some(expected)));
    }
    let source = at("source-5242880");
    let etag = store.head(&source).await.unwrap().unwrap().etag;
    let upload = store.create_upload(&at("target")).await.unwrap();
    let less = CopiedRange { from: &source, etag: &etag, size: 5 * MIB, range: range(0, 5 * MIB - 1) };
    let refused = store.copy_part(&at("target"), &upload, 1, less).await.unwrap_err();
    assert!(matches!(refused, ObjectError::Fault(_)), "{refused:?}");
    assert!(refused.to_string().contains("not supported as a byte-range copy source"), "{refused}");
}

#[tokio::test]
async fn part_numbers_have_no_gaps_and_begin_with_1() {
    let (store, at) = store("gaps");
    for numbers in [[1, 3], [2, 3]] {
        let target = at(&format!("{numbers:?}"));
        let upload = store.create_upload(&target).await.unwrap();
        let mut parts: Vec<StoredPart> = Vec::new();
        for number in numbers {
            parts.push(
                store.upload_part(&target, &upload, number, 5 * MIB, body(1, 0, 5 * MIB)).await.unwrap(),
            );
        }
        let refused = store.complete(&target, &upload, &parts, combined(&parts), true).await.unwrap_err();
        assert!(refused.to_string().contains("InvalidPartOrder"), "{refused}");
    }
}

/// S3 API reference, "Error responses": with a status of their own, or in a 200 that has begun.
const LATER: [(&str, u16); 6] = [
    ("InternalError", 200),
    ("SlowDown", 200),
    ("ServiceUnavailable", 200),
    ("InternalError", 500),
    ("SlowDown", 503),
    ("RequestTimeout", 400),
];

#[tokio::test]
async fn what_may_pass_is_told_as_that_also_inside_a_200() {
    let (store, at) = store("later");
    let (source, target) = (at("source"), at("target"));
    let etag = store.put_stream(&source, 6 * MIB, body(7, 0, 6 * MIB), true).await.unwrap().etag;
    let upload = store.create_upload(&target).await.unwrap();
    let whole = CopiedRange { from: &source, etag: &etag, size: 6 * MIB, range: range(0, 6 * MIB) };
    let part = store.copy_part(&target, &upload, 1, whole).await.unwrap();
    let parts = std::slice::from_ref(&part);
    for how in LATER {
        let passes = |what: &str, error: ObjectError| {
            assert!(matches!(error, ObjectError::Transient(_)), "{what} {how:?}: {error:?}");
            assert!(error.to_string().contains(how.0), "{what} {how:?}: {error}");
        };
        let failing = fail("CopyObject", &source, how, u64::MAX);
        passes("copy", store.copy(&at("copy"), &source, &etag, true).await.unwrap_err());
        drop(failing);
        let failing = fail("UploadPartCopy", &source, how, u64::MAX);
        passes("part", store.copy_part(&target, &upload, 1, whole).await.unwrap_err());
        drop(failing);
        let failing = fail("CompleteMultipartUpload", &target, how, u64::MAX);
        passes(
            "completion",
            store.complete(&target, &upload, parts, part.crc64nvme, true).await.unwrap_err(),
        );
        drop(failing);
        let failing = fail("UploadPart", &target, how, u64::MAX);
        let sent = store.upload_part(&target, &upload, 2, 3, body(1, 0, 3)).await;
        passes("upload", sent.unwrap_err());
        drop(failing);
    }
    assert_eq!(store.head(&target).await.unwrap(), None);
    store.copy(&at("copy"), &source, &etag, true).await.unwrap();
    store.complete(&target, &upload, parts, part.crc64nvme, true).await.unwrap();
}

#[tokio::test]
async fn what_does_not_pass_is_told_as_what_it_is_inside_a_200_too() {
    let (store, at) = store("never");
    let source = at("source");
    let etag = store.put_stream(&source, 9, body(7, 0, 9), true).await.unwrap().etag;
    let copy = async |code: &'static str| {
        let _failing = fail("CopyObject", &source, (code, 200), 1);
        store.copy(&at("copy"), &source, &etag, true).await.unwrap_err()
    };
    assert!(matches!(copy("AccessDenied").await, ObjectError::Denied(_)));
    assert!(matches!(copy("NoSuchKey").await, ObjectError::NotFound(_)));
    assert!(matches!(copy("PreconditionFailed").await, ObjectError::Precondition(_)));
    assert!(matches!(copy("ConditionalRequestConflict").await, ObjectError::Conflict(_)));
    assert!(matches!(copy("InvalidRequest").await, ObjectError::Fault(_)));
}

#[tokio::test]
async fn an_upload_that_another_write_came_between_is_never_completed() {
    let (store, at) = store("conflict");
    let target = at("image");
    store.put(&target, Bytes::from_static(b"theirs")).await.unwrap();
    let upload = store.create_upload(&target).await.unwrap();
    let part = store.upload_part(&target, &upload, 1, 3, body(1, 0, 3)).await.unwrap();
    store.delete(&target).await.unwrap();
    for _ in 0..2 {
        let parts = std::slice::from_ref(&part);
        let conflict = store.complete(&target, &upload, parts, part.crc64nvme, true).await.unwrap_err();
        assert!(matches!(conflict, ObjectError::Conflict(_)), "{conflict:?}");
    }
    let _failing = fail("PutObject", &target, ("ConditionalRequestConflict", 409), 1);
    let conflict = store.put_stream(&target, 3, body(1, 0, 3), true).await.unwrap_err();
    assert!(matches!(conflict, ObjectError::Conflict(_)), "{conflict:?}");
    store.put_stream(&target, 3, body(1, 0, 3), true).await.unwrap();
}

#[tokio::test]
async fn a_body_may_be_quiet_for_longer_than_the_sdk_waits_by_itself() {
    let (store, at) = store("quiet");
    let pause = stream::once(async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        Ok(Bytes::new())
    });
    let with_pause = body(1, 0, MIB).chain(pause).chain(body(1, MIB, MIB)).boxed();
    let put = store.put_stream(&at("image"), 2 * MIB, with_pause, true).await.unwrap();
    assert_eq!(put.crc64nvme, Some(crc(&pattern::bytes(1, 0, 2 << 20))));
}
