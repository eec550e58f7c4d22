//! `POST /v2/images/{id}/upload`, `POST .../upload/complete`, `DELETE .../upload`.

use http::Method;
use image_tasks_domain::ImageStatus;
use image_tasks_domain::ports::ImageStore as _;
use image_tasks_domain::transfer::TransferPlan;
use serde_json::{Value, json};

use crate::service::{ADMIN, ALICE, Answer, BOB, MAX_IMAGE, Service};
use crate::uploads::{READER, formats, image, import, put, record, work};

/// A file, and its CRC64NVME (the catalogue's check value).
pub(crate) const FILE: &[u8] = b"123456789";
pub(crate) const CRC64NVME: &str = "rosUhgp5mIg=";

pub(crate) async fn ask(service: &Service, token: &str, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    service.send(method, path, &[("x-auth-token", token)], body).await
}

pub(crate) async fn upload(service: &Service, token: &str, id: &str, body: &Value) -> Answer {
    ask(service, token, Method::POST, &format!("/v2/images/{id}/upload"), body).await
}

pub(crate) async fn complete(service: &Service, token: &str, id: &str, body: &Value) -> Answer {
    ask(service, token, Method::POST, &format!("/v2/images/{id}/upload/complete"), body).await
}

pub(crate) async fn give_up(service: &Service, token: &str, id: &str) -> Answer {
    ask(service, token, Method::DELETE, &format!("/v2/images/{id}/upload"), &Value::Null).await
}

/// Begins to upload [`FILE`], cut into parts of 4 bytes; the upload's id.
pub(crate) async fn begin(service: &Service, id: &str) -> Value {
    let begun = upload(service, ALICE, id, &json!({"size": FILE.len()})).await.ok(201);
    let mut record = image(service, id).await;
    record.upload.as_mut().unwrap().plan.part_size = 4;
    service.store.put_image(record);
    begun.body["upload_id"].clone()
}

/// Puts all parts, the last one first; what a client says of them.
pub(crate) async fn put_parts(service: &Service, id: &str, upload_id: &Value) -> Vec<Value> {
    let more = json!({"upload_id": upload_id, "part_numbers": [3, 1, 2]});
    let urls = upload(service, ALICE, id, &more).await.ok(200).body;
    let put = |part: &Value| {
        let number = part["part_number"].as_u64().unwrap();
        let bytes = FILE.chunks(4).nth(usize::try_from(number - 1).unwrap()).unwrap();
        assert_eq!((&part["offset"], &part["size"]), (&json!((number - 1) * 4), &json!(bytes.len())));
        let etag = service.store.put_part(part["url"].as_str().unwrap(), bytes.to_vec()).unwrap();
        json!({"part_number": number, "etag": etag})
    };
    urls["parts"].as_array().unwrap().iter().map(put).collect()
}

#[tokio::test]
async fn parts_are_put_to_their_urls_joined_and_imported() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let begun = upload(&service, ALICE, &id, &json!({"size": 100 << 20})).await.ok(201).body;
    assert_eq!((&begun["size"], &begun["part_size"]), (&json!(100 << 20), &json!(64 << 20)));
    assert_eq!((&begun["part_count"], &begun["expires_at"]), (&json!(2), &json!("2026-11-18T12:06:40Z")));
    let parts = begun["parts"].as_array().unwrap();
    let shown: Vec<_> = parts.iter().map(|part| (&part["part_number"], &part["size"])).collect();
    assert_eq!(shown, [(&json!(1), &json!(64 << 20)), (&json!(2), &json!(36 << 20))]);
    assert!(parts[0]["url"].as_str().unwrap().contains(&format!("/staging/{id}/")), "{}", parts[0]);
    let waiting = image(&service, &id).await;
    assert_eq!((waiting.status, waiting.staged), (ImageStatus::Uploading, None));
    give_up(&service, ALICE, &id).await.ok(204);

    let upload_id = begin(&service, &id).await;
    // Nothing else comes in meanwhile, and nothing is there to be imported yet.
    let way_out = "is being uploaded in parts; complete that, or give it up by DELETE .../upload";
    for path in ["file", "stage"] {
        let refused = put(&service, ALICE, &format!("/v2/images/{id}/{path}"), b"abc").await;
        assert_eq!(refused.error(409), format!("Image {id} {way_out}"));
    }
    let direct = json!({"method": {"name": "glance-direct"}});
    assert!(import(&service, ALICE, &id, direct.clone()).await.error(409).contains(way_out));
    let web = json!({"method": {"name": "web-download", "uri": "s3://sources/a"}});
    assert!(import(&service, ALICE, &id, web).await.error(409).contains(way_out));

    let parts = put_parts(&service, &id, &upload_id).await;
    let said = json!({"upload_id": upload_id, "parts": parts, "crc64nvme": CRC64NVME});
    assert_eq!(complete(&service, ALICE, &id, &said).await.ok(204).body, Value::Null);
    let staged = image(&service, &id).await;
    assert_eq!((staged.status, &staged.upload), (ImageStatus::Uploading, &None));
    let key = staged.staged.unwrap().object_key(staged.id);
    assert_eq!(service.store.staged(), [(key, FILE.to_vec())].into());
    // Again is the same as once.
    complete(&service, ALICE, &id, &said).await.ok(204);
    import(&service, ALICE, &id, direct).await.ok(202);
    work(&service, Ok(())).await;
    assert_eq!(image(&service, &id).await.status, ImageStatus::Active);
    let over =
        format!("Image {id}, which is active, has no upload {} under way", upload_id.as_str().unwrap());
    assert_eq!(complete(&service, ALICE, &id, &said).await.error(409), over);
    assert!(upload(&service, ALICE, &id, &json!({"size": 9})).await.error(409).contains("is active"));
}

#[tokio::test]
async fn a_file_of_any_size_is_cut_into_at_most_ten_thousand_parts() {
    let service = Service::new();
    for (size, part_size, count) in [
        (1, 64 << 20, 1),
        (64 << 20, 64 << 20, 1),
        ((64 << 20) + 1, 64 << 20, 2),
        (40_u64 << 40, 4195_u64 << 20, 9999),
    ] {
        let id = record(&service, formats()).await;
        let begun = upload(&service, ALICE, &id, &json!({"size": size})).await.ok(201).body;
        assert_eq!((&begun["part_size"], &begun["part_count"]), (&json!(part_size), &json!(count)), "{size}");
        assert_eq!(begun["parts"].as_array().unwrap().len(), count.min(100), "{size}");
        let more = json!({"upload_id": begun["upload_id"], "part_numbers": [count]});
        let last = upload(&service, ALICE, &id, &more).await.ok(200).body["parts"][0].clone();
        let (offset, length) = (last["offset"].as_u64().unwrap(), last["size"].as_u64().unwrap());
        assert_eq!(offset + length, size);
    }
    let id = record(&service, formats()).await;
    let refused = upload(&service, ALICE, &id, &json!({"size": MAX_IMAGE + 1})).await;
    let told =
        format!("size: {} bytes are more than an image may have here, which is {MAX_IMAGE}", MAX_IMAGE + 1);
    assert_eq!(refused.error(413), told);
    assert_eq!(image(&service, &id).await.status, ImageStatus::Queued);
}

#[tokio::test]
async fn what_is_refused_of_a_request_for_urls() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    for (body, told) in [
        (json!([]), "The request body: must be an object, not an array"),
        (json!({}), "size: is required: the file's bytes; or upload_id, to go on with an upload"),
        (json!({"size": 0}), "size: must be a whole number from 1, not 0"),
        (json!({"size": -1}), "size: must be a whole number from 1, not -1"),
        (json!({"size": 1.5}), "size: must be a whole number from 1, not 1.5"),
        (json!({"size": "9"}), "size: must be a whole number from 1, not a string"),
        (json!({"upload_id": 1}), "upload_id: must be a string, not a number"),
        (json!({"upload_id": "x"}), "upload_id: is no id of an upload"),
    ] {
        assert_eq!(upload(&service, ALICE, &id, &body).await.error(400), told, "{body}");
    }
    assert!(service.store.open_uploads().is_empty());
    let upload_id = begin(&service, &id).await;
    let array = "part_numbers: must be an array of 1 to 100 numbers of parts";
    for (numbers, told) in [
        (json!(1), array),
        (json!([]), array),
        (json!([0]), array),
        (json!(["1"]), array),
        (json!([1.5]), array),
        (json!([4_294_967_296_u64]), array),
        (json!(vec![1; 101]), array),
        (json!([1, 4]), "part_numbers: there is no part 4: the last is 3"),
    ] {
        let body = json!({"upload_id": upload_id, "part_numbers": numbers});
        assert_eq!(upload(&service, ALICE, &id, &body).await.error(400), told, "{numbers}");
    }
    let none = json!({"upload_id": upload_id});
    assert_eq!(upload(&service, ALICE, &id, &none).await.error(400), "part_numbers: is required");
    let both = json!({"upload_id": upload_id, "part_numbers": [1], "size": 9});
    assert!(upload(&service, ALICE, &id, &both).await.error(400).starts_with("size: begins an upload"));
    // Another upload's id is worth nothing.
    let other = "00000000-0000-4000-8000-000000000001";
    let named = json!({"upload_id": other, "part_numbers": [1]});
    let told = format!("Image {id}, which is uploading, has no upload {other} under way");
    assert_eq!(upload(&service, ALICE, &id, &named).await.error(409), told);
    // One at a time.
    let second = upload(&service, ALICE, &id, &json!({"size": 9})).await;
    assert!(second.error(409).contains("give it up by DELETE .../upload"), "{second:?}");
    assert_eq!(service.store.open_uploads().len(), 1);
}

#[tokio::test]
async fn what_is_refused_of_a_completion() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let upload_id = begin(&service, &id).await;
    let parts = put_parts(&service, &id, &upload_id).await;
    let said = |changed: Value| {
        let mut body = json!({"upload_id": upload_id, "parts": parts, "crc64nvme": CRC64NVME});
        body.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        body
    };
    let crc = "crc64nvme: must be the 8 bytes of a CRC64NVME in base64, not";
    for (body, told) in [
        (json!("x"), "The request body: must be an object, not a string"),
        (json!({}), "upload_id: is required"),
        (json!({"upload_id": upload_id}), "parts: is required"),
        (said(json!({"parts": {}})), "parts: must be an array, not an object"),
        (said(json!({"parts": [1]})), "parts[0]: must be an object, not a number"),
        (said(json!({"parts": [{"etag": "e"}]})), "parts[0].part_number: must be a whole number from 1"),
        (said(json!({"parts": [{"part_number": 1}]})), "parts[0].etag: is required"),
        (said(json!({"parts": [{"part_number": 1, "etag": 5}]})), "parts[0].etag: must be a string"),
        (
            said(json!({"parts": parts[..2]})),
            "parts: must name each part from 1 to 3 once; part 2 is missing",
        ),
        (
            said(json!({"parts": [&parts[0], &parts[1], {"part_number": 2, "etag": "x"}]})),
            "parts: part 2 is stored",
        ),
        (said(json!({"crc64nvme": 5})), "crc64nvme: must be a string, not a number"),
        (said(json!({"crc64nvme": "nonsense"})), crc),
        (
            said(json!({"crc64nvme": "AAAAAAAAAAA="})),
            "crc64nvme: the parts make a file with another CRC64NVME",
        ),
    ] {
        let answer = complete(&service, ALICE, &id, &body).await;
        assert!(answer.error(400).starts_with(told), "{body}: {answer:?}");
    }
    // What is stored has another size than was said, by whatever accident.
    let mut record = image(&service, &id).await;
    record.upload.as_mut().unwrap().plan = TransferPlan { size: 10, part_size: 4 };
    service.store.put_image(record.clone());
    let told = "parts: have 9 bytes in all, but the upload was begun with a size of 10";
    assert_eq!(complete(&service, ALICE, &id, &said(json!({}))).await.error(400), told);
    record.upload.as_mut().unwrap().plan.size = 9;
    service.store.put_image(record);
    let large = vec![b' '; (2 << 20) + 1];
    let path = format!("/v2/images/{id}/upload/complete");
    service.send(Method::POST, &path, &[("x-auth-token", ALICE)], large).await.error(413);
    assert!(service.store.staged().is_empty());
    // What was refused left the upload as it was. The checksum need not be said.
    let mut plain = said(json!({}));
    plain.as_object_mut().unwrap().remove("crc64nvme");
    complete(&service, ALICE, &id, &plain).await.ok(204);
}

#[tokio::test]
async fn who_may_change_the_image_may_upload() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let upload_id = begin(&service, &id).await;
    let parts = put_parts(&service, &id, &upload_id).await;
    let said = json!({"upload_id": upload_id, "parts": parts, "crc64nvme": CRC64NVME});
    let more = json!({"upload_id": upload_id, "part_numbers": [1]});
    for (token, status) in [(BOB, 404), (READER, 403)] {
        upload(&service, token, &id, &json!({"size": 9})).await.error(status);
        upload(&service, token, &id, &more).await.error(status);
        complete(&service, token, &id, &said).await.error(status);
        give_up(&service, token, &id).await.error(status);
    }
    let path = format!("/v2/images/{id}/upload");
    let refused = ask(&service, ALICE, Method::GET, &path, &Value::Null).await;
    refused.error(405);
    assert_eq!(refused.header("allow"), "POST, DELETE");
    let refused = ask(&service, ALICE, Method::PUT, &format!("{path}/complete"), &said).await;
    refused.error(405);
    assert_eq!(refused.header("allow"), "POST");
    upload(&service, ADMIN, &id, &more).await.ok(200);
    complete(&service, ADMIN, &id, &said).await.ok(204);
}

#[tokio::test]
async fn an_upload_is_given_up() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let none = format!("Image {id}, which is queued, has no upload under way");
    assert_eq!(give_up(&service, ALICE, &id).await.error(409), none);
    let upload_id = begin(&service, &id).await;
    let parts = put_parts(&service, &id, &upload_id).await;
    give_up(&service, ALICE, &id).await.ok(204);
    assert!(service.store.open_uploads().is_empty());
    let left = image(&service, &id).await;
    assert_eq!((left.status, left.upload), (ImageStatus::Queued, None));
    assert_eq!(give_up(&service, ALICE, &id).await.error(409), none);
    let said = json!({"upload_id": upload_id, "parts": parts});
    assert!(complete(&service, ALICE, &id, &said).await.error(409).contains("under way"));
    // Bytes come in another way now.
    put(&service, ALICE, &format!("/v2/images/{id}/stage"), b"abc").await.ok(204);
    // What is staged at once is no upload in parts.
    assert!(give_up(&service, ALICE, &id).await.error(409).contains("which is uploading"));
}

#[tokio::test]
async fn an_upload_expires_and_goes_with_its_image() {
    let service = Service::new();
    let id = record(&service, formats()).await;
    let upload_id = begin(&service, &id).await;
    let parts = put_parts(&service, &id, &upload_id).await;
    service.store.expire_uploads();
    let told = complete(&service, ALICE, &id, &json!({"upload_id": upload_id, "parts": parts})).await;
    assert!(
        told.error(409).ends_with("has expired; give it up by DELETE .../upload, and begin anew"),
        "{told:?}"
    );
    give_up(&service, ALICE, &id).await.ok(204);
    begin(&service, &id).await;
    ask(&service, ALICE, Method::DELETE, &format!("/v2/images/{id}"), &Value::Null).await.ok(204);
    assert!(service.store.open_uploads().is_empty());
    assert_eq!(service.store.get(id.parse().unwrap()).await.unwrap(), None);
}
