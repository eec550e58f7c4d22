//! What firmware finds on any disk, its GPT's checksums made right.
#![no_main]

use disk_image::{Regions, boot, drive::drive};
use disk_image_fixtures::{Counting, seal_gpt};

libfuzzer_sys::fuzz_target!(|disk: &[u8]| {
    let mut sealed = disk.to_vec();
    for (at, bytes) in seal_gpt(&mut &*disk).unwrap_or_default() {
        let at = at as usize;
        sealed[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    let mut source = Counting::new(sealed.as_slice());
    let mut regions = Regions::new(sealed.len() as u64);
    drive(&mut source, &mut regions, |regions| boot(regions, u64::MAX)).expect("nothing is refused");
    assert!(source.reads.len() <= 200);
});
