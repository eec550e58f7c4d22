//! The API over AWS: use cases on adapters, built once at cold start.

use std::sync::Arc;

use image_tasks_api::{App, Identity, Keystone, MappedPrincipals};
use image_tasks_aws::{
    ApiConfig, Clients, ProjectsParameter, S3Images, StepFunctions, SystemClock, keystone,
};
use image_tasks_domain::images::{ImageQuota, Images};
use image_tasks_domain::tasks::Tasks;
use lambda_http::Error;

/// The API as configured.
///
/// # Errors
/// Where what tells who calls can't be built.
pub(crate) fn build(config: ApiConfig, clients: Clients) -> Result<App, Error> {
    let identity = identity(config.identity, &clients)?;
    let stores = config.stores;
    let records = Arc::new(clients.tasks(&stores).with_credentials(config.credentials_table));
    let images = Arc::new(clients.images(&stores));
    let objects = clients.objects();
    let bytes = Arc::new(S3Images::new(objects.clone(), config.work_bucket));
    let clock = Arc::new(SystemClock);
    let quota = ImageQuota::new(config.images_per_project);
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
        quota: quota.clone(),
    };
    let images = Images {
        store: images,
        links: Arc::new(objects),
        bytes: bytes.clone(),
        tasks: records,
        clock,
        quota,
    };
    Ok(App {
        staging: bytes.clone(),
        multipart: bytes,
        max_image_bytes: config.max_image_bytes,
        tasks,
        images,
        identity,
        public_endpoint: config.public_endpoint,
    })
}

fn identity(told: image_tasks_aws::Identity, clients: &Clients) -> Result<Identity, Error> {
    let clock = Arc::new(SystemClock);
    Ok(match told {
        image_tasks_aws::Identity::Keystone { url, cache } => {
            let tokens = Arc::new(image_tasks_aws::Keystone::new(&url, keystone::PATIENCE)?);
            Identity::Keystone(Arc::new(Keystone::new(tokens, clock, &url, cache)))
        }
        image_tasks_aws::Identity::Iam { projects: None } => Identity::Iam(None),
        image_tasks_aws::Identity::Iam { projects: Some(name) } => {
            let map = Arc::new(ProjectsParameter::new(&clients.shared, &name, clock.clone())?);
            Identity::Iam(Some(Arc::new(MappedPrincipals::new(map, clock))))
        }
        image_tasks_aws::Identity::Development => Identity::Development,
    })
}
