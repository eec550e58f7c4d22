//! What an operator counts: tasks that ended, by type, outcome and code, their bytes and their time; and the queue.
//!
//! Each is a log line in CloudWatch's embedded metric format, of which CloudWatch makes the metrics by itself
//! (CloudWatch user guide, "Specification: Embedded metric format"). No call is made and nothing waits.
//!
//! Invariants:
//! - A task counts once: with the one write that ends it.
//! - No dimension holds what a user chose. So the metrics are as many as there are types, outcomes and codes.
//! - Without a namespace there is no line: metrics cost by the month.

use std::io::Write as _;

use image_tasks_domain::ports::Clock as _;
use image_tasks_domain::{FailureCode, Task, Timestamp};
use serde_json::{Value, json};

use crate::clock::SystemClock;

/// Where metrics go.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    namespace: Option<String>,
}

impl Metrics {
    /// Into that namespace, or nowhere.
    pub fn new(namespace: Option<String>) -> Self {
        Self { namespace }
    }

    /// A task has ended, at that time: with these bytes, or for this reason.
    pub(crate) fn ended(&self, task: &Task, bytes: Option<u64>, code: Option<FailureCode>, now: Timestamp) {
        if let Some(namespace) = &self.namespace {
            say(&ended(namespace, task, bytes, code, now));
        }
    }

    /// The lifecycle function has answered. None in the queue tells nothing: a metric costs only in hours in which it is
    /// told.
    pub fn swept(&self, answer: &Value) {
        let open = open(answer);
        if let Some(namespace) = self.namespace.as_ref().filter(|_| open > 0) {
            say(&queue(namespace, open, SystemClock.now()));
        }
    }
}

/// Tasks that wait or are at work, or whose hashes are to be made, as a sweep's answer tells. What has ended and is only to
/// be cleaned up is no queue.
fn open(answer: &Value) -> u64 {
    let [checked, waiting, cleaned] =
        ["checked", "waiting", "cleaned"].map(|name| answer[name].as_u64().unwrap_or(0));
    checked.saturating_sub(waiting.saturating_add(cleaned))
}

fn queue(namespace: &str, open: u64, now: Timestamp) -> Value {
    let metrics = json!([{"Name": "OpenTasks", "Unit": "Count"}]);
    let directives = json!([{"Namespace": namespace, "Dimensions": [[]], "Metrics": metrics}]);
    line(now, &directives, json!({"OpenTasks": open}))
}

fn ended(
    namespace: &str,
    task: &Task,
    bytes: Option<u64>,
    code: Option<FailureCode>,
    now: Timestamp,
) -> Value {
    let mut metrics =
        vec![json!({"Name": "Tasks", "Unit": "Count"}), json!({"Name": "Seconds", "Unit": "Seconds"})];
    let mut members = json!({
        "Type": task.task_type.name(),
        "Outcome": if code.is_none() { "success" } else { "failure" },
        "Tasks": 1,
        "Seconds": now.epoch().saturating_sub(task.created_at.epoch()).max(0),
        "task_id": task.id,
    });
    if let Some(bytes) = bytes {
        metrics.push(json!({"Name": "Bytes", "Unit": "Bytes"}));
        members["Bytes"] = json!(bytes);
    }
    let of = |dimensions: Value, metrics: Value| json!({"Namespace": namespace, "Dimensions": dimensions, "Metrics": metrics});
    let mut directives = vec![of(json!([["Type", "Outcome"]]), json!(metrics))];
    if let Some(code) = code {
        members["Code"] = json!(code.name());
        directives.push(of(json!([["Code"]]), json!([{"Name": "Tasks", "Unit": "Count"}])));
    }
    line(now, &json!(directives), members)
}

/// A line as [`telemetry`](crate::telemetry) writes them, with what CloudWatch reads.
fn line(now: Timestamp, directives: &Value, mut members: Value) -> Value {
    members["timestamp"] = json!(now);
    members["level"] = json!("INFO");
    members["message"] = json!("metrics");
    members["_aws"] = json!({"Timestamp": now.epoch().saturating_mul(1000), "CloudWatchMetrics": directives});
    members
}

fn say(line: &Value) {
    // A log that can't be written is no reason to fail a task.
    let _lost = writeln!(std::io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use image_tasks_domain::TaskType;

    use super::*;

    fn task() -> Task {
        Task::pending(TaskType::Import, "demo", json!({}), Timestamp::from_epoch(1_795_000_000))
    }

    #[test]
    fn a_success_has_its_bytes_and_no_code() {
        let line = ended("ImageTasks/x", &task(), Some(5 << 30), None, Timestamp::from_epoch(1_795_000_042));
        let directives = &line["_aws"]["CloudWatchMetrics"];
        assert_eq!(line["_aws"]["Timestamp"], 1_795_000_042_000_i64);
        assert_eq!(directives.as_array().unwrap().len(), 1);
        assert_eq!(directives[0]["Namespace"], "ImageTasks/x");
        assert_eq!(directives[0]["Dimensions"], json!([["Type", "Outcome"]]));
        let told = ["Type", "Outcome", "Tasks", "Seconds", "Bytes"].map(|name| line[name].clone());
        assert_eq!(told, [json!("import"), json!("success"), json!(1), json!(42), json!(5_u64 << 30)]);
        assert_eq!((&line["level"], &line["timestamp"]), (&json!("INFO"), &json!("2026-11-18T11:07:22Z")));
    }

    #[test]
    fn what_has_ended_is_not_in_the_queue() {
        let answer = json!({"checked": 9, "started": 1, "failed": 1, "waiting": 3, "cleaned": 2});
        assert_eq!((open(&answer), open(&json!({}))), (4, 0));
    }

    #[test]
    fn each_name_of_a_directive_is_a_member() {
        let code = Some(FailureCode::SourceNotFound);
        let now = Timestamp::from_epoch(1_795_000_000);
        let failed = ended("n", &task(), None, code, now);
        let directives = |line: &Value| line["_aws"]["CloudWatchMetrics"].as_array().unwrap().clone();
        assert_eq!(directives(&failed).len(), 2);
        let queue = queue("n", 7, now);
        assert_eq!((&queue["OpenTasks"], directives(&queue).len()), (&json!(7), 1));
        for (line, directive) in [
            (&failed, &directives(&failed)[0]),
            (&failed, &directives(&failed)[1]),
            (&queue, &directives(&queue)[0]),
        ] {
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric}: {line}");
            }
            for dimension in directive["Dimensions"][0].as_array().unwrap() {
                assert!(line[dimension.as_str().unwrap()].is_string(), "{dimension}: {line}");
            }
        }
        assert_eq!((&failed["Code"], &failed["Outcome"]), (&json!("SourceNotFound"), &json!("failure")));
        assert!(failed.get("Bytes").is_none());
    }
}
