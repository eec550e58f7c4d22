//! Each way in which a source may behave, seen from a client.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use image_tasks_local::{
    AskedRange, Content, Cut, EntityTag, Lie, RangeSupport, Revision, Source, SourceServer, pattern,
};

const LENGTH: u64 = 300_000;

fn content() -> Content {
    Content::Pattern { seed: 1, length: LENGTH }
}

fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn ask(method: Method, url: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client().request(request.body(Empty::new()).unwrap()).await.unwrap()
}

async fn get(url: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    ask(Method::GET, url, headers).await
}

async fn body(answer: Response<Incoming>) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn the_whole_and_every_form_of_range() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source::new(content()));

    let whole = get(&url, &[]).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(whole.headers()["content-length"], LENGTH.to_string());
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.headers()["etag"], "\"first\"");
    assert_eq!(body(whole).await, pattern::bytes(1, 0, 300_000));

    for (range, first, last) in
        [("bytes=10-19", 10, 19), ("bytes=299990-", 299_990, 299_999), ("bytes=-5", 299_995, 299_999)]
    {
        let part = get(&url, &[("range", range)]).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(part.headers()["content-range"], format!("bytes {first}-{last}/{LENGTH}"));
        let length = usize::try_from(last - first + 1).unwrap();
        assert_eq!(body(part).await, pattern::bytes(1, first, length), "{range}");
    }
    let beyond = get(&url, &[("range", "bytes=300000-")]).await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()["content-range"], "bytes */300000");

    let seen = server.requests();
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[1].range, Some(AskedRange::Closed { first: 10, last: 19 }));
    assert_eq!(seen[2].range, Some(AskedRange::From { first: 299_990 }));
    assert_eq!(seen[3].range, Some(AskedRange::Suffix { length: 5 }));
    assert_eq!(seen[4].status, 416);
    assert_eq!(server.body_bytes(), LENGTH + 25);
}

#[tokio::test]
async fn a_head_has_the_headers_of_a_get_and_no_body() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source::new(content()));
    let head = ask(Method::HEAD, &url, &[]).await;
    assert_eq!(head.headers()["content-length"], LENGTH.to_string());
    assert_eq!(head.headers()["etag"], "\"first\"");
    assert!(body(head).await.is_empty());
    assert_eq!(server.body_bytes(), 0);
}

#[tokio::test]
async fn ranges_may_be_ignored_openly_or_not() {
    let server = SourceServer::start().await.unwrap();
    for (ranges, announced) in [(RangeSupport::Ignored, false), (RangeSupport::Pretended, true)] {
        let url = server.serve("/disk", Source { ranges, ..Source::new(content()) });
        let answer = get(&url, &[("range", "bytes=0-9")]).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().contains_key("accept-ranges"), announced, "{ranges:?}");
        assert_eq!(body(answer).await.len() as u64, LENGTH);
    }
}

#[tokio::test]
async fn only_a_strong_tag_matches() {
    let server = SourceServer::start().await.unwrap();
    let cases = [
        (EntityTag::Strong("a".to_owned()), "\"a\"", 200, Some("\"a\"")),
        (EntityTag::Strong("a".to_owned()), "\"x\", \"a\"", 200, Some("\"a\"")),
        (EntityTag::Strong("a".to_owned()), "\"b\"", 412, None),
        (EntityTag::Weak("a".to_owned()), "W/\"a\"", 412, None),
        (EntityTag::None, "\"a\"", 412, None),
    ];
    for (etag, wanted, status, sent) in cases {
        let url = server.serve("/disk", Source { etag: etag.clone(), ..Source::new(content()) });
        let answer = get(&url, &[("if-match", wanted)]).await;
        assert_eq!(answer.status().as_u16(), status, "{etag:?} {wanted}");
        assert_eq!(answer.headers().get("etag").map(|value| value.to_str().unwrap()), sent);
    }
    let url =
        server.serve("/disk", Source { etag: EntityTag::Weak("a".to_owned()), ..Source::new(content()) });
    assert_eq!(get(&url, &[]).await.headers()["etag"], "W/\"a\"");
}

#[tokio::test]
async fn without_a_length_the_body_is_chunked_and_whole() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source { content_length: false, ..Source::new(content()) });
    let answer = get(&url, &[]).await;
    assert!(!answer.headers().contains_key("content-length"));
    assert_eq!(body(answer).await, pattern::bytes(1, 0, 300_000));
}

#[tokio::test]
async fn the_first_bodies_are_cut_at_the_byte_and_later_ones_are_whole() {
    let server = SourceServer::start().await.unwrap();
    let cut = Some(Cut { after_bytes: 70_000, requests: 2 });
    for content_length in [true, false] {
        let path = format!("/disk-{content_length}");
        let url = server.serve(&path, Source { cut, content_length, ..Source::new(content()) });
        for _ in 0..2 {
            let mut stream = get(&url, &[("range", "bytes=1000-")]).await.into_body();
            let mut received = 0;
            let broken = loop {
                match stream.frame().await {
                    Some(Ok(frame)) => received += frame.into_data().unwrap().len(),
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            };
            assert!(broken.is_some(), "the client must see that the body is incomplete");
            assert!(received <= 70_000, "{received}");
        }
        assert_eq!(body(get(&url, &[]).await).await.len() as u64, LENGTH);
    }
}

#[tokio::test]
async fn content_and_tag_change_after_so_many_requests() {
    let server = SourceServer::start().await.unwrap();
    let change = Some(Revision {
        after_requests: 1,
        content: Content::Bytes(Bytes::from_static(b"second")),
        etag: EntityTag::Strong("second".to_owned()),
    });
    let url = server.serve("/disk", Source { change, ..Source::new(content()) });
    assert_eq!(ask(Method::HEAD, &url, &[]).await.headers()["etag"], "\"first\"");
    assert_eq!(get(&url, &[("range", "bytes=0-0")]).await.headers()["etag"], "\"first\"");
    let pinned = get(&url, &[("if-match", "\"first\"")]).await;
    assert_eq!(pinned.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(body(get(&url, &[]).await).await, &b"second"[..]);
}

#[tokio::test]
async fn who_reads_much_is_lied_to_under_the_same_tag() {
    let server = SourceServer::start().await.unwrap();
    let (honest, other) = (Bytes::from_static(b"honest"), Bytes::from_static(b"others"));
    let lie = Some(Lie { beyond: 3, content: Content::Bytes(other) });
    let url = server.serve("/disk", Source { lie, ..Source::new(Content::Bytes(honest)) });
    let part = get(&url, &[("range", "bytes=0-2"), ("if-match", "\"first\"")]).await;
    assert_eq!(body(part).await, &b"hon"[..]);
    let more = get(&url, &[("range", "bytes=0-3"), ("if-match", "\"first\"")]).await;
    assert_eq!(more.headers()["etag"], "\"first\"");
    assert_eq!(body(more).await, &b"othe"[..]);
    assert_eq!(body(get(&url, &[]).await).await, &b"others"[..]);
}

#[tokio::test]
async fn statuses_redirects_and_what_isnt_there() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source { status: Some((503, 2)), ..Source::new(content()) });
    for status in [503, 503, 200] {
        assert_eq!(get(&url, &[]).await.status().as_u16(), status);
    }
    let redirect = Some("http://169.254.169.254/latest".to_owned());
    let url = server.serve("/moved", Source { redirect, ..Source::new(content()) });
    let moved = get(&url, &[]).await;
    assert_eq!(moved.status(), StatusCode::FOUND);
    assert_eq!(moved.headers()["location"], "http://169.254.169.254/latest");
    assert_eq!(get(&server.url("/other"), &[]).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(ask(Method::PUT, &url, &[]).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_held_body_stops_at_its_byte_until_the_release() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/disk", Source { hold_at: Some(100_000), ..Source::new(content()) });
    let mut stream = get(&url, &[]).await.into_body();
    let mut received = Vec::new();
    while received.len() < 100_000 {
        received.extend_from_slice(&stream.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(server.body_bytes(), 100_000, "nothing beyond the byte was made");
    assert_eq!(server.most_bodies_at_once(), 1);
    server.release();
    received.extend_from_slice(&stream.collect().await.unwrap().to_bytes());
    assert_eq!(received, pattern::bytes(1, 0, 300_000));
}

#[tokio::test]
async fn files_are_served_and_bodies_at_once_are_counted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pattern::bytes(3, 0, 200_000)).unwrap();
    let server = SourceServer::start().await.unwrap();
    let source = Source::new(Content::File(file.path().to_owned()));
    let url = server.serve("/disk", Source { hold_at: Some(150_000), ..source });
    // Each body is held before its end, so that both are under way at once.
    let (first, second) = (get(&url, &[]).await, get(&url, &[]).await);
    assert_eq!(server.most_bodies_at_once(), 2);
    assert_eq!(server.most_open_connections(), 2);
    server.release();
    assert_eq!(body(first).await, pattern::bytes(3, 0, 200_000));
    assert_eq!(body(second).await, pattern::bytes(3, 0, 200_000));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_image_is_given_to_whoever_has_the_token() {
    let server = SourceServer::start().await.unwrap();
    let file = Source { ranges: RangeSupport::Refused, ..Source::new(content()) };
    let url = server.serve_image("x", "{}".into(), file, "secret");
    let file = format!("{url}/file");
    for token in [&[][..], &[("x-auth-token", "other")]] {
        assert_eq!(get(&url, token).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(get(&file, token).await.status(), StatusCode::UNAUTHORIZED);
    }
    let token = ("x-auth-token", "secret");
    assert_eq!(body(get(&url, &[token]).await).await, "{}");
    assert_eq!(get(&file, &[token, ("range", "bytes=0-0")]).await.status(), StatusCode::BAD_REQUEST);
    let whole = get(&file, &[token]).await;
    assert!(whole.headers().get("etag").is_none() && whole.headers().get("accept-ranges").is_none());
    assert_eq!(body(whole).await.len(), 300_000);
    assert_eq!(server.requests().last().unwrap().token.as_deref(), Some("secret"));
}
