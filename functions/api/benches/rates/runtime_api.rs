//! The Lambda Runtime API (Lambda developer guide, "Using the Lambda runtime API for custom runtimes")
//! for one process.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};

/// An event and where its answer goes.
type Invocation = (Bytes, oneshot::Sender<Bytes>);

/// One process's runtime API.
pub(crate) struct RuntimeApi {
    pub(crate) address: String,
    shared: Arc<Shared>,
    events: mpsc::Sender<Invocation>,
}

struct Shared {
    asked: Notify,
    events: tokio::sync::Mutex<mpsc::Receiver<Invocation>>,
    /// Of the event that the process has.
    answer: Mutex<Option<oneshot::Sender<Bytes>>>,
}

impl RuntimeApi {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (events, receiver) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            asked: Notify::new(),
            events: tokio::sync::Mutex::new(receiver),
            answer: Mutex::new(None),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, serving.clone()));
            }
        });
        Self { address, shared, events }
    }

    /// Waits until the process asks for its first event.
    pub(crate) async fn asked(&self) {
        self.shared.asked.notified().await;
    }

    /// Hands over an event; what the process answers.
    pub(crate) async fn invoke(&self, event: &Value) -> Value {
        let (answer, answered) = oneshot::channel();
        self.events.send((event.to_string().into(), answer)).await.unwrap();
        serde_json::from_slice(&answered.await.unwrap()).unwrap()
    }
}

async fn serve(connection: TcpStream, shared: Arc<Shared>) {
    connection.set_nodelay(true).unwrap();
    let service = service_fn(|request| answer(request, &shared));
    // An error here is a process that ended, as at the end of each cold start.
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET && path.ends_with("/invocation/next") {
        shared.asked.notify_one();
        let Some((event, answer)) = shared.events.lock().await.recv().await else {
            return Ok(status(StatusCode::GONE));
        };
        *shared.answer.lock().unwrap() = Some(answer);
        let next = Response::builder()
            .header("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
            .header("lambda-runtime-deadline-ms", "4102444800000")
            .header(
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:eu-west-1:000000000000:function:api",
            )
            .header("content-type", "application/json");
        return Ok(next.body(Full::new(event)).unwrap());
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    assert!(path.ends_with("/response"), "{path}: {body:?}");
    let waiting = shared.answer.lock().unwrap().take();
    waiting.unwrap().send(body).unwrap();
    Ok(status(StatusCode::ACCEPTED))
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
