//! Small HTTP requests of the runner itself.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

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

/// JSON to and from the API as the development identity `token`; anything but
/// a success is an error.
pub(super) async fn api(method: Method, url: &str, token: &str, body: Option<&Value>) -> Result<Value> {
    let mut request = Request::builder().method(&method).uri(url).header("X-Auth-Token", token);
    let body = match body {
        Some(json) => {
            request = request.header("Content-Type", "application/json");
            Full::from(serde_json::to_vec(json)?)
        }
        None => Full::default(),
    };
    let answer = send(request.body(body)?).await?;
    let status = answer.status();
    let text = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{method} {url} answered {status}: {}", String::from_utf8_lossy(&text));
    }
    serde_json::from_slice(&text).with_context(|| format!("{method} {url} answered no JSON"))
}
