//! The phases of clones over AWS, built once at cold start.

use std::sync::Arc;

use image_tasks_aws::{
    AllowedSources, AwsRegions, Clients, CloneConfig, DynamoImages, DynamoTasks, Patience, S3Objects,
    SystemClock,
};
use image_tasks_domain::copying::CopyRules;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::source::SourcePolicy;
use image_tasks_flows::bounds::Cut;
use image_tasks_flows::{Asks, Cloner, Clones, ImportPolicy, Importer, RemoteClones, Settings};

/// Clones as configured.
pub(crate) fn build(config: CloneConfig, clients: Clients) -> Clones {
    let CloneConfig { stores, work_bucket, regions, glances, addresses, .. } = config;
    let images = Arc::new(DynamoImages::new(clients.dynamodb.clone(), stores.images_table.clone()));
    let tasks = DynamoTasks::new(clients.dynamodb.clone(), stores.tasks_table, stores.images_table.clone());
    let tasks = Arc::new(tasks.with_credentials(config.credentials_table));
    let objects = Arc::new(S3Objects::new(clients.s3.clone()));
    let settings = Settings { images_bucket: stores.images_bucket, work_bucket, task_ttl: stores.task_ttl };
    // No bucket is anybody's source here.
    let policy = SourcePolicy { addresses, ..SourcePolicy::default() };
    let sources = AllowedSources::new(policy.clone(), objects.clone(), Patience::default());
    let sources = Arc::new(sources.with_glances(glances.clone()));
    let remote = RemoteClones {
        regions: regions.clone(),
        endpoints: glances,
        glances: sources.clone(),
        credentials: tasks.clone(),
    };
    let importer = Importer {
        life: tasks.clone(),
        tasks: tasks.clone(),
        images: images.clone(),
        sources,
        objects: objects.clone(),
        clock: Arc::new(SystemClock),
        settings: settings.clone(),
        policy: ImportPolicy {
            sources: policy,
            max_image_bytes: config.max_image_bytes,
            output: OutputFormat::AsIs,
            // Its hashes are nearly always known there, and held against the bytes first.
            hash_before_active: u64::MAX,
            cut: Cut::default(),
        },
        asks: Asks::Clones(remote),
    };
    let cloner = Cloner {
        life: tasks.clone(),
        tasks,
        images,
        objects,
        stores: Arc::new(AwsRegions::new(clients, stores.images_table, regions.clone())),
        clock: Arc::new(SystemClock),
        settings,
        regions,
        rules: CopyRules::default(),
    };
    Clones { cloner, importer }
}
