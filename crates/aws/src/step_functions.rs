//! Step Functions: a task's own execution, named by the task's id, and those that make its hashes after its end.

use async_trait::async_trait;
use aws_sdk_sfn::Client;
use aws_sdk_sfn::error::ProvideErrorMetadata;
use aws_sdk_sfn::types::ExecutionStatus as SfnStatus;
use image_tasks_domain::image_import::ImageImport;
use image_tasks_domain::ports::{ExecutionStatus, Executions, StoreError, StoreResult};
use image_tasks_domain::{ExecutionName, Failure, Task, TaskType};
use serde_json::json;

use crate::failures::store_error;

/// Error code of a call that names no execution.
const NOT_THERE: &str = "ExecutionDoesNotExist";

/// Executions of the state machines that tasks run on.
#[derive(Debug, Clone)]
pub struct StepFunctions {
    client: Client,
    machines: StateMachines,
}

/// ARNs of the state machines that tasks run on, by type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateMachines {
    /// Of imports.
    pub import: String,
    /// Of exports.
    pub export: String,
    /// Of clones.
    pub clone: String,
}

impl StateMachines {
    /// The one that a task runs on. Bytes of another image come into a record as a clone's do.
    fn of(&self, task: &Task) -> &str {
        match task.task_type {
            TaskType::ApiImageImport if ImageImport::is_of_image(&task.input) => &self.clone,
            TaskType::Import | TaskType::ApiImageImport => &self.import,
            TaskType::Export => &self.export,
            TaskType::Clone => &self.clone,
        }
    }
}

impl StepFunctions {
    /// On these state machines.
    pub fn new(client: Client, machines: StateMachines) -> Self {
        Self { client, machines }
    }

    fn execution(&self, task: &Task, run: u32) -> StoreResult<String> {
        let machine = self.machines.of(task);
        execution_arn(machine, ExecutionName { task: task.id, run })
            .ok_or_else(|| StoreError::Fault(format!("'{machine}' is not a state machine's ARN").into()))
    }
}

#[async_trait]
impl Executions for StepFunctions {
    async fn start(&self, task: &Task, run: u32) -> StoreResult<()> {
        let started = self
            .client
            .start_execution()
            .state_machine_arn(self.machines.of(task))
            .name(ExecutionName { task: task.id, run }.to_string())
            .input(json!({ "task_id": task.id }).to_string())
            .send()
            .await;
        match started {
            Ok(_) => Ok(()),
            // AWS answers a repeat with the first execution while it runs, and with this once it ended;
            // the name is this run's, so either way it has been started.
            Err(e) if e.code() == Some("ExecutionAlreadyExists") => Ok(()),
            Err(e) => Err(store_error(e)),
        }
    }

    async fn stop(&self, task: &Task, why: &Failure) -> StoreResult<bool> {
        let stop = self.client.stop_execution().execution_arn(self.execution(task, 0)?);
        match stop.error(why.code.name()).cause(&why.message).send().await {
            Ok(_) => Ok(true),
            Err(e) if e.code() == Some(NOT_THERE) => Ok(false),
            Err(e) => Err(store_error(e)),
        }
    }

    async fn status(&self, task: &Task, run: u32) -> StoreResult<ExecutionStatus> {
        let describe = self.client.describe_execution().execution_arn(self.execution(task, run)?);
        let found = match describe.send().await {
            Ok(found) => found,
            Err(e) if e.code() == Some(NOT_THERE) => return Ok(ExecutionStatus::NotFound),
            Err(e) => return Err(store_error(e)),
        };
        let text = |given: Option<&str>| given.unwrap_or_default().to_owned();
        let (error, cause) = (text(found.error()), text(found.cause()));
        match found.status() {
            SfnStatus::Running | SfnStatus::PendingRedrive => Ok(ExecutionStatus::Running),
            SfnStatus::Succeeded => Ok(ExecutionStatus::Succeeded),
            SfnStatus::Failed => Ok(ExecutionStatus::Failed { error, cause }),
            SfnStatus::TimedOut => Ok(ExecutionStatus::TimedOut),
            SfnStatus::Aborted => Ok(ExecutionStatus::Aborted { error, cause }),
            other => {
                Err(StoreError::Fault(format!("unknown status '{}' of an execution", other.as_str()).into()))
            }
        }
    }
}

/// `arn:aws:states:region:account:stateMachine:name` and `...:execution:name:execution`
/// (Step Functions developer guide, "Resource types" of the service authorization reference).
fn execution_arn(machine: &str, execution: ExecutionName) -> Option<String> {
    let (place, name) = machine.split_once(":stateMachine:")?;
    (!name.is_empty() && !name.contains(':')).then(|| format!("{place}:execution:{name}:{execution}"))
}

#[cfg(test)]
mod tests {
    use image_tasks_domain::{TaskId, Timestamp};
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_comes_of_another_image_is_a_clones_work() {
        let [import, export, clone] = ["import", "export", "clone"].map(str::to_owned);
        let machines = StateMachines { import, export, clone };
        let of = |task_type, input: Value| {
            let task = Task::pending(task_type, "demo", input, Timestamp::from_epoch(0));
            machines.of(&task).to_owned()
        };
        for (task_type, machine) in
            [(TaskType::Import, "import"), (TaskType::Export, "export"), (TaskType::Clone, "clone")]
        {
            assert_eq!(of(task_type, json!({})), machine);
        }
        for (method, machine) in
            [("glance-direct", "import"), ("web-download", "import"), ("glance-download", "clone")]
        {
            let input = json!({"image_id": "x", "import_req": {"method": {"name": method}}});
            assert_eq!(of(TaskType::ApiImageImport, input), machine, "{method}");
        }
    }

    #[test]
    fn an_execution_is_found_by_machine_task_and_run() {
        let task: TaskId = "0b5b7b0e-6d5c-4a3b-9a55-3d9c7d6f1a2b".parse().unwrap();
        let machine = "arn:aws:states:eu-west-1:123456789012:stateMachine:import";
        for (run, name) in [(0, format!("{task}")), (2, format!("{task}-hash-2"))] {
            let arn = format!("arn:aws:states:eu-west-1:123456789012:execution:import:{name}");
            assert_eq!(execution_arn(machine, ExecutionName { task, run }), Some(arn));
        }
        for bad in ["", "import", "arn:aws:states:eu-west-1:1:stateMachine:", "a:stateMachine:x:version"] {
            assert_eq!(execution_arn(bad, ExecutionName { task, run: 0 }), None, "{bad}");
        }
    }
}
