//! Who the command is for the service, and where it looks for it.

use http::Method;
use image_tasks_api::Identity;
use serde_json::json;

use crate::service::{Run, Server, keystone};

const LIST: [&str; 2] = ["task", "list"];

async fn run(
    server: &Server,
    arguments: &[&str],
    variables: impl IntoIterator<Item = (&str, String)>,
) -> Run {
    server.bare_command(arguments).envs(variables).output().await.unwrap().into()
}

#[tokio::test]
async fn a_login_of_variables_finds_the_service_in_the_catalog() {
    let server = Server::start().await;
    server.logins(&["alice:demo"]);
    run(&server, &LIST, keystone(&server)).await.ends(0);
    let login = server.seen_of(&Method::POST, "/keystone/v3/auth/tokens").remove(0);
    let user = json!({"name": "alice", "domain": {"id": "default"}, "password": "correct horse"});
    assert_eq!(login.body["auth"]["identity"]["password"]["user"], user);
    assert_eq!(login.body["auth"]["scope"]["project"]["name"], "demo");
    assert_eq!(server.seen()[1].headers["x-auth-token"], "alice:demo");
    server.logins(&["alice:demo"]);
    let told = run(&server, &[&LIST[..], &["--region", "mars"]].concat(), keystone(&server)).await.ends(2);
    assert!(told.last_words().contains("no image service in mars, but in elsewhere, here"), "{told:?}");
}

#[tokio::test]
async fn a_cloud_of_clouds_yaml() {
    let server = Server::start().await;
    let clouds = format!(
        "clouds:\n  mine:\n    auth:\n      auth_url: {}/keystone\n      application_credential_id: abc\n      \
         application_credential_secret: s3cret\n    auth_type: v3applicationcredential\n    region_name: here\n",
        server.url()
    );
    std::fs::write(server.directory.path().join("clouds.yaml"), clouds).unwrap();
    server.logins(&["alice:demo"]);
    run(&server, &["--os-cloud", "mine", "image", "list"], []).await.ends(0);
    let login = &server.seen()[0].body["auth"]["identity"];
    assert_eq!(login["application_credential"], json!({"id": "abc", "secret": "s3cret"}));
    let told = run(&server, &LIST, [("OS_CLOUD", "theirs".to_owned())]).await.ends(2);
    assert!(told.last_words().ends_with("clouds.yaml has no cloud \"theirs\", but mine"), "{told:?}");
}

#[tokio::test]
async fn a_token_that_has_ended_is_renewed_once() {
    let server = Server::start().await;
    // No development token: the service answers 401.
    server.logins(&["ended", "alice:demo"]);
    run(&server, &LIST, keystone(&server)).await.ends(0);
    assert_eq!(server.seen_of(&Method::POST, "/keystone/v3/auth/tokens").len(), 2);
    server.logins(&["ended", "ended", "alice:demo"]);
    let told = run(&server, &LIST, keystone(&server)).await.ends(1);
    assert_eq!(server.seen_of(&Method::POST, "/keystone/v3/auth/tokens").len(), 4);
    assert!(!told.last_words().is_empty() && !told.stderr.contains("ended"), "{told:?}");
    let told =
        run(&server, &LIST, [("IMAGE_TASKS_ENDPOINT", server.url()), ("OS_TOKEN", "ended".to_owned())]).await;
    told.ends(1);
}

#[tokio::test]
async fn a_refused_login_is_told_in_keystones_words_and_without_the_password() {
    let server = Server::start().await;
    let told = run(&server, &LIST, keystone(&server)).await.ends(1);
    assert_eq!(told.stderr, "The request you have made requires authentication.\n");
}

#[tokio::test]
async fn aws_credentials_sign() {
    let server = Server::with(Identity::Iam(None)).await;
    let credentials = [
        ("IMAGE_TASKS_ENDPOINT", server.url()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "not told".to_owned()),
        ("AWS_REGION", "eu-west-1".to_owned()),
    ];
    let signed = run(&server, &[&LIST[..], &["--sigv4"]].concat(), credentials.clone()).await.ends(0);
    let authorization = server.seen()[0].headers["authorization"].to_str().unwrap().to_owned();
    assert!(authorization.contains("Credential=AKIDEXAMPLE/"), "{authorization}");
    assert!(authorization.contains("/eu-west-1/execute-api/aws4_request"), "{authorization}");
    assert!(!signed.stdout.contains("not told"));
    let directory = server.directory.path().join(".aws");
    std::fs::create_dir(&directory).unwrap();
    let profile = "[builds]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = x\n";
    std::fs::write(directory.join("credentials"), profile).unwrap();
    let named = ["--aws-profile", "builds", "--region", "us-east-1", "task", "list"];
    // A profile that is named is meant, though the environment has credentials.
    run(&server, &named, credentials).await.ends(0);
    let authorization = server.seen()[1].headers["authorization"].to_str().unwrap().to_owned();
    assert!(authorization.contains("Credential=AKIDPROFILE/"), "{authorization}");
    assert!(authorization.contains("/us-east-1/"), "{authorization}");
}

#[tokio::test]
async fn without_an_identity_it_is_said_how_to_have_one() {
    let server = Server::start().await;
    let told = run(&server, &LIST, []).await.ends(2);
    assert!(told.stderr.contains("--os-cloud") && told.stderr.contains("--sigv4"), "{told:?}");
    let told = run(&server, &LIST, [("IMAGE_TASKS_ENDPOINT", server.url())]).await.ends(2);
    assert!(told.stderr.contains("no identity"), "{told:?}");
    // Port 9 of loopback: nobody listens.
    let nobody = [("IMAGE_TASKS_ENDPOINT", "http://127.0.0.1:9".to_owned()), ("OS_TOKEN", "a:b".to_owned())];
    let told =
        run(&server, &["task", "cancel", "5b7b0e6d-5c4a-4b9a-9553-d9c7d6f1a2b0"], nobody).await.ends(3);
    assert!(told.stderr.contains("can't be reached"), "{told:?}");
}
