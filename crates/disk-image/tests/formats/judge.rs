//! What is stored is what it is called: disks within images, with `qemu-img info` as the one who would be fooled.

use std::{collections::BTreeSet, path::Path, process::Command};

use crate::support::{open, qemu_img, to_raw};
use disk_image::{
    Code, Format, Inspection, Regions,
    drive::{DriveError, ReadAt, drive},
    inspect, judge,
};
use disk_image_fixtures::{
    Sparse,
    nested::{self, Guest},
    streams::PACKED,
};
use proptest::prelude::*;

const OPAQUE: [Format; 4] = [Format::Raw, Format::Ami, Format::Ari, Format::Aki];

fn refused<T>(result: Result<T, DriveError>) -> Result<T, (Code, String)> {
    result.map_err(|e| match e {
        DriveError::Refused(refusal) => (refusal.code, refusal.message),
        DriveError::Source(e) => panic!("{e}"),
    })
}

fn judged(mut source: impl ReadAt, stored_as: Format) -> Result<(), (Code, String)> {
    let mut regions = Regions::new(source.size());
    refused(drive(&mut source, &mut regions, |r| judge(r, stored_as)))
}

fn inspected(mut source: &[u8], declared: Option<Format>) -> Result<Inspection, (Code, String)> {
    let mut regions = Regions::new(source.size());
    refused(drive(&mut source, &mut regions, |r| inspect(r, declared)))
}

/// The disk of each image, read as an import reads it, and the image's name.
fn converted(dir: &Path, guest: &Guest) -> Vec<(String, Vec<u8>)> {
    let read = |image: disk_image_fixtures::Sound| {
        let path = dir.join("image");
        image.file.write_to(&path).unwrap();
        let name = format!("{} in {}", guest.name, image.name);
        let mut opened = open(&path, image.format).unwrap_or_else(|e| panic!("{name}: {e}"));
        let disk = opened.read(0, usize::try_from(nested::DISK).unwrap());
        assert_eq!(opened.layout.virtual_size(), nested::DISK, "{name}");
        assert!(disk == guest.disk, "{name}: the disk is another");
        (name, disk)
    };
    nested::disks(&guest.disk).into_iter().map(read).collect()
}

#[test]
fn no_image_becomes_a_raw_disk_that_is_another_image() {
    let dir = tempfile::tempdir().unwrap();
    let headers = nested::headers();
    let streams = ["gzip", "xz", "zstd", "zstd-behind-a-skipped-frame"];
    let packed: Vec<_> = PACKED.iter().map(|packed| packed.name).chain(streams).collect();
    for guest in &headers {
        for (name, disk) in converted(dir.path(), guest) {
            for stored_as in OPAQUE {
                if stored_as.is_boot_file() && packed.contains(&guest.name) {
                    assert_eq!(judged(disk.as_slice(), stored_as), Ok(()), "{name}");
                    continue;
                }
                let (code, message) = judged(disk.as_slice(), stored_as).expect_err(&name);
                assert_eq!(code, Code::Polyglot, "{name}: {message}");
                let place = if guest.name == "vhd-fixed" || guest.name == "dmg" { "ends" } else { "begins" };
                assert!(message.starts_with(&format!("the disk {place} like ")), "{name}: {message}");
                assert!(message.contains(&format!("stored as {stored_as}")), "{name}: {message}");
                assert!(message.len() < 300, "{name}: {message}");
            }
        }
    }
    assert!(headers.len() >= 35, "{}", headers.len());
    let names: BTreeSet<_> = headers.iter().map(|guest| guest.name).collect();
    assert_eq!(names.len(), headers.len(), "names are unique");
}

#[test]
fn ordinary_disks_are_welcome() {
    let dir = tempfile::tempdir().unwrap();
    let ordinary = nested::ordinary();
    for guest in &ordinary {
        for (name, disk) in converted(dir.path(), guest) {
            for stored_as in OPAQUE {
                assert_eq!(judged(disk.as_slice(), stored_as), Ok(()), "{name}");
            }
        }
    }
    assert!(ordinary.len() >= 25, "{}", ordinary.len());
}

#[test]
fn small_files_are_disks_too() {
    for len in 0..=4096 {
        for byte in [0, 0x5a, 0xff] {
            assert_eq!(judged(vec![byte; len].as_slice(), Format::Raw), Ok(()), "{len} of {byte}");
        }
    }
}

/// The fixtures say what QEMU takes a disk for; were it not so, the test of the judge would prove nothing.
#[test]
fn qemu_takes_the_refused_disks_for_images_and_the_others_for_raw() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    // A distribution may leave old formats out.
    let knows = |format: &&str| {
        let output = Command::new("qemu-img").args(["info", "-f", format]).arg(&path).output().unwrap();
        !String::from_utf8_lossy(&output.stderr).contains("Unknown driver")
    };
    let mut known = 0;
    for guest in nested::headers().iter().chain(&nested::ordinary()) {
        std::fs::write(&path, &guest.disk).unwrap();
        let output = Command::new("qemu-img").args(["info", "-U"]).arg(&path).output().unwrap();
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // What is probed as raw can be opened.
        let format = said.lines().find_map(|line| line.strip_prefix("file format: "));
        match guest.probed.filter(knows) {
            None => assert_eq!(format, Some("raw"), "{}: {error}", guest.name),
            Some(probed) => {
                known += 1;
                assert!(format.is_none_or(|format| format == probed), "{}: {said}{error}", guest.name);
                assert!(format.is_some() || !output.status.success(), "{}: {error}", guest.name);
            }
        }
    }
    assert!(known >= 20, "{known}");
}

#[test]
fn the_images_around_the_disks_are_sound_to_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let noise = nested::ordinary().into_iter().find(|guest| guest.name == "noise").unwrap();
    for image in nested::disks(&noise.disk).iter().filter(|image| image.format != Format::Ova) {
        let path = dir.path().join(image.name);
        image.file.write_to(&path).unwrap();
        let qemu = if image.format == Format::Vhd { "vpc" } else { image.format.name() };
        if !matches!(image.format, Format::Vhd) {
            qemu_img(&["check", "-q", "-f", qemu, path.to_str().unwrap()]);
        }
        assert!(std::fs::read(to_raw(&path, qemu)).unwrap() == noise.disk, "{}", image.name);
    }
}

#[test]
fn a_structured_image_is_stored_as_what_it_is() {
    let images = disk_image_fixtures::sound().into_iter().chain(nested::disks(&[0; 4096]));
    for image in images {
        for stored_as in Format::ALL {
            let result = judged(&image.file, stored_as);
            let name = format!("{} stored as {stored_as}", image.name);
            match result {
                Ok(()) if stored_as == image.format => {}
                // What a guest reads from its disk may be the contents of a CD.
                Ok(()) if stored_as.is_opaque() && image.format == Format::Iso => {}
                Err((Code::Polyglot, _)) if stored_as.is_opaque() && image.format != Format::Iso => {}
                Err((Code::FormatMismatch, _)) if !stored_as.is_opaque() && stored_as != image.format => {}
                result => panic!("{name}: {result:?}"),
            }
        }
    }
}

#[test]
fn a_structured_image_with_a_second_meaning_is_not_stored() {
    let qcow2 = || nested::disks(&[3; 4096]).remove(0).file;
    let end = qcow2().len();
    let stream = Sparse::zeros(4096).with(0, b"\x1f\x8b\x08");
    for (file, stored_as, code) in [
        // The last cluster of the disk is the last one of the file.
        (qcow2().with(end - 512, b"conectix"), Format::Qcow2, Code::Polyglot),
        (qcow2().with(end - 512, b"koly"), Format::Qcow2, Code::Polyglot),
        (qcow2().with(510, &[0x55, 0xaa]), Format::Qcow2, Code::Polyglot),
        (qcow2().with(0x8001, b"CD001"), Format::Iso, Code::Polyglot),
        (stream.clone(), Format::Qcow2, Code::FormatMismatch),
        (stream, Format::Iso, Code::FormatMismatch),
        (Sparse::zeros(4096), Format::Qcow2, Code::FormatMismatch),
        (Sparse::zeros(0), Format::Iso, Code::FormatMismatch),
    ] {
        assert_eq!(judged(&file, stored_as).unwrap_err().0, code);
    }
}

#[test]
fn each_meaning_of_a_file_is_named() {
    let mut file = vec![0; 40_000];
    for (at, magic) in [(0, &b"QFI\xfb\0\0\0\x03"[..]), (0x8001, b"CD001"), (0x8801, b"CDROM")] {
        file[at..at + magic.len()].copy_from_slice(magic);
    }
    let (code, told) = inspected(&file, None).unwrap_err();
    assert_eq!(code, Code::Polyglot);
    assert!(told.starts_with("the file is iso, High Sierra and qcow2 at once, "), "{told}");
}

#[test]
fn the_hostile_set_by_signature_is_not_stored_as_it_came() {
    let mut seen = 0;
    for hostile in disk_image_fixtures::all() {
        let Some(declared) = hostile.declared else { continue };
        if hostile.name.starts_with("polyglot-") || hostile.name.starts_with("refused-") {
            seen += 1;
            assert!(judged(&hostile.file, declared).is_err(), "{} as {declared}", hostile.name);
        }
    }
    assert!(seen >= 40, "{seen}");
}

/// Signatures, at places where they count and next to them.
const MAGICS: &[&[u8]] = &[
    b"QFI\xfb\0\0\0\x03",
    b"QFI\xfb\0\0\0\x01",
    b"QFI\xfb",
    b"KDMV",
    b"COWD",
    b"vhdxfile",
    b"\x7f\x10\xda\xbe",
    b"conectix",
    b"koly",
    b"CD001",
    b"BEA01",
    b"CDROM",
    b"ustar",
    b"QED\0",
    b"LUKS\xba\xbe",
    b"version=1\n",
    b"# Disk DescriptorFile\n",
    b"#\n",
    b"\x1f\x8b\x08",
    b"\x55\xaa",
];
const PLACES: &[usize] = &[0, 1, 0x40, 257, 510, 512, 0x8001, 0x8801];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_judge_accepts_nothing_that_an_inspection_takes_for_something_else(
        len in prop_oneof![0usize..2000, 30_000usize..70_000],
        parts in proptest::collection::vec((0..MAGICS.len(), 0..PLACES.len() + 4), 0..4),
    ) {
        let mut file = vec![0; len];
        for (magic, place) in parts {
            let magic = MAGICS[magic];
            // The last places are counted from the end.
            let at = PLACES.get(place).copied().unwrap_or_else(|| {
                len.saturating_sub([512, 511, 1000, 100][place - PLACES.len()])
            });
            let end = (at + magic.len()).min(len);
            if at < end {
                file[at..end].copy_from_slice(&magic[..end - at]);
            }
        }
        let seen = inspected(&file, None);
        for stored_as in Format::ALL {
            let result = judged(file.as_slice(), stored_as);
            // What an import takes as it comes can be stored so, and nothing else.
            let declared = inspected(&file, Some(stored_as));
            prop_assert_eq!(result.is_ok(), declared == Ok(Inspection::Disk(stored_as)), "{}", stored_as);
            // What it is to whoever is told nothing.
            let may_be = match &seen {
                Ok(Inspection::Disk(Format::Iso)) => stored_as.is_opaque() || stored_as == Format::Iso,
                Ok(Inspection::Disk(format)) => stored_as == *format,
                Ok(Inspection::Stream(_)) => stored_as.is_boot_file(),
                Err((Code::UnknownFormat, _)) => stored_as.is_opaque(),
                // A disc of another kind, or of two.
                Err((Code::UnsupportedFormat | Code::Polyglot, _)) => stored_as.is_opaque() && result.is_ok(),
                Err(_) => false,
            };
            prop_assert_eq!(result.is_ok(), may_be, "{}: {:?}", stored_as, &seen);
        }
    }
}
