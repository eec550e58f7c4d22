//! The public port: 127.0.0.1:9292 in front of the emulated API Gateway, which
//! tells APIs apart by the `Host` header. Bodies stream both ways.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::server;

/// Headers of one connection, not of the message (RFC 9110, 7.6.1), and
/// `Expect`, which our own server has answered.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    http::header::CONNECTION,
    http::header::EXPECT,
    HeaderName::from_static("keep-alive"),
    http::header::PROXY_AUTHENTICATE,
    http::header::PROXY_AUTHORIZATION,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

type Body = Either<Incoming, Full<Bytes>>;

#[derive(Clone)]
struct Gateway {
    client: Client<HttpConnector, Incoming>,
    address: Authority,
    host: HeaderValue,
}

/// Serves one API at `listener` until the task is aborted.
pub(super) fn serve(listener: TcpListener, aws_port: u16, api_id: &str) -> Result<JoinHandle<()>> {
    let gateway = Gateway {
        client: Client::builder(TokioExecutor::new()).build_http(),
        address: format!("127.0.0.1:{aws_port}").parse().context("not an address")?,
        host: HeaderValue::from_str(&format!("{api_id}.execute-api.localhost:{aws_port}"))?,
    };
    Ok(server::serve(listener, move |request| forward(gateway.clone(), request)))
}

async fn forward(gateway: Gateway, request: Request<Incoming>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut target = http::uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(gateway.address);
    target.path_and_query =
        Some(head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    for name in &OF_THE_CONNECTION {
        head.headers.remove(name);
    }
    head.headers.insert(HOST, gateway.host);
    let Ok(uri) = Uri::from_parts(target) else { return bad_gateway("the path is not a URI") };
    head.uri = uri;
    match gateway.client.request(Request::from_parts(head, body)).await {
        Ok(answer) => {
            let mut answer = answer.map(Either::Left);
            for name in &OF_THE_CONNECTION {
                answer.headers_mut().remove(name);
            }
            answer
        }
        Err(error) => bad_gateway(&format!("the emulated API Gateway doesn't answer: {error}")),
    }
}

fn bad_gateway(message: &str) -> Response<Body> {
    let text = serde_json::json!({"message": message, "code": "502 Bad Gateway", "title": "Bad Gateway"});
    let mut answer = Response::new(Either::Right(Full::from(text.to_string())));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Empty};
    use std::net::{Ipv4Addr, SocketAddr};

    /// Answers with the request's line, `Host`, the named headers and body.
    async fn echo(request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let host = head.headers[HOST].to_str().unwrap();
        let token = head.headers.get("x-auth-token").map_or("", |value| value.to_str().unwrap());
        let mut text = format!("{} {} {host} {token} ", head.method, head.uri);
        text.push_str(std::str::from_utf8(&body.collect().await.unwrap().to_bytes()).unwrap());
        Response::builder().status(207).header("x-kept", "yes").body(Full::from(text)).unwrap()
    }

    async fn upstream() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        server::serve(listener, echo);
        address
    }

    async fn public(aws_port: u16) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, aws_port, "abc123").unwrap();
        address
    }

    #[tokio::test]
    async fn passes_method_path_query_headers_body_and_status_and_names_the_api() {
        let upstream = upstream().await;
        let address = public(upstream.port()).await;
        let request = Request::post(format!("http://{address}/v2/tasks?limit=2&a=%20b"))
            .header("X-Auth-Token", "alice:demo")
            .body(Full::<Bytes>::from("{}"))
            .unwrap();
        let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), 207);
        assert_eq!(answer.headers()["x-kept"], "yes");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let host = format!("abc123.execute-api.localhost:{}", upstream.port());
        assert_eq!(text, format!("POST /v2/tasks?limit=2&a=%20b {host} alice:demo {{}}"));
    }

    #[tokio::test]
    async fn a_gateway_that_is_down_is_a_502_that_says_so() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let address = public(free.port()).await;
        let request = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
        let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("API Gateway doesn't answer"));
    }
}
