//! The command as people and scripts run it: arguments and environment in, texts and exit codes out.
//!
//! The service is the real API over stores in memory; a test plays the workers. The bytes lie on a server of their own,
//! as they do in S3.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod downloads;
mod identities;
mod images;
mod interrupts;
mod service;
mod tasks;
mod uploads;

use service::Server;

#[tokio::test]
async fn help_tells_exit_codes_and_needs_no_service() {
    let server = Server::start().await;
    let help = server.run(&["--help"]).await.ends(0);
    for told in ["Exit codes:", "130", "OS_CLOUD", "--aws-profile", "download"] {
        assert!(help.stdout.contains(told), "{told}");
    }
    let wrong = server.run(&["import"]).await.ends(2);
    assert!(wrong.stderr.contains("<SOURCE>"), "{wrong:?}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn completions_and_manual() {
    let server = Server::start().await;
    let script = server.run(&["completions", "bash"]).await.ends(0);
    assert!(script.stdout.contains("--aws-profile"), "{script:?}");
    let directory = tempfile::tempdir().unwrap();
    server.run(&["man", directory.path().to_str().unwrap()]).await.ends(0);
    let page = std::fs::read_to_string(directory.path().join("image-tasks-import.1")).unwrap();
    assert!(page.contains("image\\-tasks import https://example.com/disk.qcow2"), "{page}");
}

#[tokio::test]
async fn regions_as_the_service_lists_them() {
    let server = Server::start().await;
    let table = server.run(&["regions"]).await.ends(0);
    assert_eq!(
        table.stdout,
        "ID         ENDPOINT                   HERE\n\
         us-east-1  https://us.images.example  true\n\
         eu-west-1  https://eu.images.example  false\n"
    );
}
