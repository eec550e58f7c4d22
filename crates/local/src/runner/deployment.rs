//! `template.yaml` into one region of the emulators, by the real `sam deploy`.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use http::Request;
use http_body_util::Full;
use tokio::process::Command;

use image_tasks_local::{Deployment, HASH_BEFORE_ACTIVE};

use super::emulator::Endpoints;
use super::layout::Layout;
use super::steps::{self, Stop};
use super::{client, tools};

/// A bucket outside the stack that imports may read.
pub(super) const SOURCE_BUCKET: &str = "image-tasks-sources";
/// Bucket of the first region that may receive exports; of another, its region follows.
const EXPORT_BUCKET: &str = "image-tasks-exports";
const STACK: &str = "image-tasks";
const LOGS_LIMIT: Duration = Duration::from_secs(15);

/// One region to deploy to.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    pub region: String,
    pub port: u16,
    pub export_bucket: String,
    /// Buckets outside the stack that are made here.
    buckets: Vec<String>,
    /// Parameters beside those that every local stack has.
    parameters: Vec<String>,
}

impl Placement {
    /// The first region has the source bucket, each one a bucket for exports.
    pub(super) fn new(region: &str, port: u16, first: bool, tests: bool) -> Self {
        let export_bucket =
            if first { EXPORT_BUCKET.to_owned() } else { format!("{EXPORT_BUCKET}-{region}") };
        let mut buckets = vec![export_bucket.clone()];
        if first {
            buckets.push(SOURCE_BUCKET.to_owned());
        }
        let parameters =
            if tests { vec![format!("HashBeforeActiveBytes={HASH_BEFORE_ACTIVE}")] } else { Vec::new() };
        Self { region: region.to_owned(), port, export_bucket, buckets, parameters }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Deploys to one of these regions.
pub(super) async fn deploy(
    layout: &Layout,
    endpoints: &Endpoints,
    template: &Path,
    placement: &Placement,
    regions: &[Placement],
    stop: &Stop,
) -> Result<()> {
    let export_buckets: Vec<&str> = regions.iter().map(|one| one.export_bucket.as_str()).collect();
    let elsewhere: Vec<String> = regions
        .iter()
        .filter(|other| other.region != placement.region)
        .map(|other| format!("{}@{}", other.export_bucket, other.region))
        .collect();
    make_artifact_bucket(endpoints, &placement.region).await?;
    let mut parameters = vec![
        format!("PublicEndpoint={}", placement.endpoint()),
        "Identity=development".to_owned(),
        format!("SourceBuckets={SOURCE_BUCKET}"),
        format!("ExportBuckets={}", export_buckets.join(",")),
        "SourceAllowNetworks=127.0.0.0/8".to_owned(),
        format!("GlanceEndpoints=elsewhere=http://{}", endpoints.glance()),
        format!("Architecture={}", architecture()?),
    ];
    parameters.extend_from_slice(&placement.parameters);
    // sam takes no empty value.
    if !elsewhere.is_empty() {
        parameters.push(format!("ExportBucketRegions={}", elsewhere.join(",")));
    }
    sam_deploy(layout, endpoints, template, &placement.region, &parameters, stop).await
}

/// Makes deployments know each other, as README tells an operator: by their outputs, with every other parameter as it was.
pub(super) async fn connect(
    layout: &Layout,
    endpoints: &Endpoints,
    template: &Path,
    regions: &[Placement],
    stop: &Stop,
) -> Result<()> {
    let Some(first) = regions.first() else { return Ok(()) };
    let mut read = python(layout, endpoints, &first.region, &layout.repository().join("infra/regions.py"));
    read.args(["--stack-name", STACK]).args(regions.iter().map(|one| &one.region)).stdin(Stdio::null());
    let output = stop.or(async { Ok(read.output().await?) }).await?;
    if !output.status.success() {
        bail!("infra/regions.py failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let file = layout.build().join("regions.yaml");
    fs::write(&file, &output.stdout)?;
    let parameters = [format!("file://{}", file.display())];
    try_join_all(
        regions.iter().map(|one| sam_deploy(layout, endpoints, template, &one.region, &parameters, stop)),
    )
    .await?;
    Ok(())
}

async fn sam_deploy(
    layout: &Layout,
    endpoints: &Endpoints,
    template: &Path,
    region: &str,
    parameters: &[String],
    stop: &Stop,
) -> Result<()> {
    let bucket = artifact_bucket(region);
    let mut sam = Command::new(tools::program(layout, "sam", "sam"));
    sam.args(["deploy", "--stack-name", STACK, "--region", region, "--s3-bucket", &bucket]);
    sam.args(["--capabilities", "CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]);
    sam.args(["--no-confirm-changeset", "--no-progressbar", "--template-file"]).arg(template);
    sam.arg("--parameter-overrides").args(parameters);
    aws_environment(&mut sam, layout, endpoints, region);
    sam.current_dir(layout.build());
    let log = layout.logs().join(format!("deploy-{region}.log"));
    steps::logged("sam deploy", sam, &log, stop).await.map_err(|error| match first_failure(&log) {
        Some(cause) => error.context(format!("the first failure in {}:\n{cause}\n", log.display())),
        None => error,
    })
}

/// Does what the emulator leaves out of a deployment, and says what was deployed.
pub(super) async fn finish(
    layout: &Layout,
    endpoints: &Endpoints,
    placement: &Placement,
    stop: &Stop,
) -> Result<Deployment> {
    let mut finish = control_plane(layout, endpoints, &placement.region);
    finish.args(["finish", STACK]).args(&placement.buckets).stdin(Stdio::null());
    let output = stop.or(async { Ok(finish.output().await?) }).await?;
    if !output.status.success() {
        bail!("infra/local/stack.py failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Deployment {
        region: placement.region.clone(),
        stack: STACK.to_owned(),
        endpoint: placement.endpoint(),
        export_bucket: placement.export_bucket.clone(),
        resources: serde_json::from_slice(&output.stdout).context("infra/local/stack.py answered no JSON")?,
    })
}

/// Where `sam deploy` puts zips.
fn artifact_bucket(region: &str) -> String {
    format!("image-tasks-artifacts-{region}")
}

/// Makes that bucket: in MiniStack's own S3, where its Lambda reads zips, and in
/// the function's region, as Lambda demands.
async fn make_artifact_bucket(endpoints: &Endpoints, region: &str) -> Result<()> {
    let name = artifact_bucket(region);
    let place = match region {
        "us-east-1" => String::new(),
        _ => format!(
            "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        ),
    };
    let answer =
        client::send(Request::put(format!("{}/{name}", endpoints.aws())).body(Full::from(place))?).await?;
    if !answer.status().is_success() {
        bail!("MiniStack didn't make the bucket {name}: {}", answer.status());
    }
    Ok(())
}

/// Stack events after a failure are its rollback: the cause is the first.
fn first_failure(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.contains("_FAILED")).take(12).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The functions' logs, one file for each in the logs directory.
pub(super) async fn save_function_logs(layout: &Layout, endpoints: &Endpoints, region: &str) {
    let mut logs = control_plane(layout, endpoints, region);
    logs.args(["logs", STACK]).arg(layout.logs()).arg(region);
    logs.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A convenience for who looks for a failure: its own is none.
    let _saved = tokio::time::timeout(LOGS_LIMIT, logs.status()).await;
}

fn control_plane(layout: &Layout, endpoints: &Endpoints, region: &str) -> Command {
    let mut command = python(layout, endpoints, region, &layout.infra("stack.py"));
    command.env("AWS_ENDPOINT_URL_S3", endpoints.s3());
    command
}

/// A script that has boto3.
fn python(layout: &Layout, endpoints: &Endpoints, region: &str, script: &Path) -> Command {
    let mut command = Command::new(tools::program(layout, "ministack", "python"));
    command.arg(script).kill_on_drop(true);
    aws_environment(&mut command, layout, endpoints, region);
    command
}

/// A cleared environment: no profile or account of the developer's is ever used.
fn aws_environment(command: &mut Command, layout: &Layout, endpoints: &Endpoints, region: &str) {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", layout.home()).env("TMPDIR", layout.home()).env("LANG", "C.UTF-8");
    command.env("AWS_ENDPOINT_URL", endpoints.aws()).env("SAM_CLI_TELEMETRY", "0");
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    command.env("AWS_REGION", region).env("AWS_DEFAULT_REGION", region);
}

/// What the functions were built for, in Lambda's words.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("x86_64"),
        "aarch64" => Ok("arm64"),
        other => bail!("Lambda has no {other}"),
    }
}
