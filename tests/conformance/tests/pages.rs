//! The commands that README and the pages show, run by the user `demo` of the local stack.
//!
//! Each page is a reader of its own: an empty home, the clouds of the stack's Keystone, and what the page takes for
//! granted. What a page made is deleted when it is through.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests, which a person follows"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use disk_image::Format;
use disk_image_fixtures::{Sparse, ova, sound, stream_optimized};
use image_tasks_conformance::pages::{Left, Shown, read_list, shown};
use image_tasks_local::{Content, Coordinates, Grant, Source, SourceServer, pattern};
use serde_json::{Value, json};
use tokio::process::Command;

/// A page that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);
const USER: &str = "demo";
/// The image that pages name of a Glance elsewhere.
const IMAGE: &str = "38f8f5cd-69dc-4a9c-946e-830d6372d7ba";
const MIB: usize = 1 << 20;

/// What a page takes for granted, as commands.
const GIVEN: [(&str, &str); 3] = [
    (
        "docs/command-line.md",
        r#"curl -sf http://127.0.0.1:9292/v2/images -H "X-Auth-Token: demo:demo" \
            --json '{"name": "empty", "disk_format": "raw", "container_format": "bare"}'"#,
    ),
    ("docs/how-to/export.md", "image-tasks import https://example.com/disk.qcow2 --name debian"),
    (
        "docs/how-to/import.md",
        "curl -sf --aws-sigv4 aws:amz:us-east-1:s3 --user test:test -T disk.img $S3/my-images/disk.img",
    ),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Markdown below a directory, and in it.
fn below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

/// Pages that show commands, by their paths in the repository. Those of SEMANTICS.md have a test of their own, in
/// `tests/e2e`.
fn pages() -> Vec<(String, Vec<Shown>)> {
    let repository = repository();
    let mut found = vec![repository.join("README.md"), repository.join("CONTRIBUTING.md")];
    below(&repository.join("docs"), &mut found);
    found.sort();
    let named = found.into_iter().map(|path| {
        let name = path.strip_prefix(&repository).unwrap().display().to_string();
        (name, shown(&fs::read_to_string(path).unwrap()))
    });
    named.filter(|(_, shown)| !shown.is_empty()).collect()
}

fn list() -> Vec<Left> {
    read_list(&fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pages.txt")).unwrap()).unwrap()
}

/// What is run of a page.
fn script(page: &str, shown: &[Shown], list: &[Left]) -> String {
    let left = |one: &&Shown| list.iter().any(|left| left.page == page && one.begins(&left.beginning));
    shown.iter().filter(|one| !left(one)).map(Shown::script).collect()
}

#[test]
fn whatever_the_list_leaves_out_is_there() {
    let (pages, list) = (pages(), list());
    for left in &list {
        let shown = pages.iter().find(|(name, _)| *name == left.page).map(|(_, shown)| shown);
        let there = shown.is_some_and(|shown| shown.iter().any(|one| one.begins(&left.beginning)));
        assert!(there, "tests/conformance/pages.txt: {} shows no {:?}", left.page, left.beginning);
    }
    let run: Vec<_> = pages.iter().filter(|(name, shown)| !script(name, shown, &list).is_empty()).collect();
    assert!(run.len() >= 8, "{run:?}");
}

/// Also of what isn't run.
#[test]
fn every_command_is_one_for_bash() {
    for (page, shown) in pages() {
        for one in shown {
            let bash = std::process::Command::new("bash").args(["-n", "-c", &one.script()]).output().unwrap();
            assert!(bash.status.success(), "{page}: {one:?}: {}", String::from_utf8_lossy(&bash.stderr));
        }
    }
}

fn bytes(file: &Sparse) -> Vec<u8> {
    file.read(disk_image::ByteRange { start: 0, end: file.len() })
}

fn sound_one(format: Format) -> Vec<u8> {
    bytes(&sound().into_iter().find(|one| one.format == format).expect("a sound image").file)
}

/// Where readers' own files and servers are on this machine: what pages name, and what stands for it.
struct Elsewhere {
    _web: SourceServer,
    _glance: SourceServer,
    names: Vec<(String, String)>,
}

impl Elsewhere {
    async fn serve(coordinates: &Coordinates) -> Self {
        let web = SourceServer::start().await.unwrap();
        let disk = pattern::bytes(3, 0, MIB);
        let vmdk = stream_optimized(&disk);
        let appliance = ova(&[("appliance-disk1.vmdk", &vmdk), ("appliance-disk2.vmdk", &vmdk)]);
        for (path, content) in
            [("/disk.qcow2", sound_one(Format::Qcow2)), ("/appliance.ova", bytes(&appliance))]
        {
            web.serve(path, Source::new(Content::Bytes(content.into())));
        }
        let glance = SourceServer::at(coordinates.glance_address).await.unwrap();
        let token = Grant::of(USER).unwrap().token();
        let record = json!({
            "id": IMAGE, "status": "active", "name": "theirs", "visibility": "public", "disk_format": "raw",
            "container_format": "bare", "size": disk.len(), "min_disk": 0, "min_ram": 0, "tags": [],
        });
        let file = Source::new(Content::Bytes(disk.into()));
        let theirs = glance.serve_image(IMAGE, record.to_string(), file, &token);
        let run = std::process::id();
        let names = [
            ("http://127.0.0.1:9292", coordinates.deployments[0].endpoint.clone()),
            ("https://example.com", web.url("")),
            (&format!("https://glance.example.org/v2/images/{IMAGE}"), theirs),
            ("my-images/disk.img", format!("{}/pages-{run}.img", coordinates.source_bucket)),
            // A run meets nothing of the one before: nothing is overwritten, and no key means another task.
            ("build-1042", format!("build-{run}")),
            ("s3://partner/", format!("s3://{}/pages-{run}/", coordinates.export_bucket)),
        ];
        let names = names.map(|(named, here)| (named.to_owned(), here)).into();
        Self { _web: web, _glance: glance, names }
    }

    fn translate(&self, script: &str) -> String {
        self.names.iter().fold(script.to_owned(), |script, (named, here)| script.replace(named, here))
    }
}

/// Somebody who reads one page, in an empty directory with the repository's names.
struct Reader<'a> {
    coordinates: &'a Coordinates,
    home: tempfile::TempDir,
}

impl<'a> Reader<'a> {
    fn new(coordinates: &'a Coordinates) -> Self {
        let home = tempfile::tempdir().unwrap();
        let here = home.path();
        symlink(coordinates.clouds.parent().unwrap(), here.join(".local")).unwrap();
        fs::create_dir(here.join("target")).unwrap();
        symlink(coordinates.command_line.parent().unwrap(), here.join("target/debug")).unwrap();
        fs::write(here.join("disk.img"), pattern::bytes(4, 0, 8 * MIB)).unwrap();
        fs::write(here.join("disk.qcow2"), sound_one(Format::Qcow2)).unwrap();
        fs::write(here.join("disk.old"), sound_one(Format::Vdi)).unwrap();
        Self { coordinates, home }
    }

    async fn runs(&self, script: &str) -> Output {
        let programs = self.coordinates.command_line.parent().unwrap();
        let clients = self.coordinates.tools.join("clients/bin");
        let path = format!("{}:{}:/usr/bin:/bin", programs.display(), clients.display());
        let mut bash = Command::new("bash");
        bash.args(["-euxo", "pipefail", "-c", script]).current_dir(self.home.path()).env_clear();
        bash.env("PATH", path).env("HOME", self.home.path()).env("LANG", "C.UTF-8");
        bash.env("OS_CLIENT_CONFIG_FILE", &self.coordinates.clouds).env("OS_CLOUD", USER);
        bash.env("S3", &self.coordinates.s3_endpoint);
        let ran = bash.stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::time::timeout(LIMIT, ran).await.expect("a page that ends").unwrap()
    }

    /// Ids of the images of the project, in a region.
    async fn images(&self, region: &str) -> BTreeSet<String> {
        let listed = self.runs(&format!("image-tasks --region {region} image list --output json")).await;
        let listed: Value = serde_json::from_slice(&listed.stdout).expect("a list of images");
        let ids = listed.as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap());
        ids.map(str::to_owned).collect()
    }
}

#[tokio::test]
#[ignore = "minutes: cargo local conformance"]
async fn commands_of_pages_do_what_they_say() {
    let coordinates = Coordinates::from_env().expect("run by `cargo local conformance`");
    let (elsewhere, list) = (Elsewhere::serve(&coordinates).await, list());
    let mut failed = Vec::new();
    for (page, shown) in pages() {
        let script = script(&page, &shown, &list);
        if script.is_empty() {
            continue;
        }
        let reader = Reader::new(&coordinates);
        let mut before = Vec::new();
        for deployment in &coordinates.deployments {
            before.push((&deployment.region, reader.images(&deployment.region).await));
        }
        let given = GIVEN.iter().filter(|(of, _)| *of == page).map(|(_, commands)| format!("{commands}\n"));
        let ran = reader.runs(&elsewhere.translate(&(given.collect::<String>() + &script))).await;
        let said = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        println!("{page}: {}\n{said}", ran.status);
        if !ran.status.success() {
            failed.push(page);
        }
        for (region, before) in before {
            for image in reader.images(region).await.difference(&before) {
                reader.runs(&format!("image-tasks --region {region} image delete {image}")).await;
            }
        }
    }
    assert!(failed.is_empty(), "pages whose commands don't work: {failed:?}");
}
