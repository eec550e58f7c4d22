//! Uploads: whole, interrupted and resumed, refused.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use image_tasks_domain::failure::Failure;
use image_tasks_domain::ports::TaskLife as _;
use image_tasks_domain::{FailureCode, ImageId, StagedBytes, Task};
use serde_json::{Value, json};

use crate::images::publication;
use crate::interrupts::interrupt;
use crate::service::{Run, Server, TTL};

/// What the service cuts files into.
const PART: u64 = 64 << 20;
const QCOW2: &[u8] = b"QFI\xfb and so on";

fn file(server: &Server, name: &str, bytes: &[u8]) -> PathBuf {
    let path = server.directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A worker begins to bring in what was uploaded.
async fn begin(server: &Server, task: &Task) -> ImageId {
    let id = |member: &str| task.input[member].as_str().unwrap().parse().unwrap();
    let image = ImageId(id("image_id"));
    server
        .store
        .begin_filling(task.id, image, Some(StagedBytes(id("staged"))), task.created_at)
        .await
        .unwrap();
    image
}

async fn succeed(server: &Server, task: &Task) -> ImageId {
    let image = begin(server, task).await;
    let publication = publication(image, 1, None);
    let result = json!({"image_id": image});
    server.store.publish(task.id, &publication, &result, TTL, task.created_at).await.unwrap();
    image
}

/// The one object in staging.
fn staged(server: &Server) -> Vec<u8> {
    let staged: Vec<_> = server.store.staged().into_values().collect();
    assert_eq!(staged.len(), 1);
    staged.into_iter().next().unwrap()
}

/// States of uploads that are kept.
fn states(server: &Server) -> Vec<PathBuf> {
    let directory = server.directory.path().join(".local/state/image-tasks/uploads");
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn records(server: &Server) -> Vec<Value> {
    let path = "/v2/images";
    server.seen_of(&Method::POST, path).into_iter().map(|seen| seen.body).collect()
}

#[tokio::test]
async fn a_file_is_imported_as_an_address_is() {
    let server = Server::start().await;
    file(&server, "disk.qcow2", QCOW2);
    let child =
        server.spawn(&["import", "disk.qcow2", "--name", "debian", "--tag", "lts", "--min-disk", "4"]);
    let task = server.task().await;
    let image = succeed(&server, &task).await;
    let run = Run::from(child.wait_with_output().await.unwrap()).ends(0);
    assert_eq!(run.stdout, format!("{image}\n"));
    let first = format!("Uploading disk.qcow2 (14 bytes, 1 parts), image {image}");
    assert_eq!(run.stderr.lines().next(), Some(&*first), "{run:?}");
    assert_eq!(staged(&server), QCOW2);
    let record = json!({
        "id": image, "name": "debian", "tags": ["lts"], "min_disk": 4,
        "disk_format": "qcow2", "container_format": "bare",
    });
    assert_eq!(records(&server), [record]);
    assert_eq!(states(&server), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn an_import_that_fails_leaves_no_record() {
    let server = Server::start().await;
    file(&server, "disk.img", QCOW2);
    let child = server.spawn(&["import", "./disk.img", "--from-format", "raw"]);
    let task = server.task().await;
    let image = begin(&server, &task).await;
    let why = Failure::new(FailureCode::FormatMismatch, "it is qcow2, not raw as was said");
    server.store.fail(task.id, &why, TTL, task.created_at).await.unwrap();
    let run = Run::from(child.wait_with_output().await.unwrap()).ends(1);
    assert_eq!(run.last_words(), "FormatMismatch: it is qcow2, not raw as was said");
    assert_eq!(server.run(&["image", "show", &image.to_string()]).await.ends(1).stdout, "");
}

#[tokio::test]
async fn what_cannot_be_uploaded_is_said_before_anything_is_made() {
    let server = Server::start().await;
    file(&server, "disk.img", b"raw bytes");
    file(&server, "empty", b"");
    file(&server, "disk.qcow2", QCOW2);
    for (arguments, code, told) in [
        (&["import", "disk.img"][..], 2, "give --disk-format, raw for a raw disk"),
        (&["import", "./none.img"], 1, "./none.img can't be read"),
        (&["upload", "empty"], 1, "is empty"),
        (&["upload", "/dev/null"], 1, "is no regular file"),
        (&["import", "disk.img", "--sha512", "ab"], 2, "--sha512 is for what is imported from an address"),
        (&["import", "disk.img", "--sha256", "ab"], 2, "--sha256 is for what is imported from an address"),
        (
            &["import", "disk.img", "--checksums-from", "https://a.example/b"],
            2,
            "--checksums-from is for what",
        ),
        (&["import", "disk.img", "--header", "a: b"], 2, "--header is for what is imported from an address"),
        (
            &["import", "https://a.example/b", "disk.img"],
            2,
            "disk.img is a file here: it is imported by itself",
        ),
        (
            &["import", "disk.qcow2", "--from-format", "qcow2", "--disk-format", "raw"],
            2,
            "qcow2 can be made raw only from an address",
        ),
        (&["upload", "disk.img", "--image", "none"], 1, "no image has the name \"none\""),
    ] {
        let run = server.run(arguments).await.ends(code);
        assert!(run.last_words().contains(told), "{run:?}");
    }
    assert!(records(&server).is_empty());
    // The service's own words; no state is left of what it refused.
    let run = server.run(&["upload", "disk.img", "--disk-format", "tar"]).await.ends(1);
    assert!(run.last_words().starts_with("disk_format: "), "{run:?}");
    assert_eq!(records(&server).len(), 1);
}

#[tokio::test]
async fn an_image_that_is_there_gets_the_bytes() {
    let server = Server::start().await;
    file(&server, "disk.img", b"raw bytes");
    let record = json!({"name": "to come", "disk_format": "raw", "container_format": "bare"});
    let id = server.make_image(&record).await;
    let both = server.run(&["upload", "disk.img", "--image", "to come", "--name", "x"]).await.ends(2);
    assert!(both.last_words().contains("the record of --image says"), "{both:?}");
    let run = server.run(&["upload", "disk.img", "--image", "to come", "--no-wait"]).await.ends(0);
    let task = server.task().await;
    assert_eq!(run.stdout, format!("{}\n", task.id));
    assert_eq!(task.input["image_id"], id.as_str());
    assert_eq!(staged(&server), b"raw bytes");
    // Another machine's upload is not gone on with, unless that is asked for.
    let other = server.make_image(&json!({"disk_format": "raw", "container_format": "bare"})).await;
    server.begin_upload(&other, 9).await;
    let run = server.run(&["upload", "disk.img", "--image", &other]).await.ends(1);
    assert!(run.last_words().contains("--restart gives that up"), "{run:?}");
    server.run(&["upload", "disk.img", "--image", &other, "--restart", "--no-wait"]).await.ends(0);
    assert!(server.store.open_uploads().is_empty());
}

#[tokio::test]
async fn a_part_that_is_not_taken_is_sent_again_to_another_address() {
    let server = Server::start().await;
    file(&server, "disk.qcow2", QCOW2);
    server.fail_next_parts(&[403, 500]);
    server.run(&["upload", "disk.qcow2", "--no-wait"]).await.ends(0);
    assert_eq!(staged(&server), QCOW2);
    let begun_and_asked = server.seen().into_iter().filter(|seen| seen.path.ends_with("/upload")).count();
    assert_eq!(begun_and_asked, 1 + 3);
}

#[tokio::test]
async fn an_upload_that_has_expired_begins_anew() {
    let server = Server::start().await;
    file(&server, "disk.qcow2", QCOW2);
    server.fail_next_parts(&[404]);
    let run = server.run(&["upload", "disk.qcow2", "--no-wait"]).await.ends(1);
    assert!(run.last_words().ends_with("has expired; the same command begins anew"), "{run:?}");
    server.run(&["upload", "disk.qcow2", "--no-wait"]).await.ends(0);
    assert_eq!((records(&server).len(), staged(&server)), (1, QCOW2.to_vec()));
}

#[tokio::test]
async fn lost_and_late_answers_are_asked_for_again() {
    let server = Server::start().await;
    file(&server, "disk.qcow2", QCOW2);
    // The answer of the record is lost: 500 isn't repeated.
    server.fail_next(&[500]);
    server.run(&["upload", "disk.qcow2"]).await.ends(3);
    let first = records(&server)[0]["id"].clone();
    assert_eq!(states(&server).len(), 1);
    let child = server.spawn(&["upload", "disk.qcow2"]);
    let task = server.task().await;
    let image = succeed(&server, &task).await;
    Run::from(child.wait_with_output().await.unwrap()).ends(0);
    // It was looked for, and wasn't there.
    assert_eq!(server.seen_of(&Method::GET, &format!("/v2/images/{}", first.as_str().unwrap())).len(), 1);
    assert_ne!(json!(image), first);
}

/// Two parts, of which the second is held back: an upload that is interrupted when it has sent the first.
async fn interrupted(server: &Server) -> PathBuf {
    let path = file(server, "disk.img", b"first");
    let disk = File::options().write(true).open(&path).unwrap();
    disk.write_all_at(b"last!", PART).unwrap();
    server.hold_parts(&[2]);
    let child = server.spawn(&UPLOAD);
    while server.parts() != [1] || !states(server).iter().any(|state| text(state).contains("\"part\"")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    interrupt(&child);
    let run = Run::from(child.wait_with_output().await.unwrap()).ends(130);
    let told = "Interrupted. The same command goes on; what was sent waits for 7 days. To give it up: ";
    assert!(run.last_words().starts_with(told), "{run:?}");
    server.hold_parts(&[]);
    path
}

const UPLOAD: [&str; 4] = ["upload", "disk.img", "--disk-format", "raw"];

fn text(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn an_interrupted_upload_goes_on_where_it_was() {
    let server = Server::start().await;
    let path = interrupted(&server).await;
    let child = server.spawn(&UPLOAD);
    let task = server.task().await;
    let image = succeed(&server, &task).await;
    let run = Run::from(child.wait_with_output().await.unwrap()).ends(0);
    let first = format!("Going on with disk.img, image {image}: checking what was sent");
    assert_eq!(run.stderr.lines().next(), Some(&*first), "{run:?}");
    assert_eq!(server.parts(), [1, 2], "each once");
    assert_eq!(records(&server).len(), 1);
    assert!(staged(&server) == std::fs::read(path).unwrap());
    assert_eq!(states(&server), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_part_that_was_changed_meanwhile_is_sent_again() {
    let server = Server::start().await;
    let path = interrupted(&server).await;
    File::options().write(true).open(&path).unwrap().write_all_at(b"other", 1000).unwrap();
    server.run(&[&UPLOAD[..], &["--no-wait"]].concat()).await.ends(0);
    let mut parts = server.parts();
    parts.sort_unstable();
    assert_eq!(parts, [1, 1, 2]);
    assert!(staged(&server) == std::fs::read(path).unwrap());
}
