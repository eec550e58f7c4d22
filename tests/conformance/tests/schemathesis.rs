//! What the API says of itself, held against what it does: requests made up from its OpenAPI document, and their answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which a person follows"
)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use image_tasks_local::{Coordinates, Grant};
use tokio::process::Command;

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn answers_are_as_the_document_says() {
    let coordinates = Coordinates::from_env().expect("run by `cargo local conformance`");
    let directory = tempfile::tempdir().unwrap();
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis.toml");
    let token = Grant::of("demo").unwrap().token();

    let mut command = Command::new(coordinates.tools.join("schemathesis/bin/schemathesis"));
    command.arg("--config-file").arg(settings).arg("run");
    command.arg(format!("{}/v2/openapi.json", coordinates.deployments[0].endpoint));
    command.arg("--header").arg(format!("X-Auth-Token: {token}"));
    // Nothing of who runs the tests, and nothing of an earlier run: examples that failed before are kept here.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").env("HOME", directory.path());
    command.env("PYTHONPATH", env!("CARGO_MANIFEST_DIR")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("SCHEMATHESIS_HOOKS", "schemathesis_hooks");
    command.current_dir(directory.path()).kill_on_drop(true).stdin(Stdio::null());
    let output = command.output().await.expect("an installed schemathesis");
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    fs::write(coordinates.logs.join("schemathesis.log"), &said).unwrap();
    println!("{}", said.trim_end());
    assert!(output.status.success(), "an answer isn't as the document says: see above");
}
