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

use image_tasks_local::Coordinates;
use tokio::process::Command;

const PACKAGE: &str = "openstack.tests.functional.image.v2";
/// Modules of it, and how many tests each has.
const MODULES: [(&str, usize); 4] =
    [("test_image", 2), ("test_member", 1), ("test_schema", 4), ("test_task", 1)];
/// The clouds that the tests ask for, as users of the stack's Keystone: `clouds.yaml` has one for each.
const CLOUDS: [(&str, &str); 5] = [
    ("OS_CLOUD", "admin"),
    ("OPENSTACKSDK_DEMO_CLOUD", "demo"),
    ("OPENSTACKSDK_DEMO_CLOUD_ALT", "bob"),
    ("OPENSTACKSDK_OPERATOR_CLOUD", "admin"),
    ("OPENSTACKSDK_SYSTEM_ADMIN_CLOUD", "admin"),
];

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn openstacksdks_tests_of_images_pass() {
    let coordinates = Coordinates::from_env().expect("run by `cargo local conformance`");
    let home = tempfile::tempdir().unwrap();
    // The bytes that the tests upload.
    fs::write(home.path().join("CONTRIBUTING.rst"), "not an image\n").unwrap();

    let python = coordinates.tools.join("openstacksdk/bin/python");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.args(arguments).current_dir(home.path()).stdin(Stdio::null()).kill_on_drop(true);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path()).env("LANG", "C.UTF-8");
        command.env("OS_CLIENT_CONFIG_FILE", &coordinates.clouds).envs(CLOUDS).env("OS_TEST_TIMEOUT", "120");
        // Each test looks for an image to boot from, though these boot none.
        command.env("OPENSTACKSDK_IMAGE", "to-boot-from");
        command
    };
    let image = "import openstack; openstack.connect('demo').image.create_image(name='to-boot-from', \
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
