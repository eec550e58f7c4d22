//! The Lambda that ends tasks which did not end themselves: called by a state machine's Catch, EventBridge and a schedule.

use std::sync::Arc;

use image_tasks_aws::{Clients, DynamoImages, DynamoTasks, LifecycleConfig, S3Objects, S3Receivers};
use image_tasks_aws::{StepFunctions, SystemClock, lambda, telemetry};
use image_tasks_flows::events::LifecycleEvent;
use image_tasks_flows::{Lifecycle, Settings};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::Value;

// One event at a time, and nothing in it is bound by the processor.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let LifecycleConfig { stores, work_bucket, credentials_table, machines, exports } =
        LifecycleConfig::from_env()?;
    let clients = Clients::load(&stores).await;
    let s3 = clients.s3;
    let tasks = DynamoTasks::new(clients.dynamodb.clone(), stores.tasks_table, stores.images_table.clone());
    let tasks = Arc::new(tasks.with_credentials(credentials_table));
    let lifecycle = Lifecycle {
        life: tasks.clone(),
        tasks,
        images: Arc::new(DynamoImages::new(clients.dynamodb, stores.images_table)),
        objects: Arc::new(S3Objects::new(s3.clone())),
        receivers: Arc::new(S3Receivers::new(s3, exports.buckets.values().flatten().map(String::as_str))),
        exports,
        executions: Arc::new(StepFunctions::new(clients.sfn, machines)),
        clock: Arc::new(SystemClock),
        settings: Settings { images_bucket: stores.images_bucket, work_bucket, task_ttl: stores.task_ttl },
    };
    let lifecycle = &lifecycle;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let event = LifecycleEvent::try_from(event.payload).map_err(lambda::diagnostic)?;
        lifecycle.handle(event).await.map_err(lambda::diagnostic)
    }))
    .await
}
