//! OVAs, packed by the fixtures (QEMU writes none), against `qemu-img convert -O raw` of the disk inside.

use std::{fs::File, path::Path};

use crate::support::{assert_reads_are_few, assert_window, open, qemu_img, sample, to_raw};
use disk_image::{Code, Format, Layout, Limits, Regions, drive::drive};
use disk_image_fixtures::ova;

fn disk(dir: &Path, subformat: &str, seed: u64) -> std::path::PathBuf {
    let (raw, image) = (dir.join("disk.raw"), dir.join(format!("{subformat}.vmdk")));
    sample(&raw, (40 << 20) + 512, seed);
    let options = format!("subformat={subformat}");
    qemu_img(&["convert", "-O", "vmdk", "-o", &options, raw.to_str().unwrap(), image.to_str().unwrap()]);
    image
}

#[test]
fn the_disk_inside_is_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    for subformat in ["streamOptimized", "monolithicSparse"] {
        let image = disk(dir.path(), subformat, 1);
        let archive = dir.path().join("vm.ova");
        ova(&[("vm-disk1.vmdk", &std::fs::read(&image).unwrap())]).write_to(&archive).unwrap();
        let mut opened = open(&archive, Format::Ova).unwrap();
        assert_reads_are_few(&mut opened);
        let oracle = File::open(to_raw(&image, "vmdk")).unwrap();
        assert_eq!(opened.layout.virtual_size(), oracle.metadata().unwrap().len());
        for (start, len) in opened.windows(5_000_011) {
            assert_window(&mut opened, &oracle, start, len, &archive);
        }
    }
}

#[test]
fn of_several_disks_one_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let disks =
        ["streamOptimized", "monolithicSparse"].map(|s| std::fs::read(disk(dir.path(), s, 2)).unwrap());
    let archive = ova(&[("a.vmdk", &disks[0]), ("b.vmdk", &disks[1])]);
    let find = |name: Option<&str>| {
        let mut source = &archive;
        let mut regions = Regions::new(archive.len());
        drive(&mut source, &mut regions, |r| Layout::open_ova(r, name, &Limits::default()))
    };
    let code = |name| match find(name) {
        Err(disk_image::drive::DriveError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    };
    assert_eq!(code(None), Some(Code::BadArchive));
    assert_eq!(code(Some("c.vmdk")), Some(Code::BadArchive));
    assert_ne!(find(Some("a.vmdk")).unwrap(), find(Some("b.vmdk")).unwrap());
}
