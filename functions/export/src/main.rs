//! The Lambda behind the export state machine: an event in, one phase, an answer out.

use std::sync::Arc;

use image_tasks_aws::{
    Clients, DynamoImages, DynamoTasks, ExportConfig, S3Objects, S3Receivers, SystemClock,
};
use image_tasks_aws::{lambda, telemetry};
use image_tasks_flows::bounds::ExportCut;
use image_tasks_flows::events::ExportEvent;
use image_tasks_flows::{Deadline, ExportRules, Exporter, Settings};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let ExportConfig { stores, work_bucket, receivers } = ExportConfig::from_env()?;
    let Clients { dynamodb, s3, .. } = Clients::load(&stores).await;
    let regions = receivers.buckets.values().flatten().map(String::as_str);
    let tasks = DynamoTasks::new(dynamodb.clone(), stores.tasks_table, stores.images_table.clone());
    let tasks = Arc::new(tasks);
    let exporter = Exporter {
        life: tasks.clone(),
        tasks,
        images: Arc::new(DynamoImages::new(dynamodb, stores.images_table)),
        receivers: Arc::new(S3Receivers::new(s3.clone(), regions)),
        objects: Arc::new(S3Objects::new(s3)),
        clock: Arc::new(SystemClock),
        settings: Settings { images_bucket: stores.images_bucket, work_bucket, task_ttl: stores.task_ttl },
        rules: ExportRules { receivers, cut: ExportCut::default() },
    };
    let exporter = &exporter;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let deadline = Deadline::of_invocation(event.context.deadline, &SystemClock);
        let phase = ExportEvent::try_from(event.payload).map_err(lambda::diagnostic)?;
        exporter.handle(phase, deadline).await.map_err(lambda::diagnostic)
    }))
    .await
}
