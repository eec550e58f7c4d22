//! The Lambda behind the clone state machine: an event in, one phase, an answer out.

mod service;

use image_tasks_aws::{Clients, CloneConfig, SystemClock, lambda, telemetry};
use image_tasks_flows::Deadline;
use image_tasks_flows::events::CloneEvent;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let config = CloneConfig::from_env()?;
    let clients = Clients::load(&config.stores).await;
    let clones = service::build(config, clients);
    let clones = &clones;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let deadline = Deadline::of_invocation(event.context.deadline, &SystemClock);
        let phase = CloneEvent::try_from(event.payload).map_err(lambda::diagnostic)?;
        clones.handle(phase, deadline).await.map_err(lambda::diagnostic)
    }))
    .await
}
