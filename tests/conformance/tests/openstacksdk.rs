//! openstacksdk's own functional tests of images on the local stack. It has more, of metadata definitions, which are not
//! offered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which a person follows"
)]

use std::fs;
use std::process::Stdio;

use image_tasks_local::{COORDINATES_VARIABLE, Coordinates};
use tokio::process::Command;

const PACKAGE: &str = "openstack.tests.functional.image.v2";
/// Modules of it, and how many tests each has.
const MODULES: [(&str, usize); 4] =
    [("test_image", 2), ("test_member", 1), ("test_schema", 4), ("test_task", 1)];
/// The clouds that the tests know, and who each is at the stack's Keystone.
const CLOUDS: [(&str, &str, &str); 4] = [
    ("devstack", "demo", "demo"),
    ("devstack-alt", "bob", "partner"),
    ("devstack-admin", "admin", "admin"),
    ("devstack-system-admin", "admin", "admin"),
];

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn openstacksdks_tests_of_images_pass() {
    #[expect(clippy::disallowed_methods, reason = "the test's one look at its environment")]
    let path = std::env::var(COORDINATES_VARIABLE).expect("run by `cargo local conformance`");
    let coordinates: Coordinates = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("clouds.yaml"), clouds(&coordinates)).unwrap();
    // The bytes that the tests upload.
    fs::write(home.path().join("CONTRIBUTING.rst"), "not an image\n").unwrap();

    let python = coordinates.tools.join("openstacksdk/bin/python");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(arguments).current_dir(home.path()).stdin(Stdio::null()).kill_on_drop(true);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path()).env("LANG", "C.UTF-8");
        command.env("OS_CLOUD", "devstack-admin").env("OS_TEST_TIMEOUT", "120");
        // Each test looks for an image to boot from, though these boot none.
        command.env("OPENSTACKSDK_IMAGE", "to-boot-from");
        command
    };
    let image = "import openstack; openstack.connect('devstack').image.create_image(name='to-boot-from', \
                 disk_format='raw', container_format='bare', data=b'0')";
    let made = run(&["-c", image]).output().await.expect("an installed openstacksdk");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    for (module, count) in MODULES {
        let name = format!("{PACKAGE}.{module}");
        let output = run(&["-m", "unittest", "--verbose", &name]).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        fs::write(coordinates.logs.join(format!("openstacksdk-{module}.log")), &text).unwrap();
        let passed = text.lines().filter(|line| line.ends_with("... ok")).count();
        println!("{name}: {passed} passed");
        assert!(output.status.success() && passed == count, "{name} of {count} tests\n{text}");
    }
}

/// A `clouds.yaml` of all clouds.
fn clouds(coordinates: &Coordinates) -> String {
    let (keystone, region) = (&coordinates.keystone_endpoint, &coordinates.deployments[0].region);
    let cloud = |(name, user, project): &(&str, &str, &str)| {
        let auth = format!(
            "auth_url: {keystone}/v3, username: {user}, password: {user}, project_name: {project}, \
             user_domain_name: Default, project_domain_name: Default"
        );
        format!("  {name}: {{region_name: {region}, auth: {{{auth}}}}}\n")
    };
    format!("clouds:\n{}", CLOUDS.iter().map(cloud).collect::<String>())
}
