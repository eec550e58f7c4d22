//! An interpreter for the part of Amazon States Language that our state machines use.
//!
//! Goal: a test runs the file that is deployed, so that no test has a copy of the machine that could differ from it.
//!
//! - What the interpreter doesn't know is refused when the machine is loaded, and never skipped: a field, a kind of
//!   state, a form of path, a target that is no state.
//! - Time is tokio's. Under a paused clock waits, retries and timeouts cost nothing.
//! - A run is a future: to drop it is to stop the execution.
//!
//! Sources: the [specification](https://states-language.net/spec.html), and the Step Functions developer guide,
//! "Handling errors in Step Functions workflows" and "Step Functions service quotas".
//!
//! Left out: InputPath, OutputPath, ResultSelector, HeartbeatSeconds, Parallel, distributed maps, intrinsic functions,
//! JSONata, array indexes in paths.

mod definition;
mod path;
mod run;

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;

use definition::Definition;

/// Most bytes of a state's input or output, as JSON (service quotas, "Maximum input or output size").
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Most events in the history of an execution (service quotas, "Maximum execution history size").
pub const MAX_EVENTS: u64 = 25_000;

/// What a Task state calls: its Resource as it is written, and the payload.
pub type Invoke<'a> = dyn Fn(&str, Value) -> BoxFuture<'a, Result<Value, Thrown>> + Send + Sync + 'a;

/// A state machine that has been checked.
#[derive(Debug)]
pub struct Machine(Definition);

/// An error as states match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thrown {
    /// Error name.
    pub error: String,
    /// What a person reads; of a function that failed, the JSON of its answer.
    pub cause: String,
}

/// How an execution ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its output, or its error.
    pub result: Result<Value, Thrown>,
    /// The machine's own TimeoutSeconds ended it.
    pub timed_out: bool,
    /// Events in its history. Close to what Step Functions counts; iterations that a failed map aborts are left out.
    pub events: u64,
    /// States in the order in which they were entered, those of all iterations among them.
    pub visited: Vec<String>,
}

impl Machine {
    /// Reads and checks a definition. The error says what is wrong with it and in which state.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let definition: Definition = serde_json::from_str(text).map_err(|e| e.to_string())?;
        definition.check()?;
        Ok(Self(definition))
    }

    /// A machine of `infra/statemachines`, by its name there. Its substitutions stay as they are written.
    pub fn deployed(name: &str) -> Result<Self, String> {
        let path = format!("{}/../../infra/statemachines/{name}.asl.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        Self::from_json(&text).map_err(|e| format!("{path}: {e}"))
    }

    /// Runs an execution of that name to its end. The same name and answers give the same waits.
    pub async fn run(&self, name: &str, input: Value, invoke: &Invoke<'_>) -> Outcome {
        let run = run::Run::new(name, &input, invoke);
        let limit = self.0.timeout_seconds.map_or(Duration::MAX, Duration::from_secs);
        let ended = tokio::time::timeout(limit, run.whole(&self.0.flow(), input)).await;
        let timed_out = ended.is_err();
        let result =
            ended.unwrap_or_else(|_| Err(Thrown::new("States.Timeout", "the execution's time is up")));
        let (events, visited) = run.ended();
        Outcome { result, timed_out, events, visited }
    }
}

impl Thrown {
    /// An error of that name.
    pub fn new(error: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { error: error.into(), cause: cause.into() }
    }

    /// A machine that doesn't fit its data. Always ends the execution.
    fn runtime(cause: impl Into<String>) -> Self {
        Self::new("States.Runtime", cause)
    }

    /// As a Catch puts it into the state.
    fn output(&self) -> Value {
        serde_json::json!({"Error": self.error, "Cause": self.cause})
    }
}
