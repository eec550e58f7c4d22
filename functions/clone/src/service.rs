//! The engine of clones over AWS, built once at cold start.

use std::sync::Arc;

use image_tasks_aws::{AllowedSources, AwsRegions, Clients, CloneConfig, ConfigError, Patience};
use image_tasks_domain::copying::CopyRules;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::source::SourcePolicy;
use image_tasks_flows::bounds::{Cut, Relay};
use image_tasks_flows::{Clones, Engine, GlanceImages, ImportPolicy, RegionImages, Remote};

/// Clones as configured.
///
/// # Errors
/// Certificates that can't be read.
pub(crate) fn build(config: CloneConfig, clients: Clients) -> Result<Engine, ConfigError> {
    let CloneConfig {
        stores: told,
        work_bucket,
        regions,
        glances,
        credentials_table,
        addresses,
        max_image_bytes,
        source_wait,
        source_ca,
    } = config;
    let tasks = Arc::new(clients.tasks(&told).with_credentials(credentials_table));
    let stores = clients.stores(&tasks, &told, work_bucket);
    // No bucket is anybody's source here.
    let policy = SourcePolicy { addresses, ..SourcePolicy::default() };
    let sources = AllowedSources::new(policy.clone(), stores.objects.clone(), Patience::default());
    let sources = Arc::new(sources.with_ca(&source_ca)?.with_glances(glances.clone()));
    let policy = ImportPolicy {
        sources: policy,
        max_image_bytes,
        output: OutputFormat::AsIs,
        // Its hashes are nearly always known there, and held against the bytes first.
        hash_before_active: u64::MAX,
        cut: Cut::default(),
        relay: Relay::default(),
        source_wait,
    };
    let elsewhere = GlanceImages {
        endpoints: glances,
        glances: sources.clone(),
        remote: Remote { sources, policy, credentials: tasks },
    };
    let regions = RegionImages {
        stores: Arc::new(AwsRegions::new(clients, told.images_table, regions.clone())),
        regions,
        rules: CopyRules::default(),
    };
    Ok(Engine::clones(stores, Clones { regions, elsewhere: Some(elsewhere) }))
}
