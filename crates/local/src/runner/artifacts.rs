//! What is deployed: `template.yaml` byte for byte and each function's zip,
//! laid out in one directory so that the template's relative paths are true.
//!
//! `CodeUri: functions/api` is a directory of sources in the repository; here
//! a file of that name is the zip, which SAM uploads as it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::layout::Layout;
use super::steps::{self, Stop};
use super::terminal::Terminal;

/// Programs of the workspace.
#[derive(Debug)]
pub(super) struct Built {
    /// By the names of their directories.
    pub functions: BTreeMap<String, PathBuf>,
    /// `image-tasks`.
    pub command_line: PathBuf,
}

/// Builds the workspace.
pub(super) async fn build(layout: &Layout, tests: bool, stop: &Stop) -> Result<Built> {
    let mut cargo = steps::cargo();
    // The whole workspace: a selection of packages would compile the SDKs with other features.
    cargo.args(["build", "--workspace", "--bins", "--message-format=json-render-diagnostics"]);
    if tests {
        cargo.arg("--tests");
    }
    cargo.current_dir(layout.repository()).stdin(Stdio::null());
    let messages = layout.logs().join("cargo-build.json");
    cargo.stdout(File::create(&messages).with_context(|| format!("cannot write {}", messages.display()))?);
    let status = steps::status(cargo, stop).await.context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo build failed: see above");
    }
    let messages = fs::read_to_string(&messages)?;
    let built_in = |room: &str| -> BTreeMap<String, PathBuf> {
        let room = layout.repository().join(room);
        messages.lines().filter_map(|line| binary(&serde_json::from_str(line).ok()?, &room)).collect()
    };
    let functions = built_in("functions");
    if functions.is_empty() {
        bail!("the workspace has no package in functions/ with a binary");
    }
    let command_line = built_in("crates").remove("cli").context("crates/cli has no binary")?;
    Ok(Built { functions, command_line })
}

/// From cargo's message of an artifact: directory name in that room, executable.
fn binary(message: &Value, room: &Path) -> Option<(String, PathBuf)> {
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    let name = package.strip_prefix(room).ok()?.to_str()?.to_owned();
    let is_bin = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "bin");
    let executable = message["executable"].as_str()?;
    (is_bin && message["profile"]["test"] == false).then(|| (name, executable.into()))
}

/// Lays out template and zips; the path of the template.
pub(super) fn lay_out(
    layout: &Layout,
    binaries: &BTreeMap<String, PathBuf>,
    terminal: &Terminal,
) -> Result<PathBuf> {
    let directory = layout.build();
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(directory.join("functions"))?;
    symlink(layout.repository().join("infra"), directory.join("infra"))?;
    let template = directory.join("template.yaml");
    fs::copy(layout.repository().join("template.yaml"), &template).context("no template.yaml")?;
    for (name, binary) in binaries {
        let zip = directory.join("functions").join(name);
        pack(binary, &zip).with_context(|| format!("cannot zip {}", binary.display()))?;
        let mebibytes = |path: &Path| fs::metadata(path).map(|found| found.len().div_ceil(1 << 20));
        terminal.line(format!("  {name}: {} MiB, zipped {} MiB", mebibytes(binary)?, mebibytes(&zip)?));
    }
    Ok(template)
}

/// A zip with the binary as `bootstrap`, executable: what `provided.al2023` runs.
/// The same binary makes the same zip.
fn pack(binary: &Path, zip: &Path) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(1))
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(File::create(zip)?);
    writer.start_file("bootstrap", options)?;
    std::io::copy(&mut File::open(binary)?, &mut writer)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Read;

    #[test]
    fn only_binaries_of_a_room_are_taken() {
        let message = |manifest: &str, kind: &str, test: bool| {
            json!({"reason": "compiler-artifact", "manifest_path": manifest, "target": {"kind": [kind]},
                   "profile": {"test": test}, "executable": "/target/debug/x"})
        };
        let functions = Path::new("/repo/functions");
        let api = "/repo/functions/api/Cargo.toml";
        let found = binary(&message(api, "bin", false), functions);
        assert_eq!(found, Some(("api".to_owned(), "/target/debug/x".into())));
        assert_eq!(binary(&message(api, "bin", true), functions), None);
        assert_eq!(binary(&message(api, "lib", false), functions), None);
        assert_eq!(binary(&message("/repo/crates/api/Cargo.toml", "bin", false), functions), None);
    }

    #[test]
    fn the_zip_holds_an_executable_bootstrap_and_is_reproducible() {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("binary");
        fs::write(&binary, b"the program").unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        pack(&binary, &first).unwrap();
        pack(&binary, &second).unwrap();
        assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
        let mut archive = zip::ZipArchive::new(File::open(&first).unwrap()).unwrap();
        assert_eq!(archive.len(), 1);
        let mut entry = archive.by_name("bootstrap").unwrap();
        assert_eq!(entry.unix_mode().map(|mode| mode & 0o777), Some(0o755));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"the program");
    }
}
