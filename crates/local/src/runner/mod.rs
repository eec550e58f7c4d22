//! The commands of `cargo local`.
//!
//! Invariants: whatever ends a command (success, failure, a signal), the
//! emulators, their functions and every child end before the runner does; if
//! the runner itself is killed, the emulators end with it or at the next start.
//! Everything it writes is under its directory (`.local`).

mod artifacts;
mod client;
mod conformance;
mod demo;
mod deployment;
mod disk;
mod emulator;
mod keystone;
mod layout;
mod proxy;
mod server;
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
    /// Start everything, import a disk image with image-tasks, stop.
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
    /// Start everything, let stock clients and OpenStack's own tests use it, stop.
    Conformance {
        /// Those of the suites to run [default: all].
        #[arg(value_parser = conformance::names())]
        suites: Vec<String>,
    },
    /// Start everything, run the workspace's tests on it, stop.
    Test {
        /// Arguments of `cargo nextest run --workspace` (or `cargo test`), after `--`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
}

const PORT: u16 = 9292;
const AWS_PORT: u16 = 4566;
const S3_PORT: u16 = 4610;

#[derive(Debug, Args)]
struct Options {
    /// Port of the API in the first region; each further region takes the next one.
    #[arg(long, global = true, default_value_t = PORT)]
    port: u16,
    /// Port of MiniStack; 0 takes a free one.
    #[arg(long, global = true, default_value_t = AWS_PORT)]
    aws_port: u16,
    /// Port of LocalStack's S3; 0 takes a free one.
    #[arg(long, global = true, default_value_t = S3_PORT)]
    s3_port: u16,
    /// Port of Keystone; 0 takes a free one.
    #[arg(long, global = true, default_value_t = 0)]
    keystone_port: u16,
    /// Regions to deploy to [default: us-east-1, and for test and conformance eu-west-1 too].
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

    /// A command of the runner with the ports of these options.
    fn command(&self, name: &str) -> String {
        let mut text = "cargo local".to_owned();
        let ports = [
            ("port", self.port, PORT),
            ("aws-port", self.aws_port, AWS_PORT),
            ("s3-port", self.s3_port, S3_PORT),
        ];
        for (flag, port, usual) in ports {
            if port != usual {
                text.push_str(&format!(" --{flag} {port}"));
            }
        }
        text + " " + name
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
    // Built with the tests' features, which both run next: with others the SDKs are compiled once more.
    let tests = matches!(arguments.command, Command::Test { .. } | Command::Conformance { .. });
    let mut stack = RunningStack::prepare(&layout, &arguments.options, tests, &terminal).await?;
    let worked = async {
        if matches!(arguments.command, Command::Test { .. }) {
            tools::install_programs(&layout, "qemu", &stop).await?;
        }
        stack.start(tests, &stop).await?;
        match arguments.command {
            Command::Demo { keep, size } => {
                let up = (!keep).then(|| arguments.options.command("up"));
                demo::run(&stack, size, up.as_deref(), &terminal, &stop).await?;
                if keep {
                    stay(&stack, &terminal, &stop).await;
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Up => {
                stay(&stack, &terminal, &stop).await;
                Ok(ExitCode::SUCCESS)
            }
            Command::Conformance { suites } => conformance::run(&stack, &suites, &terminal, &stop).await,
            Command::Test { arguments } => test(&stack, arguments, &terminal, &stop).await,
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

async fn stay(stack: &RunningStack, terminal: &Terminal, stop: &Stop) {
    terminal.text(&usage::text(stack.coordinates(), stack.layout(), &stack.coordinates_path()));
    stop.wait().await;
}

async fn test(
    stack: &RunningStack,
    arguments: Vec<OsString>,
    terminal: &Terminal,
    stop: &Stop,
) -> Result<ExitCode> {
    let nextest = steps::succeeds("cargo-nextest", ["--version"]).await;
    let mut command = steps::cargo();
    if nextest {
        terminal.line("Running the tests: cargo nextest run --workspace");
        command.args(["nextest", "run", "--workspace"]);
    } else {
        terminal.line("Running the tests: cargo test --workspace (cargo-nextest isn't installed)");
        command.args(["test", "--workspace"]);
    }
    command.args(arguments).current_dir(stack.layout().repository());
    command.env(COORDINATES_VARIABLE, stack.coordinates_path());
    let status = steps::status(command, stop).await.context("cannot run cargo")?;
    Ok(exit_code(status))
}
