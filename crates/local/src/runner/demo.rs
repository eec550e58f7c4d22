//! The demo: a disk image is imported by `image-tasks`, as anybody would, and each step says what happens and where.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use image_tasks_local::{Content, Source, SourceServer};
use serde_json::Value;
use sha2::{Digest, Sha512};
use tokio::process::Command;

use super::disk::{self, Disk};
use super::stack::RunningStack;
use super::steps::Stop;
use super::terminal::Terminal;

const TOKEN: &str = "demo:demo";

/// `up` is the command that starts this stack once more, unless it stays.
pub(super) async fn run(
    stack: &RunningStack,
    mebibytes: u64,
    up: Option<&str>,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<()> {
    let endpoint = &stack.coordinates().deployments.first().context("nothing is deployed")?.endpoint;
    let user = User { command_line: &stack.coordinates().command_line, endpoint, stop };
    terminal.line(format!("Making a disk image of {mebibytes} MiB in {}", stack.layout().disk().display()));
    let disk = disk::make(stack.layout(), mebibytes, stop).await?;
    let server = SourceServer::start().await?;
    let url = server.serve(&format!("/disk.{}", disk.format), Source::new(Content::File(disk.path.clone())));
    terminal
        .line(format!("Serving it over HTTP, as any server on the web does: {url} ({} bytes)", disk.bytes));

    let import = ["import", &url, "--from-format", disk.format, "--name", "demo"];
    terminal.line(format!("Importing it, as the project demo: image-tasks {}", import.join(" ")));
    terminal.line(format!(
        "  (POST {endpoint}/v2/tasks; Step Functions runs the task, Lambda functions move byte ranges into S3)"
    ));
    let image = user.runs(&import).await?;
    terminal.line(format!(
        "The source was asked {} times, at most {} at once",
        server.requests().len(),
        server.most_bodies_at_once()
    ));
    let shown = user.runs(&["image", "show", &image, "--output", "json"]).await?;
    compare(&serde_json::from_str(&shown)?, &disk, terminal)?;
    terminal.line(format!("The image: {endpoint}/v2/images/{image}"));
    terminal.text(&three_things(stack, &disk, endpoint, up));
    Ok(())
}

/// Somebody with a shell.
struct User<'a> {
    command_line: &'a Path,
    endpoint: &'a str,
    stop: &'a Stop,
}

impl User<'_> {
    /// What the command prints; what it shows meanwhile, and why it fails, is on the terminal.
    async fn runs(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.command_line);
        command.args(arguments).env("IMAGE_TASKS_ENDPOINT", self.endpoint).env("OS_TOKEN", TOKEN);
        // The stack is on this machine, whatever proxy leads out of it.
        command.env("NO_PROXY", "127.0.0.1").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        // Not `output`, which would take stderr and its progress from the terminal.
        let child = command.spawn().context("cannot run image-tasks")?;
        let ran = self.stop.or(async { Ok(child.wait_with_output().await?) }).await?;
        if !ran.status.success() {
            bail!("image-tasks {} failed ({}): see above", arguments.join(" "), ran.status);
        }
        Ok(String::from_utf8(ran.stdout)?.trim_end().to_owned())
    }
}

/// Lines that work when pasted, in this directory.
fn three_things(stack: &RunningStack, disk: &Disk, endpoint: &str, up: Option<&str>) -> String {
    let programs = stack.coordinates().command_line.parent().unwrap_or(Path::new("."));
    let first = up
        .map(|up| format!("  {up}    # in a terminal of its own: the stack, until Ctrl-C\n"))
        .unwrap_or_default();
    format!(
        r"
Three things to try:
{first}  export IMAGE_TASKS_ENDPOINT={endpoint} OS_TOKEN={TOKEN} PATH={programs}:$PATH

  image-tasks import {disk} --disk-format {format} --name mine    # a file here; Ctrl-C, and the same again goes on
  image-tasks export mine --bucket {exports} --compression zstd
  image-tasks import s3://{sources}/none.img    # fails, and says why

",
        programs = programs.display(),
        disk = disk.path.display(),
        format = disk.format,
        exports = stack.coordinates().export_bucket,
        sources = stack.coordinates().source_bucket,
    )
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
