//! Redirectors over mirrors: the mirror that was found first is asked from then on, and no other.

use disk_image::ByteRange;
use image_tasks_domain::source::{SourceLocation, SourcePolicy};
use image_tasks_domain::{FailureCode, GlanceEndpoints, ImportInput, Login, Secret};
use image_tasks_flows::ports::{SourcePin, Sources};
use image_tasks_local::{EntityTag, Source as Served, SourceServer, pattern};
use serde_json::json;

use crate::sources::{all, content, open, sources};

const RANGE: ByteRange = ByteRange { start: 7, end: 70_000 };

fn redirect(to: &str) -> Served {
    Served { redirect: Some(to.to_owned()), ..Served::new(content(1)) }
}

/// A server of the same bytes under a version of its own.
async fn mirror(name: &str) -> (SourceServer, String) {
    let server = SourceServer::start().await.unwrap();
    let url =
        server.serve("/m/x.img", Served { etag: EntityTag::Strong(name.into()), ..Served::new(content(1)) });
    (server, url)
}

fn mirror_of(pin: &SourcePin) -> String {
    pin.mirror.as_ref().unwrap().to_string()
}

#[tokio::test]
async fn one_mirror_is_kept_for_the_whole_task() {
    let redirector = SourceServer::start().await.unwrap();
    let ((first, to_first), (other, to_other)) = (mirror("a").await, mirror("b").await);
    let url = redirector.serve("/x.img", redirect(&to_first));
    let source = open(&url, None).await.unwrap();
    let pin = source.info().pin.clone();
    assert_eq!(mirror_of(&pin), to_first);
    // Each look may lead to another mirror; what is pinned stays.
    redirector.serve("/x.img", redirect(&to_other));
    assert_eq!(mirror_of(&open(&url, None).await.unwrap().info().pin), to_other);
    let seen = (redirector.requests().len(), other.requests().len());
    let again = open(&url, Some(&pin)).await.unwrap();
    assert_eq!(all(again.read(RANGE).await).await.unwrap(), pattern::bytes(1, 7, 69_993));
    assert_eq!((redirector.requests().len(), other.requests().len()), seen);

    // Once it is gone it is named, and another one's validators are not held against its own.
    drop((first, source, again));
    let failure = open(&url, Some(&pin)).await.err().unwrap();
    assert_eq!(failure.code, FailureCode::Transient);
    assert!(failure.message.starts_with(&format!("{to_first} (where {url} leads) ")), "{failure}");
    // With nothing pinned but the size, as where a hash proves the bytes, any mirror will do.
    let size = SourcePin { size: pin.size, ..SourcePin::default() };
    assert_eq!(mirror_of(&open(&url, Some(&size)).await.unwrap().info().pin), to_other);
    let longer = SourcePin { size: Some(1), ..SourcePin::default() };
    assert_eq!(open(&url, Some(&longer)).await.err().unwrap().code, FailureCode::SourceChanged);
}

#[tokio::test]
async fn a_signed_address_that_has_expired_is_asked_for_anew() {
    let redirector = SourceServer::start().await.unwrap();
    let ((first, to_first), (_other, to_other)) = (mirror("a").await, mirror("b").await);
    let url = redirector.serve("/x.img", redirect(&to_first));
    let source = open(&url, None).await.unwrap();
    let pin = source.info().pin.clone();
    let expired = Served { status: Some((403, u64::MAX)), ..Served::new(content(1)) };
    first.serve("/m/x.img", expired);
    let fresh =
        first.serve("/n/x.img", Served { etag: EntityTag::Strong("a".into()), ..Served::new(content(1)) });
    redirector.serve("/x.img", redirect(&fresh));
    let expected = pattern::bytes(1, 7, 69_993);
    assert_eq!(all(source.read(RANGE).await).await.unwrap(), expected, "in a call that has it open");
    let again = open(&url, Some(&pin)).await.unwrap();
    assert_eq!(all(again.read(RANGE).await).await.unwrap(), expected, "in a later one");

    let changed = Served { etag: EntityTag::Strong("c".into()), ..Served::new(content(1)) };
    redirector.serve("/x.img", redirect(&first.serve("/o/x.img", changed)));
    assert_eq!(open(&url, Some(&pin)).await.err().unwrap().code, FailureCode::SourceChanged);
    redirector.serve("/x.img", redirect(&to_other));
    let failure = open(&url, Some(&pin)).await.err().unwrap();
    assert_eq!(failure.code, FailureCode::SourceUnreachable);
    assert!(failure.message.starts_with(&to_first) && failure.message.contains("os_hash_value"), "{failure}");
}

#[tokio::test]
async fn a_source_that_begins_to_redirect_is_not_compared_with_a_mirror() {
    let server = SourceServer::start().await.unwrap();
    let (_mirror, to_mirror) = mirror("first").await;
    let url = server.serve("/x.img", Served::new(content(1)));
    let pin = open(&url, None).await.unwrap().info().pin.clone();
    assert_eq!(pin.mirror, None);
    server.serve("/x.img", redirect(&to_mirror));
    let failure = open(&url, Some(&pin)).await.err().unwrap();
    assert_eq!(failure.code, FailureCode::SourceUnreachable, "{failure}");
}

#[tokio::test]
async fn a_token_is_not_sent_to_a_mirror_at_any_time() {
    let server = SourceServer::start().await.unwrap();
    let (mirror, to_mirror) = mirror("a").await;
    let url = server.serve("/v2/images/x/file", redirect(&to_mirror));
    let sources = sources(&["127.0.0.0/8"])
        .with_glances(GlanceEndpoints::parse(&format!("http://{}", server.address())).unwrap());
    let (location, token) =
        (SourceLocation::parse(&url).unwrap(), Login::Token(Secret::new("secret").unwrap()));
    let source = sources.open(&location, Some(&token), None).await.unwrap();
    let again = sources.open(&location, Some(&token), Some(&source.info().pin)).await.unwrap();
    all(again.read(RANGE).await).await.unwrap();
    assert_eq!(server.requests().last().unwrap().token.as_deref(), Some("secret"));
    assert!(mirror.requests().iter().all(|request| request.token.is_none()));
}

#[tokio::test]
async fn headers_go_to_the_sources_own_origin_alone() {
    let headers = |value: &str| {
        let input =
            json!({"import_from": "https://a.example/x", "import_from_headers": {"X-Auth-Token": value}});
        let input = ImportInput::parse(&input, &SourcePolicy::default()).unwrap();
        Login::Headers(input.headers.unwrap())
    };
    let server = SourceServer::start().await.unwrap();
    let (mirror, to_mirror) = mirror("a").await;
    let sources = sources(&["127.0.0.0/8"]);
    let guarded = Served { token: Some("s3cret".into()), ..Served::new(content(1)) };
    let url = SourceLocation::parse(&server.serve("/x.img", guarded)).unwrap();
    let source = sources.open(&url, Some(&headers("s3cret")), None).await.unwrap();
    assert_eq!(all(source.read(RANGE).await).await.unwrap(), pattern::bytes(1, 7, 69_993));
    for (login, hint) in
        [(Some(headers("wr0ng")), "import_from_headers says"), (None, "say that by import_from_headers")]
    {
        let failure = sources.open(&url, login.as_ref(), None).await.err().unwrap();
        assert_eq!(failure.code, FailureCode::SourceDenied);
        assert!(failure.message.contains(hint) && !failure.message.contains("wr0ng"), "{failure}");
    }
    let url = SourceLocation::parse(&server.serve("/y.img", redirect(&to_mirror))).unwrap();
    sources.open(&url, Some(&headers("s3cret")), None).await.unwrap();
    assert!(mirror.requests().iter().all(|request| request.token.is_none()));
}

#[test]
fn the_mirror_is_part_of_what_is_kept() {
    let pin = SourcePin {
        etag: Some("\"a\"".into()),
        mirror: Some(SourceLocation::parse("https://m.example/x").unwrap()),
        ..SourcePin::default()
    };
    let kept = serde_json::to_string(&pin).unwrap();
    assert_eq!(serde_json::from_str::<SourcePin>(&kept).unwrap(), pin);
    // What was kept before there was a mirror is read all the same.
    let before = r#"{"etag": "\"a\"", "last_modified": null, "size": 5}"#;
    assert_eq!(serde_json::from_str::<SourcePin>(before).unwrap().mirror, None);
}
