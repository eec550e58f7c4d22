//! The emulators as child processes.
//!
//! Each leads its own process group, which its functions' processes join, and
//! leaves a record of itself while it runs. Nothing that they hold is kept, so
//! they end by SIGKILL to the group: LocalStack may hang on SIGTERM.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use image_tasks_local::{S3_DISTURBANCES, S3_REQUESTS};

use super::layout::Layout;
use super::steps::tail;
use super::{client, tools};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// LocalStack takes 3 s alone, several times that beside a build.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Endpoints of the two emulators, and of a Glance elsewhere, which tests serve.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    pub aws_port: u16,
    pub s3_port: u16,
    pub glance_port: u16,
}

impl Endpoints {
    /// Everything but S3. An address, not a name: SDKs then use path-style S3 URLs.
    pub(super) fn aws(&self) -> String {
        format!("http://127.0.0.1:{}", self.aws_port)
    }

    pub(super) fn s3(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3_port)
    }

    pub(super) fn glance(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.glance_port).into()
    }
}

/// A running emulator.
#[derive(Debug)]
pub(super) struct Emulator {
    name: &'static str,
    child: Child,
    log: PathBuf,
    record: PathBuf,
    health: String,
}

impl Emulator {
    /// Everything but S3.
    pub(super) fn ministack(layout: &Layout, endpoints: &Endpoints) -> Result<Self> {
        // What is here is also the environment of every function.
        let settings = [
            ("GATEWAY_PORT", endpoints.aws_port.to_string()),
            ("BIND_HOST", "127.0.0.1".to_owned()),
            ("SFTP_ENABLED", "0".to_owned()),
            ("IOT_MTLS_ENABLED", "0".to_owned()),
            // The default grows with memory from 16; AWS's is 1000.
            ("LAMBDA_ACCOUNT_CONCURRENCY", "1000".to_owned()),
            ("STATE_DIR", layout.home().join("ministack").display().to_string()),
            ("AWS_ENDPOINT_URL", endpoints.aws()),
            ("AWS_ENDPOINT_URL_S3", endpoints.s3()),
        ];
        Self::start(layout, "ministack", &settings, format!("{}/_ministack/health", endpoints.aws()))
    }

    /// S3.
    pub(super) fn s3(layout: &Layout, endpoints: &Endpoints) -> Result<Self> {
        let disturbances = layout.logs().join(S3_DISTURBANCES);
        let _stale = fs::remove_dir_all(&disturbances);
        fs::create_dir_all(&disturbances)?;
        let _stale = fs::remove_file(layout.logs().join(S3_REQUESTS));
        let settings = [
            ("GATEWAY_LISTEN", format!("127.0.0.1:{}", endpoints.s3_port)),
            ("SERVICES", "s3".to_owned()),
            ("EAGER_SERVICE_LOADING", "1".to_owned()),
            ("DISABLE_EVENTS", "1".to_owned()),
            ("SKIP_SSL_CERT_DOWNLOAD", "1".to_owned()),
            // Links are signed with the secret `test`, here as by MiniStack's functions.
            ("S3_SKIP_SIGNATURE_VALIDATION", "0".to_owned()),
            ("DNS_ADDRESS", "0".to_owned()),
            // Else it takes this machine for a container in some places and writes to /var/lib.
            ("OVERRIDE_IN_DOCKER", "0".to_owned()),
            ("REQUESTS", layout.logs().join(S3_REQUESTS).display().to_string()),
            ("DISTURBANCES", disturbances.display().to_string()),
            ("FILESYSTEM_ROOT", layout.home().join("localstack").display().to_string()),
        ];
        Self::start(layout, "s3", &settings, format!("{}/_localstack/health", endpoints.s3()))
    }

    fn start(
        layout: &Layout,
        name: &'static str,
        settings: &[(&str, String)],
        health: String,
    ) -> Result<Self> {
        let log = layout.logs().join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(tools::program(layout, name, "python"));
        command.arg(layout.infra("emulator.py")).arg(name);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Objects of S3 are unlinked files in the temporary directory.
        command.env("HOME", layout.home()).env("TMPDIR", layout.home()).env("LANG", "C.UTF-8");
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        command.process_group(0).kill_on_drop(true).current_dir(layout.home());
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let record = layout.run().join(format!("{name}.group"));
        let mut emulator = Self { name, child, log, record, health };
        if let Err(error) = emulator.write_record() {
            let _gone = emulator.child.start_kill();
            return Err(error);
        }
        Ok(emulator)
    }

    fn write_record(&self) -> Result<()> {
        let pid = self.child.id().context("it ended at once")?;
        let started = started(pid).with_context(|| format!("{} ended at once", self.name))?;
        fs::write(&self.record, format!("{pid} {started}")).context("cannot record the emulator")
    }

    /// Returns once it answers.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let answering = async {
            loop {
                if client::get(&self.health).await.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    bail!("{} ended ({status}); {}:\n{}", self.name, self.log.display(), tail(&self.log, 25));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match tokio::time::timeout(START_LIMIT, answering).await {
            Ok(done) => done,
            Err(_) => bail!("{} did not start; {}:\n{}", self.name, self.log.display(), tail(&self.log, 25)),
        }
    }

    /// Ends it with all its functions.
    pub(super) async fn stop(mut self) {
        if let Some(group) = self.child.id().and_then(group) {
            let _gone = kill_process_group(group, Signal::KILL);
        }
        let _reaped = self.child.wait().await;
        let _gone = fs::remove_file(&self.record);
    }
}

/// Ends what a killed runner left behind. A record counts only for the very
/// process that it was written for: ids are used again.
pub(super) fn end_stale(layout: &Layout) -> Result<()> {
    for entry in fs::read_dir(layout.run())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "group") {
            end_recorded(&path);
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn end_recorded(record: &Path) {
    let text = fs::read_to_string(record).unwrap_or_default();
    let Some((pid, recorded)) = text.split_once(' ') else { return };
    let Ok(pid) = pid.parse() else { return };
    if started(pid).is_some_and(|now| now == recorded)
        && let Some(group) = group(pid)
    {
        let _gone = kill_process_group(group, Signal::KILL);
    }
}

fn group(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// When a process started, in clock ticks since boot: field 22 of
/// /proc/<pid>/stat, the 20th after the name in parentheses (proc(5)).
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
