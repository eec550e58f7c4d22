//! Tasks: asked for, watched, listed, cancelled.

use http::Method;
use image_tasks_domain::failure::Failure;
use image_tasks_domain::ports::{ProgressStore as _, TaskLife as _};
use image_tasks_domain::progress::{Report, Step};
use image_tasks_domain::{FailureCode, Image, ImageId, Task};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

use crate::images::publication;
use crate::service::{Server, TTL};

const SOURCE: &str = "https://example.com/disk.qcow2";

/// A worker begins: the image's record is there.
async fn begin(server: &Server, task: &Task) -> ImageId {
    let image = Image::importing(ImageId(Uuid::new_v4()), "demo", task.created_at);
    server.store.begin(task.id, &image, task.created_at).await.unwrap();
    image.id
}

async fn succeed(server: &Server, task: &Task, image: ImageId) {
    let result = json!({"image_id": image});
    let publication = publication(image, 20 << 30, None);
    server.store.publish(task.id, &publication, &result, TTL, task.created_at).await.unwrap();
}

async fn fail(server: &Server, task: &Task, code: FailureCode, message: &str) {
    server.store.fail(task.id, &Failure::new(code, message), TTL, task.created_at).await.unwrap();
}

#[tokio::test]
async fn an_import_is_watched_and_prints_the_images_id() {
    let server = Server::start().await;
    let arguments = [
        ["import", SOURCE, "--name", "debian"].as_slice(),
        &[
            "--from-format",
            "qcow2",
            "--disk-format",
            "raw",
            "--tag",
            "lts",
            "--property",
            "os_distro=debian=13",
        ],
        &["--min-disk", "4", "--protected", "--sha512", "ab"],
    ]
    .concat();
    // The service refuses a hash that is none, in its own words.
    let refused = server.run(&arguments).await.ends(1);
    assert!(refused.last_words().starts_with("os_hash_value: "), "{refused:?}");
    let other = [&arguments[..arguments.len() - 2], &["--sha256", "ab"]].concat();
    let refused = server.run(&other).await.ends(1);
    assert!(refused.last_words().contains("must be 64 hexadecimal digits"), "{refused:?}");
    let other = [&arguments[..arguments.len() - 2], &["--checksums-from", "ftp://a/b"]].concat();
    let refused = server.run(&other).await.ends(1);
    assert!(refused.last_words().starts_with("checksums_from: scheme 'ftp'"), "{refused:?}");
    let mut child = server.spawn(&arguments[..arguments.len() - 2]);
    let task = server.task().await;
    assert_eq!(
        task.input,
        json!({
            "import_from": SOURCE,
            "import_from_format": "qcow2",
            "image_properties": {
                "name": "debian", "disk_format": "raw", "tags": ["lts"], "os_distro": "debian=13",
                "min_disk": 4, "protected": true,
            },
        })
    );
    let image = begin(&server, &task).await;
    let report = Report::default().with_total(Step::Copied, 2 << 30).with_done(Step::Copied, 1 << 30);
    server.store.tell(task.id, &report, task.created_at).await.unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let expected = format!("{} 49% copied 1.0 GiB of 2.0 GiB, 49%", task.id);
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let found = line == expected;
        seen.push(line);
        if found {
            break;
        }
    }
    assert_eq!(seen.last(), Some(&expected), "{seen:?}");
    succeed(&server, &task, image).await;
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{image}\n"));
    assert!(output.status.success());
    assert_eq!(lines.next_line().await.unwrap().unwrap(), format!("{} 100% success", task.id));
}

#[tokio::test]
async fn a_failure_is_told_in_the_services_words() {
    let server = Server::start().await;
    for arguments in [["import", SOURCE].as_slice(), &["import", SOURCE, "--output", "json", "--quiet"]] {
        let child = server.spawn(arguments);
        let task = server.open_task().await;
        begin(&server, &task).await;
        fail(&server, &task, FailureCode::BackingFile, "the qcow2 header names a backing file").await;
        let run = crate::service::Run::from(child.wait_with_output().await.unwrap()).ends(1);
        assert_eq!(run.last_words(), "BackingFile: the qcow2 header names a backing file");
        if arguments.contains(&"json") {
            assert_eq!(run.json()["status"], "failure");
            assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        } else {
            assert_eq!(run.stdout, "");
        }
    }
}

#[tokio::test]
async fn without_waiting_the_tasks_id_is_the_result() {
    let server = Server::start().await;
    let run = server.run(&["import", "s3://sources/disk.img", "--no-wait"]).await.ends(0);
    let task = server.task().await;
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (format!("{}\n", task.id).as_str(), ""));
    let shown = server.run(&["task", "show", &task.id.to_string(), "--output", "json"]).await.ends(0).json();
    assert_eq!(shown["input"], json!({"import_from": "s3://sources/disk.img"}));
    let listed = server.run(&["task", "list", "--status", "pending", "--type", "import"]).await.ends(0);
    let row = listed.stdout.lines().nth(1).unwrap();
    assert!(row.starts_with(&format!("{}  import  pending  2026-11-18T11:06:40Z", task.id)), "{listed:?}");
    assert_eq!(server.run(&["task", "list", "--status", "failure"]).await.ends(0).stdout.lines().count(), 1);
}

#[tokio::test]
async fn several_places_and_what_their_server_wants_to_know() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("login.txt");
    std::fs::write(&file, "Authorization: Basic YTpi\n\nX-Of-File:1:2\n").unwrap();
    let file = format!("@{}", file.display());
    let places = ["https://a.example/x", "https://a.example/y"];
    let arguments =
        [&["import", "--no-wait"], &places[..], &["--header", "Cookie: s3cret", "--header", &file]];
    server.run(&arguments.concat()).await.ends(0);
    let asked = server.seen_of(&Method::POST, "/v2/tasks").pop().unwrap().body;
    let headers = json!({"Cookie": "s3cret", "Authorization": "Basic YTpi", "X-Of-File": "1:2"});
    assert_eq!(asked["input"], json!({"import_from": places, "import_from_headers": headers}));
    for (said, words) in [
        (&["s3cret"][..], "--header: a header is NAME: VALUE"),
        (&["@/nowhere/s"], "--header: /nowhere/s can't be read: "),
        (&["Cookie: s3cret", "--header", "Cookie: other"], "--header: Cookie is there twice"),
    ] {
        let refused = server.run(&[&["import", SOURCE, "--header"], said].concat()).await.ends(2);
        assert!(refused.last_words().contains(words) && !refused.stderr.contains("s3cret"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_service_that_stumbles_is_asked_again_for_one_task() {
    let server = Server::start().await;
    server.fail_next(&[503, 502]);
    server.run(&["import", SOURCE, "--no-wait"]).await.ends(0);
    let posts = server.seen_of(&Method::POST, "/v2/tasks");
    let keys: Vec<_> = posts.iter().map(|post| post.headers["idempotency-key"].clone()).collect();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    server.fail_next(&[500]);
    let run = server.run(&["task", "list"]).await.ends(3);
    assert_eq!(run.last_words(), "image-tasks: A store can't be reached now");
}

#[tokio::test]
async fn a_key_of_ones_own_makes_one_task_of_two_runs() {
    let server = Server::start().await;
    let arguments = ["import", SOURCE, "--no-wait", "--idempotency-key", "nightly"];
    let ids = [server.run(&arguments).await.ends(0).stdout, server.run(&arguments).await.ends(0).stdout];
    assert_eq!(ids[0], ids[1]);
    assert_eq!(server.executions.started().len(), 1);
}

#[tokio::test]
async fn a_cancelled_task_is_waited_for() {
    let server = Server::start().await;
    server.run(&["import", SOURCE, "--no-wait"]).await.ends(0);
    let task = server.task().await;
    begin(&server, &task).await;
    let child = server.spawn(&["task", "cancel", &task.id.to_string()]);
    server.asked_beyond(0, &Method::GET, &format!("/v2/tasks/{}", task.id)).await;
    fail(&server, &task, FailureCode::Cancelled, "cancelled by alice").await;
    let run = crate::service::Run::from(child.wait_with_output().await.unwrap()).ends(0);
    assert_eq!(run.stdout, "Cancelled: cancelled by alice\n");
    let again = server.run(&["task", "cancel", &task.id.to_string()]).await.ends(1);
    assert!(!again.last_words().is_empty());
    assert_eq!(
        server.run(&["task", "watch", &task.id.to_string()]).await.ends(1).last_words(),
        run.stdout.trim()
    );
    server.run(&["task", "show", "../images"]).await.ends(2);
}

#[tokio::test]
async fn exports_and_clones_ask_for_what_was_said() {
    let server = Server::start().await;
    let image = crate::images::put(&server, "debian", 20 << 30);
    let id = image.id.to_string();
    let input = async |arguments: &[&str]| {
        server.run(&[arguments, &["--no-wait"]].concat()).await.ends(0);
        server.seen_of(&Method::POST, "/v2/tasks").pop().unwrap().body
    };
    assert_eq!(
        input(&["export", "debian", "--bucket", "exports", "--compression", "none"]).await,
        json!({"type": "export", "input": {"image_uuid": id, "receiving_bucket": "exports", "compression": "none"}})
    );
    assert_eq!(
        input(&["export", &id, "--to", "s3://exports/a.raw", "--format", "raw"]).await,
        json!({"type": "export", "input": {
            "image_uuid": id, "export_to": "s3://exports/a.raw", "export_format": "raw",
        }})
    );
    assert_eq!(
        input(&["clone", &id, "--from-region", "eu-west-1", "--name", "copy", "--allow-duplicate"]).await,
        json!({"type": "clone", "input": {
            "source_region": "eu-west-1", "image_uuid": id, "allow_duplicate": true,
            "image_properties": {"name": "copy"},
        }})
    );
    let url = format!("https://eu-west-1.images.example/v2/images/{id}");
    assert_eq!(input(&["clone", &url]).await, json!({"type": "clone", "input": {"source_image_url": url}}));
    server.run(&["clone", &id]).await.ends(2);
    server.run(&["export", &id]).await.ends(2);
}
