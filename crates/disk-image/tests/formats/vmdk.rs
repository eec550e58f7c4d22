//! VMDKs as other programs write them, and those that are no whole disk.

use std::{fs, path::Path};

use crate::support::{assert_equals_qemu, open, qemu_img, sample};
use disk_image::{Code, Format, Inspection, Regions, drive::DriveError, drive::drive, inspect};

#[test]
fn what_stands_around_a_disk_changes_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for sound in disk_image_fixtures::sound().into_iter().filter(|s| s.format == Format::Vmdk) {
        let image = dir.path().join(sound.name);
        sound.file.write_to(&image).unwrap();
        assert_equals_qemu(&image, "vmdk", Format::Vmdk);
        seen += 1;
    }
    assert!(seen >= 25, "{seen}");
}

/// QEMU itself finds no CID in such a text.
#[test]
fn blanks_around_every_value_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("disk.vmdk"));
    sample(&raw, (3 << 20) + 512, 2);
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let options = format!("subformat={subformat}");
        let paths = [raw.to_str().unwrap(), image.to_str().unwrap()];
        qemu_img(&[&["convert", "-f", "raw", "-O", "vmdk", "-o", &options], &paths[..]].concat());
        let mut bytes = fs::read(&image).unwrap();
        let area = &mut bytes[512..21 * 512];
        let len = area.iter().position(|b| *b == 0).unwrap();
        let text = String::from_utf8(area[..len].to_vec()).unwrap().replace('=', " = ").replace('\n', " \n");
        area[..text.len()].copy_from_slice(text.as_bytes());
        fs::write(&image, bytes).unwrap();
        let mut opened = open(&image, Format::Vmdk).unwrap();
        let whole = opened.read(0, usize::try_from(opened.layout.virtual_size()).unwrap());
        assert!(whole == fs::read(&raw).unwrap(), "{subformat}");
    }
}

/// Inspects and opens; what was refused, and why.
fn refused(path: &Path, declared: Option<Format>) -> (Code, String) {
    let mut source = fs::File::open(path).unwrap();
    let mut regions = Regions::new(fs::metadata(path).unwrap().len());
    let result = match drive(&mut source, &mut regions, |r| inspect(r, declared)) {
        Ok(Inspection::Disk(Format::Vmdk)) => open(path, Format::Vmdk).map(|_| ()),
        Ok(other) => panic!("{}: {other:?}", path.display()),
        Err(e) => Err(e),
    };
    match result {
        Err(DriveError::Refused(refusal)) => (refusal.code, refusal.message),
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// Who sends one file of several is told what it is and how to send the disk.
#[test]
fn a_part_of_a_disk_is_told_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 3 << 20, 1);
    for subformat in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = dir.path().join(format!("{subformat}.vmdk"));
        let options = format!("subformat={subformat}");
        let paths = [raw.to_str().unwrap(), image.to_str().unwrap()];
        qemu_img(&[&["convert", "-f", "raw", "-O", "vmdk", "-o", &options], &paths[..]].concat());
    }
    let join = "make one file of the disk and send that: qemu-img convert -O qcow2";
    for (name, declared, code, told) in [
        ("monolithicFlat.vmdk", None, Code::ExternalData, join),
        ("twoGbMaxExtentFlat.vmdk", Some(Format::Vmdk), Code::ExternalData, join),
        ("twoGbMaxExtentSparse.vmdk", Some(Format::Raw), Code::ExternalData, join),
        ("twoGbMaxExtentSparse-s001.vmdk", None, Code::BadHeader, "one part of a split disk"),
        ("twoGbMaxExtentSparse-s001.vmdk", Some(Format::Vmdk), Code::BadHeader, join),
        (
            "monolithicFlat-flat.vmdk",
            None,
            Code::UnknownFormat,
            "-flat file is, say import_from_format \"raw\"",
        ),
        ("twoGbMaxExtentFlat-f001.vmdk", Some(Format::Vmdk), Code::FormatMismatch, "\"raw\""),
    ] {
        let (found, message) = refused(&dir.path().join(name), declared);
        assert!(found == code && message.contains(told), "{name} as {declared:?}: {found}: {message}");
    }
}

#[test]
fn a_disk_in_use_is_told_with_its_remedy() {
    let unclean = disk_image_fixtures::all().into_iter().find(|h| h.name == "vmdk-unclean-shutdown").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    unclean.file.write_to(&path).unwrap();
    let (code, message) = refused(&path, Some(Format::Vmdk));
    assert_eq!(code, Code::Corrupt);
    assert!(
        message.contains("shut the machine down") && message.contains("vmware-vdiskmanager -R"),
        "{message}"
    );
}
