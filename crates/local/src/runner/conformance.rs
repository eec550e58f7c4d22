//! `cargo local conformance`: who wrote none of this code uses the stack.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use image_tasks_local::COORDINATES_VARIABLE;

use super::stack::RunningStack;
use super::steps::{self, Stop};
use super::terminal::Terminal;
use super::tools;

/// Names of test targets with tests that `cargo local test` ignores. Run in this order, each whatever the one before
/// said.
const SUITES: [&str; 10] = [
    "flows",
    "adapters",
    "stack",
    "keystone",
    "pages",
    "clients",
    "openstacksdk",
    "gophercloud",
    "tempest",
    "schemathesis",
];

/// What a person may name.
pub(super) fn names() -> PossibleValuesParser {
    SUITES.into()
}

/// What a suite needs of PyPI.
fn tools_of(suite: &str) -> &'static [&'static str] {
    match suite {
        "keystone" => &["keystone", "openstacksdk"],
        "clients" | "pages" => &["clients"],
        "openstacksdk" => &["openstacksdk"],
        "tempest" => &["tempest"],
        "schemathesis" => &["schemathesis"],
        _ => &[],
    }
}

/// Runs the named suites, all where none is named.
pub(super) async fn run(
    stack: &RunningStack,
    asked: &[String],
    terminal: &Terminal,
    stop: &Stop,
) -> Result<ExitCode> {
    let mut failed = Vec::new();
    for suite in SUITES.into_iter().filter(|suite| asked.is_empty() || asked.iter().any(|name| name == suite))
    {
        tools::install(stack.layout(), tools_of(suite), terminal, stop).await?;
        if stack.layout().infra(&format!("install-{suite}")).exists() {
            tools::install_programs(stack.layout(), suite, stop).await?;
        }
        terminal.line(format!("Conformance: {suite}"));
        let mut command = steps::cargo();
        // Of the whole workspace: a selection of packages would compile the SDKs with other features.
        command.args(["test", "--quiet", "--workspace", "--test", suite]);
        command.args(["--", "--ignored", "--nocapture"]).current_dir(stack.layout().repository());
        command.env(COORDINATES_VARIABLE, stack.coordinates_path());
        let status = steps::status(command, stop).await.context("cannot run cargo")?;
        if !status.success() {
            failed.push(suite);
        }
        let outcome = if status.success() { "as expected" } else { "FAILED" };
        terminal.line(format!("  {suite}: {outcome}"));
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    terminal.line(format!("Failed: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}
