//! A file of checksums, of an image whose name is in another folder too.
#![no_main]

use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::sums::{SourceHash, find};

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let Ok(source) = SourceLocation::parse("https://example.org/12/disk.img") else { return };
    let Ok(found) = find(file, &source) else { return };
    let (hash, digits) = match &found {
        SourceHash::Sha256(hash) => (hash, 64),
        SourceHash::Sha512(hash) => (hash, 128),
    };
    assert_eq!(hash.len(), digits);
    // It stands in the file, whatever else does.
    assert!(file.to_ascii_lowercase().windows(digits).any(|part| part == hash.as_bytes()));
});
