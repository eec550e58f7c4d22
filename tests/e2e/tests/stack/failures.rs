//! Whatever goes wrong: the task ends in failure, says why, and nothing is left.

use image_tasks_e2e::{Tenant, pause};
use image_tasks_local::{AskedRange, Content, Cut, EntityTag, RangeSupport, Revision, Source, SourceServer};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

fn raw(seed: u64, length: u64) -> Source {
    Source::new(Content::Pattern { seed, length })
}

fn input(url: &str) -> Value {
    json!({"import_from": url, "import_from_format": "raw"})
}

fn says(task: &Value, code: &str) {
    let message = task["message"].as_str().unwrap();
    let sentence = message.strip_prefix(code).and_then(|rest| rest.strip_prefix(": "));
    assert!(sentence.is_some_and(|s| s.len() > 20), "expected {code} and a sentence: {message}");
    assert!(task["result"].is_null(), "{task}");
}

/// Where bodies of the part that starts at 64 MiB are held.
const HELD: u64 = 80 * MIB;

/// Waits until a worker reads the part that the server holds.
async fn at_work(server: &SourceServer) {
    let held =
        |range| matches!(range, Some(AskedRange::Closed { first, last }) if first < HELD && last >= HELD);
    while !server.requests().iter().any(|request| held(request.range)) || server.bodies_now() == 0 {
        pause().await;
    }
}

#[tokio::test]
async fn what_the_source_answers_is_told() {
    let tenant = Tenant::new("answers");
    let server = SourceServer::start().await.unwrap();
    let forever = u64::MAX;
    for (status, code) in
        [(404, "SourceNotFound"), (410, "SourceNotFound"), (401, "SourceDenied"), (403, "SourceDenied")]
    {
        let url =
            server.serve(&format!("/{status}"), Source { status: Some((status, forever)), ..raw(1, 1) });
        let task = tenant.refused(input(&url)).await;
        says(&task, code);
        assert!(task["message"].as_str().unwrap().contains(&status.to_string()), "{task}");
    }
    let hidden = server
        .serve("/away", Source { redirect: Some("http://169.254.169.254/latest/".to_owned()), ..raw(1, 1) });
    says(&tenant.refused(input(&hidden)).await, "SourceForbidden");
}

#[tokio::test]
async fn a_source_that_changes_between_two_parts() {
    let tenant = Tenant::new("changes");
    let server = SourceServer::start().await.unwrap();
    let length = 300 * MIB;
    let change = Revision {
        after_requests: 6,
        content: Content::Pattern { seed: 12, length },
        etag: EntityTag::Strong("second".to_owned()),
    };
    let url = server.serve("/changes", Source { change: Some(change), ..raw(11, length) });
    says(&tenant.refused(input(&url)).await, "SourceChanged");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_read_again_and_then_told() {
    let tenant = Tenant::new("cuts");
    let server = SourceServer::start().await.unwrap();
    let length = 150 * MIB;
    let some = Source { cut: Some(Cut { after_bytes: MIB, requests: 4 }), ..raw(21, length) };
    let (_, image) = tenant.imported(input(&server.serve("/some", some))).await;
    tenant.is_pattern(&image, 21, length).await;

    let all = Source { cut: Some(Cut { after_bytes: MIB, requests: u64::MAX }), ..raw(22, length) };
    says(&tenant.refused(input(&server.serve("/all", all))).await, "SourceUnreachable");
    let whole = Cut { after_bytes: MIB, requests: u64::MAX };
    let sequential = Source { cut: Some(whole), ranges: RangeSupport::Ignored, ..raw(23, length) };
    says(&tenant.refused(input(&server.serve("/sequential", sequential))).await, "SourceUnreachable");
}

#[tokio::test]
async fn a_source_that_falls_silent_is_told() {
    let tenant = Tenant::new("silent");
    let server = SourceServer::start().await.unwrap();
    // In one call, and in parts.
    let small = server.serve("/small", Source { hold_at: Some(MIB), ..raw(24, 5 * MIB) });
    let large = server.serve("/large", Source { hold_at: Some(HELD), ..raw(25, 150 * MIB) });
    let (small, large) = tokio::join!(tenant.refused(input(&small)), tenant.refused(input(&large)));
    for task in [small, large] {
        says(&task, "SourceUnreachable");
        let message = task["message"].as_str().unwrap();
        // The second where the last bytes before the silence are few.
        let told =
            ["the source fell silent", "the source is too slow"].iter().any(|words| message.contains(words));
        assert!(told, "{task}");
    }
}

#[tokio::test]
async fn what_was_declared_must_be_found() {
    let tenant = Tenant::new("declared");
    let server = SourceServer::start().await.unwrap();
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.resize(1 << 20, 0);
    let url = server.serve("/disk", Source::new(Content::Bytes(qcow2.into())));
    let task = tenant.refused(input(&url)).await;
    says(&task, "FormatMismatch");
    let message = task["message"].as_str().unwrap();
    assert!(message.contains("raw") && message.contains("qcow2"), "{message}");
}

#[tokio::test]
async fn a_worker_killed_once_is_replaced() {
    let tenant = Tenant::new("killed-once");
    let server = SourceServer::start().await.unwrap();
    let length = 300 * MIB;
    let url = server.serve("/held", Source { hold_at: Some(HELD), ..raw(31, length) });
    let task = tenant.import(input(&url)).await;
    at_work(&server).await;
    while tenant.stack.kill_function("ImportFunction").unwrap() == 0 {
        pause().await;
    }
    server.release();
    let task = tenant.ended(&task).await;
    assert_eq!(task["status"], "success", "{task}");
    let image =
        tenant.get(&format!("/v2/images/{}", task["result"]["image_id"].as_str().unwrap())).await.body;
    tenant.is_pattern(&image, 31, length).await;
}

#[tokio::test]
async fn workers_killed_again_and_again_fail_the_task() {
    let tenant = Tenant::new("killed");
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/held", Source { hold_at: Some(HELD), ..raw(32, 300 * MIB) });
    let task = tenant.import(input(&url)).await;
    at_work(&server).await;
    let task = loop {
        tenant.stack.kill_function("ImportFunction").unwrap();
        let now = tenant.task(&task["id"]).await;
        if now["status"] == "failure" {
            break now;
        }
        pause().await;
    };
    says(&task, "WorkerLost");
    server.release();
    tenant.nothing_left(&task).await;
}

#[tokio::test]
async fn an_execution_stopped_from_outside() {
    let tenant = Tenant::new("stopped");
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/held", Source { hold_at: Some(HELD), ..raw(33, 300 * MIB) });
    let task = tenant.import(input(&url)).await;
    at_work(&server).await;
    let machine = tenant.stack.import_state_machine();
    let execution =
        format!("{}:{}", machine.replacen(":stateMachine:", ":execution:", 1), task["id"].as_str().unwrap());
    tenant.stack.step_functions().stop_execution().execution_arn(execution).send().await.unwrap();
    let task = tenant.ended(&task).await;
    assert_eq!(task["status"], "failure", "{task}");
    says(&task, "Aborted");
    // The workers that were cut loose go on to their end, and leave nothing either.
    server.release();
    while server.bodies_now() > 0 {
        pause().await;
    }
    tenant.nothing_left(&task).await;
}

#[tokio::test]
async fn a_task_that_its_user_cancels() {
    let tenant = Tenant::new("cancelled");
    let server = SourceServer::start().await.unwrap();
    let url = server.serve("/held", Source { hold_at: Some(HELD), ..raw(34, 300 * MIB) });
    let task = tenant.import(input(&url)).await;
    at_work(&server).await;
    let path = format!("/v2/tasks/{}/cancel", task["id"].as_str().unwrap());
    let stranger = Tenant::new("stranger").request(Method::POST, &path, None).await;
    assert_eq!(stranger.status(), StatusCode::NOT_FOUND);
    assert_eq!(tenant.request(Method::POST, &path, None).await.status(), StatusCode::ACCEPTED);
    let task = tenant.ended(&task).await;
    assert_eq!(task["message"], "Cancelled: cancelled by tester", "{task}");
    assert_eq!(tenant.request(Method::POST, &path, None).await.status(), StatusCode::CONFLICT);
    server.release();
    while server.bodies_now() > 0 {
        pause().await;
    }
    tenant.nothing_left(&task).await;
}
