//! Python and the pinned tools: one virtual environment for each file of pins
//! in `infra/local`, made anew when its pins change. And what tests run beside
//! the code under test: QEMU and gophercloud, from Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use tokio::process::Command;

use super::layout::Layout;
use super::steps::{self, Stop};
use super::terminal::Terminal;

/// LocalStack 4.12.0 wants 3.11, what Debian 12 has.
const CHECK: &str = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))";
const CANDIDATES: [&str; 3] = ["python3.11", "/usr/bin/python3.11", "python3"];
/// What every stack needs.
pub(super) const OF_THE_STACK: &[&str] = &["ministack", "s3", "sam"];

/// Directory of a tool's virtual environment.
pub(super) fn environment(layout: &Layout, tool: &str) -> PathBuf {
    layout.tools().join(tool)
}

/// A program of a tool's virtual environment.
pub(super) fn program(layout: &Layout, tool: &str, name: &str) -> PathBuf {
    environment(layout, tool).join("bin").join(name)
}

/// Installs those of the tools that aren't there yet.
pub(super) async fn install(
    layout: &Layout,
    tools: &[&'static str],
    terminal: &Terminal,
    stop: &Stop,
) -> Result<()> {
    let mut missing = Vec::new();
    for &tool in tools {
        let pins = fs::read_to_string(layout.infra(&format!("{tool}.txt")))?;
        let installed = fs::read_to_string(stamp(layout, tool)).unwrap_or_default();
        if installed != pins {
            missing.push((tool, pins));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let python = python(layout, terminal, stop).await?;
    let names: Vec<&str> = missing.iter().map(|(tool, _)| *tool).collect();
    terminal
        .line(format!("Installing from PyPI into .local/tools: {} (once, about a minute)", names.join(", ")));
    try_join_all(missing.into_iter().map(|(tool, pins)| {
        let python = &python;
        async move {
            let start = Instant::now();
            install_one(layout, python, tool, &pins, stop).await?;
            terminal.line(format!("  {tool} installed in {} s", start.elapsed().as_secs()));
            Ok::<_, anyhow::Error>(())
        }
    }))
    .await?;
    Ok(())
}

fn stamp(layout: &Layout, tool: &str) -> PathBuf {
    environment(layout, tool).join("installed-pins.txt")
}

async fn install_one(layout: &Layout, python: &Path, tool: &str, pins: &str, stop: &Stop) -> Result<()> {
    let log = layout.logs().join(format!("install-{tool}.log"));
    let mut venv = Command::new(python);
    venv.args(["-m", "venv", "--clear"]).arg(environment(layout, tool));
    steps::logged(&format!("python -m venv for {tool}"), venv, &log, stop).await?;
    let mut pip = Command::new(program(layout, tool, "python"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"]);
    pip.arg(layout.infra(&format!("{tool}.txt")));
    steps::logged(&format!("pip install for {tool}"), pip, &log, stop).await?;
    fs::write(stamp(layout, tool), pins).context("cannot record the installed pins")
}

async fn python(layout: &Layout, terminal: &Terminal, stop: &Stop) -> Result<PathBuf> {
    if let Some(found) = find_python().await {
        return Ok(found);
    }
    const WANTED: &str = "Python 3.11 with venv is missing";
    if !rustix::process::geteuid().is_root() || !steps::succeeds("apt-get", ["--version"]).await {
        bail!(
            "{WANTED}: on Debian 12 run `sudo apt-get install python3.11 python3.11-venv`, then this again"
        );
    }
    terminal.line(format!("{WANTED}: installing it with apt-get"));
    for arguments in [&["update"][..], &["install", "--yes", "python3.11", "python3.11-venv"]] {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        steps::logged("apt-get", apt, &layout.logs().join("apt-get.log"), stop).await?;
    }
    find_python().await.with_context(|| format!("{WANTED}, also after apt-get install"))
}

/// Installs from Debian what tests run, such as `qemu`, where it isn't there yet.
pub(super) async fn install_programs(layout: &Layout, name: &str, stop: &Stop) -> Result<()> {
    let script = format!("install-{name}");
    let status = steps::status(Command::new(layout.infra(&script)), stop).await?;
    if !status.success() {
        bail!("what the tests need could not be installed by infra/local/{script}: see above");
    }
    Ok(())
}

async fn find_python() -> Option<PathBuf> {
    for candidate in CANDIDATES {
        if steps::succeeds(candidate, ["-c", CHECK]).await {
            return Some(candidate.into());
        }
    }
    None
}
