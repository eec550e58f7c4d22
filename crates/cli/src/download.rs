//! `image-tasks download`: an image's bytes, in ranges side by side, resumable and checked.
//!
//! Invariants:
//! - The final name appears by a rename, after the hash was found right: there is never half a file under it.
//! - What an interrupted download has is used again only for the same bytes: same image, size, hash and `ETag`.
//! - The URL of the bytes carries its own permission. No credential of the caller's goes with it, and no
//!   message shows it.

mod partial;
mod ranges;
mod verify;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::arguments::Download;
use crate::failure::Failure;
use crate::images;
use crate::output::{Output, text_of};
use crate::progress::Progress;
use crate::service::Service;
use crate::wait::Interrupts;

use partial::Partial;
use verify::Expected;

/// What is downloaded.
pub(crate) struct Wanted {
    image: String,
    size: u64,
    expected: Expected,
}

impl Wanted {
    fn of(image: &Value) -> Result<Self, Failure> {
        let id = text_of(image, "id").to_owned();
        let status = text_of(image, "status");
        match image["size"].as_u64() {
            Some(size) if matches!(status, "active" | "deactivated") => {
                Ok(Self { image: id, size, expected: Expected::of(image) })
            }
            _ => Err(Failure::Here(format!("the image {id} has no bytes to download: it is {status}"))),
        }
    }
}

/// Downloads an image into a file.
pub(crate) async fn run(service: &Service, output: Output, asked: &Download) -> Result<(), Failure> {
    let image = images::resolve(service, &asked.image).await?;
    let wanted = Wanted::of(&image)?;
    let file = asked.file.clone().unwrap_or_else(|| named_after(&image));
    if !asked.force && file.exists() {
        return Err(Failure::Here(format!("{} is there already: --force replaces it", file.display())));
    }
    let mut interrupts = Interrupts::listen()?;
    let fetched = tokio::select! {
        fetched = fetch(service, output, &wanted, &file, asked.parallel) => fetched,
        () = interrupts.next() => {
            let told = format!("Interrupted. The same command goes on with {}", partial::path_of(&file).display());
            Err(Failure::Interrupted(told))
        }
    };
    fetched?;
    if output.json { output.document(&image) } else { output.line(&file.display().to_string()) }
}

async fn fetch(
    service: &Service,
    output: Output,
    wanted: &Wanted,
    file: &Path,
    parallel: u8,
) -> Result<(), Failure> {
    let mut progress = Progress::of_bytes(output, wanted.size);
    let mut partial = Partial::open(file, wanted)?;
    if partial.done_bytes() > 0 {
        progress.say(&format!("Going on with {}", partial::path_of(file).display()));
    }
    progress.begin_at(partial.done_bytes());
    ranges::fetch_missing(service, wanted, &mut partial, usize::from(parallel), &progress).await?;
    progress.say(&format!("Checking {}", wanted.expected));
    let verified = partial.verify(&wanted.expected).await?;
    drop(progress);
    if !verified {
        partial.remove()?;
        let told =
            format!("what came isn't the image's bytes: another {}; they are removed", wanted.expected);
        return Err(Failure::Here(told));
    }
    if matches!(wanted.expected, Expected::Nothing) {
        output.note("The image has no hash yet, so the bytes could not be checked");
    }
    partial.publish(file)
}

/// A name for the file of an image: its own, without what would lead out of this directory.
fn named_after(image: &Value) -> PathBuf {
    let name = Some(text_of(image, "name")).filter(|name| !name.is_empty()).unwrap_or(text_of(image, "id"));
    let safe = name.replace(|c: char| c == '/' || c.is_control(), "_");
    let format = text_of(image, "disk_format");
    let end = if format.is_empty() || safe.ends_with(&format!(".{format}")) {
        String::new()
    } else {
        format!(".{format}")
    };
    // Not hidden, and not `..`.
    let safe = safe.trim_start_matches('.');
    PathBuf::from(format!("{}{end}", if safe.is_empty() { text_of(image, "id") } else { safe }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_stays_in_this_directory() {
        let named = |name: &str| named_after(&json!({"id": "0b5b", "name": name, "disk_format": "raw"}));
        let names = ["debian", "debian.raw", "../../etc/passwd", "..", "", "a\nb"].map(named);
        let files = ["debian.raw", "debian.raw", "_.._etc_passwd.raw", "0b5b.raw", "0b5b.raw", "a_b.raw"];
        assert_eq!(names.map(|path| path.display().to_string()), files);
    }
}
