//! The API over AWS: use cases on adapters, built once at cold start.

use std::sync::Arc;

use image_tasks_api::{App, Identity};
use image_tasks_aws::{ApiConfig, Clients, DynamoImages, DynamoTasks, S3Objects, StepFunctions, SystemClock};
use image_tasks_domain::images::Images;
use image_tasks_domain::tasks::Tasks;

/// The API as configured.
pub(crate) fn build(config: ApiConfig, clients: Clients) -> App {
    let stores = config.stores;
    let tasks = DynamoTasks::new(clients.dynamodb.clone(), stores.tasks_table, stores.images_table.clone());
    let tasks = Arc::new(tasks.with_credentials(config.credentials_table));
    let images = Arc::new(DynamoImages::new(clients.dynamodb, stores.images_table));
    App {
        tasks: Tasks {
            store: tasks.clone(),
            life: tasks,
            images: images.clone(),
            executions: Arc::new(StepFunctions::new(clients.sfn, config.machines)),
            clock: Arc::new(SystemClock),
            sources: config.sources,
            receivers: config.receivers,
            regions: config.regions,
            glances: config.glances,
            ttl: stores.task_ttl,
        },
        images: Images { store: images, links: Arc::new(S3Objects::new(clients.s3)) },
        identity: match config.identity {
            image_tasks_aws::Identity::Iam => Identity::Iam,
            image_tasks_aws::Identity::Development => Identity::Development,
        },
        public_endpoint: config.public_endpoint,
    }
}
