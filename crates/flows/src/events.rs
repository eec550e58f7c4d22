//! What the state machine and EventBridge send, and what they get back.
//!
//! The shapes are those of ARCHITECTURE.md, "Flow of an import". An event of another shape is an error that says so:
//! it comes from a state machine newer or older than the function.

use image_tasks_domain::transfer::Batch;
use image_tasks_domain::{Failure, FailureCode, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A call of the import function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum ImportEvent {
    /// Open and inspect the source, and say what comes next.
    Plan {
        /// Task.
        task_id: TaskId,
    },
    /// Spool the source.
    Stage {
        /// Task.
        task_id: TaskId,
    },
    /// Move parts.
    Transfer {
        /// Task.
        task_id: TaskId,
        /// Which ones.
        batch: Batch,
    },
    /// Complete, hash, end.
    Finish {
        /// Task.
        task_id: TaskId,
    },
}

/// A call of the export function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum ExportEvent {
    /// See what the image is, and say what comes next.
    Plan {
        /// Task.
        task_id: TaskId,
    },
    /// Make parts.
    Transfer {
        /// Task.
        task_id: TaskId,
        /// Which pieces of the work.
        batch: Batch,
    },
    /// Complete, end.
    Finish {
        /// Task.
        task_id: TaskId,
    },
}

/// A call of the clone function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum CloneEvent {
    /// Find the image, and say what comes next.
    Plan {
        /// Task.
        task_id: TaskId,
    },
    /// Spool a source elsewhere.
    Stage {
        /// Task.
        task_id: TaskId,
    },
    /// Have parts copied.
    Transfer {
        /// Task.
        task_id: TaskId,
        /// Which ones.
        batch: Batch,
    },
    /// Complete, end.
    Finish {
        /// Task.
        task_id: TaskId,
    },
}

impl CloneEvent {
    /// Whose phase it is.
    pub const fn task_id(self) -> TaskId {
        match self {
            Self::Plan { task_id }
            | Self::Stage { task_id }
            | Self::Transfer { task_id, .. }
            | Self::Finish { task_id } => task_id,
        }
    }
}

impl From<CloneEvent> for ImportEvent {
    fn from(event: CloneEvent) -> Self {
        match event {
            CloneEvent::Plan { task_id } => Self::Plan { task_id },
            CloneEvent::Stage { task_id } => Self::Stage { task_id },
            CloneEvent::Transfer { task_id, batch } => Self::Transfer { task_id, batch },
            CloneEvent::Finish { task_id } => Self::Finish { task_id },
        }
    }
}

/// What comes after a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "next", rename_all = "snake_case")]
pub enum Next {
    /// The task has ended.
    Done,
    /// Spool the source first.
    Stage,
    /// Plan (again).
    Plan,
    /// Move these parts.
    Transfer {
        /// One for each worker.
        batches: Vec<Batch>,
    },
    /// Complete and hash, or go on with it.
    Finish,
}

/// What a transfer leaves for the next invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Transferred {
    /// Parts not moved for want of time.
    pub remaining: Option<Batch>,
}

/// A call of the lifecycle function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LifecycleEvent {
    /// A state failed: remove what was made and end the task.
    Fail {
        /// Task.
        task_id: TaskId,
        /// What the state machine caught.
        error: Caught,
    },
    /// EventBridge: an execution ended otherwise than well.
    Execution {
        /// Task.
        task_id: TaskId,
        /// How.
        end: ExecutionEnd,
    },
    /// Look for tasks that nobody works at.
    Sweep,
}

/// What a state machine's Catch puts into its state, or an execution ended with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Caught {
    /// ASL error name.
    pub error: String,
    /// ASL cause: for a function's error the JSON of its answer.
    pub cause: String,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutionEnd {
    /// By a failed state.
    Failed(Caught),
    /// Out of time.
    TimedOut,
    /// Stopped from outside, with what was given as error and cause.
    Aborted(Caught),
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Tasks looked at.
    pub checked: usize,
    /// Tasks started whose start had got lost.
    pub started: usize,
    /// Tasks ended whose execution had ended.
    pub failed: usize,
    /// Tasks left for the next sweep because a store was out of reach.
    pub errors: usize,
}

impl TryFrom<Value> for ImportEvent {
    type Error = Failure;

    fn try_from(event: Value) -> Result<Self, Failure> {
        serde_json::from_value(event).map_err(|e| unknown("import", &e.to_string()))
    }
}

impl TryFrom<Value> for ExportEvent {
    type Error = Failure;

    fn try_from(event: Value) -> Result<Self, Failure> {
        serde_json::from_value(event).map_err(|e| unknown("export", &e.to_string()))
    }
}

impl TryFrom<Value> for CloneEvent {
    type Error = Failure;

    fn try_from(event: Value) -> Result<Self, Failure> {
        serde_json::from_value(event).map_err(|e| unknown("clone", &e.to_string()))
    }
}

#[derive(Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
enum Phase {
    Fail { task_id: TaskId, error: Caught },
    Sweep,
}

#[derive(Deserialize)]
struct Execution {
    detail: Detail,
}

/// Step Functions developer guide, "Step Functions event detail": name, status, error and cause of the execution.
#[derive(Deserialize)]
struct Detail {
    name: TaskId,
    status: String,
    error: Option<String>,
    cause: Option<String>,
}

impl TryFrom<Value> for LifecycleEvent {
    type Error = Failure;

    fn try_from(event: Value) -> Result<Self, Failure> {
        // Only EventBridge's events have a detail.
        if event.get("detail").is_some() {
            let Execution { detail } = read(event)?;
            let caught =
                Caught { error: detail.error.unwrap_or_default(), cause: detail.cause.unwrap_or_default() };
            let end = match detail.status.as_str() {
                "FAILED" => ExecutionEnd::Failed(caught),
                "TIMED_OUT" => ExecutionEnd::TimedOut,
                "ABORTED" => ExecutionEnd::Aborted(caught),
                other => return Err(unknown("lifecycle", &format!("status {other} of an execution"))),
            };
            return Ok(Self::Execution { task_id: detail.name, end });
        }
        Ok(match read(event)? {
            Phase::Fail { task_id, error } => Self::Fail { task_id, error },
            Phase::Sweep => Self::Sweep,
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(event: Value) -> Result<T, Failure> {
    serde_json::from_value(event).map_err(|e| unknown("lifecycle", &e.to_string()))
}

fn unknown(function: &str, why: &str) -> Failure {
    Failure::new(FailureCode::Internal, format!("the {function} function does not know this event: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";

    #[test]
    fn the_state_machines_calls_are_read_and_answered_as_it_expects() {
        let task_id: TaskId = ID.parse().unwrap();
        let read = |v: Value| ImportEvent::try_from(v).unwrap();
        assert_eq!(read(json!({"phase": "plan", "task_id": ID})), ImportEvent::Plan { task_id });
        assert_eq!(
            read(json!({"phase": "transfer", "task_id": ID, "batch": {"first": 1, "last": 4}})),
            ImportEvent::Transfer { task_id, batch: Batch { first: 1, last: 4 } }
        );
        let batches = vec![Batch { first: 1, last: 4 }];
        for (answer, expected) in [
            (Next::Done, json!({"next": "done"})),
            (Next::Stage, json!({"next": "stage"})),
            (Next::Plan, json!({"next": "plan"})),
            (Next::Finish, json!({"next": "finish"})),
            (Next::Transfer { batches }, json!({"next": "transfer", "batches": [{"first": 1, "last": 4}]})),
        ] {
            assert_eq!(serde_json::to_value(answer).unwrap(), expected);
        }
        let none = Transferred { remaining: None };
        assert_eq!(serde_json::to_value(none).unwrap(), json!({"remaining": null}));
    }

    #[test]
    fn the_lifecycle_function_tells_its_three_callers_apart() {
        let task_id: TaskId = ID.parse().unwrap();
        let read = |v: Value| LifecycleEvent::try_from(v).unwrap();
        assert_eq!(read(json!({"phase": "sweep"})), LifecycleEvent::Sweep);
        assert_eq!(
            read(json!({"phase": "fail", "task_id": ID, "error": {"Error": "States.Timeout"}})),
            LifecycleEvent::Fail {
                task_id,
                error: Caught { error: "States.Timeout".into(), cause: String::new() }
            }
        );
        let event = |status: &str| {
            json!({
                "detail-type": "Step Functions Execution Status Change", "source": "aws.states",
                "detail": {"name": ID, "status": status, "error": null, "cause": null, "input": "{}"},
            })
        };
        let end = |status: &str| match read(event(status)) {
            LifecycleEvent::Execution { end, .. } => end,
            other => panic!("{other:?}"),
        };
        assert_eq!(end("ABORTED"), ExecutionEnd::Aborted(Caught::default()));
        assert_eq!(end("TIMED_OUT"), ExecutionEnd::TimedOut);
        assert_eq!(end("FAILED"), ExecutionEnd::Failed(Caught::default()));
    }

    #[test]
    fn other_events_are_refused_by_name() {
        for event in [
            json!({}),
            json!(5),
            json!({"phase": "dance", "task_id": ID}),
            json!({"phase": "plan"}),
            json!({"phase": "plan", "task_id": "x"}),
            json!({"phase": "transfer", "task_id": ID}),
        ] {
            let failure = ImportEvent::try_from(event.clone()).expect_err("no event");
            assert_eq!(failure.code, FailureCode::Internal, "{event}");
            assert!(
                failure.message.starts_with("the import function does not know this event: "),
                "{failure}"
            );
        }
        let running = json!({"detail": {"name": ID, "status": "RUNNING"}});
        assert!(LifecycleEvent::try_from(running).expect_err("no end").message.contains("RUNNING"));
        let plan = LifecycleEvent::try_from(json!({"phase": "plan", "task_id": ID})).expect_err("no phase");
        assert!(plan.message.contains("unknown variant `plan`, expected `fail` or `sweep`"), "{plan}");
    }
}
