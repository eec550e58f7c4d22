//! `POST /v2/tasks/{id}/cancel`: what is answered with 202 never becomes a success.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use image_tasks_domain::memory::{MemoryExecutions, MemoryStore};
use image_tasks_domain::ports::{ExecutionStatus, Executions, StoreError, StoreResult, TaskLife, TaskStore};
use image_tasks_domain::{Failure, FailureCode, Task, TaskId, TaskStatus, TaskType, Timestamp};
use serde_json::{Value, json};

use crate::images::{importing, publication};
use crate::service::{ADMIN, ALICE, Answer, BOB, NOW, Service, TTL};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_epoch(NOW + seconds)
}

async fn cancel(service: &Service, token: &str, id: TaskId) -> Answer {
    let path = format!("/v2/tasks/{id}/cancel");
    service.send(http::Method::POST, &path, &[("x-auth-token", token)], "").await
}

async fn stored(service: &Service, id: TaskId) -> Task {
    TaskStore::get(&*service.store, id).await.unwrap().unwrap()
}

/// A task that has begun, and the image that it makes.
async fn begun(service: &Service) -> (TaskId, image_tasks_domain::ImageId) {
    let id: TaskId = service.import(ALICE).await.parse().unwrap();
    let image = importing("demo");
    service.store.begin(id, &image, at(1)).await.unwrap();
    (id, image.id)
}

async fn publish(store: &MemoryStore, id: TaskId) -> StoreResult<()> {
    let image = TaskStore::get(store, id).await?.and_then(|task| task.image_id).unwrap();
    store.publish(id, &publication(image), &json!({}), TTL, at(2)).await
}

/// Executions whose stop is preceded by something that the task does itself.
struct Meanwhile {
    inner: Arc<MemoryExecutions>,
    store: Arc<MemoryStore>,
    /// Whether the stop finds the execution.
    found: bool,
    /// Whether the task tried and could not succeed.
    conflicted: AtomicBool,
}

#[async_trait]
impl Executions for Meanwhile {
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()> {
        self.inner.start(task, run).await
    }

    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        let published = publish(&self.store, task.id).await;
        self.conflicted.store(matches!(published, Err(StoreError::Conflict)), Ordering::Relaxed);
        Ok(self.found && self.inner.stop(task, why).await?)
    }

    async fn status(&self, task: &Task, run: u32) -> StoreResult<ExecutionStatus> {
        self.inner.status(task, run).await
    }
}

#[tokio::test]
async fn a_cancelled_task_says_who_cancelled_it() {
    let service = Service::new();
    let id: TaskId = service.import(ALICE).await.parse().unwrap();
    assert_eq!(cancel(&service, BOB, id).await.error(404), format!("Could not find task {id}"));
    cancel(&service, "carol:demo:reader", id).await.error(403);
    let refused = service.get(ALICE, &format!("/v2/tasks/{id}/cancel")).await;
    assert_eq!(
        (refused.header("allow"), refused.error(405)),
        ("POST", "GET is not allowed here; allowed is POST")
    );
    assert_eq!(stored(&service, id).await.cancelled_by, None);

    // Its execution is stopped; whoever hears of that ends the task.
    let seen = cancel(&service, ALICE, id).await.ok(202).body;
    assert_eq!((&seen["id"], &seen["status"]), (&json!(id), &json!("pending")));
    assert_eq!(seen.get("cancelled_by"), None, "a task on the wire has no more members than before");
    let task = stored(&service, id).await;
    let stopped = service.executions.status(&task, 0).await.unwrap();
    let (error, cause) = ("Cancelled".to_owned(), "cancelled by alice".to_owned());
    assert_eq!(stopped, ExecutionStatus::Aborted { error, cause });
    // Again, before the task has ended, it is the same; the first to ask is the one who is named.
    assert_eq!(cancel(&service, ADMIN, id).await.ok(202).body, seen);

    let failure = stored(&service, id).await.cancellation().unwrap();
    service.store.fail(task.id, &failure, TTL, at(1)).await.unwrap();
    assert_eq!(cancel(&service, ALICE, id).await.error(409), format!("Task {id} has ended already"));
    let seen = service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body;
    assert_eq!(seen["message"], "Cancelled: cancelled by alice");
}

/// A pending task whose request died before it started the work.
async fn unstarted(service: &Service) -> TaskId {
    let input = json!({"import_from": "https://example.com/a"});
    let task = Task::pending(TaskType::Import, "demo", input, at(0));
    service.store.create(&task, None, None).await.unwrap();
    task.id
}

#[tokio::test]
async fn a_task_whose_work_never_started_is_cancelled_at_once() {
    let service = Service::new();
    let id = unstarted(&service).await;
    let seen = cancel(&service, ADMIN, id).await.ok(202).body;
    assert_eq!(
        (&seen["status"], &seen["message"]),
        (&json!("failure"), &json!("Cancelled: cancelled by root"))
    );
}

#[tokio::test]
async fn a_success_before_the_cancel_is_a_conflict() {
    let service = Service::new();
    let (id, _) = begun(&service).await;
    publish(&service.store, id).await.unwrap();
    assert_eq!(cancel(&service, ALICE, id).await.error(409), format!("Task {id} has ended already"));
    let task = stored(&service, id).await;
    assert_eq!((task.status, task.cancelled_by), (TaskStatus::Success, None));
    let execution = service.executions.status(&stored(&service, id).await, 0).await.unwrap();
    assert_eq!(execution, ExecutionStatus::Running, "nothing is stopped");
}

#[tokio::test]
async fn a_success_comes_too_late_between_the_mark_and_the_stop() {
    for found in [true, false] {
        let mut service = Service::new();
        let (id, _) = begun(&service).await;
        let meanwhile = Arc::new(Meanwhile {
            inner: service.executions.clone(),
            store: service.store.clone(),
            found,
            conflicted: AtomicBool::new(false),
        });
        service.app.tasks.executions = meanwhile.clone();
        let seen = cancel(&service, ALICE, id).await.ok(202).body;
        assert!(meanwhile.conflicted.load(Ordering::Relaxed), "the task tried, and could not succeed");
        // Where the stop does not see the execution, the task has begun all the same: the sweep ends it.
        assert_eq!(seen["status"], "processing", "{found}");
        assert_eq!(stored(&service, id).await.cancelled_by.as_deref(), Some("alice"));
    }
}

#[tokio::test]
async fn a_success_comes_too_late_after_the_stop() {
    let service = Service::new();
    let (id, image) = begun(&service).await;
    cancel(&service, ALICE, id).await.ok(202);
    assert!(matches!(publish(&service.store, id).await, Err(StoreError::Conflict)));
    service.get(ALICE, &format!("/v2/images/{image}/file")).await.ok(204);
}

#[tokio::test]
async fn a_cancel_holds_though_the_orchestrator_is_out_of_reach() {
    let service = Service::new();
    let (begun, _) = begun(&service).await;
    let unstarted = unstarted(&service).await;
    service.executions.set_unreachable(true);
    for (id, status) in [(begun, "processing"), (unstarted, "pending")] {
        assert_eq!(cancel(&service, ALICE, id).await.ok(202).body["status"], status);
        assert_eq!(stored(&service, id).await.cancelled_by.as_deref(), Some("alice"));
    }
    assert!(matches!(publish(&service.store, begun).await, Err(StoreError::Conflict)));
    let late = service.store.begin(unstarted, &importing("demo"), at(3)).await;
    assert!(matches!(late, Err(StoreError::Conflict)), "a start that comes later finds it cancelled");
    // Once it is in reach again, a repeat stops what the first could not.
    service.executions.set_unreachable(false);
    cancel(&service, ALICE, begun).await.ok(202);
    let stopped = service.executions.status(&stored(&service, begun).await, 0).await.unwrap();
    assert!(matches!(stopped, ExecutionStatus::Aborted { .. }), "{stopped:?}");
    assert_eq!(cancel(&service, ALICE, unstarted).await.ok(202).body["status"], "failure");
}

#[tokio::test]
async fn a_task_that_failed_of_itself_is_a_conflict() {
    let service = Service::new();
    let id: TaskId = service.import(ALICE).await.parse().unwrap();
    let failure = Failure::new(FailureCode::SourceNotFound, "there is none");
    service.store.fail(id, &failure, TTL, at(1)).await.unwrap();
    cancel(&service, ALICE, id).await.error(409);
    let seen = service.get(ALICE, &format!("/v2/tasks/{id}")).await.ok(200).body;
    assert_eq!(seen["message"], Value::from("SourceNotFound: there is none"));
}

#[tokio::test]
async fn a_repeat_does_not_start_what_is_cancelled() {
    let service = Service::new();
    let headers = [("x-auth-token", ALICE), ("idempotency-key", "k")];
    let body = crate::service::import().to_string();
    let send =
        async || service.send(http::Method::POST, "/v2/tasks", &headers, body.clone()).await.ok(201).body;
    service.executions.set_unreachable(true);
    let made = send().await;
    let id: TaskId = made["id"].as_str().unwrap().parse().unwrap();
    cancel(&service, ALICE, id).await.ok(202);
    service.executions.set_unreachable(false);
    assert_eq!(send().await, made);
    assert_eq!(service.executions.started(), []);
}
