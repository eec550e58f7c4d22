//! A Glance elsewhere: records and bytes with a token, and who gets to see that.
use std::sync::Arc;
use std::time::Duration;

use disk_image::ByteRange;
use futures::TryStreamExt;
use image_tasks_aws::{AllowedSources, Patience, S3Objects};
use image_tasks_domain::address::AddressPolicy;
use image_tasks_domain::glance::MAX_RECORD;
use image_tasks_domain::regions::Regions;
use image_tasks_domain::source::{SourceLocation, SourcePolicy};
use image_tasks_domain::{
    CloneInput, CloneSource, Failure, FailureCode, GlanceEndpoints, GlanceImage, Login, Secret,
};
use image_tasks_flows::ports::{Body, Glances, Source, SourcePin, Sources};
use image_tasks_local::{Content, RangeSupport, Source as Served, SourceServer, pattern};
use serde_json::json;

const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";
const TOKEN: &str = "gAAAAABk-not-to-be-seen";
const SIZE: u64 = 300_000;

fn token() -> Secret {
    Secret::new(TOKEN).unwrap()
}

fn login() -> Login {
    Login::Token(token())
}

fn content() -> Content {
    Content::Pattern { seed: 1, length: SIZE }
}

fn sources(networks: &[&str], endpoints: &str) -> AllowedSources {
    let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
    let policy = SourcePolicy { addresses: AddressPolicy::new(networks), ..SourcePolicy::default() };
    let nowhere = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::v2026_01_12())
        .build();
    let objects = Arc::new(S3Objects::new(aws_sdk_s3::Client::from_conf(nowhere)));
    let patience = Patience { connect: Duration::from_secs(10), idle: Duration::from_millis(300) };
    let glances = GlanceEndpoints::parse(endpoints).unwrap();
    AllowedSources::new(policy, objects, patience).with_glances(glances)
}

/// The image that a clone's URL names, and sources under which its endpoint is allowed.
fn named(url: &str) -> (AllowedSources, GlanceImage) {
    let endpoint = url.split_once("/v2/").unwrap().0;
    let known = GlanceEndpoints::parse(endpoint).unwrap();
    let input = CloneInput::parse(&json!({"source_image_url": url}), &Regions::default(), &known).unwrap();
    let CloneSource::Glance(image) = input.source else { panic!("{url}") };
    (sources(&["127.0.0.0/8"], endpoint), image)
}

async fn open(url: &str) -> Result<Box<dyn Source>, Failure> {
    let location = SourceLocation::parse(&format!("{url}/file")).unwrap();
    named(url).0.open(&location, Some(&login()), None).await
}

async fn record(url: &str, token: &Secret) -> Result<Vec<u8>, Failure> {
    let (sources, image) = named(url);
    sources.record(&image, token).await.map(|record| record.to_vec())
}

async fn all(body: Result<Body, Failure>) -> Result<Vec<u8>, Failure> {
    body?
        .try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
}

#[tokio::test]
async fn an_image_is_read_with_the_token_by_range_where_its_store_can() {
    for ranges in [RangeSupport::Yes, RangeSupport::Ignored, RangeSupport::Refused] {
        let server = SourceServer::start().await.unwrap();
        let file = Served { ranges, ..Served::new(content()) };
        let url = server.serve_image(ID, json!({"id": ID}).to_string(), file, TOKEN);
        assert_eq!(record(&url, &token()).await.unwrap(), json!({"id": ID}).to_string().as_bytes());
        let source = open(&url).await.unwrap();
        let ranged = ranges == RangeSupport::Yes;
        assert_eq!((source.info().size, source.info().ranges), (Some(SIZE), ranged), "{ranges:?}");
        if ranged {
            let read = all(source.read(ByteRange { start: 5, end: 70_000 }).await).await.unwrap();
            assert_eq!(read, pattern::bytes(1, 5, 69_995));
        }
        assert_eq!(all(source.stream().await).await.unwrap(), pattern::bytes(1, 0, 300_000));
        assert!(server.requests().iter().all(|r| r.token.as_deref() == Some(TOKEN)));
        // All that identifies the version is its size.
        let other = SourcePin { size: Some(SIZE + 1), ..SourcePin::default() };
        let location = SourceLocation::parse(&format!("{url}/file")).unwrap();
        let changed = named(&url).0.open(&location, Some(&login()), Some(&other)).await.err().unwrap();
        assert_eq!(changed.code, FailureCode::SourceChanged);
    }
}

#[tokio::test]
async fn another_origin_never_sees_the_token() {
    let (glance, store) = (SourceServer::start().await.unwrap(), SourceServer::start().await.unwrap());
    // A Glance whose bytes lie in an object store; and one whose store sends the client back.
    let object = store.serve("/object", Served::new(content()));
    let back = Served { redirect: Some(glance.url("/elsewhere")), ..Served::new(content()) };
    let back = store.serve("/back", back);
    glance.serve("/elsewhere", Served::new(content()));
    for to in [object, back] {
        let file = Served { redirect: Some(to.clone()), ..Served::new(content()) };
        let url = glance.serve_image(ID, "{}".into(), file, TOKEN);
        let source = open(&url).await.unwrap();
        assert_eq!(
            all(source.read(ByteRange { start: 0, end: 9 }).await).await.unwrap(),
            pattern::bytes(1, 0, 9)
        );
        assert_eq!(all(source.stream().await).await.unwrap(), pattern::bytes(1, 0, 300_000));
    }
    assert!(store.requests().len() >= 4);
    assert!(store.requests().iter().all(|r| r.token.is_none()), "{:?}", store.requests());
    let (sent, dropped): (Vec<_>, Vec<_>) =
        glance.requests().into_iter().partition(|r| r.path.ends_with("/file"));
    assert!(sent.iter().all(|r| r.token.as_deref() == Some(TOKEN)) && sent.len() == 2, "{sent:?}");
    assert!(dropped.iter().all(|r| r.token.is_none()) && dropped.len() >= 3, "{dropped:?}");
    // Within the origin it goes along.
    let file = Served { redirect: Some("/moved".into()), ..Served::new(content()) };
    let url = glance.serve_image(ID, "{}".into(), file, TOKEN);
    glance.serve("/moved", Served { token: Some(TOKEN.into()), ..Served::new(content()) });
    assert!(open(&url).await.is_ok());
}

#[tokio::test]
async fn a_token_goes_to_allowed_endpoints_only() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve_image(ID, "{}".into(), Served::new(content()), TOKEN);
    let (_, image) = named(&url);
    let location = SourceLocation::parse(&format!("{url}/file")).unwrap();
    let others = sources(&["127.0.0.0/8"], "https://glance.example.org");
    let failures = [
        others.open(&location, Some(&login()), None).await.err().unwrap(),
        others.record(&image, &token()).await.err().unwrap(),
        // An allowed endpoint is reached on its port, but not at an address that isn't public.
        sources(&[], &url).open(&location, Some(&login()), None).await.err().unwrap(),
    ];
    for failure in failures {
        assert_eq!(failure.code, FailureCode::SourceForbidden, "{failure}");
        assert!(!failure.message.contains(TOKEN));
    }
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn what_a_glance_answers_has_its_code_and_no_word_of_the_token() {
    let server = SourceServer::start().await.unwrap();
    let url = server.serve_image(ID, "{}".into(), Served::new(content()), "another");
    let told = "it does not take the token that came with the task, or not any longer";
    for failure in [record(&url, &token()).await.unwrap_err(), open(&url).await.err().unwrap()] {
        assert_eq!(failure.code, FailureCode::SourceDenied);
        assert!(failure.message.ends_with(told), "{failure}");
    }
    let gone = url.replace(ID, "7b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b");
    let missing = record(&gone, &token()).await.unwrap_err();
    assert_eq!(missing.code, FailureCode::ImageNotFound, "{missing}");
    // The server counts a path's refusals over all that is served there.
    let serve = |change: &dyn Fn(&mut Served)| {
        let mut served = Served::new(Content::Bytes("{}".into()));
        change(&mut served);
        server.serve(&format!("/v2/images/{ID}"), served);
    };
    for (change, code) in [
        (&(|s: &mut Served| s.status = Some((403, 1))) as &dyn Fn(&mut Served), FailureCode::SourceDenied),
        (&|s| s.status = Some((503, 2)), FailureCode::Transient),
        (&|s| s.status = Some((300, 3)), FailureCode::SourceInvalid),
        (&|s| s.redirect = Some("/v2/other".into()), FailureCode::SourceInvalid),
        (
            &|s| s.content = Content::Pattern { seed: 1, length: MAX_RECORD as u64 + 1 },
            FailureCode::SourceInvalid,
        ),
        (&|s| s.cut = Some(image_tasks_local::Cut { after_bytes: 1, requests: 1 }), FailureCode::Transient),
    ] {
        serve(change);
        let failure = record(&url, &token()).await.unwrap_err();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.starts_with(&url) && !failure.message.contains(TOKEN), "{failure}");
    }
    serve(&|s| s.content = Content::Pattern { seed: 1, length: MAX_RECORD as u64 });
    assert_eq!(record(&url, &token()).await.unwrap().len(), MAX_RECORD);
}
