//! Images from OCI registries: what a tag leads to is told by digests from there on.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use image_tasks_domain::TaskStatus;
use md5::Digest as _;
use serde_json::{Value, json};

use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern};

const TAG: &str = "oci://registry.example/disks/debian:13";
const REPOSITORY: &str = "oci://registry.example/disks/debian";
const CONTAINER: &str = "application/vnd.oci.image.config.v1+json";
const ARTIFACT: &str = "application/vnd.oci.empty.v1+json";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A member of a tar as Go writes it, as containers' tools are.
fn member(name: &str, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut member = [&header[..], bytes].concat();
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

/// The header of a member that is larger than a layer may be beside the disk.
fn huge_member() -> Vec<u8> {
    let mut header = member("etc/hosts", b'0', b"");
    header[124..136].copy_from_slice(b"777777777777");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn tar(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

fn manifest(config: &str, layers: &[&[u8]]) -> String {
    let part = |bytes: &[u8]| json!({"mediaType": "x/y", "digest": digest(bytes), "size": bytes.len()});
    let mut config_part = part(b"{}");
    config_part["mediaType"] = json!(config);
    let layers: Vec<_> = layers.iter().map(|layer| part(layer)).collect();
    json!({"schemaVersion": 2, "config": config_part, "layers": layers}).to_string()
}

/// A registry that has these, and an import of what the tag names.
async fn world(tag: &str, others: &[(&str, &[u8])], input: Value) -> World {
    let mut whole = json!({"import_from": TAG, "import_from_format": "raw"});
    whole.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
    let world = World::new(Script::of(Vec::new()), whole, CUT).await;
    {
        let mut scripts = world.sources.scripts.lock().unwrap();
        scripts.clear();
        scripts.insert(TAG.to_owned(), Arc::new(Script::of(tag.to_owned())));
        for (at, bytes) in others {
            scripts.insert((*at).to_owned(), Arc::new(Script::of(bytes.to_vec())));
        }
    }
    world
}

fn layer(bytes: &[u8]) -> String {
    format!("{REPOSITORY} (layer {})", digest(bytes))
}

async fn ends(world: &World, stored: &[u8]) -> (bool, String) {
    world.run().await;
    let status = world.check_ended(stored, "a registry's").await;
    (status == TaskStatus::Success, world.task().await.message)
}

#[tokio::test(start_paused = true)]
async fn the_disk_in_a_container_and_a_file_that_was_pushed() {
    for len in [0, 700, 5000] {
        let disk = pattern(len);
        let files = tar(&[
            member("etc/", b'5', b""),
            member("etc/hosts", b'0', b"localhost"),
            member("./disk/", b'5', b""),
            member("x", b'x', b"23 path=disk/image.img\n"),
            member("short", b'0', &disk),
            member("notes", b'0', b"more"),
        ]);
        for layer_bytes in [files.clone(), gzip(&files)] {
            let tag = manifest(CONTAINER, &[b"small", &layer_bytes]);
            let world = world(&tag, &[(&layer(&layer_bytes), &layer_bytes)], json!({})).await;
            assert_eq!(ends(&world, &disk).await, (true, String::new()), "{len}");
        }
        // By range where it can be, packed or not.
        for file in [disk.clone(), gzip(&disk)] {
            let world = world(&manifest(ARTIFACT, &[&file]), &[(&layer(&file), &file)], json!({})).await;
            assert_eq!(ends(&world, &disk).await, (true, String::new()), "{len}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_platforms_manifest_is_fetched_by_its_digest() {
    let disk = pattern(3000);
    let inner = manifest(ARTIFACT, &[&disk]);
    let index = |digest: String| {
        let one = |architecture: &str, digest: String| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 5, "digest": digest,
                "platform": {"os": "linux", "architecture": architecture},
            })
        };
        let manifests = [one("arm64", digest), one("amd64", format!("sha256:{}", "0".repeat(64)))];
        json!({"schemaVersion": 2, "manifests": manifests}).to_string()
    };
    let at = format!("{REPOSITORY}@{}", digest(inner.as_bytes()));
    let arm = json!({"image_properties": {"architecture": "aarch64"}});
    let disk_at = layer(&disk);
    let parts: [(&str, &[u8]); 2] = [(&at, inner.as_bytes()), (&disk_at, &disk)];
    let world_of = |input: Value| world_of_index(index(digest(inner.as_bytes())), parts, input);
    let good = world_of(arm.clone()).await;
    assert_eq!(ends(&good, &disk).await, (true, String::new()));
    // Each manifest is read once.
    let reads = good.sources.scripts.lock().unwrap()[TAG].reads.load(Ordering::SeqCst);
    assert_eq!(reads, 1);
    let (ended, told) = ends(&world_of(json!({})).await, &[]).await;
    assert!(
        !ended && told.starts_with("SourceInvalid: oci://registry.example/disks/debian:13 has no image"),
        "{told}"
    );
    let forged: [(&str, &[u8]); 2] = [(&at, b"{}"), parts[1]];
    let (ended, told) = ends(&world_of_index(index(digest(inner.as_bytes())), forged, arm).await, &[]).await;
    assert!(
        !ended && told.starts_with("ChecksumMismatch: ") && told.contains("sends another manifest"),
        "{told}"
    );
}

async fn world_of_index(index: String, parts: [(&str, &[u8]); 2], input: Value) -> World {
    world(&index, &parts, input).await
}

#[tokio::test(start_paused = true)]
async fn what_isnt_what_its_digest_says_is_no_image() {
    let disk = pattern(3000);
    let other = pattern(3001)[1..].to_vec();
    let files = gzip(&tar(&[member("disk/a.img", b'0', &disk)]));
    for (config, named, sent) in [(ARTIFACT, &disk, &other), (CONTAINER, &files, &gzip(&tar(&[])))] {
        let mut padded = sent.clone();
        padded.resize(named.len().max(sent.len()), 0);
        let world = world(&manifest(config, &[named]), &[(&layer(named), &padded)], json!({})).await;
        let (ended, told) = ends(&world, &[]).await;
        let is_told = ["ChecksumMismatch: ", "BadArchive: ", "SourceChanged: "]
            .iter()
            .any(|code| told.starts_with(code));
        assert!(!ended && is_told, "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_one_disk_is_told() {
    let disk = pattern(3000);
    for (members, words) in [
        (vec![member("etc/hosts", b'0', b"x")], "there is no file in its folder /disk"),
        (vec![], "there is no file in its folder /disk"),
        (
            vec![member("disk/a", b'0', &disk), member("disk/b", b'0', &disk)],
            "its folder /disk has two files, \"a\" and \"b\"; leave one",
        ),
        (vec![member("disk/a", b'2', b"")], "\"a\" in its folder /disk is no plain file"),
        (vec![vec![7; 512]], "it is no tar archive"),
        (vec![huge_member()], "it has more than 32 GiB beside the disk"),
        (vec![member("x", b'L', &[b'a'; 70_000])], "a header in it is larger than any honest one"),
        (vec![member("x", b'x', b"999 path=a\n")], "a header in it can't be read"),
        (vec![member("x", b'x', b"29 size=18446744073709551615\n")], "a header in it can't be read"),
    ] {
        let layer_bytes = gzip(&tar(&members));
        let tag = manifest(CONTAINER, &[&layer_bytes]);
        let world = world(&tag, &[(&layer(&layer_bytes), &layer_bytes)], json!({})).await;
        let (ended, told) = ends(&world, &[]).await;
        assert!(!ended && told.starts_with("BadArchive: ") && told.contains(words), "{words}: {told}");
    }
    let cut = gzip(&member("disk/a", b'0', &disk)[..2000]);
    let world = world(&manifest(CONTAINER, &[&cut]), &[(&layer(&cut), &cut)], json!({})).await;
    let (ended, told) = ends(&world, &[]).await;
    assert!(!ended && told.contains("it ends early; push it again"), "{told}");
}
