//! What we write boots in QEMU.

use disk_image::{ByteRange, write::qcow2::Geometry};
use disk_image_fixtures::bootable::{boot, bootable_disk};

use super::{
    CODECS,
    harness::{Disk, export},
};

#[test]
fn an_exported_disk_boots_and_reads_its_far_end() {
    let dir = tempfile::tempdir().unwrap();
    // The last sector lies beyond what a 32-bit byte offset reaches.
    let size = 6u64 << 30;
    let bootable = bootable_disk(size);
    let piece = |start| (start, bootable.read(ByteRange { start, end: start + 512 }));
    let disk = Disk { size, data: vec![piece(0), piece(size - 512)] };
    for codec in CODECS {
        let path = dir.path().join("boot.qcow2");
        let done = export(&disk, Geometry::new(size, codec).unwrap(), &[3 << 30], &path);
        done.assert_is(&disk);
        if let Some(booted) = boot(&path, "qcow2").unwrap() {
            assert_eq!(booted, Ok(()), "{codec:?}");
        }
    }
}
