//! A task's life as it is deployed: the state machine of `infra/statemachines`, the functions that it calls, and
//! EventBridge at its end.

use std::sync::LazyLock;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use image_tasks_domain::memory::MemoryExecutions;
use image_tasks_domain::ports::ExecutionStatus;
use image_tasks_domain::{ExecutionName, Failure, TaskId};
use image_tasks_flows::events::LifecycleEvent;
use image_tasks_flows::{Deadline, Lifecycle};
use image_tasks_test_bench::asl::{Machine, Outcome, Thrown};
use serde_json::{Value, json};

use crate::faults::Faults;

static MACHINE: LazyLock<Machine> = LazyLock::new(|| Machine::deployed("task").unwrap());

/// What is called for the phases of a task.
pub(crate) type Phases<'a> = dyn Fn(Value) -> BoxFuture<'a, Result<Value, Failure>> + Send + Sync + 'a;

pub(crate) struct Execution<'r, 'p> {
    pub id: TaskId,
    /// 0 for the task's own.
    pub run: u32,
    pub phases: &'r Phases<'p>,
    pub lifecycle: &'r Lifecycle,
    pub faults: &'r Faults,
    pub executions: &'r MemoryExecutions,
    /// Each call of a function is made twice, as after a lost answer.
    pub twice: bool,
}

impl Execution<'_, '_> {
    /// The whole life of the task, to its end.
    pub(crate) async fn run(&self) -> Outcome {
        let name = ExecutionName { task: self.id, run: self.run }.to_string();
        self.executions.set_run_status(self.id, self.run, ExecutionStatus::Running);
        let invoke = |resource: &str, payload: Value| {
            let phase = resource == "${WorkerFunctionArn}";
            assert!(phase || resource == "${LifecycleFunctionArn}", "no function {resource}");
            self.invoke(phase, payload).boxed()
        };
        let outcome = MACHINE.run(&name, json!({"task_id": self.id}), &invoke).await;
        let (status, detail) = match &outcome.result {
            Ok(_) => (ExecutionStatus::Succeeded, None),
            Err(_) if outcome.timed_out => {
                (ExecutionStatus::TimedOut, Some(json!({"name": name, "status": "TIMED_OUT"})))
            }
            Err(Thrown { error, cause }) => (
                ExecutionStatus::Failed { error: error.clone(), cause: cause.clone() },
                Some(json!({"name": name, "status": "FAILED", "error": error, "cause": cause})),
            ),
        };
        self.executions.set_run_status(self.id, self.run, status);
        if let Some(detail) = detail {
            // Lambda tries an asynchronous invocation two more times.
            let ended = end(self.faults, self.lifecycle, &json!({"detail": detail}), 3).await;
            ended.unwrap_or_else(|e| panic!("{e}"));
        }
        outcome
    }

    /// A call of a function, answered as Lambda answers Step Functions.
    async fn invoke(&self, phase: bool, payload: Value) -> Result<Value, Thrown> {
        let mut answer = self.call(phase, &payload).await;
        if self.twice && matches!(answer, Some(Ok(_))) {
            answer = self.call(phase, &payload).await;
        }
        let (name, message) = match answer {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(failure)) => (failure.code.name(), failure.message),
            None => ("Runtime.ExitError", "Error: Runtime exited with error: signal: killed".to_owned()),
        };
        Err(Thrown::new(name, json!({"errorType": name, "errorMessage": message}).to_string()))
    }

    async fn call(&self, phase: bool, payload: &Value) -> Option<Result<Value, Failure>> {
        if phase {
            return self.faults.invoke((self.phases)(payload.clone())).await;
        }
        let event = LifecycleEvent::try_from(payload.clone()).unwrap();
        self.faults.invoke(self.lifecycle.handle(event, Deadline::after(Duration::from_secs(300)))).await
    }
}

/// The lifecycle function with that event, invoked until it answers or for so many times.
pub(crate) async fn end(
    faults: &Faults,
    lifecycle: &Lifecycle,
    event: &Value,
    tries: u32,
) -> Result<Value, Failure> {
    let mut last = Failure::transient("never invoked");
    for _ in 0..tries {
        let event = LifecycleEvent::try_from(event.clone()).unwrap();
        match faults.invoke(lifecycle.handle(event, Deadline::after(Duration::from_secs(300)))).await {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(failure)) => last = failure,
            None => last = Failure::transient("died"),
        }
    }
    Err(last)
}
