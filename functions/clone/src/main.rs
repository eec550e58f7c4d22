//! The Lambda behind the clone state machine: an event in, one phase, an answer out.

mod service;

use image_tasks_aws::{Clients, CloneConfig, lambda, telemetry};

#[tokio::main]
async fn main() -> Result<(), lambda::Error> {
    telemetry::init();
    let config = CloneConfig::from_env()?;
    let clients = Clients::load(&config.stores).await;
    let engine = service::build(config, clients)?;
    lambda::run(async |event, deadline| engine.handle(event, deadline).await).await
}
