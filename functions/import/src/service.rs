//! The engine of imports over AWS, built once at cold start.

use std::sync::Arc;

use image_tasks_aws::{AllowedSources, Clients, ConfigError, ImportConfig, Patience};
use image_tasks_flows::bounds::{Cut, Relay};
use image_tasks_flows::{Engine, ImportPolicy, Imports, Remote};

/// Imports as configured.
///
/// # Errors
/// Certificates that can't be read.
pub(crate) fn build(config: ImportConfig, clients: Clients) -> Result<Engine, ConfigError> {
    let ImportConfig {
        stores: told,
        work_bucket,
        sources,
        max_image_bytes,
        hash_before_active,
        credentials_table,
        output,
        source_wait,
        source_ca,
    } = config;
    let tasks = Arc::new(clients.tasks(&told).with_credentials(credentials_table));
    let stores = clients.stores(&tasks, &told, work_bucket);
    let allowed = AllowedSources::new(sources.clone(), stores.objects.clone(), Patience::default());
    let allowed = allowed.with_ca(&source_ca)?;
    let (cut, relay) = (Cut::default(), Relay::default());
    let policy =
        ImportPolicy { sources, max_image_bytes, output, hash_before_active, cut, relay, source_wait };
    let remote = Remote { sources: Arc::new(allowed), policy, credentials: tasks };
    Ok(Engine::imports(stores, Imports { remote }))
}
