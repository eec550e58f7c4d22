//! OpenStack's own tests of Images v2 on the local stack, with accounts that its Keystone knows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which a person follows"
)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use image_tasks_conformance::tempest::{Outcome, PACKAGE, differences, expected, printed};
use image_tasks_local::{Content, Coordinates, Source, SourceServer};
use tokio::process::Command;

const LIST: &str = include_str!("../tempest.txt");

/// A qcow2 of one MiB without content: header, refcount table, refcount block and L1 table, a cluster each.
fn empty_qcow2() -> Bytes {
    const CLUSTER: usize = 1 << 16;
    let mut file = vec![0; 4 * CLUSTER];
    let header: [u32; 15] = [0x5146_49fb, 2, 0, 0, 0, 16, 0, 1 << 20, 0, 1, 0, 3 << 16, 0, 1 << 16, 1];
    for (at, word) in header.into_iter().enumerate() {
        file[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
    }
    file[CLUSTER..CLUSTER + 8].copy_from_slice(&(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        file[2 * CLUSTER + 2 * cluster + 1] = 1;
    }
    Bytes::from(file)
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn tempest_says_what_the_list_expects() {
    let coordinates = Coordinates::from_env().expect("run by `cargo local conformance`");
    let server = SourceServer::start().await.unwrap();
    let raw = server.serve("/disk.img", Source::new(Content::Pattern { seed: 6, length: 1 << 20 }));
    let qcow2 = server.serve("/disk.qcow2", Source::new(Content::Bytes(empty_qcow2())));

    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap();
    let settings = [
        ("{directory}", here),
        ("{keystone}", &coordinates.keystone_endpoint),
        ("{region}", &coordinates.deployments[0].region),
        ("{raw}", &raw),
        ("{qcow2}", &qcow2),
    ];
    let configuration = settings
        .iter()
        .fold(include_str!("../tempest.conf").to_owned(), |text, (name, value)| text.replace(name, value));
    fs::write(directory.path().join("tempest.conf"), configuration).unwrap();
    fs::write(directory.path().join("accounts.yaml"), include_str!("../tempest-accounts.yaml")).unwrap();

    let programs = coordinates.tools.join("tempest/bin");
    let mut command = Command::new(programs.join("tempest"));
    command.args(["run", "--config-file", "tempest.conf", "--serial", "--regex"]);
    command.arg(format!("^{}", PACKAGE.replace('.', r"\.")));
    // stestr starts the `python` and the `stestr` that it finds first.
    command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    command.env("HOME", here).env("LANG", "C.UTF-8").current_dir(here).kill_on_drop(true);
    command.stdin(Stdio::null());
    let output = command.output().await.expect("an installed tempest");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = coordinates.logs.join("tempest.log");
    fs::write(&log, [&output.stdout[..], &output.stderr[..]].concat()).unwrap();
    keep(&directory.path().join("tempest-debug.log"), &coordinates.logs);

    let found = printed(&text);
    let count = |wanted: Outcome| found.values().filter(|outcome| **outcome == wanted).count();
    println!(
        "tempest: {} passed, {} skipped, {} failed; all of it in {}",
        count(Outcome::Pass),
        count(Outcome::Skip),
        count(Outcome::Fail),
        log.display()
    );
    let told = differences(&expected(LIST).unwrap(), &found);
    assert_eq!(told, [""; 0], "tests/conformance/tempest.txt expects something else:\n{}", told.join("\n"));
}

/// Requests and answers of a run, for who looks for a cause.
fn keep(file: &Path, logs: &Path) {
    if let (true, Some(name)) = (file.exists(), file.file_name()) {
        fs::copy(file, logs.join(name)).unwrap();
    }
}

#[test]
fn the_list_can_be_read() {
    let list = expected(LIST).unwrap();
    assert!(list.values().any(|outcome| *outcome == Outcome::Pass));
}
