//! The table of inputs: what is said of a file, what it is, and what becomes of it. docs/inputs.md shows the same table.
//!
//! Every input passes a whole import, from a server with ranges and from one without. Expected bytes come from the programs
//! that people unpack such files with, where they are installed: `qemu-img convert`, `tar -x`, `gzip -d` and its like.

mod archives;
mod debian;
mod declared;
mod disks;
mod packed;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::Cut;
use serde_json::{Value, json};

use crate::sources::Script;
use crate::world::World;

/// Rows that the table has at least.
const LEAST: usize = 120;
/// What the fixtures' images that are too large are larger than.
const QUOTA: u64 = 1 << 40;

/// An input.
struct Input {
    /// What it is.
    file: String,
    bytes: Vec<u8>,
    /// What is said of it.
    said: Said,
    becomes: Becomes,
}

/// What an import says of its source and image.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    from: Option<&'static str>,
    disk: Option<&'static str>,
    container: Option<&'static str>,
    member: Option<&'static str>,
}

const NOTHING: Said = Said { from: None, disk: None, container: None, member: None };
/// Asked for as raw, and nothing said of the source.
const TO_RAW: Said = Said { disk: Some("raw"), ..NOTHING };

/// What becomes of an input.
enum Becomes {
    /// An image of that format, of these bytes, with a remark that begins so.
    Stored(&'static str, Vec<u8>, Option<&'static str>),
    /// A failure with this code.
    Refused(&'static str),
}

/// Stored as it came.
fn kept(file: impl Into<String>, bytes: &[u8], said: Said, format: &'static str) -> Input {
    stored(file, bytes.to_vec(), said, (format, bytes.to_vec()))
}

fn stored(
    file: impl Into<String>,
    bytes: Vec<u8>,
    said: Said,
    (format, expected): (&'static str, Vec<u8>),
) -> Input {
    Input { file: file.into(), bytes, said, becomes: Becomes::Stored(format, expected, None) }
}

fn refused(file: impl Into<String>, bytes: Vec<u8>, said: Said, code: &'static str) -> Input {
    Input { file: file.into(), bytes, said, becomes: Becomes::Refused(code) }
}

/// Declared as that.
const fn from(format: &'static str) -> Said {
    Said { from: Some(format), ..NOTHING }
}

impl Said {
    fn input(self) -> Value {
        let mut input = json!({});
        let mut properties = json!({});
        if let Some(format) = self.from {
            input["import_from_format"] = json!(format);
        }
        if let Some(format) = self.disk {
            properties["disk_format"] = json!(format);
        }
        if let Some(format) = self.container {
            properties["container_format"] = json!(format);
        }
        if let Some(member) = self.member {
            input["import_from_member"] = json!(member);
        }
        if properties != json!({}) {
            input["image_properties"] = properties;
        }
        input
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = [
            ("import_from_format", self.from),
            ("disk_format", self.disk),
            ("container_format", self.container),
            ("import_from_member", self.member),
        ];
        let said: Vec<_> =
            said.iter().filter_map(|(key, value)| Some(format!("`{key}` {}", (*value)?))).collect();
        f.write_str(&if said.is_empty() { "nothing".to_owned() } else { said.join(", ") })
    }
}

/// What a program writes of these bytes, if it is installed.
fn program(line: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next()?);
    let mut child = command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    let bytes = bytes.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut stdin, &bytes);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Some(output.stdout)
}

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The disk of an image, by `qemu-img convert`; nothing where QEMU doesn't take the image.
fn by_qemu(image: &Path, format: &str) -> Option<Vec<u8>> {
    let raw = image.with_extension("oracle");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&raw).stderr(Stdio::null());
    if !convert.status().unwrap().success() {
        return None;
    }
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    Some(bytes)
}

/// A disk of 300 KiB: zeros, and bytes that compress and that don't; it has a boot record.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 300 << 10];
    disk[70_000..140_000].copy_from_slice(&crate::world::pattern(70_000));
    disk[250_000..250_500].fill(7);
    disk[..3].copy_from_slice(b"\xeb\x63\x90");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

impl Input {
    /// What becomes of it, as the table shows it; or what is wrong with that.
    async fn got(&self, ranges: bool) -> Result<String, String> {
        let script = Script { ranges, ..Script::of(self.bytes.clone()) };
        let mut world = World::new(script, self.said.input(), Cut::default()).await;
        world.policy.max_image_bytes = QUOTA;
        world.run().await;
        let context = format!("{}, {}, ranges {ranges}", self.file, self.said);
        let task = world.task().await;
        let (status, message) = (task.status, task.message);
        let wrong = |what: &str| Err(format!("{context}: {what}: {status:?}: {message}"));
        match &self.becomes {
            Becomes::Stored(format, bytes, remark) => {
                if status != TaskStatus::Success {
                    return wrong("was refused");
                }
                world.check_ended(bytes, &context).await;
                let image = world.image().await.unwrap();
                if image.disk_format.as_deref() != Some(*format) {
                    return wrong(&format!("was stored as {:?}", image.disk_format));
                }
                if !remark.map_or(message.is_empty(), |remark| message.starts_with(remark)) {
                    return wrong("another remark");
                }
                let what = if *bytes == self.bytes { "as it is" } else { "the disk inside" };
                let remark = if message.is_empty() { String::new() } else { format!("; remark: {message}") };
                Ok(format!("{format}, {what}{remark}"))
            }
            Becomes::Refused(code) => {
                if status != TaskStatus::Failure {
                    return wrong("was stored");
                }
                world.check_ended(&[], &context).await;
                match message.split_once(": ") {
                    Some((told, _)) if told != *code => wrong(&format!("not refused as {code}")),
                    Some((_, sentence)) if sentence.contains("; ") => Ok(format!("`{code}`: {sentence}")),
                    _ => wrong("what can be done is not said"),
                }
            }
        }
    }
}

/// A cell of a table in Markdown.
fn cell(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '*' | '_' | '\\' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Without what differs from run to run: the folder, and hashes of images, to which QEMU gives ids of their own.
fn steady(text: &str, dir: &Path) -> String {
    const HASH: usize = 40;
    let is_other = |c: char| !c.is_ascii_hexdigit();
    let text = text.replace(&format!("{}/", dir.display()), "");
    let words = text.split_inclusive(is_other).map(|word| match word.trim_end_matches(is_other) {
        hash if hash.len() >= HASH => word.replace(hash, "..."),
        _ => word.to_owned(),
    });
    words.collect()
}

#[tokio::test(start_paused = true)]
async fn each_input_becomes_what_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&str, Vec<Input>); 5] = [
        ("What is declared", declared::inputs()),
        ("Streams", packed::inputs()),
        ("Kernels and ramdisks", packed::boot_files()),
        ("Disk images", disks::inputs(dir.path())),
        ("Archives", archives::inputs(dir.path())),
    ];
    let (mut tables, mut rows, mut wrong) = (String::new(), 0, Vec::new());
    for (kind, inputs) in kinds {
        write!(tables, "\n## {kind}\n\n| the file | what is said | what becomes of it |\n|---|---|---|\n")
            .unwrap();
        for input in inputs {
            rows += 1;
            // Whether a source is spooled changes nothing.
            match (input.got(true).await, input.got(false).await) {
                (Ok(got), Ok(spooled)) if got == spooled => {
                    let got = steady(&got, dir.path());
                    writeln!(tables, "| {} | {} | {} |", cell(&input.file), input.said, cell(&got)).unwrap();
                }
                (Ok(got), Ok(spooled)) => wrong.push(format!("{got}, but spooled {spooled}")),
                (got, spooled) => wrong.extend(got.err().into_iter().chain(spooled.err())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= LEAST, "{rows} inputs");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/inputs.md");
    let written = std::fs::read_to_string(&page).unwrap();
    let head = written.split_once("\n## ").map_or(written.as_str(), |(head, _)| head);
    let expected = format!("{head}{tables}");
    if written != expected {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inputs.md");
        std::fs::write(&place, &expected).unwrap();
        panic!("docs/inputs.md is not what happens; if it should be: cp {} docs/inputs.md", place.display());
    }
}

/// Every image that must be refused is, taken to be converted, and its refusal says what to do.
#[tokio::test(start_paused = true)]
async fn every_hostile_image_is_refused_with_what_to_do() {
    let mut wrong = Vec::new();
    for image in disk_image_fixtures::all().into_iter().filter(|image| image.file.len() < 1 << 20) {
        let bytes = image.file.read(disk_image::ByteRange { start: 0, end: image.file.len() });
        let from = image.declared.map(disk_image::Format::name);
        let disk = Some("raw").filter(|_| image.declared.is_some_and(|format| !format.is_verbatim()));
        let said = Said { from, disk, ..NOTHING };
        let input = Input { file: image.name, bytes, said, becomes: Becomes::Refused(image.code.name()) };
        wrong.extend(input.got(true).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
