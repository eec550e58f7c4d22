//! The Lambda behind the HTTP API: an event in, one request of the API, an answer out.

mod gateway;
mod service;

use gateway::{Answer, Event};
use image_tasks_aws::{ApiConfig, Clients, telemetry};
use lambda_runtime::{Error, LambdaEvent, service_fn};

// One invocation at a time: a second thread would only be started.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let config = ApiConfig::from_env()?;
    let clients = Clients::load(&config.stores).await;
    let app = service::build(config, clients);
    let app = &app;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Event>| -> Result<Answer, Error> {
        Ok(app.handle(event.payload.into_request()?).await.into())
    }))
    .await
}
