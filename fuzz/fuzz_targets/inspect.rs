//! A whole import of a file of undeclared format.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let _ = disk_image_fixtures::import(&mut disk_image_fixtures::Counting::new(file), None);
});
