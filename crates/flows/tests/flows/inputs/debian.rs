//! Files of Debian's packages, as they are: none is refused but those that are listed with why.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Becomes, Input, NOTHING, Said, TO_RAW, from, kept, program, refused, stored};

/// Packages that the script fetches, of which a mirror may lack some.
const LEAST: usize = 8;
/// A kernel, a ramdisk or firmware is smaller, or one of many alike.
const MOST_BYTES: u64 = 70 << 20;
/// Programs and modules that no machine is given as a disk, and texts.
const NO_IMAGES: [&str; 4] = ["/doc/", "/man/", "/modules/", "/gtk/"];

/// Files that can't be stored as a raw disk, and why.
const REFUSED: [(&str, &str, &str); 0] = [];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_image = !NO_IMAGES.iter().any(|part| path.to_string_lossy().contains(part));
        if path.is_symlink() || !is_image {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else if (512..=MOST_BYTES).contains(&path.metadata().unwrap().len()) {
            found.push(path);
        }
    }
}

/// What a file becomes, by each way to ask for it.
fn inputs(name: &str, bytes: &[u8]) -> Vec<Input> {
    if let Some((_, code, _)) = REFUSED.into_iter().find(|(end, ..)| name.ends_with(end)) {
        return vec![refused(name, bytes.to_vec(), from("raw"), code)];
    }
    let disk = match bytes {
        [0x1f, 0x8b, ..] => program("gzip -dc", bytes).unwrap(),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => program("xz -dc", bytes).unwrap(),
        _ => bytes.to_vec(),
    };
    let is_iso = disk.get(0x8001..0x8006) == Some(b"CD001");
    let mut all = vec![
        if is_iso {
            stored(name, bytes.to_vec(), NOTHING, ("iso", disk.clone()))
        } else {
            refused(name, bytes.to_vec(), NOTHING, "UnknownFormat")
        },
        stored(name, bytes.to_vec(), from("raw"), ("raw", disk.clone())),
        stored(name, bytes.to_vec(), TO_RAW, ("raw", disk)),
        kept(name, bytes, from("aki"), "aki"),
    ];
    if is_iso {
        all.push(stored(name, bytes.to_vec(), Said { from: Some("iso"), ..TO_RAW }, ("raw", bytes.to_vec())));
    }
    for input in &mut all {
        // Texts are among them, which are remarked on.
        if let Becomes::Stored(_, _, remark) = &mut input.becomes {
            *remark = Some("");
        }
    }
    all
}

#[tokio::test(start_paused = true)]
#[ignore = "300 MB of packages: `cargo local conformance` runs it"]
async fn files_of_debian() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/local/debian-files");
    assert!(Command::new(script).arg(&dir).status().unwrap().success());
    let packages = std::fs::read_dir(&dir).unwrap().count();
    assert!(packages >= LEAST, "{packages} packages");
    let mut found = Vec::new();
    files(&dir, &mut found);
    found.sort();
    let (mut imports, mut refusals) = (0, 0);
    for path in &found {
        let name = path.strip_prefix(&dir).unwrap().to_string_lossy().into_owned();
        for input in inputs(&name, &std::fs::read(path).unwrap()) {
            let got = input.got(true).await.unwrap();
            imports += 1;
            refusals += usize::from(got.starts_with('`'));
            println!("{name}: {}: {got}", input.said);
        }
    }
    println!(
        "{} files of {packages} packages, {imports} imports, {refusals} refused as expected",
        found.len()
    );
    assert!(found.len() > 40, "{} files", found.len());
}
