//! Child commands, and the request to stop.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long a child that was asked to end may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Becomes true at SIGINT, SIGTERM or SIGHUP.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(super) fn on_signals() -> Result<Self> {
        let (sender, receiver) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                sender.send_replace(true);
            }
        });
        Ok(Self(receiver))
    }

    pub(super) fn asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once stopping was asked for.
    pub(super) async fn wait(&self) {
        // The sender's task lives as long as the runtime.
        drop(self.0.clone().wait_for(|asked| *asked).await);
    }

    /// `work`, unless stopping is asked for first.
    pub(super) async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.wait() => bail!("interrupted"),
        }
    }
}

/// The cargo that runs us, so that toolchain and target directory are the same.
pub(super) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether a program exists and answers with success.
pub(super) async fn succeeds<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    matches!(command.status().await, Ok(status) if status.success())
}

/// Runs a command to its end on the runner's own terminal; asked to stop, ends it first.
pub(super) async fn status(mut command: Command, stop: &Stop) -> Result<ExitStatus> {
    let mut child = command.kill_on_drop(true).spawn()?;
    tokio::select! {
        status = child.wait() => Ok(status?),
        () = stop.wait() => {
            end(&mut child).await;
            bail!("interrupted")
        }
    }
}

/// Runs a command with its output in a log; on failure shows the log's end.
pub(super) async fn logged(what: &str, mut command: Command, log: &Path, stop: &Stop) -> Result<()> {
    let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let status = status(command, stop).await.with_context(|| format!("{what} did not run"))?;
    if !status.success() {
        bail!("{what} failed ({status}); the end of {}:\n{}", log.display(), tail(log, 25));
    }
    Ok(())
}

async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        // It may have ended by itself, a terminal signals its whole group.
        let _gone = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _gone = child.kill().await;
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A child's code as ours; a signal's death is a failure.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
