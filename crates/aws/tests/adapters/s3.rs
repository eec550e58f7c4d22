//! Objects in the local stack's S3: `cargo local test`.
use std::time::Duration;

use crate::objects::{MIB, body, combined, crc, range, store};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use image_tasks_domain::conformance::{active, importing};
use image_tasks_domain::image::StoredObject;
use image_tasks_domain::ports::ImageLinks;
use image_tasks_domain::{Failure, Image};
use image_tasks_flows::ports::{Body, CopiedRange, ObjectError, ObjectRef, ObjectResult, Objects};
use image_tasks_local::pattern;

async fn whole(body: ObjectResult<Body>) -> Vec<u8> {
    let collect = async |mut all: Vec<u8>, chunk: Bytes| {
        all.extend_from_slice(&chunk);
        Ok(all)
    };
    body.unwrap().try_fold(Vec::new(), collect).await.unwrap()
}

#[tokio::test]
async fn small_objects_are_put_read_and_deleted() {
    let (store, at) = store("small");
    let plan = at("plan ü+%?.json");
    assert_eq!(store.head(&plan).await.unwrap(), None);
    assert_eq!(store.get(&plan).await.unwrap(), None);
    store.put(&plan, Bytes::from_static(b"first")).await.unwrap();
    let put = store.put(&plan, Bytes::from_static(b"second")).await.unwrap();
    assert_eq!((put.size, put.crc64nvme), (6, Some(crc(b"second"))));
    assert_eq!(store.head(&plan).await.unwrap(), Some(put.clone()));
    assert_eq!(store.get(&plan).await.unwrap().as_deref(), Some(&b"second"[..]));
    let read = store.read(&plan, Some(&put.etag), range(1, 3)).await;
    assert_eq!(whole(read).await, b"ec");

    let other = store.read(&plan, Some("\"0\""), range(0, 1)).await.err().unwrap();
    assert!(matches!(other, ObjectError::Precondition(_)), "{other:?}");
    for beyond in [range(0, 7), range(6, 7)] {
        let error = store.read(&plan, Some(&put.etag), beyond).await.err().unwrap();
        assert!(matches!(error, ObjectError::Precondition(_)), "{error:?}");
    }
    let missing = store.read(&at("missing"), None, range(0, 1)).await.err().unwrap();
    assert!(matches!(missing, ObjectError::NotFound(_)), "{missing:?}");
    let nowhere = ObjectRef { bucket: "no-such-bucket-here".into(), key: "k".into() };
    assert_eq!(store.head(&nowhere).await.unwrap(), None);

    store.delete(&plan).await.unwrap();
    store.delete(&plan).await.unwrap();
    assert_eq!(store.head(&plan).await.unwrap(), None);
}

#[tokio::test]
async fn streams_are_stored_whole_or_not_at_all() {
    let (store, at) = store("stream");
    for len in [0, 1, 3 * MIB + 7] {
        let name = at(&len.to_string());
        let put = store.put_stream(&name, len, body(1, 0, len), true).await.unwrap();
        let expected = pattern::bytes(1, 0, usize::try_from(len).unwrap());
        assert_eq!((put.size, put.crc64nvme), (len, Some(crc(&expected))));
        assert_eq!(store.head(&name).await.unwrap(), Some(put.clone()));
        if len > 0 {
            assert_eq!(whole(store.read(&name, Some(&put.etag), range(0, len)).await).await, expected);
        }
        let again = store.put_stream(&name, len, body(2, 0, len), true).await.unwrap_err();
        assert!(matches!(again, ObjectError::Precondition(_)), "{again:?}");
        assert_eq!(store.head(&name).await.unwrap(), Some(put));
    }
    let over = store.put_stream(&at("1"), 2, body(3, 0, 2), false).await.unwrap();
    assert_eq!(over.crc64nvme, Some(crc(&pattern::bytes(3, 0, 2))));

    // A body that fails is the body's failure, and leaves nothing.
    let failure = Failure::transient("http://a.example/x broke off");
    let broken = body(4, 0, MIB).chain(stream::iter([Err(failure.clone())])).boxed();
    match store.put_stream(&at("broken"), 2 * MIB, broken, true).await {
        Err(ObjectError::Body(told)) => assert_eq!(told, failure),
        other => panic!("{other:?}"),
    }
    let short = store.put_stream(&at("short"), 2 * MIB, body(4, 0, MIB), true).await.unwrap_err();
    assert!(matches!(short, ObjectError::Body(_)), "{short:?}");
    let long = store.put_stream(&at("long"), MIB, body(4, 0, 2 * MIB), true).await.unwrap_err();
    assert!(matches!(long, ObjectError::Body(_)), "{long:?}");
    for name in ["broken", "short", "long"] {
        assert_eq!(store.head(&at(name)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn parts_make_one_object_whose_checksum_is_theirs() {
    let (store, at) = store("parts");
    let (target, source) = (at("image"), at("source"));
    let etag = store.put_stream(&source, 6 * MIB, body(7, 0, 6 * MIB), true).await.unwrap().etag;

    let upload = store.create_upload(&target).await.unwrap();
    assert_eq!(store.parts(&target, &upload).await.unwrap(), []);
    // In any order, one of them twice, one copied inside the store.
    let third = store.upload_part(&target, &upload, 3, 9, body(1, 11 * MIB, 9)).await.unwrap();
    store.upload_part(&target, &upload, 1, 5 * MIB, body(9, 0, 5 * MIB)).await.unwrap();
    let first = store.upload_part(&target, &upload, 1, 5 * MIB, body(1, 0, 5 * MIB)).await.unwrap();
    let whole_source = CopiedRange { from: &source, etag: &etag, size: 6 * MIB, range: range(0, 6 * MIB) };
    let second = store.copy_part(&target, &upload, 2, whole_source).await.unwrap();
    assert_eq!(first.crc64nvme, crc(&pattern::bytes(1, 0, 5 << 20)));
    assert_eq!(second.crc64nvme, crc(&pattern::bytes(7, 0, 6 << 20)));
    let parts = vec![first, second, third];
    assert_eq!(store.parts(&target, &upload).await.unwrap(), parts);
    let other_version = CopiedRange { etag: "\"0\"", ..whole_source };
    let stale = store.copy_part(&target, &upload, 2, other_version).await.unwrap_err();
    assert!(matches!(stale, ObjectError::Precondition(_)), "{stale:?}");
    let open = store.uploads(&target.bucket, &target.key).await.unwrap();
    assert_eq!(open, [(target.clone(), upload.clone())]);

    let wrong = store.complete(&target, &upload, &parts, !combined(&parts), true).await.unwrap_err();
    assert!(matches!(wrong, ObjectError::Checksum(_) | ObjectError::Fault(_)), "{wrong:?}");
    assert_eq!(store.head(&target).await.unwrap(), None);
    let done = store.complete(&target, &upload, &parts, combined(&parts), true).await.unwrap();
    let mut expected = pattern::bytes(1, 0, 5 << 20);
    expected.extend(pattern::bytes(7, 0, 6 << 20));
    expected.extend(pattern::bytes(1, 11 * MIB, 9));
    assert_eq!((done.size, done.crc64nvme), (11 * MIB + 9, Some(crc(&expected))));
    assert_eq!(store.head(&target).await.unwrap(), Some(done.clone()));
    assert!(whole(store.read(&target, Some(&done.etag), range(0, done.size)).await).await == expected);
    // The answer may have been lost: again is the same as once.
    assert_eq!(store.complete(&target, &upload, &parts, combined(&parts), true).await.unwrap(), done);
    assert_eq!(store.uploads(&target.bucket, &target.key).await.unwrap(), []);

    let copied = store.copy(&at("copy"), &target, &done.etag, true).await.unwrap();
    assert_eq!((copied.size, copied.crc64nvme), (done.size, done.crc64nvme));
    let taken = store.copy(&at("copy"), &target, &done.etag, true).await.unwrap_err();
    assert!(matches!(taken, ObjectError::Precondition(_)), "{taken:?}");
    store.copy(&at("copy"), &target, &done.etag, false).await.unwrap();
}

#[tokio::test]
async fn what_exists_is_never_overwritten_and_uploads_can_be_given_up() {
    let (store, at) = store("abort");
    let target = at("image");
    let upload = store.create_upload(&target).await.unwrap();
    let part = store.upload_part(&target, &upload, 1, 3, body(1, 0, 3)).await.unwrap();
    store.put(&target, Bytes::from_static(b"theirs")).await.unwrap();
    let parts = std::slice::from_ref(&part);
    let taken = store.complete(&target, &upload, parts, part.crc64nvme, true).await.unwrap_err();
    assert!(matches!(taken, ObjectError::Precondition(_)), "{taken:?}");
    store.abort(&target, &upload).await.unwrap();
    store.abort(&target, &upload).await.unwrap();
    let gone = store.upload_part(&target, &upload, 1, 3, body(1, 0, 3)).await.unwrap_err();
    assert!(matches!(gone, ObjectError::NotFound(_)), "{gone:?}");
    let gone = store.complete(&target, &upload, parts, part.crc64nvme, true).await.unwrap_err();
    assert!(matches!(gone, ObjectError::NotFound(_) | ObjectError::Precondition(_)), "{gone:?}");
    assert_eq!(store.get(&target).await.unwrap().as_deref(), Some(&b"theirs"[..]));
}

#[tokio::test]
async fn a_prefix_is_deleted_with_all_its_pages_and_nothing_beside_it() {
    let (store, at) = store("prefix");
    let puts = (0..1005).map(|n| {
        let (store, name) = (store.clone(), at(&format!("map/{n}")));
        async move { store.put(&name, Bytes::new()).await.map(drop) }
    });
    stream::iter(puts).buffer_unordered(16).try_collect::<()>().await.unwrap();
    store.put(&at("mapped"), Bytes::new()).await.unwrap();
    let prefix = at("map/");
    store.delete_prefix(&prefix.bucket, &prefix.key).await.unwrap();
    for n in [0, 999, 1004] {
        assert_eq!(store.head(&at(&format!("map/{n}"))).await.unwrap(), None);
    }
    assert!(store.head(&at("mapped")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_link_gives_the_bytes_to_who_knows_nothing_else() {
    let (store, at) = store("link");
    let name = at("image");
    let put = store.put(&name, Bytes::from_static(b"bytes")).await.unwrap();
    let stored =
        StoredObject { bucket: name.bucket, key: name.key, etag: put.etag, crc64nvme: String::new() };
    let image = Image { stored: Some(stored), ..active(importing("demo", 0), 0) };
    let url = store.download_url(&image, Duration::from_secs(60)).await.unwrap();
    assert_eq!(reqwest::get(&url).await.unwrap().bytes().await.unwrap(), "bytes");
    assert!(url.contains("X-Amz-Expires=60"), "{url}");
    for forged in [url.replace("Expires=60", "Expires=3600"), url.replace("/image", "/other")] {
        assert_eq!(reqwest::get(&forged).await.unwrap().status(), 403, "{forged}");
    }
}
