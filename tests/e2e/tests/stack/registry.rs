//! Images of a registry, by the deployed functions.

use std::process::Command;

use bytes::Bytes;
use image_tasks_e2e::Tenant;
use image_tasks_local::{Bearer, Content, RangeSupport, Source, SourceServer, pattern};
use serde_json::json;
use sha2::{Digest as _, Sha256};

fn served(bytes: impl Into<Bytes>) -> Source {
    Source::new(Content::Bytes(bytes.into()))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[tokio::test]
async fn a_container_disk_of_a_registry_whose_layers_lie_elsewhere() {
    let tenant = Tenant::new("registry");
    let size = 40 << 20;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    std::fs::write(folder.path().join("disk/image.img"), pattern::bytes(9, 0, size)).unwrap();
    let packed = folder.path().join("layer.tar.gz");
    let tar = Command::new("tar").arg("-C").arg(folder.path()).arg("-czf").arg(&packed).arg("disk").status();
    assert!(tar.unwrap().success());
    let layer = std::fs::read(&packed).unwrap();
    let part = |bytes: &[u8], kind: &str| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "config": part(b"{}", "config.v1+json"), "layers": [part(&layer, "layer.v1.tar+gzip")],
    })
    .to_string();

    let (registry, store) = (SourceServer::start().await.unwrap(), SourceServer::start().await.unwrap());
    let token = registry.serve("/token", served(r#"{"token": "everybody"}"#));
    let guarded = |source: Source| {
        let challenge = format!("Bearer realm=\"{token}\",service=\"registry\"");
        let bearer = Some(Bearer { token: "everybody".to_owned(), challenge });
        Source { bearer, ranges: RangeSupport::Ignored, ..source }
    };
    let elsewhere = store.serve("/layer", served(layer.clone()));
    let blob = format!("/v2/disks/one/blobs/{}", digest(&layer));
    registry.serve(&blob, guarded(Source { redirect: Some(elsewhere), ..served("") }));
    registry.serve("/v2/disks/one/manifests/13", guarded(served(manifest.clone())));
    registry.serve(
        &format!("/v2/disks/one/manifests/{}", digest(manifest.as_bytes())),
        guarded(served(manifest.clone())),
    );
    let named = format!("oci+http://{}/disks/one", registry.address());
    for from in [format!("{named}:13"), format!("{named}@{}", digest(manifest.as_bytes()))] {
        let (task, image) = tenant.imported(json!({"import_from": from, "import_from_format": "raw"})).await;
        tenant.is_pattern(&image, 9, size as u64).await;
        tenant.nothing_left_of_work(&task).await;
    }
    assert!(store.requests().iter().all(|request| request.authorization.is_none()));
    // Another layer under that digest.
    store.serve("/layer", served([&layer[..layer.len() - 1], b"?"].concat()));
    let task =
        tenant.refused(json!({"import_from": format!("{named}:13"), "import_from_format": "raw"})).await;
    let told = task["message"].as_str().unwrap();
    assert!(told.starts_with("ChecksumMismatch: SHA-256") || told.starts_with("BadData: "), "{task}");
}
