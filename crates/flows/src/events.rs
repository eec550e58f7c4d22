//! What the state machine and EventBridge send, and what they get back.
//!
//! The shapes are those of `infra/statemachines/task.asl.json`. An event of another shape or version is an error that says so:
//! it comes from a state machine newer or older than the function.

use image_tasks_domain::transfer::{Batch, batches};
use image_tasks_domain::{ExecutionName, Failure, FailureCode, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::job::VERSION;

use crate::error::Stop;
use crate::job::check_version;

/// A call of the function that does a task's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// Whose phase it is.
    pub task_id: TaskId,
    /// Which one.
    #[serde(flatten)]
    pub phase: Phase,
}

/// A phase of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Look at the source, and say what comes next.
    Plan,
    /// Spool the source.
    Stage,
    /// Make pieces of the object.
    Round {
        /// Which ones.
        item: RoundItem,
    },
    /// What the sink asks for once they are made.
    Next,
}

/// Pieces that one worker makes; the state machine passes it on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundItem {
    /// Of which round.
    pub round: Round,
    /// Which ones.
    #[serde(flatten)]
    pub pieces: Batch,
}

/// What the pieces of a round are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// Pieces of the recipe: they move the origin's bytes.
    Move,
    /// Parts of the object that only show once all of these are made.
    Seal,
    /// Chunks of the object, to be hashed in a relay: the first of an item is the worker's next, and each so many further on
    /// as there are workers.
    Hash,
}

impl Round {
    /// A round of so many pieces, handed out.
    pub(crate) fn of(self, pieces: u32) -> Next {
        let items = batches(pieces).into_iter().map(|pieces| RoundItem { round: self, pieces });
        Next::Round { items: items.collect() }
    }

    /// A relay over so many chunks.
    pub(crate) fn relay(workers: u32, chunks: u32) -> Next {
        let pieces = (1..=workers.min(chunks)).map(|first| Batch { first, last: chunks });
        Next::Round { items: pieces.map(|pieces| RoundItem { round: Self::Hash, pieces }).collect() }
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
    /// Make pieces.
    Round {
        /// One for each worker.
        items: Vec<RoundItem>,
    },
    /// Go on with what the sink asks for.
    Next,
}

/// What a round leaves for the next invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Remaining {
    /// Pieces not made for want of time.
    pub remaining: Option<RoundItem>,
}

impl TryFrom<Value> for Event {
    type Error = Failure;

    fn try_from(event: Value) -> Result<Self, Failure> {
        let version = event.get("version").and_then(Value::as_u64).and_then(|v| u32::try_from(v).ok());
        check_version("the state machine", version.unwrap_or(VERSION)).map_err(Stop::into_failure)?;
        serde_json::from_value(event).map_err(|e| unknown(&e.to_string()))
    }
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
        /// Which one.
        name: ExecutionName,
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
    /// Tasks that have ended, and whose remains are to be removed once more.
    pub waiting: usize,
    /// Those of which they were removed.
    pub cleaned: usize,
    /// Executions started to make the hashes of images that are active.
    pub hashing: usize,
    /// Tasks left for the next sweep because a store was out of reach.
    pub errors: usize,
}

#[derive(Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
enum LifecyclePhase {
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
    name: String,
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
                other => return Err(unknown(&format!("status {other} of an execution"))),
            };
            let name = detail.name.parse().map_err(|_| unknown(&format!("execution {}", detail.name)))?;
            return Ok(Self::Execution { name, end });
        }
        Ok(match read(event)? {
            LifecyclePhase::Fail { task_id, error } => Self::Fail { task_id, error },
            LifecyclePhase::Sweep => Self::Sweep,
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(event: Value) -> Result<T, Failure> {
    serde_json::from_value(event).map_err(|e| unknown(&e.to_string()))
}

fn unknown(why: &str) -> Failure {
    Failure::new(FailureCode::Internal, format!("the function does not know this event: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b";

    #[test]
    fn the_state_machines_calls_are_read_and_answered_as_it_expects() {
        let task_id: TaskId = ID.parse().unwrap();
        let read = |v: Value| Event::try_from(v).unwrap();
        for (name, phase) in [("plan", Phase::Plan), ("stage", Phase::Stage), ("next", Phase::Next)] {
            let event = json!({"version": VERSION, "phase": name, "task_id": ID});
            assert_eq!(read(event), Event { task_id, phase });
        }
        let item = RoundItem { round: Round::Move, pieces: Batch { first: 1, last: 4 } };
        let sent = json!({"round": "move", "first": 1, "last": 4});
        assert_eq!(
            read(json!({"version": VERSION, "phase": "round", "task_id": ID, "item": sent})),
            Event { task_id, phase: Phase::Round { item } }
        );
        for (answer, expected) in [
            (Next::Done, json!({"next": "done"})),
            (Next::Stage, json!({"next": "stage"})),
            (Next::Plan, json!({"next": "plan"})),
            (Next::Next, json!({"next": "next"})),
            (Next::Round { items: vec![item] }, json!({"next": "round", "items": [sent]})),
        ] {
            assert_eq!(serde_json::to_value(answer).unwrap(), expected);
        }
        let some = Remaining { remaining: Some(item) };
        assert_eq!(serde_json::to_value(some).unwrap(), json!({"remaining": sent}));
        let none = Remaining { remaining: None };
        assert_eq!(serde_json::to_value(none).unwrap(), json!({"remaining": null}));
    }

    #[test]
    fn a_state_machine_of_another_version_is_told_so() {
        for version in [VERSION - 1, VERSION + 1] {
            let event = json!({"version": version, "phase": "plan", "task_id": ID});
            let failure = Event::try_from(event).expect_err("another version");
            assert_eq!(failure.code, FailureCode::Aborted);
            let told =
                format!("the state machine is of version {version}, this function of version {VERSION}: ");
            assert!(failure.message.starts_with(&told), "{failure}");
        }
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
        let event = |name: &str, status: &str| {
            json!({
                "detail-type": "Step Functions Execution Status Change", "source": "aws.states",
                "detail": {"name": name, "status": status, "error": null, "cause": null, "input": "{}"},
            })
        };
        let end = |status: &str| match read(event(ID, status)) {
            LifecycleEvent::Execution { end, name } => {
                assert_eq!(name, ExecutionName { task: task_id, run: 0 });
                end
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(end("ABORTED"), ExecutionEnd::Aborted(Caught::default()));
        assert_eq!(end("TIMED_OUT"), ExecutionEnd::TimedOut);
        assert_eq!(end("FAILED"), ExecutionEnd::Failed(Caught::default()));
        let name = ExecutionName { task: task_id, run: 3 };
        let hashing = read(event(&name.to_string(), "FAILED"));
        assert!(matches!(hashing, LifecycleEvent::Execution { name: found, .. } if found == name));
    }

    #[test]
    fn other_events_are_refused_by_name() {
        for event in [
            json!({}),
            json!(5),
            json!({"phase": "dance", "task_id": ID}),
            json!({"phase": "plan"}),
            json!({"phase": "plan", "task_id": "x"}),
            json!({"phase": "round", "task_id": ID}),
        ] {
            let failure = Event::try_from(event.clone()).expect_err("no event");
            assert_eq!(failure.code, FailureCode::Internal, "{event}");
            assert!(failure.message.starts_with("the function does not know this event: "), "{failure}");
        }
        for detail in [json!({"name": ID, "status": "RUNNING"}), json!({"name": "x", "status": "FAILED"})] {
            let failure = LifecycleEvent::try_from(json!({"detail": detail})).expect_err("no end");
            assert!(failure.message.contains("RUNNING") || failure.message.contains("execution x"));
        }
        let plan = LifecycleEvent::try_from(json!({"phase": "plan", "task_id": ID})).expect_err("no phase");
        assert!(plan.message.contains("unknown variant `plan`, expected `fail` or `sweep`"), "{plan}");
    }
}
