//! Registries: what is public is read with the token that everybody gets, and the token goes nowhere else.

use bytes::Bytes;
use disk_image::ByteRange;
use image_tasks_domain::oci::{OciLocation, OciObject};
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::sums::SourceHash;
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::{Source, Sources as _};
use image_tasks_local::{Bearer, Content, EntityTag, Source as Served, SourceServer};

use crate::sources::{all, sources};

const MANIFEST: &str = "/v2/a/b/manifests/1";

fn served(bytes: &'static [u8]) -> Served {
    Served::new(Content::Bytes(Bytes::from_static(bytes)))
}

fn guarded(source: Served, challenge: String) -> Served {
    Served { bearer: Some(Bearer { token: "everybody".to_owned(), challenge }), ..source }
}

fn located(server: &SourceServer) -> OciLocation {
    let text = format!("oci+http://{}/a/b:1", server.address());
    match SourceLocation::parse(&text) {
        Ok(SourceLocation::Oci(location)) => *location,
        other => panic!("{other:?}"),
    }
}

async fn open(location: OciLocation) -> Result<Box<dyn Source>, Failure> {
    sources(&["127.0.0.0/8"]).open(&SourceLocation::Oci(Box::new(location)), None, None).await
}

async fn refused(location: OciLocation) -> Failure {
    open(location).await.err().unwrap()
}

#[tokio::test]
async fn a_public_repository_is_read_with_the_token_that_everybody_gets() {
    let (registry, store) = (SourceServer::start().await.unwrap(), SourceServer::start().await.unwrap());
    let token = registry.serve("/token", served(br#"{"token": "everybody", "expires_in": 300}"#));
    let challenge = format!("Bearer realm=\"{token}\",service=\"fake\",scope=\"repository:a/b:pull\"");
    registry.serve(MANIFEST, guarded(served(b"{}"), challenge.clone()));
    let blob = OciObject::Blob(SourceHash::Sha256("a".repeat(64)));
    let layer = located(&registry).beside(blob);
    let elsewhere = Some(store.serve("/layer", served(b"layer")));
    registry.serve(layer.url().path(), guarded(Served { redirect: elsewhere, ..served(b"") }, challenge));

    let manifest = open(located(&registry)).await.unwrap();
    assert_eq!(all(manifest.stream().await).await.unwrap(), b"{}");
    let layer = open(layer).await.unwrap();
    assert_eq!((layer.info().size, layer.info().ranges), (Some(5), true));
    assert_eq!(all(layer.stream().await).await.unwrap(), b"layer");

    let bearer = Some("Bearer everybody".to_owned());
    let seen = registry.requests();
    assert!(seen.iter().any(|request| request.path == MANIFEST && request.authorization == bearer));
    let asked: Vec<_> = seen.iter().filter(|request| request.path == "/token").collect();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|request| request.authorization.is_none()), "{asked:?}");
    let seen = store.requests();
    assert!(!seen.is_empty() && seen.iter().all(|request| request.authorization.is_none()), "{seen:?}");
}

#[tokio::test]
async fn a_token_or_an_address_that_has_expired_is_renewed() {
    let registry = SourceServer::start().await.unwrap();
    let token = registry.serve("/token", served(br#"{"token": "everybody"}"#));
    let challenge = format!("Bearer realm=\"{token}\"");
    registry.serve(MANIFEST, guarded(served(b"bytes"), challenge.clone()));
    let source = open(located(&registry)).await.unwrap();
    // From now on another token is wanted, which is given as the first one was.
    registry.serve("/token", served(br#"{"token": "renewed"}"#));
    let bearer = Some(Bearer { token: "renewed".to_owned(), challenge });
    registry.serve(MANIFEST, Served { bearer: bearer.clone(), ..served(b"bytes") });
    let range = ByteRange { start: 1, end: 3 };
    assert_eq!(all(source.read(range).await).await.unwrap(), b"yt");
    assert_eq!(all(source.stream().await).await.unwrap(), b"bytes");
    // Other bytes are not mixed in.
    registry.serve("/token", served(br#"{"token": "last"}"#));
    let bearer = bearer.map(|bearer| Bearer { token: "last".to_owned(), ..bearer });
    let etag = EntityTag::Strong("second".to_owned());
    registry.serve(MANIFEST, Served { bearer, etag, ..served(b"other") });
    assert_eq!(all(source.read(range).await).await.unwrap_err().code, FailureCode::SourceChanged);
}

#[tokio::test]
async fn a_registry_without_tokens_is_read_as_it_is() {
    let registry = SourceServer::start().await.unwrap();
    registry.serve(MANIFEST, served(b"{}"));
    assert_eq!(all(open(located(&registry)).await.unwrap().stream().await).await.unwrap(), b"{}");
}

#[tokio::test]
async fn a_manifest_that_lies_in_another_registry_is_asked_for_as_one() {
    let (registry, other) = (SourceServer::start().await.unwrap(), SourceServer::start().await.unwrap());
    let elsewhere = Some(other.serve("/v2/images/b/manifests/1", served(b"{}")));
    registry.serve(MANIFEST, Served { redirect: elsewhere, ..served(b"") });
    assert_eq!(all(open(located(&registry)).await.unwrap().stream().await).await.unwrap(), b"{}");
    let is_asked = |accept: &Option<String>| accept.as_ref().is_some_and(|a| a.contains("oci.image.index"));
    let seen = other.requests();
    assert!(!seen.is_empty() && seen.iter().all(|request| is_asked(&request.accept)), "{seen:?}");
    // And a redirect is checked like a source.
    registry.serve(MANIFEST, Served { redirect: Some("http://10.0.0.1/".to_owned()), ..served(b"") });
    assert_eq!(refused(located(&registry)).await.code, FailureCode::SourceForbidden);
}

#[tokio::test]
async fn where_a_registry_sends_us_for_a_token_is_checked_like_a_source() {
    let registry = SourceServer::start().await.unwrap();
    let port = registry.address().port();
    for (challenge, code, words) in [
        ("Bearer realm=\"http://10.0.0.1/token\"".to_owned(), FailureCode::SourceForbidden, "10.0.0.1"),
        ("Bearer realm=\"http://0x7f.1/token\"".to_owned(), FailureCode::SourceForbidden, "127.0.0.1"),
        ("Bearer realm=\"file:///etc/passwd\"".to_owned(), FailureCode::SourceForbidden, "scheme 'file'"),
        (
            format!("Bearer realm=\"http://127.0.0.1:{port}/none\""),
            FailureCode::SourceNotFound,
            "answered 404",
        ),
        (
            format!("Bearer realm=\"http://127.0.0.1:{port}/html\""),
            FailureCode::SourceInvalid,
            "sends no JSON",
        ),
        (
            format!("Bearer realm=\"http://127.0.0.1:{port}/empty\""),
            FailureCode::SourceInvalid,
            "sends no token",
        ),
        (
            format!("Bearer realm=\"http://127.0.0.1:{port}/long\""),
            FailureCode::SourceInvalid,
            "more than a token",
        ),
        (
            format!("Bearer realm=\"http://127.0.0.1:{port}/other\""),
            FailureCode::SourceDenied,
            "without a login",
        ),
        ("Basic realm=\"x\"".to_owned(), FailureCode::SourceDenied, "make it public"),
    ] {
        registry.serve("/html", served(b"<html>"));
        registry.serve("/empty", served(b"{}"));
        registry.serve("/other", served(br#"{"access_token": "mine"}"#));
        registry.serve("/long", Served::new(Content::Pattern { seed: 1, length: 100_000 }));
        registry.serve(MANIFEST, guarded(served(b"{}"), challenge.clone()));
        let failure = refused(located(&registry)).await;
        assert!(failure.code == code && failure.message.contains(words), "{challenge}: {failure}");
    }
}
