//! Small HTTP requests of the runner itself.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// An answer of any status, its body not yet read.
pub(super) async fn send(request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let uri = request.uri().clone();
    client().request(request).await.with_context(|| format!("{uri} doesn't answer"))
}

/// GET without credentials.
pub(super) async fn get(url: &str) -> Result<Response<Incoming>> {
    send(Request::builder().uri(url).body(Full::default())?).await
}
