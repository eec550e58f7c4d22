//! The API over AWS: use cases on adapters, built once at cold start.

use std::sync::Arc;

use image_tasks_api::{App, Identity};
use image_tasks_aws::{ApiConfig, Clients, S3Images, StepFunctions, SystemClock};
use image_tasks_domain::images::Images;
use image_tasks_domain::tasks::Tasks;
use image_tasks_domain::uploads::Uploads;

/// The API as configured.
pub(crate) fn build(config: ApiConfig, clients: Clients) -> App {
    let stores = config.stores;
    let records = Arc::new(clients.tasks(&stores).with_credentials(config.credentials_table));
    let images = Arc::new(clients.images(&stores));
    let objects = clients.objects();
    let bytes = Arc::new(S3Images::new(objects.clone(), config.work_bucket));
    let clock = Arc::new(SystemClock);
    let tasks = Tasks {
        store: records.clone(),
        progress: records.clone(),
        life: records.clone(),
        images: images.clone(),
        executions: Arc::new(StepFunctions::new(clients.sfn, config.machines)),
        clock: clock.clone(),
        sources: config.sources,
        receivers: config.receivers,
        regions: config.regions,
        glances: config.glances,
        ttl: stores.task_ttl,
        quota: config.images_per_project,
    };
    let images = Images {
        store: images,
        links: Arc::new(objects),
        bytes: bytes.clone(),
        tasks: records,
        clock,
        quota: config.images_per_project,
    };
    App {
        uploads: Uploads { images: images.clone(), tasks: tasks.clone(), staging: bytes },
        tasks,
        images,
        identity: match config.identity {
            image_tasks_aws::Identity::Iam => Identity::Iam,
            image_tasks_aws::Identity::Development => Identity::Development,
        },
        public_endpoint: config.public_endpoint,
    }
}
