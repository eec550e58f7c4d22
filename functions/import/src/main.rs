//! The Lambda behind the import state machine: an event in, one phase, an answer out.

use std::sync::Arc;

use image_tasks_aws::sources::{AllowedSources, Patience};
use image_tasks_aws::{Clients, DynamoImages, DynamoTasks, ImportConfig, S3Objects, SystemClock};
use image_tasks_aws::{lambda, telemetry};
use image_tasks_flows::bounds::Cut;
use image_tasks_flows::events::ImportEvent;
use image_tasks_flows::{Asks, Deadline, ImportPolicy, Importer, Settings};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let ImportConfig { stores, work_bucket, sources, max_image_bytes, hash_before_active, output } =
        ImportConfig::from_env()?;
    let clients = Clients::load(&stores).await;
    let objects = Arc::new(S3Objects::new(clients.s3));
    let tasks = DynamoTasks::new(clients.dynamodb.clone(), stores.tasks_table, stores.images_table.clone());
    let tasks = Arc::new(tasks);
    let importer = &Importer {
        life: tasks.clone(),
        tasks,
        images: Arc::new(DynamoImages::new(clients.dynamodb, stores.images_table)),
        sources: Arc::new(AllowedSources::new(sources.clone(), objects.clone(), Patience::default())),
        objects,
        clock: Arc::new(SystemClock),
        settings: Settings { images_bucket: stores.images_bucket, work_bucket, task_ttl: stores.task_ttl },
        policy: ImportPolicy { sources, max_image_bytes, output, hash_before_active, cut: Cut::default() },
        asks: Asks::Imports,
    };
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let deadline = Deadline::of_invocation(event.context.deadline, &SystemClock);
        let phase = ImportEvent::try_from(event.payload).map_err(lambda::diagnostic)?;
        importer.handle(phase, deadline).await.map_err(lambda::diagnostic)
    }))
    .await
}
