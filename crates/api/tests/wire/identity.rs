//! Who calls: by a token of Keystone, or by a principal of IAM.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use http::Method;
use image_tasks_domain::memory::Fault;
use image_tasks_domain::{Caller, IamProjects, KeystoneToken, Scope, Timestamp};
use serde_json::{Value, json};

use crate::service::{ACCOUNT, GLANCE, KEYSTONE, NOW, Service, import};

/// A token as Keystone makes them.
const TOKEN: &str =
    "gAAAAABrCC95-S8-ftjy186aFhzldyvxGxoyH70WmC3KVDlDfEMJCP6oLmd6owbyj-khCi_BekTp362F2WEMpIl1GMUEBQ34";

fn of_project(project: &str, roles: &[&str], seconds: i64) -> KeystoneToken {
    let roles = roles.iter().map(|&role| role.to_owned()).collect();
    let caller = Caller { user: "6ad133a5b9c5".to_owned(), project: project.to_owned(), roles };
    KeystoneToken { scope: Scope::Project(caller), expires_at: Timestamp::from_epoch(NOW + seconds) }
}

/// A service whose Keystone takes [`TOKEN`], a member's of project `demo`, for an hour.
fn service() -> Service {
    let service = Service::by_keystone();
    service.identity.issue(TOKEN, of_project("demo", &["member", "reader"], 3600));
    service
}

async fn status(service: &Service, token: &str) -> u16 {
    service.get(token, "/v2/tasks").await.status.as_u16()
}

#[tokio::test]
async fn a_token_of_a_project_is_a_caller_with_its_roles() {
    let service = service();
    let made = service.post(TOKEN, &import()).await.ok(201);
    assert_eq!((&made.body["owner"], &made.body["user_id"]), (&json!("demo"), &json!("6ad133a5b9c5")));
    let id = made.body["id"].as_str().unwrap();
    for (token, project, roles, get, post) in [
        ("reader", "demo", vec!["reader"], 200, 403),
        ("stranger", "other", vec!["member"], 404, 201),
        ("admin", "ops", vec!["admin", "member", "reader"], 200, 201),
        ("nobody", "demo", vec!["heat_stack_owner"], 200, 403),
    ] {
        service.identity.issue(token, of_project(project, &roles, 3600));
        let seen = service.get(token, &format!("/v2/tasks/{id}")).await.status.as_u16();
        let made = service.post(token, &import()).await.status.as_u16();
        assert_eq!((seen, made), (get, post), "{token}");
    }
}

#[tokio::test]
async fn without_a_token_that_is_taken_keystone_is_named() {
    let service = service();
    let longest = "x".repeat(4096);
    let too_long = "x".repeat(4097);
    for headers in [
        vec![],
        vec![("x-auth-token", "")],
        vec![("x-auth-token", "alice:demo")],
        vec![("x-auth-token", "two words")],
        vec![("x-auth-token", longest.as_str())],
        vec![("x-auth-token", too_long.as_str())],
    ] {
        let refused = service.send(Method::GET, "/v2/tasks", &headers, "").await;
        assert_eq!(refused.error(401), "The request requires user authentication");
        assert_eq!(refused.header("www-authenticate"), format!("Keystone uri=\"{KEYSTONE}\""));
    }
    // What can be no token of Keystone's, it isn't asked about.
    assert_eq!(service.identity.asked(), 2);
    // A principal is nobody here; discovery is open.
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/alice");
    assert_eq!(service.get_as(&arn, "/v2/tasks").await.status.as_u16(), 401);
    service.send(Method::GET, "/", &[], "").await.ok(300);
}

#[tokio::test]
async fn a_token_of_no_project_is_told_what_it_lacks() {
    let service = service();
    for (scope, word) in
        [(Scope::Domain, "a domain"), (Scope::System, "the system"), (Scope::Nothing, "unscoped")]
    {
        let expires_at = Timestamp::from_epoch(NOW + 3600);
        service.identity.issue(word.split(' ').next_back().unwrap(), KeystoneToken { scope, expires_at });
        let refused = service.get(word.split(' ').next_back().unwrap(), "/v2/images").await;
        let told = refused.error(403);
        assert!(told.contains(word) && told.contains("ask Keystone for a token of a project"), "{told}");
    }
}

#[tokio::test]
async fn without_keystone_nobody_is_told_to_get_another_token() {
    for (fault, code) in [(Fault::Unavailable, 503), (Fault::Broken, 500)] {
        let service = service();
        service.identity.fail(Some(fault));
        for token in [TOKEN, "another"] {
            let answer = service.get(token, "/v2/tasks").await;
            answer.error(code);
            assert!(!answer.headers.contains_key("www-authenticate"));
            assert_eq!(answer.headers.contains_key("retry-after"), fault == Fault::Unavailable);
        }
        // Faults aren't kept.
        service.identity.fail(None);
        assert_eq!(status(&service, TOKEN).await, 200);
        // What is known already is known without it.
        service.identity.fail(Some(fault));
        assert_eq!(status(&service, TOKEN).await, 200);
        service.clock.advance(Duration::from_secs(60));
        assert_eq!(status(&service, TOKEN).await, code);
    }
}

#[tokio::test]
async fn a_revoked_token_lives_on_for_a_minute_at_most() {
    let service = service();
    assert_eq!(status(&service, TOKEN).await, 200);
    service.identity.revoke(TOKEN);
    service.clock.advance(Duration::from_secs(59));
    assert_eq!(status(&service, TOKEN).await, 200);
    assert_eq!(service.identity.asked(), 1);
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&service, TOKEN).await, 401);
}

#[tokio::test]
async fn a_token_ends_when_it_ends() {
    let service = service();
    service.identity.issue(TOKEN, of_project("demo", &["member"], 30));
    assert_eq!(status(&service, TOKEN).await, 200);
    service.identity.revoke(TOKEN);
    service.clock.advance(Duration::from_secs(29));
    assert_eq!(status(&service, TOKEN).await, 200);
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&service, TOKEN).await, 401);
}

#[tokio::test]
async fn a_refusal_counts_for_seconds() {
    let service = service();
    assert_eq!(status(&service, "new").await, 401);
    service.identity.issue("new", of_project("demo", &["member"], 3600));
    service.clock.advance(Duration::from_secs(4));
    assert_eq!(status(&service, "new").await, 401);
    assert_eq!(service.identity.asked(), 1);
    service.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&service, "new").await, 200);
}

#[tokio::test]
async fn keystone_is_asked_once_about_a_token() {
    let service = service();
    let answers = join_all((0..10).map(|_| status(&service, TOKEN))).await;
    assert_eq!(answers, [200; 10]);
    assert_eq!(service.identity.asked(), 1);
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
fn no_token_is_logged_or_stored_with_a_task() {
    let log = Log::default();
    let kept = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || log.clone())
        .finish();
    let service = service();
    let talk = async {
        let clone = json!({"type": "clone", "input": {
            "source_image_url": format!("{GLANCE}/v2/images/0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b")
        }});
        for body in [import(), clone, json!({"type": "nonsense"})] {
            service.post(TOKEN, &body).await;
        }
        for fault in [Fault::Unavailable, Fault::Broken] {
            service.clock.advance(Duration::from_secs(60));
            service.identity.fail(Some(fault));
            assert!(status(&service, TOKEN).await >= 500);
        }
        service.identity.fail(None);
        service.identity.revoke(TOKEN);
        assert_eq!(status(&service, TOKEN).await, 401);
        service.identity.issue("admin", of_project("ops", &["admin"], 3600));
        let mut shown = Vec::new();
        for task in service.get("admin", "/v2/tasks").await.ok(200).body["tasks"].as_array().unwrap() {
            let path = format!("/v2/tasks/{}", task["id"].as_str().unwrap());
            shown.push(service.get("admin", &path).await.ok(200).body);
        }
        Value::Array(shown)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let shown = tracing::subscriber::with_default(subscriber, || runtime.block_on(talk));
    assert_eq!(shown.as_array().unwrap().len(), 2);
    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("request failed") && log.contains("request refused"), "{log}");
    for part in [TOKEN, &TOKEN[..20], &TOKEN[TOKEN.len() - 20..]] {
        assert!(!log.contains(part) && !shown.to_string().contains(part), "{log}\n{shown}");
    }
}

const BUILDER: &str = "arn:aws:sts::123456789012:assumed-role/Builder/any";

fn map(project: &str, roles: &[&str]) -> IamProjects {
    let map = json!([
        {"principal": "arn:aws:iam::123456789012:role/ci/Builder", "project": project, "roles": roles},
        {"principal": "arn:aws:iam::123456789012:user/alice", "project": "demo", "roles": ["member"]},
    ]);
    IamProjects::from_json(&map.to_string()).unwrap()
}

#[tokio::test]
async fn a_mapped_principal_acts_for_its_project_whatever_its_session_is_called() {
    let service = Service::by_mapped_principals();
    service.identity.map(map("builds", &["member"]));
    let usage = async |arn: &str| service.get_as(arn, "/v2/info/stores/detail").await.status.as_u16();
    assert_eq!(usage(BUILDER).await, 403);
    service.clock.advance(Duration::from_secs(60));
    service.identity.map(map("builds", &["admin"]));
    assert_eq!(usage(BUILDER).await, 200);
    for arn in [
        "arn:aws:sts::123456789012:assumed-role/Builder/alice",
        "arn:aws:sts::123456789012:assumed-role/Builder/another",
    ] {
        assert_eq!(usage(arn).await, 200, "{arn}");
    }
    for arn in [
        "arn:aws:sts::123456789012:assumed-role/Another/Builder",
        "arn:aws:sts::210987654321:assumed-role/Builder/any",
        "arn:aws:iam::123456789012:user/Builder",
    ] {
        let refused = service.get_as(arn, "/v2/tasks").await;
        let told = refused.error(403);
        assert_eq!(told, format!("{arn} acts for no project here; the service's operator maps it to one"));
    }
    // No principal at all, whatever it says of itself.
    assert_eq!(status(&service, "root:ops:admin").await, 401);
}

#[tokio::test]
async fn the_map_is_a_minute_old_at_most_and_never_guessed() {
    let service = Service::by_mapped_principals();
    service.identity.map(map("builds", &["member"]));
    service.get_as(BUILDER, "/v2/tasks").await.ok(200);
    service.identity.map(IamProjects::default());
    service.clock.advance(Duration::from_secs(59));
    service.get_as(BUILDER, "/v2/tasks").await.ok(200);
    assert_eq!(service.identity.asked(), 1);
    service.clock.advance(Duration::from_secs(1));
    service.get_as(BUILDER, "/v2/tasks").await.error(403);
    service.clock.advance(Duration::from_secs(60));
    service.identity.fail(Some(Fault::Unavailable));
    let unknown = service.get_as(BUILDER, "/v2/tasks").await;
    unknown.error(503);
    assert_eq!(unknown.header("retry-after"), "5");
    service.identity.fail(Some(Fault::Broken));
    service.get_as(BUILDER, "/v2/tasks").await.error(500);
}

#[tokio::test]
async fn without_a_map_the_account_is_the_one_project_and_all_are_members() {
    let mut service = Service::new();
    service.app.identity = image_tasks_api::Identity::Iam(None);
    let made = service.get_as("arn:aws:iam::123456789012:user/alice", "/v2/info/stores/detail").await;
    made.error(403);
    service.get_as(BUILDER, "/v2/tasks").await.ok(200);
    // A token is no principal.
    let refused = service.get("root:ops:admin", "/v2/tasks").await;
    refused.error(401);
    assert_eq!(refused.header("www-authenticate"), "AWS4-HMAC-SHA256");
}
