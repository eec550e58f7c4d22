//! The demo: a disk image travels through `POST /v2/tasks`, and each change of
//! the task is a line.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use image_tasks_local::{Content, Source, SourceServer};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::client;
use super::disk::{self, Disk};
use super::stack::RunningStack;
use super::steps::Stop;
use super::terminal::Terminal;

const TOKEN: &str = "demo:demo";
const ASK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(
    stack: &RunningStack,
    mebibytes: u64,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<()> {
    let endpoint = &stack.coordinates().deployments.first().context("nothing is deployed")?.endpoint;
    terminal.line(format!("Making a disk image of {mebibytes} MiB"));
    let disk = disk::make(stack.layout(), mebibytes, stop).await?;
    let server = SourceServer::start().await?;
    let url = server.serve(&format!("/disk.{}", disk.format), Source::new(Content::File(disk.path.clone())));
    terminal.line(format!("Serving it: {url} ({} bytes)", disk.bytes));

    let request = json!({"type": "import", "input": {
        "import_from": url,
        "import_from_format": disk.format,
        "image_properties": {"name": "demo"},
    }});
    terminal.line(format!("POST {endpoint}/v2/tasks {request}"));
    let created =
        stop.or(client::api(Method::POST, &format!("{endpoint}/v2/tasks"), TOKEN, Some(&request))).await?;
    let task = created["id"].as_str().context("the answer has no task id")?;
    let ended = stop.or(follow(&format!("{endpoint}/v2/tasks/{task}"), terminal)).await?;
    if ended["status"] != "success" {
        bail!("the import failed: {}", ended["message"].as_str().unwrap_or("no message"));
    }
    let image = ended["result"]["image_id"].as_str().context("the result has no image_id")?;
    let image_url = format!("{endpoint}/v2/images/{image}");
    let shown = stop.or(client::api(Method::GET, &image_url, TOKEN, None)).await?;
    terminal.line(format!(
        "Served by the source in {} requests, at most {} at once",
        server.requests().len(),
        server.most_bodies_at_once()
    ));
    compare(&shown, &disk, terminal)?;
    terminal.line(format!("The image: {image_url}"));
    Ok(())
}

/// Shows a task until its end.
async fn follow(url: &str, terminal: &Terminal) -> Result<Value> {
    let mut last = String::new();
    loop {
        let task = client::api(Method::GET, url, TOKEN, None).await?;
        let status = task["status"].as_str().unwrap_or_default();
        let mut now = format!("task {status}");
        if let Some(progress) = task["progress"].as_u64() {
            now.push_str(&format!(", {progress}%"));
        }
        if let Some(message) = task["message"].as_str().filter(|message| !message.is_empty()) {
            now.push_str(&format!(": {message}"));
        }
        if now != last {
            terminal.line(format!("  {now}"));
            last = now;
        }
        if matches!(status, "success" | "failure") {
            return Ok(task);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// The image is the file: its size and its SHA-512.
fn compare(image: &Value, disk: &Disk, terminal: &Terminal) -> Result<()> {
    if image["status"] != "active" {
        bail!("the image is {}, not active", image["status"]);
    }
    if image["size"].as_u64() != Some(disk.bytes) {
        bail!("the image has {} bytes, the file {}", image["size"], disk.bytes);
    }
    let expected = sha512(&disk.path)?;
    if image["os_hash_algo"] != "sha512" || image["os_hash_value"] != expected.as_str() {
        bail!(
            "the image's hash is {} {}, the file's sha512 {expected}",
            image["os_hash_algo"],
            image["os_hash_value"]
        );
    }
    terminal.line(format!("The image is active, {} bytes, sha512 equal to the file's", disk.bytes));
    Ok(())
}

fn sha512(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha512::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
    }
    Ok(hex::encode(hash.finalize()))
}
