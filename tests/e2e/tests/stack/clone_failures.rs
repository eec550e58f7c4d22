//! Clones that something happens to half-way: they end in failure, say why, and leave nothing.

use aws_sdk_s3::primitives::ByteStream;
use image_tasks_e2e::{Tenant, pause};
use image_tasks_local::{Content, Disturbance, Disturbed, S3Request, Source, SourceServer};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const HERE: &str = "eu-west-1";
const THERE: &str = "us-east-1";

/// Copies wait, after two that pass: a clone that is half done.
const HELD: Disturbance = Disturbance { pass: 2, code: "", status: 0, times: 0 };

struct Clone {
    there: Tenant,
    here: Tenant,
    source: Value,
}

impl Clone {
    /// A source image of so many bytes, and who clones it.
    async fn of(project: &str, length: u64) -> Self {
        let there = Tenant::new(project);
        let here = there.in_region(HERE);
        let server = SourceServer::start().await.unwrap();
        let url = server.serve("/disk", Source::new(Content::Pattern { seed: 61, length }));
        let (_, source) = there.imported(json!({"import_from": url, "import_from_format": "raw"})).await;
        Self { there, here, source }
    }

    fn id(&self) -> &str {
        self.source["id"].as_str().unwrap()
    }

    fn disturb(&self, disturbance: Disturbance) -> Disturbed {
        self.there.stack.disturb_copies(self.id(), disturbance).unwrap()
    }

    async fn start(&self) -> Value {
        self.here.accepted("clone", json!({"source_region": THERE, "image_uuid": self.source["id"]})).await
    }

    /// Copies of the source's object that functions asked for.
    fn copies(&self) -> Vec<S3Request> {
        let mut requests = self.here.stack.s3_requests(self.id()).unwrap();
        requests.retain(|one| one.is_by_function() && one.copy_source.contains(self.id()));
        // Not those of the map beside it.
        requests.retain(|one| !one.copy_source.ends_with(".allocation"));
        requests
    }

    /// Waits until some parts are copied and others wait.
    async fn half_done(&self) {
        loop {
            let copies = self.copies();
            if copies.iter().any(|one| one.status == 200) && copies.iter().any(|one| one.status == 0) {
                return;
            }
            pause().await;
        }
    }

    /// The task's end: a failure of this code that leaves nothing here, and the source as it was.
    async fn fails(&self, task: &Value, code: &str) {
        let task = self.here.ended(task).await;
        assert_eq!(task["status"], "failure", "{task}");
        let message = task["message"].as_str().unwrap();
        let sentence = message.strip_prefix(code).and_then(|rest| rest.strip_prefix(": "));
        assert!(sentence.is_some_and(|s| s.len() > 20), "expected {code} and a sentence: {message}");
        assert!(task["image_id"].is_string() && task["result"].is_null(), "{task}");
        self.here.nothing_left(&task).await;
        let source = self.there.get(&format!("/v2/images/{}", self.id())).await;
        assert_eq!(source.body, self.source);
    }
}

#[tokio::test]
async fn an_execution_stopped_half_way() {
    let clone = Clone::of("clone-stopped", 300 * MIB).await;
    let held = clone.disturb(HELD);
    let task = clone.start().await;
    clone.half_done().await;
    let machine = clone.here.stack.clone_state_machine();
    let execution =
        format!("{}:{}", machine.replacen(":stateMachine:", ":execution:", 1), task["id"].as_str().unwrap());
    clone.here.stack.step_functions().stop_execution().execution_arn(execution).send().await.unwrap();
    // Its worker still waits for S3, and goes on once it may.
    clone.here.ended(&task).await;
    drop(held);
    clone.fails(&task, "Aborted").await;
}

#[tokio::test]
async fn a_worker_killed_once_is_replaced() {
    let clone = Clone::of("clone-killed-once", 300 * MIB).await;
    let held = clone.disturb(HELD);
    let task = clone.start().await;
    clone.half_done().await;
    while clone.here.stack.kill_function("CloneFunction").unwrap() == 0 {
        pause().await;
    }
    drop(held);
    let task = clone.here.ended(&task).await;
    assert_eq!(task["status"], "success", "{task}");
    let image = clone.here.get(&format!("/v2/images/{}", task["result"]["image_id"].as_str().unwrap())).await;
    clone.here.is_pattern(&image.body, 61, 300 * MIB).await;
}

#[tokio::test]
async fn workers_killed_again_and_again() {
    let clone = Clone::of("clone-killed", 300 * MIB).await;
    let held = clone.disturb(HELD);
    let task = clone.start().await;
    clone.half_done().await;
    while clone.here.task(&task["id"]).await["status"] != "failure" {
        clone.here.stack.kill_function("CloneFunction").unwrap();
        pause().await;
    }
    drop(held);
    clone.fails(&task, "WorkerLost").await;
}

#[tokio::test]
async fn a_source_replaced_or_deleted_meanwhile() {
    for (deleted, code) in [(false, "SourceChanged"), (true, "SourceNotFound")] {
        let clone = Clone::of("clone-changed", 300 * MIB).await;
        let held = clone.disturb(HELD);
        let task = clone.start().await;
        clone.half_done().await;
        let (s3, bucket) = (clone.there.stack.s3(), clone.there.stack.images_bucket());
        let key = clone.there.object_key(&clone.source).await;
        if deleted {
            s3.delete_object().bucket(bucket).key(key).send().await.unwrap();
        } else {
            let other = ByteStream::from(vec![7; 1 << 20]);
            s3.put_object().bucket(bucket).key(key).body(other).send().await.unwrap();
        }
        drop(held);
        clone.fails(&task, code).await;
    }
}

#[tokio::test]
async fn only_throttling_is_tried_again() {
    // A copy by one request, so that each refusal is one request more.
    for (code, status, told) in
        [("AccessDenied", 403, "SourceDenied"), ("PermanentRedirect", 301, "WrongRegion")]
    {
        let clone = Clone::of("clone-refused", MIB).await;
        let _refused = clone.disturb(Disturbance { pass: 0, code, status, times: u64::MAX });
        let task = clone.start().await;
        clone.fails(&task, told).await;
        let answers: Vec<_> = clone.copies().iter().map(|one| one.status).collect();
        assert_eq!(answers, [status], "asked once");
    }
    let clone = Clone::of("clone-throttled", MIB).await;
    let _throttled = clone.disturb(Disturbance { pass: 0, code: "SlowDown", status: 503, times: 4 });
    let task = clone.here.ended(&clone.start().await).await;
    assert_eq!(task["status"], "success", "{task}");
    let answers: Vec<_> = clone.copies().iter().map(|one| one.status).collect();
    assert_eq!(answers, [503, 503, 503, 503, 200]);
    let clone = Clone::of("clone-failed-in-a-200", MIB).await;
    let _failing = clone.disturb(Disturbance { pass: 0, code: "InternalError", status: 200, times: 4 });
    let task = clone.here.ended(&clone.start().await).await;
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(clone.copies().len(), 5);
}
