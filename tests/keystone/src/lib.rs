//! A Keystone of the test's own: its database, its keys, its server; and a client of it.
//!
//! Invariant: it ends with the test, however the test ends.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support: a panic is the test's failure"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Between two looks at what is awaited; a test that waits for what never comes is ended by the test runner.
const PAUSE: Duration = Duration::from_millis(100);
/// Password of all users.
const PASSWORD: &str = "correct horse";

/// A database and keys, on which servers run.
#[derive(Debug)]
pub struct Cloud {
    directory: TempDir,
}

/// A server. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, without `/v3`.
    pub url: String,
    http: reqwest::Client,
}

/// What a token is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// A project, by its id.
    Project(&'a str),
    /// The default domain.
    Domain,
    /// The system.
    System,
    /// Nothing.
    Unscoped,
}

impl Cloud {
    /// An empty cloud with an admin, whose project is called `admin`.
    #[must_use]
    pub fn new() -> Self {
        let cloud = Self { directory: tempfile::tempdir().unwrap() };
        for keys in ["fernet", "credential"] {
            fs::create_dir(cloud.path(keys)).unwrap();
        }
        let config = cloud.config("main", 3600);
        let user = rustix::process::getuid().as_raw().to_string();
        let group = rustix::process::getgid().as_raw().to_string();
        let owner = ["--keystone-user", &user, "--keystone-group", &group];
        cloud.manage(&config, "db_sync", &[]);
        cloud.manage(&config, "fernet_setup", &owner);
        cloud.manage(&config, "credential_setup", &owner);
        cloud.manage(&config, "bootstrap", &["--bootstrap-password", PASSWORD]);
        cloud
    }

    /// A server whose tokens live so many seconds.
    pub async fn serve(&self, name: &str, seconds: u32) -> Server {
        let config = self.config(name, seconds);
        let log = self.path(&format!("{name}.log"));
        let out = File::create(&log).unwrap();
        let mut command = Command::new(tool("python"));
        command.arg(repository().join("infra/local/keystone_server.py")).arg(&config);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap();
        let mut server = Server { child, url: String::new(), http: reqwest::Client::new() };
        loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(listening) = text.split("Listening at: ").nth(1).and_then(|at| at.split(' ').next()) {
                server.url = listening.to_owned();
                // The first answer comes when Keystone is loaded.
                let version = server.http.get(format!("{}/v3", server.url)).send().await;
                if version.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                    return server;
                }
            }
            assert!(server.child.try_wait().unwrap().is_none(), "Keystone ended:\n{text}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, name: &str, seconds: u32) -> PathBuf {
        let path = self.path(&format!("{name}.conf"));
        let (database, fernet) = (self.path("keystone.db"), self.path("fernet"));
        let credential = self.path("credential");
        let text = format!(
            "[DEFAULT]\nuse_stderr = true\n\
             [database]\nconnection = sqlite:///{}\n\
             [fernet_tokens]\nkey_repository = {}\n\
             [credential]\nkey_repository = {}\n\
             [token]\nexpiration = {seconds}\n",
            database.display(),
            fernet.display(),
            credential.display(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn manage(&self, config: &Path, does: &str, arguments: &[&str]) {
        let mut command = Command::new(tool("keystone-manage"));
        command.arg("--config-file").arg(config).arg(does).args(arguments).stdin(Stdio::null());
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "keystone-manage {does}:\n{told}");
    }
}

impl Default for Cloud {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// The password of every user.
    #[must_use]
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// A user's token.
    pub async fn token(&self, user: &str, wanted: Wanted<'_>) -> String {
        let user = json!({"name": user, "domain": {"id": "default"}, "password": PASSWORD});
        let scope = match wanted {
            Wanted::Project(id) => json!({"project": {"id": id}}),
            Wanted::Domain => json!({"domain": {"id": "default"}}),
            Wanted::System => json!({"system": {"all": true}}),
            Wanted::Unscoped => json!("unscoped"),
        };
        self.authenticated(&json!({"methods": ["password"], "password": {"user": user}}), Some(scope)).await
    }

    /// The token of an application credential.
    pub async fn token_of_credential(&self, id: &str, secret: &str) -> String {
        let credential = json!({"id": id, "secret": secret});
        let identity = json!({"methods": ["application_credential"], "application_credential": credential});
        self.authenticated(&identity, None).await
    }

    async fn authenticated(&self, identity: &Value, scope: Option<Value>) -> String {
        let mut auth = json!({"identity": identity});
        if let Some(scope) = scope {
            auth["scope"] = scope;
        }
        let request = self.http.post(format!("{}/v3/auth/tokens", self.url));
        let request = request.header("Content-Type", "application/json");
        let answer = request.body(json!({"auth": auth}).to_string()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{auth}");
        answer.headers()["x-subject-token"].to_str().unwrap().to_owned()
    }

    /// One call of the API, with a token; what it answers.
    pub async fn call(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}/v3{path}", self.url));
        request = request.header("X-Auth-Token", token);
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The id of the one thing of that name, such as `/projects`, `admin`.
    pub async fn id(&self, token: &str, things: &str, name: &str) -> String {
        let found = self.call(token, Method::GET, &format!("{things}?name={name}"), None).await;
        found[things.trim_start_matches('/')][0]["id"].as_str().expect(name).to_owned()
    }

    /// A new project; its id.
    pub async fn project(&self, token: &str, name: &str) -> String {
        let made =
            self.call(token, Method::POST, "/projects", Some(json!({"project": {"name": name}}))).await;
        made["project"]["id"].as_str().unwrap().to_owned()
    }

    /// A new user with that role in that project; its id.
    pub async fn user(&self, token: &str, name: &str, project: &str, role: &str) -> String {
        let user = json!({"user": {"name": name, "password": PASSWORD, "default_project_id": project}});
        let made = self.call(token, Method::POST, "/users", Some(user)).await;
        let user = made["user"]["id"].as_str().unwrap().to_owned();
        let role = self.id(token, "/roles", role).await;
        let path = format!("/projects/{project}/users/{user}/roles/{role}");
        self.call(token, Method::PUT, &path, None).await;
        user
    }

    /// Ends a token.
    pub async fn revoke(&self, token: &str) {
        let request = self.http.delete(format!("{}/v3/auth/tokens", self.url));
        let answer = request.header("X-Auth-Token", token).header("X-Subject-Token", token).send().await;
        assert_eq!(answer.unwrap().status(), StatusCode::NO_CONTENT);
    }

    /// Returns once the token is none any more.
    pub async fn expiry(&self, token: &str) {
        loop {
            let request = self.http.get(format!("{}/v3/auth/tokens", self.url));
            let answer = request.header("X-Auth-Token", token).header("X-Subject-Token", token).send().await;
            if answer.unwrap().status() == StatusCode::UNAUTHORIZED {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Its workers end with it, and what is left of it is awaited.
            let _gone = kill_process(pid, Signal::TERM);
        }
        let _gone = self.child.wait();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn tool(name: &str) -> PathBuf {
    installed("keystone", name)
}

/// The Python that has this package.
#[must_use]
pub fn python(package: &str) -> PathBuf {
    installed(package, "python")
}

fn installed(package: &str, name: &str) -> PathBuf {
    let path = repository().join(".local/tools").join(package).join("bin").join(name);
    assert!(path.exists(), "{} isn't there: `cargo local conformance` installs it", path.display());
    path
}
