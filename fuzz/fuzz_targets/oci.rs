//! A manifest of a registry, for whoever asks for one platform and for any.
#![no_main]

use image_tasks_domain::oci::{Manifest, read};

libfuzzer_sys::fuzz_target!(|manifest: &[u8]| {
    for architecture in [None, Some("x86_64")] {
        let (Ok(Manifest::Platform(digest)) | Ok(Manifest::Layer { digest, .. })) = read(manifest, architecture) else {
            continue;
        };
        // What is fetched next stands in the manifest; nothing else gets into an address.
        let digest = digest.digest();
        assert!(digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b':'));
    }
});
