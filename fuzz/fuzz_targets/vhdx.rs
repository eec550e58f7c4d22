//! A whole import of a file declared vhdx. Checksums are made to hold, so that what is behind them is reached.
#![no_main]

use disk_image::Format;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let mut file = file.to_vec();
    for (at, bytes) in disk_image_fixtures::seal(Format::Vhdx, &mut file.as_slice()).unwrap_or_default() {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    let mut source = disk_image_fixtures::Counting::new(file.as_slice());
    let _ = disk_image_fixtures::import(&mut source, Some(Format::Vhdx));
});
