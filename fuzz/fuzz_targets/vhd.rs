//! A whole import of a file declared vhd.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let mut source = disk_image_fixtures::Counting::new(file);
    let _ = disk_image_fixtures::import(&mut source, Some(disk_image::Format::Vhd));
});
