//! The hostile set: every image is refused with its own code, in few reads and little memory, and the sound images they are made from are read.

use std::collections::{BTreeMap, BTreeSet};

use disk_image::{
    Code,
    drive::{DriveError, MAX_OPEN_BYTES},
};
use disk_image_fixtures::{Counting, import};

#[test]
fn every_hostile_image_is_refused_with_its_own_code() {
    let all = disk_image_fixtures::all();
    let mut wrong = Vec::new();
    for hostile in &all {
        let mut source = Counting::new(&hostile.file);
        match import(&mut source, hostile.declared) {
            Err(DriveError::Refused(refusal)) if refusal.code == hostile.code => {
                assert!(refusal.message.len() > 15 && refusal.message.len() < 300, "{}", refusal.message);
            }
            other => wrong.push(format!("{}: {other:?}, expected {}", hostile.name, hostile.code)),
        }
        // What is read is what is held: metadata within its bound, and no part of the file again and again.
        let largest = source.reads.iter().map(|r| r.len()).max().unwrap_or(0);
        assert!(largest <= MAX_OPEN_BYTES as u64, "{}", hostile.name);
        assert!(source.reads.len() <= 64, "{}: {} requests", hostile.name, source.reads.len());
        assert!(source.bytes() <= 4 * hostile.file.len(), "{}: {} bytes", hostile.name, source.bytes());
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(all.len() >= 80, "{} images", all.len());
    let names: BTreeSet<_> = all.iter().map(|h| &h.name).collect();
    assert_eq!(names.len(), all.len(), "names are unique");
}

#[test]
fn every_code_has_its_hostile_image() {
    let mut seen: BTreeMap<Code, usize> = BTreeMap::new();
    for hostile in disk_image_fixtures::all() {
        *seen.entry(hostile.code).or_default() += 1;
    }
    // Our own sidecars are not images.
    let missing: Vec<_> = Code::ALL.iter().filter(|c| **c != Code::BadMap && !seen.contains_key(c)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_they_are_made_from_is_accepted() {
    for sound in disk_image_fixtures::sound() {
        let result = import(&mut Counting::new(&sound.file), Some(sound.format));
        assert!(result.is_ok(), "{}: {result:?}", sound.name);
    }
}
