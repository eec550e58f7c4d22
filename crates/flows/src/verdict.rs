//! From how an execution ended to what the task's owner reads.
//!
//! Threat model: a cause may quote bytes of an image or a server's answer; it is shortened and cleared of control characters.

use image_tasks_domain::{Failure, FailureCode, Task};
use serde::Deserialize;

use crate::events::{Caught, ExecutionEnd};

/// Characters of a cause that are kept.
const MOST: usize = 1000;

/// The JSON of a function's error answer: AWS Lambda developer guide, "Handling errors in Step Functions workflows".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LambdaError {
    error_message: String,
}

/// Why the task failed.
pub(crate) fn verdict(end: &ExecutionEnd, task: &Task) -> Failure {
    match end {
        // Whoever may stop an execution may give any error and cause; only our own way of stopping is taken at its word.
        ExecutionEnd::Aborted(caught) if caught.error == FailureCode::Cancelled.name() => {
            Failure::new(FailureCode::Cancelled, sentence(&caught.cause))
        }
        ExecutionEnd::Aborted(_) => Failure::new(FailureCode::Aborted, "the task's execution was stopped"),
        ExecutionEnd::TimedOut => {
            Failure::new(FailureCode::TimedOut, "the task did not end within the time that a task may take")
        }
        ExecutionEnd::Failed(caught) => caught_verdict(caught, task),
    }
}

fn caught_verdict(caught: &Caught, task: &Task) -> Failure {
    let sentence = sentence(&caught.cause);
    match FailureCode::from_name(&caught.error) {
        Some(FailureCode::Transient) => {
            ours(task, &format!("a part of this service stayed out of reach after many tries: {sentence}"))
        }
        Some(FailureCode::Internal) => ours(task, &sentence),
        Some(code) => Failure::new(code, sentence),
        // Names of AWS: Step Functions developer guide, "Handling errors"; Lambda developer guide, "Function errors".
        None => match caught.error.as_str() {
            "States.Timeout" | "Sandbox.Timedout" => Failure::new(
                FailureCode::TimedOut,
                format!("a step of the task ran out of time (request {})", task.request_id),
            ),
            error if error.starts_with("Lambda.") || error.starts_with("Runtime.") => Failure::new(
                FailureCode::WorkerLost,
                format!("a worker died or could not be run ({error}, request {})", task.request_id),
            ),
            error => {
                tracing::error!(
                    error,
                    cause = caught.cause,
                    "an execution failed with an error that isn't known"
                );
                ours(task, "a step of the task failed in a way it never should")
            }
        },
    }
}

fn ours(task: &Task, what: &str) -> Failure {
    Failure::new(FailureCode::Internal, format!("{what} (request {})", task.request_id))
}

fn sentence(cause: &str) -> String {
    let told = serde_json::from_str::<LambdaError>(cause).map(|e| e.error_message);
    let told = told.unwrap_or_else(|_| cause.to_owned());
    let clean: String = told.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
    match clean.trim() {
        "" => "no more is known".to_owned(),
        clean => clean.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use image_tasks_domain::{TaskType, Timestamp};

    fn task() -> Task {
        let now = Timestamp::from_epoch(0);
        Task { request_id: "req-1".into(), ..Task::pending(TaskType::Import, "o", json!({}), now) }
    }

    fn told(error: &str, cause: &str) -> String {
        let caught = Caught { error: error.into(), cause: cause.into() };
        verdict(&ExecutionEnd::Failed(caught), &task()).to_string()
    }

    #[test]
    fn our_own_failures_reach_the_user_as_they_are() {
        let cause =
            json!({"errorType": "SourceNotFound", "errorMessage": "http://x/ answered 404"}).to_string();
        assert_eq!(told("SourceNotFound", &cause), "SourceNotFound: http://x/ answered 404");
        assert_eq!(told("Truncated", "plain\u{1b}[2J\ntext"), "Truncated: plain [2J text");
        assert!(told("Corrupt", &"x".repeat(9999)).len() < 1100);
    }

    #[test]
    fn faults_of_ours_name_the_request() {
        for (error, code) in [
            ("Internal", "Internal"),
            ("Transient", "Internal"),
            ("States.Runtime", "Internal"),
            ("", "Internal"),
            ("Unheard.Of", "Internal"),
            ("Lambda.Unknown", "WorkerLost"),
            ("Runtime.ExitError", "WorkerLost"),
            ("Runtime.OutOfMemory", "WorkerLost"),
            ("States.Timeout", "TimedOut"),
            ("Sandbox.Timedout", "TimedOut"),
        ] {
            let told = told(error, "");
            assert!(
                told.starts_with(&format!("{code}: ")) && told.contains("request req-1"),
                "{error}: {told}"
            );
        }
        let aborted = |error: &str, cause: &str| {
            let caught = Caught { error: error.into(), cause: cause.into() };
            verdict(&ExecutionEnd::Aborted(caught), &task()).to_string()
        };
        assert_eq!(aborted("", ""), "Aborted: the task's execution was stopped");
        assert_eq!(aborted("Odd", "x"), "Aborted: the task's execution was stopped");
        assert_eq!(aborted("Cancelled", "cancelled by alice"), "Cancelled: cancelled by alice");
        assert_eq!(verdict(&ExecutionEnd::TimedOut, &task()).code, FailureCode::TimedOut);
    }
}
