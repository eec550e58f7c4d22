//! Each command of each session, on the local stack, by the clients that PyPI has.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which a person follows"
)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use image_tasks_conformance::expected::{Expected, Names, Shown, What};
use image_tasks_conformance::printed;
use image_tasks_conformance::session::{self, Row};
use image_tasks_local::{Content, Coordinates, Grant, Source, SourceServer, pattern};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Sessions at once: each keeps a core busy.
const AT_ONCE: usize = 2;
/// The disk that the clients upload, and that imports fetch.
const DISK_BYTES: usize = 1 << 20;
const DISK_SEED: u64 = 5;
/// A file that is too large for one request, and where the service cuts it.
const LARGE_BYTES: usize = 200 << 20;
const PART_BYTES: usize = 64 << 20;
/// A command that takes longer hangs.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How often a command is repeated until it shows what it shall.
const REPEATS: u32 = 60;

fn sessions() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "session")).collect();
    found.sort();
    found
}

fn rows(path: &Path) -> Vec<Row> {
    session::read(&fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e:#}", path.display()))
}

/// The stack, and who types on it: a process that has loaded the clients.
struct Terminal {
    coordinates: Coordinates,
    home: tempfile::TempDir,
    names: Names,
    _typist: Child,
    commands: ChildStdin,
    ends: Lines<BufReader<ChildStdout>>,
}

impl Terminal {
    fn open(names: &Names) -> Self {
        let coordinates = Coordinates::from_env().expect("run by `cargo local conformance`");
        let mut names = names.clone();
        names.set("exports", &coordinates.export_bucket);
        names.set("endpoint", &coordinates.deployments[0].endpoint);
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("disk.img"), pattern::bytes(DISK_SEED, 0, DISK_BYTES)).unwrap();
        let parts = (0..LARGE_BYTES).step_by(PART_BYTES).enumerate();
        let parts = parts.map(|(n, at)| (format!("part.{n}"), (LARGE_BYTES - at).min(PART_BYTES)));
        for (name, bytes) in parts.chain([("five.img".to_owned(), 5_000_000)]) {
            // Each its own beginning, and zeros that take no room on the disk.
            let file = fs::File::create(home.path().join(&name)).unwrap();
            file.write_all_at(name.as_bytes(), 0).unwrap();
            file.set_len(bytes as u64).unwrap();
        }
        let mut typist = Command::new(coordinates.tools.join("clients/bin/python"));
        typist.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("typist.py"));
        typist.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut typist = typist.spawn().expect("installed clients");
        Self {
            coordinates,
            home,
            names,
            commands: typist.stdin.take().unwrap(),
            ends: BufReader::new(typist.stdout.take().unwrap()).lines(),
            _typist: typist,
        }
    }

    /// The row's command as it is typed.
    fn command(&self, row: &Row) -> Value {
        let mut words: Vec<String> = row.words.iter().map(|word| self.names.fill(word)).collect();
        let region = row.region.as_ref().unwrap_or(&self.coordinates.deployments[0].region);
        let user = Grant::of(&row.user).unwrap_or_else(|| panic!("Keystone doesn't know {}", row.user));
        if words[0] == "openstack" {
            words.splice(1..1, ["--os-region-name".to_owned(), region.clone()]);
            if row.expected.iter().any(Expected::reads) {
                words.extend(["-f", "json"].map(str::to_owned));
            }
        }
        // Nothing of who runs the tests: no cloud, no cache, no setting.
        let mut environment = json!({"HOME": self.home.path(), "LANG": "C.UTF-8", "COLUMNS": "200"});
        if words[0] == "glance" {
            for (name, value) in user.environment(&self.coordinates.keystone_endpoint, region) {
                environment[name] = value.into();
            }
        } else {
            environment["OS_CLIENT_CONFIG_FILE"] = json!(self.coordinates.clouds);
            environment["OS_CLOUD"] = user.user.into();
        }
        json!({"words": words, "environment": environment, "region": region})
    }

    async fn run(&mut self, row: &Row) -> Shown {
        let line = format!("{}\n", self.command(row));
        self.commands.write_all(line.as_bytes()).await.unwrap();
        let end = tokio::time::timeout(COMMAND_LIMIT, self.ends.next_line()).await;
        let end = end.expect("a client that ends").unwrap().expect("a typist that goes on");
        let end: Value = serde_json::from_str(&end).unwrap();
        let (out, err) = (end["out"].as_str().unwrap(), end["err"].as_str().unwrap());
        Shown { succeeded: end["code"] == 0, printed: printed::read(out), said: format!("{out}{err}") }
    }

    /// Runs a row to what it shows in the end; what differs from what it has to show.
    async fn differs(&mut self, row: &Row) -> Option<String> {
        let passing = row.expected.iter().any(|one| one.until);
        for last in (0..REPEATS).rev() {
            let shown = self.run(row).await;
            let told = shown.differs(&row.expected, &mut self.names)?;
            if !passing || last == 0 {
                return Some(format!("{told}\n{}", shown.said.trim_end()));
            }
        }
        None
    }
}

/// How the rows of a session went: passed, and failed.
async fn run(path: PathBuf, names: &Names) -> (usize, usize) {
    let mut terminal = Terminal::open(names);
    let (mut passed, mut failed) = (0, 0);
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    for row in rows(&path) {
        let start = Instant::now();
        let told = terminal.differs(&row).await;
        let seconds = start.elapsed().as_secs_f64();
        match told {
            None => passed += 1,
            Some(_) => failed += 1,
        }
        let outcome = if told.is_none() { "ok" } else { "FAILED" };
        println!("{outcome:6} {seconds:5.1} s  {file}:{}: {}", row.line, row.command());
        if let Some(told) = told {
            println!("       {}", told.replace('\n', "\n       "));
        }
    }
    (passed, failed)
}

/// What the sessions' imports fetch.
fn sources(server: &SourceServer, names: &mut Names) {
    let raw = server
        .serve("/disk.img", Source::new(Content::Pattern { seed: DISK_SEED, length: DISK_BYTES as u64 }));
    names.set("raw", &raw);
    let large = Content::Pattern { seed: DISK_SEED, length: LARGE_BYTES as u64 };
    names.set("large", &server.serve("/large.img", Source::new(large)));
    let bytes = Bytes::from_static(b"<html>no image</html>");
    names.set("page", &server.serve("/page.html", Source::new(Content::Bytes(bytes))));
    // Runs on one stack don't meet each other's images.
    names.set("run", &format!("run-{}", std::process::id()));
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn stock_clients_show_what_the_sessions_say() {
    let server = SourceServer::start().await.unwrap();
    let mut names = Names::default();
    sources(&server, &mut names);
    let outcomes = futures::stream::iter(sessions().into_iter().map(|path| run(path, &names)));
    let outcomes: Vec<_> = outcomes.buffer_unordered(AT_ONCE).collect().await;
    let passed: usize = outcomes.iter().map(|(passed, _)| passed).sum();
    let failed: usize = outcomes.iter().map(|(_, failed)| failed).sum();
    println!("commands: {passed} passed, {failed} failed");
    assert_eq!(failed, 0, "some commands don't show what the sessions say");
}

#[test]
fn every_session_can_be_read_and_has_both_successes_and_failures() {
    let rows: Vec<Row> = sessions().iter().flat_map(|path| rows(path)).collect();
    let fails = |row: &&Row| row.expected.iter().any(|one| matches!(one.what, What::Fails(_)));
    assert!(rows.len() >= 40, "{} commands", rows.len());
    assert!(rows.iter().filter(fails).count() >= 10);
    for user in ["alice", "bob", "reader", "admin"] {
        assert!(rows.iter().any(|row| row.user == user), "{user}");
    }
    for program in ["openstack", "glance", "sdk"] {
        assert!(rows.iter().any(|row| row.words[0] == program), "{program}");
    }
    assert!(rows.iter().all(|row| Grant::of(&row.user).is_some()));
}
