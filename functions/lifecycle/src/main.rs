//! The Lambda that ends tasks which did not end themselves: called by a state machine's Catch, EventBridge and a schedule.

use std::sync::{Arc, Mutex};

use image_tasks_aws::{Clients, LifecycleConfig, Metrics, StepFunctions, lambda, telemetry};
use image_tasks_flows::Lifecycle;

// One event at a time, and nothing in it is bound by the processor.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    telemetry::init();
    let LifecycleConfig { stores, work_bucket, credentials_table, machines, exports } =
        LifecycleConfig::from_env()?;
    let clients = Clients::load(&stores).await;
    let tasks = Arc::new(clients.tasks(&stores).with_credentials(credentials_table));
    let metrics = Metrics::new(stores.metrics_namespace.clone());
    let lifecycle = Lifecycle {
        stores: clients.stores(&tasks, &stores, work_bucket),
        receivers: Arc::new(clients.receivers(&exports)),
        exports,
        executions: Arc::new(StepFunctions::new(clients.sfn, machines)),
        swept_to: Mutex::default(),
    };
    lambda::run(async |event, deadline| {
        let answer = lifecycle.handle(event, deadline).await?;
        metrics.swept(&answer);
        Ok(answer)
    })
    .await
}
