//! The Lambda behind the HTTP API: an event in, one request of the API, an answer out.

mod gateway;
mod service;

use http::Response;
use image_tasks_aws::{ApiConfig, Clients, telemetry};
use lambda_http::tower::ServiceBuilder;
use lambda_http::{Adapter, Body, Error, Request, lambda_runtime, service_fn};

// One invocation at a time: a second thread would only be started.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    telemetry::init();
    let config = ApiConfig::from_env()?;
    let clients = Clients::load(&config.stores).await;
    let app = service::build(config, clients)?;
    let app = &app;
    let answer = service_fn(async move |request: Request| -> Result<Response<Body>, Error> {
        Ok(gateway::answer(app.handle(gateway::plain(request)).await))
    });
    // As `lambda_http::run`, with the event made fit for it first.
    let service = ServiceBuilder::new().map_request(gateway::in_uri_form).service(Adapter::from(answer));
    lambda_runtime::run(service).await
}
