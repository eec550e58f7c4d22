//! Servers that show one image and hand over another, and disks that begin like an image: neither becomes active.

use disk_image_fixtures::{Sparse, nested};
use image_tasks_e2e::Tenant;
use image_tasks_local::{Content, EntityTag, Lie, RangeSupport, Source, SourceServer};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Longest body of those who look: the head of a file, a table of 64 KiB.
const LOOK: u64 = 64 << 10;

/// The qcow2 of a guest's disk, by the guest's name.
fn qcow2(guests: Vec<nested::Guest>, name: &str) -> Sparse {
    let guest = guests.into_iter().find(|guest| guest.name == name).unwrap();
    nested::disks(&guest.disk).into_iter().find(|image| image.name == "qcow2").unwrap().file
}

fn ordinary() -> Sparse {
    qcow2(nested::ordinary(), "mbr")
}

/// A sound qcow2 whose disk begins like one that names a file of the host.
fn matryoshka() -> Sparse {
    qcow2(nested::headers(), "qcow2-backing-file")
}

/// It names a file of the host itself.
fn backed() -> Sparse {
    const NAME: &[u8] = b"/etc/shadow";
    ordinary().be64(8, 512).be32(16, 11).with(512, NAME)
}

fn says(task: &Value, code: &str) {
    let message = task["message"].as_str().unwrap();
    let sentence = message.strip_prefix(code).and_then(|rest| rest.strip_prefix(": "));
    assert!(sentence.is_some_and(|s| s.len() > 20), "expected {code} and a sentence: {message}");
    assert!(task["result"].is_null(), "{task}");
}

#[tokio::test]
async fn what_a_server_hands_over_is_judged_and_not_what_it_showed() {
    let tenant = Tenant::new("lies");
    let server = SourceServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut served = 0;
    // In one call, and in parts.
    for size in [ordinary().len(), 150 * MIB] {
        let file = |sparse: Sparse, name: &str| {
            let path = dir.path().join(format!("{name}-{size}"));
            sparse.write_to(&path).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
            Content::File(path)
        };
        let clean = file(ordinary(), "clean");
        let other_image = Lie { beyond: LOOK, content: file(backed(), "backed") };
        // Its tables are those of the clean one: only what is read of the disk differs.
        let other_disk = Lie { beyond: LOOK, content: file(matryoshka(), "matryoshka") };
        let honest = Source::new(clean);
        let mut serve = |source: Source| {
            served += 1;
            server.serve(&format!("/{served}.qcow2"), source)
        };
        let url = serve(honest.clone());
        tenant.imported(json!({"import_from": url})).await;
        for etag in [EntityTag::Strong("same".to_owned()), EntityTag::None] {
            let honest = Source { etag, ..honest.clone() };
            let lying = Source { lie: Some(other_image.clone()), ..honest.clone() };
            let url = serve(lying.clone());
            says(&tenant.refused(json!({"import_from": url})).await, "BackingFile");
            let url = serve(Source { ranges: RangeSupport::Ignored, ..lying });
            says(&tenant.refused(json!({"import_from": url})).await, "BackingFile");
            let url = serve(Source { lie: Some(other_disk.clone()), ..honest });
            let to_raw = json!({"import_from": url, "image_properties": {"disk_format": "raw"}});
            says(&tenant.refused(to_raw).await, "Polyglot");
        }
    }
}

#[tokio::test]
async fn a_disk_that_begins_like_an_image_is_no_raw_image() {
    let tenant = Tenant::new("nested");
    let server = SourceServer::start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nested");
    matryoshka().write_to(&path).unwrap();
    let url = server.serve("/nested.qcow2", Source::new(Content::File(path)));
    let to_raw = json!({"import_from": url, "image_properties": {"disk_format": "raw"}});
    says(&tenant.refused(to_raw).await, "Polyglot");

    // As a qcow2 it is what it says, whatever its disk is; out of this cloud, too.
    let (_, image) = tenant.imported(json!({"import_from": url})).await;
    let bucket = &tenant.stack.coordinates().export_bucket;
    let export = async |format: &str| {
        let key = format!("nested-{}.{format}", image["id"].as_str().unwrap());
        let to = format!("s3://{bucket}/{key}");
        let input = json!({"image_uuid": image["id"], "export_to": to, "export_format": format});
        let task = tenant.ended(&tenant.accepted("export", input).await).await;
        tenant.nothing_left_of_work(&task).await;
        (task, key)
    };
    let (task, key) = export("raw").await;
    assert_eq!(task["status"], "failure", "{task}");
    says(&task, "Polyglot");
    tenant.nothing_under(bucket, &key).await;
    let (task, _) = export("qcow2").await;
    assert_eq!(task["status"], "success", "{task}");
    let after = tenant.get(&format!("/v2/images/{}", image["id"].as_str().unwrap())).await.body;
    assert_eq!(after["status"], "active", "a refused export leaves the image as it was: {after}");
}
