//! The Lambda behind the clone state machine: an event in, one phase, an answer out.

use std::sync::Arc;

use image_tasks_aws::{AwsRegions, Clients, CloneConfig, DynamoImages, DynamoTasks, S3Objects, SystemClock};
use image_tasks_aws::{lambda, telemetry};
use image_tasks_domain::copying::CopyRules;
use image_tasks_flows::events::CloneEvent;
use image_tasks_flows::{Cloner, Deadline, Settings};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let CloneConfig { stores, work_bucket, regions } = CloneConfig::from_env()?;
    let clients = Clients::load(&stores).await;
    let images = Arc::new(DynamoImages::new(clients.dynamodb.clone(), stores.images_table.clone()));
    let tasks = DynamoTasks::new(clients.dynamodb.clone(), stores.tasks_table, stores.images_table.clone());
    let tasks = Arc::new(tasks);
    let cloner = Cloner {
        life: tasks.clone(),
        tasks,
        images,
        objects: Arc::new(S3Objects::new(clients.s3.clone())),
        stores: Arc::new(AwsRegions::new(clients, stores.images_table, regions.clone())),
        clock: Arc::new(SystemClock),
        settings: Settings { images_bucket: stores.images_bucket, work_bucket, task_ttl: stores.task_ttl },
        regions,
        rules: CopyRules::default(),
    };
    let cloner = &cloner;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| -> Result<Value, Diagnostic> {
        let deadline = Deadline::of_invocation(event.context.deadline, &SystemClock);
        let phase = CloneEvent::try_from(event.payload).map_err(lambda::diagnostic)?;
        cloner.handle(phase, deadline).await.map_err(lambda::diagnostic)
    }))
    .await
}
