//! The Lambda behind the export state machine: an event in, one phase, an answer out.

use std::sync::Arc;

use image_tasks_aws::{Clients, ExportConfig, lambda, telemetry};
use image_tasks_flows::bounds::ExportCut;
use image_tasks_flows::{Engine, ExportRules, Exports};

#[tokio::main]
async fn main() -> Result<(), lambda::Error> {
    telemetry::init();
    let ExportConfig { stores, work_bucket, receivers } = ExportConfig::from_env()?;
    let clients = Clients::load(&stores).await;
    let stores = clients.stores(&Arc::new(clients.tasks(&stores)), &stores, work_bucket);
    let exports = Exports {
        receivers: Arc::new(clients.receivers(&receivers)),
        rules: ExportRules { receivers, cut: ExportCut::default() },
    };
    let engine = Engine::exports(stores, exports);
    lambda::run(async |event, deadline| engine.handle(event, deadline).await).await
}
