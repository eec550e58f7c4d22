//! The API over AWS: use cases on adapters, built once at cold start.

use std::sync::Arc;

use image_tasks_api::{App, Identity};
use image_tasks_aws::{ApiConfig, Clients, StepFunctions, SystemClock};
use image_tasks_domain::images::Images;
use image_tasks_domain::tasks::Tasks;

/// The API as configured.
pub(crate) fn build(config: ApiConfig, clients: Clients) -> App {
    let stores = config.stores;
    let tasks = Arc::new(clients.tasks(&stores).with_credentials(config.credentials_table));
    let images = Arc::new(clients.images(&stores));
    let objects = Arc::new(clients.objects());
    let clock = Arc::new(SystemClock);
    App {
        tasks: Tasks {
            store: tasks.clone(),
            progress: tasks.clone(),
            life: tasks.clone(),
            images: images.clone(),
            executions: Arc::new(StepFunctions::new(clients.sfn, config.machines)),
            clock: clock.clone(),
            sources: config.sources,
            receivers: config.receivers,
            regions: config.regions,
            glances: config.glances,
            ttl: stores.task_ttl,
            quota: config.images_per_project,
        },
        images: Images {
            store: images,
            links: objects.clone(),
            bytes: objects,
            tasks,
            clock,
            quota: config.images_per_project,
        },
        identity: match config.identity {
            image_tasks_aws::Identity::Iam => Identity::Iam,
            image_tasks_aws::Identity::Development => Identity::Development,
        },
        public_endpoint: config.public_endpoint,
    }
}
