//! The Lambda behind the import state machine: an event in, one phase, an answer out.

use std::sync::Arc;

use image_tasks_aws::{AllowedSources, Clients, ImportConfig, Patience, lambda, telemetry};
use image_tasks_flows::bounds::{Cut, Relay};
use image_tasks_flows::{Engine, ImportPolicy, Imports, Remote};

#[tokio::main]
async fn main() -> Result<(), lambda::Error> {
    telemetry::init();
    let ImportConfig { stores, work_bucket, sources, max_image_bytes, hash_before_active, output } =
        ImportConfig::from_env()?;
    let clients = Clients::load(&stores).await;
    let stores = clients.stores(&Arc::new(clients.tasks(&stores)), &stores, work_bucket);
    let allowed = AllowedSources::new(sources.clone(), stores.objects.clone(), Patience::default());
    let (cut, relay) = (Cut::default(), Relay::default());
    let policy = ImportPolicy { sources, max_image_bytes, output, hash_before_active, cut, relay };
    let remote = Remote { sources: Arc::new(allowed), policy, credentials: None };
    let engine = Engine::imports(stores, Imports { remote });
    lambda::run(async |event, deadline| engine.handle(event, deadline).await).await
}
