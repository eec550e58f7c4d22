//! Sources over HTTP, against servers that behave and servers that don't.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk_image::ByteRange;
use futures::TryStreamExt;
use image_tasks_aws::{AllowedSources, Patience, S3Objects};
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::source::{SourceLocation, SourcePolicy};
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::{Body, Source, SourcePin, Sources};
use image_tasks_local::{
    Content, Cut, EntityTag, RangeSupport, Revision, Source as Served, SourceServer, pattern,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SIZE: u64 = 300_000;

pub(crate) fn content(seed: u64) -> Content {
    Content::Pattern { seed, length: SIZE }
}

/// Loopback is allowed, nothing else beyond the rule; buckets are out of reach.
pub(crate) fn sources(networks: &[&str]) -> AllowedSources {
    let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
    let policy =
        SourcePolicy { addresses: AddressPolicy::new(networks), buckets: ["allowed".to_owned()].into() };
    let nowhere = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::v2026_01_12())
        .build();
    let objects = Arc::new(S3Objects::new(aws_sdk_s3::Client::from_conf(nowhere)));
    let patience = Patience { connect: Duration::from_secs(10), idle: Duration::from_millis(300) };
    AllowedSources::new(policy, objects, patience)
}

pub(crate) async fn open(url: &str, pin: Option<&SourcePin>) -> Result<Box<dyn Source>, Failure> {
    sources(&["127.0.0.0/8"]).open(&SourceLocation::parse(url).unwrap(), None, pin).await
}

async fn refused(url: &str) -> Failure {
    open(url, None).await.err().unwrap()
}

pub(crate) async fn all(body: Result<Body, Failure>) -> Result<Vec<u8>, Failure> {
    body?
        .try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange { start, end }
}

#[tokio::test]
async fn a_good_server_is_read_by_range_and_whole() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/a.img", Served::new(content(1)));
    let source = open(&url, None).await.unwrap();
    let info = source.info();
    assert_eq!((info.size, info.ranges), (Some(SIZE), true));
    assert_eq!(info.pin.etag.as_deref(), Some("\"first\""));
    for (start, end) in [(0, 1), (5, 70_000), (SIZE - 1, SIZE), (0, SIZE)] {
        let read = all(source.read(range(start, end)).await).await.unwrap();
        assert_eq!(read, pattern::bytes(1, start, usize::try_from(end - start).unwrap()));
    }
    assert_eq!(all(source.stream().await).await.unwrap(), pattern::bytes(1, 0, 300_000));
    let seen = server.requests();
    assert!(seen.iter().skip(1).all(|r| r.if_match.as_deref() == Some("\"first\"")), "{seen:?}");
    // The same version opens under its pin, whichever invocation does it.
    assert!(open(&url, Some(&info.pin)).await.is_ok());
}

#[tokio::test]
async fn servers_without_ranges_are_streamed() {
    let server = SourceServer::start().await.unwrap();
    for ranges in [RangeSupport::Ignored, RangeSupport::Pretended] {
        for content_length in [true, false] {
            let url = server.serve("/b", Served { ranges, content_length, ..Served::new(content(2)) });
            let source = open(&url, None).await.unwrap();
            assert!(!source.info().ranges);
            assert_eq!(source.info().size, content_length.then_some(SIZE));
            assert_eq!(all(source.stream().await).await.unwrap(), pattern::bytes(2, 0, 300_000));
        }
    }
    let empty = Content::Bytes(Default::default());
    for ranges in [RangeSupport::Yes, RangeSupport::Ignored] {
        let url = server.serve("/empty", Served { ranges, ..Served::new(empty.clone()) });
        let source = open(&url, None).await.unwrap();
        assert_eq!(source.info().size, Some(0));
        assert_eq!(all(source.stream().await).await.unwrap(), b"");
    }
}

#[tokio::test]
async fn a_source_that_changes_is_noticed_at_the_next_read() {
    let server = SourceServer::start().await.unwrap();
    let other = |tag: EntityTag, length| Revision {
        after_requests: 2,
        content: Content::Pattern { seed: 9, length },
        etag: tag,
    };
    let weak = |tag: &str| EntityTag::Weak(tag.to_owned());
    let strong = |tag: &str| EntityTag::Strong(tag.to_owned());
    for (n, first, then) in [
        (0, strong("a"), other(strong("b"), SIZE)),
        (1, weak("a"), other(weak("b"), SIZE)),
        (2, EntityTag::None, other(EntityTag::None, SIZE + 1)),
    ] {
        let url = server
            .serve(&format!("/c{n}"), Served { etag: first, change: Some(then), ..Served::new(content(3)) });
        let source = open(&url, None).await.unwrap();
        all(source.read(range(0, 10)).await).await.unwrap();
        let pin = source.info().pin.clone();
        assert_eq!(source.read(range(10, 20)).await.err().unwrap().code, FailureCode::SourceChanged, "{n}");
        assert_eq!(source.stream().await.err().unwrap().code, FailureCode::SourceChanged, "{n}");
        assert_eq!(open(&url, Some(&pin)).await.err().unwrap().code, FailureCode::SourceChanged, "{n}");
    }
}

#[tokio::test]
async fn statuses_have_codes_and_messages_name_the_url_without_its_query() {
    let server = SourceServer::start().await.unwrap();
    for (status, code) in [
        (404, FailureCode::SourceNotFound),
        (410, FailureCode::SourceNotFound),
        (401, FailureCode::SourceDenied),
        (403, FailureCode::SourceDenied),
        (429, FailureCode::Transient),
        (500, FailureCode::Transient),
        (503, FailureCode::Transient),
        (418, FailureCode::SourceInvalid),
        (204, FailureCode::SourceInvalid),
    ] {
        let path = format!("/d{status}");
        // A range that is answered 403 is tried without.
        let times = if status == 403 { 2 } else { 1 };
        let url = server.serve(&path, Served { status: Some((status, times)), ..Served::new(content(4)) });
        let failure = refused(&format!("{url}?token=secret")).await;
        assert_eq!(failure.code, code, "{status}");
        assert!(failure.message.starts_with(&format!("{url} answered {status}")), "{failure}");
        // Once the server has recovered, the flow's next try goes through.
        assert!(open(&url, None).await.is_ok());
    }
}

#[tokio::test]
async fn bodies_that_break_off_or_fall_silent_are_transient() {
    let server = SourceServer::start().await.unwrap();
    let cut = Some(Cut { after_bytes: 1000, requests: 10 });
    let url = server.serve("/e", Served { cut, ..Served::new(content(5)) });
    let source = open(&url, None).await.unwrap();
    let failure = all(source.read(range(0, 100_000)).await).await.unwrap_err();
    assert_eq!(failure.code, FailureCode::Transient);
    assert!(failure.message.starts_with(&url), "{failure}");
    assert_eq!(all(source.stream().await).await.unwrap_err().code, FailureCode::Transient);

    let url = server.serve("/f", Served { hold_at: Some(50_000), ..Served::new(content(5)) });
    let source = open(&url, None).await.unwrap();
    let failure = all(source.read(range(0, 100_000)).await).await.unwrap_err();
    assert_eq!(failure.to_string(), format!("Transient: {url} fell silent for 0.3 seconds"));

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(refused(&format!("http://{gone}/x")).await.code, FailureCode::Transient);
    let name = refused("http://no-such-name.invalid/x").await;
    assert!(matches!(name.code, FailureCode::SourceUnreachable | FailureCode::Transient), "{name}");
}

#[tokio::test]
async fn redirects_are_followed_and_checked_at_each_hop() {
    let server = SourceServer::start().await.unwrap();
    let redirect = |path: &str, to: &str| {
        server.serve(path, Served { redirect: Some(to.to_owned()), ..Served::new(content(6)) })
    };
    let end = server.serve("/end", Served::new(content(6)));
    redirect("/hop4", &end);
    redirect("/hop3", "/hop4#part");
    redirect("/hop2", "hop3");
    redirect("/hop1", "/hop2");
    let first = redirect("/hop0", "/hop1");
    let source = open(&first, None).await.unwrap();
    assert_eq!(all(source.read(range(1, 9)).await).await.unwrap(), pattern::bytes(6, 1, 8));
    let sixth = redirect("/more", "/hop0");
    assert_eq!(refused(&sixth).await.code, FailureCode::SourceInvalid);

    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://[::ffff:127.0.0.1]/x",
        "//10.0.0.1/x",
        "http://0x7f.1/x",
        "http://2130706433/x",
        "http://user@127.0.0.1/x",
        "file:///etc/passwd",
        "s3://allowed/key",
        "gopher://127.0.0.1/",
    ] {
        let failure = refused(&redirect("/away", to)).await;
        assert_eq!(failure.code, FailureCode::SourceForbidden, "{to}: {failure}");
    }
}

#[tokio::test]
async fn names_are_resolved_once_and_only_allowed_addresses_are_used() {
    let server = SourceServer::start().await.unwrap();
    server.serve("/g", Served::new(content(7)));
    let url = format!("http://localhost:{}/g", server.address().port());
    let source = open(&url, None).await.unwrap();
    assert_eq!(all(source.read(range(0, 4)).await).await.unwrap(), pattern::bytes(7, 0, 4));
    // An operator who allows another network has not allowed this machine.
    let location = SourceLocation::parse(&url).unwrap();
    for networks in [&["10.0.0.0/8"][..], &[]] {
        let failure = sources(networks).open(&location, None, None).await.err().unwrap();
        assert_eq!(failure.code, FailureCode::SourceForbidden, "{failure}");
    }
    let bucket = SourceLocation::parse("s3://other/key").unwrap();
    let failure = sources(&[]).open(&bucket, None, None).await.err().unwrap();
    assert_eq!(failure.code, FailureCode::SourceForbidden);
    assert_eq!(server.connections(), 1);
}

/// A server that gives these answers in turn, one a connection, and keeps what it was asked.
async fn scripted(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/odd.img", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            kept.lock().unwrap().push(String::from_utf8(request).unwrap().to_lowercase());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let headers = headers.replace('\n', "\r\n");
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn answers_that_do_not_fit_the_question_are_refused() {
    let probe = || answer("206 Partial Content", "Content-Range: bytes 0-0/10\nETag: \"v\"", "a");
    for (what, second, code) in [
        (
            "another range",
            answer("206 P", "Content-Range: bytes 0-4/10", "abcde"),
            FailureCode::SourceInvalid,
        ),
        ("no range", answer("206 P", "ETag: \"v\"", "abcde"), FailureCode::SourceInvalid),
        ("unknown total", answer("206 P", "Content-Range: bytes 2-6/*", "cdefg"), FailureCode::SourceInvalid),
        ("other total", answer("206 P", "Content-Range: bytes 2-6/11", "cdefg"), FailureCode::SourceChanged),
        (
            "other etag",
            answer("206 P", "Content-Range: bytes 2-6/10\nETag: \"w\"", "cdefg"),
            FailureCode::SourceChanged,
        ),
        ("whole", answer("200 OK", "ETag: \"v\"", "abcdefghij"), FailureCode::SourceInvalid),
        ("other whole", answer("200 OK", "", "abcdefghijk"), FailureCode::SourceChanged),
        ("precondition", answer("412 Precondition Failed", "", ""), FailureCode::SourceChanged),
        ("beyond its end", answer("416 Range", "Content-Range: bytes */3", ""), FailureCode::SourceChanged),
        (
            "encoded",
            answer("206 P", "Content-Range: bytes 2-6/10\nContent-Encoding: br", "cdefg"),
            FailureCode::SourceInvalid,
        ),
        ("redirect", answer("302 Found", "Location: http://127.0.0.1/", ""), FailureCode::SourceInvalid),
        ("short", answer("206 P", "Content-Range: bytes 2-6/10", "cd"), FailureCode::Transient),
        ("long", answer("206 P", "Content-Range: bytes 2-6/10", "cdefgh"), FailureCode::SourceInvalid),
    ] {
        let (url, asked) = scripted(vec![probe(), second]).await;
        let source = open(&url, None).await.unwrap();
        let failure = all(source.read(range(2, 7)).await).await.unwrap_err();
        assert_eq!(failure.code, code, "{what}: {failure}");
        let asked = asked.lock().unwrap();
        assert!(asked.iter().all(|r| r.contains("\r\naccept-encoding: identity\r\n")), "{asked:?}");
        assert!(
            asked[1].contains("\r\nrange: bytes=2-6\r\n") && asked[1].contains("\r\nif-match: \"v\"\r\n")
        );
    }
}

#[tokio::test]
async fn odd_first_answers_are_understood_or_refused() {
    let (url, _) = scripted(vec![answer("206 P", "Content-Range: bytes 5-5/10", "a")]).await;
    assert_eq!(refused(&url).await.code, FailureCode::SourceInvalid);
    let (url, _) = scripted(vec![answer("200 OK", "Content-Encoding: br", "x")]).await;
    assert_eq!(refused(&url).await.code, FailureCode::SourceInvalid);
    // A file in gzip, whose server calls that an encoding, is the file.
    for encoding in ["x-gzip", "GZIP", "aws-chunked"] {
        let whole = answer("200 OK", &format!("Content-Encoding: {encoding}"), "as sent");
        let (url, _) = scripted(vec![whole.clone(), whole]).await;
        let source = open(&url, None).await.unwrap();
        assert_eq!(all(source.stream().await).await.unwrap(), b"as sent");
    }
    let (url, _) = scripted(vec![answer("301 Moved", "", "")]).await;
    assert_eq!(refused(&url).await.code, FailureCode::SourceInvalid);

    // Ranges exist, but not the size: it can only be streamed.
    let (url, _) = scripted(vec![answer("206 P", "Content-Range: bytes 0-0/*", "a")]).await;
    assert!(!open(&url, None).await.unwrap().info().ranges);
    // Ranges are refused, not ignored.
    for refusal in ["416 Range", "403 Forbidden", "501 Not Implemented"] {
        let whole = answer("200 OK", "Last-Modified: Mon, 23 Nov 2026 10:00:00 GMT", "abc");
        let (url, asked) = scripted(vec![answer(refusal, "", ""), whole.clone(), whole]).await;
        let source = open(&url, None).await.unwrap();
        assert_eq!((source.info().size, source.info().ranges), (Some(3), false));
        assert_eq!(all(source.stream().await).await.unwrap(), b"abc");
        let asked = asked.lock().unwrap();
        assert!(asked[2].contains("\r\nif-unmodified-since: mon, 23 nov 2026 10:00:00 gmt\r\n"), "{asked:?}");
    }
}

#[tokio::test]
async fn locations_are_taken_as_servers_write_them() {
    let server = SourceServer::start().await.unwrap();
    let (host, end) = (server.address(), "/b%C3%BCcher%20a/x.img");
    let url = server.serve(end, Served::new(content(1)));
    for to in
        [url.clone(), format!("http://{host}/b\u{fc}cher a/x.img"), "/b\u{fc}cher%20a/x.img ".to_owned()]
    {
        let (from, _) = scripted(vec![answer("302 Found", &format!("Location: {to}"), "")]).await;
        // The one that is relative is of a server that has gone by then.
        match open(&from, None).await {
            Ok(source) => assert_eq!(source.info().pin.mirror.as_ref().unwrap().to_string(), url),
            Err(failure) => assert!(failure.message.contains(end) && to.starts_with('/'), "{failure}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_busy_says_for_how_long() {
    for (headers, seconds) in [("", 0), ("Retry-After: 17", 17)] {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let (url, _) = scripted(vec![answer(status, headers, "")]).await;
            let failure = refused(&url).await;
            assert_eq!(failure.busy, Some(Duration::from_secs(seconds)), "{failure}");
        }
    }
    let (url, _) = scripted(vec![answer("502 Bad Gateway", "Retry-After: 17", "")]).await;
    assert_eq!(refused(&url).await.busy, None);
}

#[tokio::test]
async fn a_first_byte_that_does_not_come_is_told_with_its_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", silent.local_addr().unwrap());
    let failure = refused(&url).await;
    assert_eq!(
        failure.to_string(),
        format!("Transient: {url} sent nothing for 0.3 seconds, the longest that is waited")
    );
}
