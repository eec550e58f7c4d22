//! A whole import of a file declared ova, and its manifest.
#![no_main]

use disk_image::{Regions, drive::drive, manifest};

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let mut source = disk_image_fixtures::Counting::new(file);
    let _ = disk_image_fixtures::import(&mut source, Some(disk_image::Format::Ova));
    let mut bytes = file;
    let Ok(listed) = drive(&mut bytes, &mut Regions::new(file.len() as u64), manifest) else { return };
    for listed in listed {
        assert!(listed.range.end <= file.len() as u64 && listed.range.start <= listed.range.end);
        assert!(listed.digest.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
});
