//! The commands of `cargo local`.
//!
//! Invariants: whatever ends a command (success, failure, a signal), the
//! emulators, their functions and every child end before the runner does; if
//! the runner itself is killed, the emulators end with it or at the next start.
//! Everything it writes is under its directory (`.local`).

mod artifacts;
mod client;
mod demo;
mod deployment;
mod disk;
mod emulator;
mod layout;
mod proxy;
mod stack;
mod steps;
mod terminal;
mod tools;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use image_tasks_local::COORDINATES_VARIABLE;
use layout::Layout;
use stack::RunningStack;
use steps::{Stop, exit_code};
use terminal::Terminal;

/// Image Tasks on this machine: API Gateway, Lambda, Step Functions, DynamoDB,
/// EventBridge and S3 emulated, template.yaml deployed, the API on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(name = "cargo local")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    OnStack(OnStack),
    /// Test against real services (Keystone) on this machine; needs no stack.
    Conformance {
        /// Arguments of `cargo nextest run` (or `cargo test`), after `--`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum OnStack {
    /// Start everything, import a disk image, show the task's life, stop.
    Demo {
        /// Leave the stack running after the import, until Ctrl-C.
        #[arg(long)]
        keep: bool,
        /// Size of the imported disk in MiB.
        #[arg(long, default_value_t = 192, value_parser = clap::value_parser!(u64).range(1..=65536))]
        size: u64,
    },
    /// Start everything and leave it running, until Ctrl-C.
    Up,
    /// Start everything, run the workspace's tests on it, stop.
    Test {
        /// Arguments of `cargo nextest run --workspace` (or `cargo test`), after `--`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

/// Tests against real services; ignored unless [`CONFORMANCE`] is `1`.
const CONFORMANCE_TESTS: &str = "image-tasks-test-keystone";
const CONFORMANCE: &str = "IMAGE_TASKS_CONFORMANCE";

#[derive(Debug, Args)]
struct Options {
    /// Port of the API in the first region; each further region takes the next one.
    #[arg(long, global = true, default_value_t = 9292)]
    port: u16,
    /// Port of MiniStack; 0 takes a free one.
    #[arg(long, global = true, default_value_t = 4566)]
    aws_port: u16,
    /// Port of LocalStack's S3; 0 takes a free one.
    #[arg(long, global = true, default_value_t = 4610)]
    s3_port: u16,
    /// Regions to deploy to [default: us-east-1, and for tests eu-west-1 too].
    #[arg(long, global = true, value_delimiter = ',')]
    regions: Vec<String>,
    /// Directory of logs and state; objects of S3 are on its file system [default: .local].
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
}

impl Options {
    fn regions(&self, tests: bool) -> Vec<String> {
        match (self.regions.as_slice(), tests) {
            ([], false) => vec!["us-east-1".to_owned()],
            ([], true) => vec!["us-east-1".to_owned(), "eu-west-1".to_owned()],
            (asked, _) => asked.to_vec(),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// Whatever kept it from its end, for a person to read.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let terminal = Terminal::new();
    let stop = Stop::on_signals()?;
    let layout = Layout::new(arguments.options.dir.clone())?;
    let _lock = layout.claim()?;
    match arguments.command {
        Command::OnStack(command) => on_stack(command, &arguments.options, &layout, &terminal, &stop).await,
        Command::Conformance { arguments } => conformance(arguments, &layout, &terminal, &stop).await,
    }
}

async fn on_stack(
    command: OnStack,
    options: &Options,
    layout: &Layout,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<ExitCode> {
    let tests = matches!(command, OnStack::Test { .. });
    let mut stack = RunningStack::prepare(layout, options, tests, terminal).await?;
    let worked = async {
        if tests {
            tools::install_test_programs(layout, stop).await?;
        }
        stack.start(tests, stop).await?;
        match command {
            OnStack::Demo { keep, size } => {
                demo::run(&stack, size, terminal, stop).await?;
                if keep {
                    stay(&stack, terminal, stop).await;
                }
                Ok(ExitCode::SUCCESS)
            }
            OnStack::Up => {
                stay(&stack, terminal, stop).await;
                Ok(ExitCode::SUCCESS)
            }
            OnStack::Test { arguments } => test(&stack, arguments, terminal, stop).await,
        }
    }
    .await;
    stack.stop().await;
    if stop.asked() && worked.is_err() {
        terminal.line("Stopped.");
        return Ok(ExitCode::from(130));
    }
    worked
}

async fn conformance(
    arguments: Vec<OsString>,
    layout: &Layout,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<ExitCode> {
    tools::install_services(layout, terminal, stop).await?;
    let mut command = cargo_tests(&["--package", CONFORMANCE_TESTS], arguments, layout, terminal).await;
    command.env(CONFORMANCE, "1");
    Ok(exit_code(steps::status(command, stop).await.context("cannot run cargo")?))
}

async fn stay(stack: &RunningStack, terminal: &Terminal, stop: &Stop) {
    terminal.text(&usage::text(stack.coordinates(), &stack.coordinates_path()));
    stop.wait().await;
}

async fn test(
    stack: &RunningStack,
    arguments: Vec<OsString>,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<ExitCode> {
    let mut command = cargo_tests(&["--workspace"], arguments, stack.layout(), terminal).await;
    command.env(COORDINATES_VARIABLE, stack.coordinates_path());
    let status = steps::status(command, stop).await.context("cannot run cargo")?;
    Ok(exit_code(status))
}

/// Cargo, about to run the tests of some packages.
async fn cargo_tests(
    packages: &[&str],
    arguments: Vec<OsString>,
    layout: &Layout,
    terminal: &Terminal,
) -> tokio::process::Command {
    let mut command = steps::cargo();
    let names = packages.join(" ");
    if steps::succeeds("cargo-nextest", ["--version"]).await {
        terminal.line(format!("Running the tests: cargo nextest run {names}"));
        command.args(["nextest", "run"]);
    } else {
        terminal.line(format!("Running the tests: cargo test {names} (cargo-nextest isn't installed)"));
        command.arg("test");
    }
    command.args(packages).args(arguments).current_dir(layout.repository());
    command
}
