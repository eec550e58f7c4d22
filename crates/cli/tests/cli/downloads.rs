//! Downloads: whole, interrupted, wrong.

use std::path::PathBuf;
use std::time::Duration;

use image_tasks_domain::{Image, ImageHashes};
use image_tasks_local::{AskedRange, Content, EntityTag, Source, pattern};
use sha2::{Digest as _, Sha512};

use crate::images::put_hashed;
use crate::service::Server;

const PART: u64 = 8 << 20;
/// Two parts and a bit.
const SIZE: u64 = 2 * PART + 5;

fn content(seed: u64) -> Content {
    Content::Pattern { seed, length: SIZE }
}

fn bytes() -> Vec<u8> {
    pattern::bytes(1, 0, usize::try_from(SIZE).unwrap())
}

/// An image named `disk`, and its bytes where its link leads.
fn put(server: &Server) -> Image {
    let sha512 = hex::encode(Sha512::digest(bytes()));
    let image = put_hashed(server, "disk", SIZE, Some(ImageHashes { md5: "0".repeat(32), sha512 }));
    serve(server, &image, Source::new(content(1)));
    image
}

fn serve(server: &Server, image: &Image, source: Source) {
    server.bytes.serve(&format!("/{}", image.id), source);
}

fn file(server: &Server, name: &str) -> PathBuf {
    server.directory.path().join(name)
}

#[tokio::test]
async fn an_image_comes_in_ranges_without_the_callers_token() {
    let server = Server::start().await;
    put(&server);
    let run = server.run(&["download", "disk"]).await.ends(0);
    assert_eq!(run.stdout, "disk.raw\n");
    assert!(std::fs::read(file(&server, "disk.raw")).unwrap() == bytes());
    let names: Vec<_> =
        std::fs::read_dir(&server.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk.raw"]);
    let requests = server.bytes.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests.iter().all(|request| request.token.is_none() && request.range.is_some()),
        "{requests:?}"
    );
    assert!(
        requests[1..].iter().all(|request| request.if_match.as_deref() == Some("\"first\"")),
        "{requests:?}"
    );
    let again = server.run(&["download", "disk"]).await.ends(1);
    assert!(again.last_words().contains("is there already: --force"), "{again:?}");
    server.run(&["download", "disk", "--force", "--parallel", "1"]).await.ends(0);
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_was() {
    let server = Server::start().await;
    let image = put(&server);
    serve(&server, &image, Source { hold_at: Some(PART + 1000), ..Source::new(content(1)) });
    let mut child = server.spawn(&["download", "disk", "out"]);
    // Part 0 and the short part 2 are there; part 1 stands still.
    let state = file(&server, "out.partial.json");
    loop {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        if text.contains("[0,2]") {
            break;
        }
        // The held part holds part 2 back as well where that begins behind the mark.
        if text.contains("[0]") && server.bytes.requests().len() >= 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().await.unwrap();
    assert!(!file(&server, "out").exists());
    let before = server.bytes.requests().len();
    serve(&server, &image, Source::new(content(1)));
    let run = server.run(&["download", "disk", "out"]).await.ends(0);
    assert!(run.stderr.contains("Going on with out.partial"), "{run:?}");
    assert!(std::fs::read(file(&server, "out")).unwrap() == bytes());
    let ranges: Vec<_> =
        server.bytes.requests()[before..].iter().filter_map(|request| request.range).collect();
    assert!(!ranges.contains(&AskedRange::Closed { first: 0, last: PART - 1 }), "{ranges:?}");
    assert!(!state.exists());
}

#[tokio::test]
async fn other_bytes_are_never_given_the_name() {
    let server = Server::start().await;
    let image = put(&server);
    serve(&server, &image, Source::new(content(2)));
    let run = server.run(&["download", "disk", "out"]).await.ends(1);
    assert!(run.last_words().contains("isn't the image's bytes"), "{run:?}");
    assert_eq!(std::fs::read_dir(&server.directory).unwrap().count(), 0);
}

#[tokio::test]
async fn an_address_that_has_ended_is_asked_for_anew() {
    let server = Server::start().await;
    let image = put(&server);
    serve(&server, &image, Source { status: Some((403, 1)), ..Source::new(content(1)) });
    server.run(&["download", &image.id.to_string(), "out"]).await.ends(0);
    assert!(std::fs::read(file(&server, "out")).unwrap() == bytes());
    let links = server.seen_of(&http::Method::GET, &format!("/v2/images/{}/file", image.id));
    assert_eq!(links.len(), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_costs_what_had_not_come() {
    let server = Server::start().await;
    let image = put(&server);
    let cut = image_tasks_local::Cut { after_bytes: 3 << 20, requests: 1 };
    serve(&server, &image, Source { cut: Some(cut), etag: EntityTag::None, ..Source::new(content(1)) });
    server.run(&["download", "disk", "out"]).await.ends(0);
    assert!(std::fs::read(file(&server, "out")).unwrap() == bytes());
}

#[tokio::test]
async fn an_image_without_bytes_says_so() {
    let server = Server::start().await;
    let mut image = put(&server);
    (image.status, image.size) = (image_tasks_domain::ImageStatus::Importing, None);
    server.store.put_image(image);
    let run = server.run(&["download", "disk"]).await.ends(1);
    assert!(run.last_words().ends_with("has no bytes to download: it is importing"), "{run:?}");
}
