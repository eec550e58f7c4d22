//! Keystone and Parameter Store, against servers that answer well and servers that don't.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider};
use image_tasks_aws::{Keystone, ProjectsParameter};
use image_tasks_domain::memory::ManualClock;
use image_tasks_domain::ports::{ProjectMap, StoreError, StoreResult, Tokens};
use image_tasks_domain::{KeystoneToken, Scope, Secret, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TOKEN: &str = "gAAAAABrCC95-S8-ftjy186aFhzldyvxGxoyH70WmC3KVDlDfEMJCP6oLmd6owbyj";
/// Long enough for an answer of this machine, however busy it is.
const LONG: Duration = Duration::from_secs(60);

/// What a server does with a request.
#[derive(Debug, Clone)]
enum Does {
    /// Answers: status, headers, body.
    Answers(u16, &'static str, String),
    /// Ends the connection in the middle of an answer.
    Breaks,
    /// Ends the connection without a word.
    Closes,
    /// Never answers.
    Sleeps,
}

/// A server that does these in turn, the last again and again, and keeps the heads of what it was asked, in lower case.
async fn server(does: Vec<Does>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut turns = does.iter().chain(std::iter::repeat(does.last().unwrap()));
        let mut sleeping = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head(&mut stream).await;
            kept.lock().unwrap().push(head);
            let text = match turns.next().unwrap() {
                Does::Answers(status, headers, body) => format!(
                    "HTTP/1.1 {status} Said\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
                    body.len()
                ),
                Does::Breaks => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_owned(),
                Does::Closes => continue,
                Does::Sleeps => {
                    sleeping.push(stream);
                    continue;
                }
            };
            // Who reads no more than it wants closes before all is written.
            let _closed = stream.write_all(text.as_bytes()).await;
        }
    });
    (url, asked)
}

/// A request's head; its body is read too, so that no connection is reset with bytes unread.
async fn head(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(request).unwrap().to_lowercase();
    if let Some(length) = head.split("content-length: ").nth(1) {
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    head
}

fn json_answer(status: u16, body: &Value) -> Does {
    Does::Answers(status, "Content-Type: application/json\r\n", body.to_string())
}

/// A member's token, as Keystone shows it.
fn valid() -> Value {
    json!({"token": {
        "user": {"id": "6ad133a5b9c5"}, "expires_at": "2026-11-26T14:09:13.000000Z",
        "project": {"id": "307d79d2e3b9"}, "roles": [{"id": "1", "name": "member"}],
    }})
}

/// An error as Keystone writes it.
fn error(code: u16, message: &str) -> Does {
    json_answer(code, &json!({"error": {"code": code, "message": message, "title": "T"}}))
}

async fn validate(url: &str, patience: Duration) -> StoreResult<Option<KeystoneToken>> {
    Keystone::new(url, patience).unwrap().validate(&Secret::new(TOKEN).unwrap()).await
}

#[tokio::test]
async fn a_token_is_asked_about_with_itself() {
    let (url, asked) = server(vec![json_answer(200, &valid())]).await;
    let token = validate(&format!("{url}/identity"), LONG).await.unwrap().unwrap();
    let Scope::Project(caller) = token.scope else { panic!("{token:?}") };
    assert_eq!((caller.user.as_str(), caller.project.as_str()), ("6ad133a5b9c5", "307d79d2e3b9"));
    let asked = asked.lock().unwrap();
    let token = TOKEN.to_lowercase();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("get /identity/v3/auth/tokens?nocatalog http/1.1\r\n"), "{asked:?}");
    assert!(asked[0].contains(&format!("\r\nx-auth-token: {token}\r\n")), "{asked:?}");
    assert!(asked[0].contains(&format!("\r\nx-subject-token: {token}\r\n")), "{asked:?}");
}

#[tokio::test]
async fn each_answer_of_keystone_has_its_meaning() {
    #[derive(Debug, PartialEq)]
    enum Means {
        Refused,
        Unavailable,
        Fault,
    }
    let text = |status, body: &str| Does::Answers(status, "", body.to_owned());
    let long = json!({"token": valid()["token"], "more": "x".repeat(300_000)});
    for (does, means, tries) in [
        (error(401, "The request you have made requires authentication."), Means::Refused, 1),
        (error(404, "Failed to validate token"), Means::Refused, 1),
        (error(404, "The resource could not be found."), Means::Fault, 1),
        (text(404, "<h1>Not Found</h1>"), Means::Fault, 1),
        (error(403, "You are not authorized to perform the requested action"), Means::Fault, 1),
        (text(400, ""), Means::Fault, 1),
        (text(204, ""), Means::Fault, 1),
        (text(200, "<h1>Welcome</h1>"), Means::Fault, 1),
        (text(200, "{\"token\""), Means::Fault, 1),
        (json_answer(200, &json!({"token": {}})), Means::Fault, 1),
        (json_answer(200, &long), Means::Fault, 1),
        (Does::Answers(302, "Location: /v3/auth/tokens\r\n", String::new()), Means::Fault, 1),
        (text(429, ""), Means::Unavailable, 2),
        (error(500, "An unexpected error prevented the server"), Means::Unavailable, 2),
        (text(503, ""), Means::Unavailable, 2),
        (Does::Breaks, Means::Unavailable, 2),
        (Does::Closes, Means::Unavailable, 2),
        (Does::Sleeps, Means::Unavailable, 2),
    ] {
        let (url, asked) = server(vec![does.clone()]).await;
        let patience = if matches!(does, Does::Sleeps) { Duration::from_millis(200) } else { LONG };
        let answer = validate(&url, patience).await;
        let told = format!("{answer:?}");
        let meant = match answer {
            Ok(None) => Means::Refused,
            Err(StoreError::Unavailable(_)) => Means::Unavailable,
            Err(StoreError::Fault(_)) => Means::Fault,
            other => panic!("{does:?}: {other:?}"),
        };
        assert_eq!((meant, asked.lock().unwrap().len()), (means, tries), "{told}");
        assert!(!told.contains(TOKEN), "{told}");
    }
}

#[tokio::test]
async fn a_second_try_is_enough() {
    for first in [Does::Closes, Does::Breaks, Does::Answers(502, "", String::new())] {
        let (url, asked) = server(vec![first.clone(), json_answer(200, &valid())]).await;
        assert!(validate(&url, LONG).await.unwrap().is_some(), "{first:?}");
        assert_eq!(asked.lock().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn nobody_listening_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let refused = validate(&url, LONG).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_most_talkative_log_holds_no_token() {
    let log = Log::default();
    let kept = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || log.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let (url, _) = server(vec![Does::Closes, json_answer(200, &valid())]).await;
            validate(&url, LONG).await.unwrap().unwrap();
        });
    });
    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("connect"), "the client logs nothing: {log}");
    assert!(!log.contains(TOKEN), "{log}");
}

const NAME: &str = "/images/projects";
const BUILDER: &str = "arn:aws:sts::123456789012:assumed-role/Builder/session";

fn parameter(url: &str) -> ProjectsParameter {
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("session".into()), None, "test");
    let shared = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(url)
        .build();
    let clock = Arc::new(ManualClock::at(Timestamp::from_epoch(1_795_000_000)));
    ProjectsParameter::new(&shared, NAME, clock).unwrap()
}

fn value(text: &str) -> Does {
    json_answer(200, &json!({"Parameter": {"Name": NAME, "Type": "String", "Value": text, "Version": 1}}))
}

#[tokio::test]
async fn the_map_is_read_from_its_parameter() {
    let map = r#"[{"principal": "arn:aws:iam::123456789012:role/ci/Builder", "project": "builds", "roles": ["admin"]}]"#;
    let (url, asked) = server(vec![Does::Closes, value(map)]).await;
    let projects = parameter(&url).read().await.unwrap();
    let caller = projects.caller(BUILDER).unwrap();
    assert_eq!((caller.project.as_str(), caller.is_admin()), ("builds", true));
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    for header in [
        "x-amz-target: amazonssm.getparameter",
        "content-type: application/x-amz-json-1.1",
        "x-amz-date: 20261118t110640z",
        "x-amz-security-token: session",
        "authorization: aws4-hmac-sha256 credential=akidexample/20261118/eu-west-1/ssm/aws4_request",
    ] {
        assert!(asked[0].contains(&format!("\r\n{header}")), "{header}: {asked:?}");
    }
}

#[tokio::test]
async fn a_map_that_can_not_be_read_maps_nobody() {
    let failed = |code: &str| json_answer(400, &json!({"__type": code, "message": "m"}));
    let secure = json!({"Parameter": {"Name": NAME, "Type": "SecureString", "Value": "AQICAHh"}});
    for (does, passes, told) in [
        (failed("ParameterNotFound"), false, "ParameterNotFound"),
        (failed("com.amazonaws.ssm#AccessDeniedException"), false, "400 Bad Request AccessDeniedException"),
        (failed("ThrottlingException"), true, "ThrottlingException"),
        (Does::Answers(403, "", String::new()), false, "403 Forbidden no code"),
        (Does::Answers(500, "", String::new()), true, "answered 500"),
        (json_answer(200, &json!({})), false, "without a value"),
        (json_answer(200, &secure), false, "must be a String"),
        (value("nonsense"), false, "no JSON list"),
        (Does::Closes, true, "error sending request"),
    ] {
        let (url, _) = server(vec![does.clone()]).await;
        let error = parameter(&url).read().await.unwrap_err();
        assert_eq!(matches!(error, StoreError::Unavailable(_)), passes, "{does:?}: {error:?}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(told), "{does:?}: {cause}");
    }
}
