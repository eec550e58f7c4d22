//! A token that is revoked while its owner's client waits: the client fetches another one and waits on.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use image_tasks_domain::ports::{ImageStore, TaskStore};
use image_tasks_domain::{Image, ImageStatus};
use image_tasks_test_keystone::{Cloud, Server, Wanted, python};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

use crate::Service;

/// The API that asks Keystone each time, on a port; how many requests it has refused with 401.
async fn serve(service: Arc<Service>) -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (refused, seen) = watch::channel(0);
    let refused = Arc::new(refused);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (service, refused) = (service.clone(), refused.clone());
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (service, refused) = (service.clone(), refused.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let answer = service.asks.handle(http::Request::from_parts(parts, body)).await;
                    refused.send_modify(|count| *count += usize::from(answer.status().as_u16() == 401));
                    Ok::<_, hyper::Error>(answer.map(Full::<Bytes>::new))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), answer),
            );
        }
    });
    (address, seen)
}

/// Keystone's catalog leads to the API.
async fn in_catalog(server: &Server, admin: &str, api: SocketAddr) {
    let service = json!({"service": {"type": "image", "name": "images"}});
    let made = server.call(admin, Method::POST, "/services", Some(service)).await;
    let endpoint = json!({"endpoint": {
        "service_id": made["service"]["id"], "interface": "public", "region_id": "RegionOne",
        "url": format!("http://{api}"),
    }});
    server.call(admin, Method::POST, "/regions", Some(json!({"region": {"id": "RegionOne"}}))).await;
    server.call(admin, Method::POST, "/endpoints", Some(endpoint)).await;
}

#[tokio::test]
#[ignore = "run by `cargo local conformance`"]
async fn a_token_revoked_in_the_middle_of_a_wait_is_replaced_by_the_client() {
    let cloud = Cloud::new();
    let server = cloud.serve("main", 3600).await;
    let service = Arc::new(Service::new(&server.url));
    let (api, mut refused) = serve(service.clone()).await;
    let system = server.token("admin", Wanted::System).await;
    let ops = server.id(&system, "/projects", "admin").await;
    let admin = server.token("admin", Wanted::Project(&ops)).await;
    in_catalog(&server, &admin, api).await;
    let demo = server.project(&admin, "demo").await;
    server.user(&admin, "alice", &demo, "member").await;

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keystone/waits.py");
    let mut client = Command::new(python("openstacksdk"));
    client.arg(script).args([&format!("{}/v3", server.url), &demo, "alice", server.password()]);
    client
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut client = client.spawn().unwrap();
    let mut told = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut next = async || -> Value {
        let line = told.next_line().await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    };
    for (begins, ends) in [("pending", "success"), ("queued", "active")] {
        let waiting = next().await;
        assert_eq!(waiting["status"], begins, "{waiting}");
        let token = waiting["token"].as_str().unwrap().to_owned();
        let before = *refused.borrow_and_update();
        server.revoke(&token).await;
        refused.wait_for(|count| *count > before).await.unwrap();
        end(&service, waiting["id"].as_str().unwrap(), ends).await;
        let done = next().await;
        assert_eq!((&done["id"], &done["status"]), (&waiting["id"], &json!(ends)));
        assert_ne!(done["token"], token, "another one");
    }
    assert!(client.wait().await.unwrap().success());
    // Each revoked token was refused once.
    assert_eq!(*refused.borrow(), 2);
}

/// What the client waits for comes about.
async fn end(service: &Service, id: &str, status: &str) {
    let now = service.asks.tasks.clock.now();
    if status == "success" {
        let mut task = TaskStore::get(&*service.store, id.parse().unwrap()).await.unwrap().unwrap();
        task.begin(None, now).unwrap();
        task.succeed(json!({"image_id": id}), service.asks.tasks.ttl, now).unwrap();
        service.store.put_task(task);
    } else {
        let image = ImageStore::get(&*service.store, id.parse().unwrap()).await.unwrap().unwrap();
        service.store.put_image(Image { status: ImageStatus::Active, ..image });
    }
}
