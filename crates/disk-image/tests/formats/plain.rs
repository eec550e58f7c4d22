//! Raw disks and ISO volumes: the file is the disk. And a walk's bounds.

use std::fs::File;

use crate::support::{PART, assert_reads_are_few, assert_window, open, qemu_img, sample};
use disk_image::{
    Decoder, Error, Extent, Fetch, Format, Layout, Limits, Regions, Stored, Walker,
    drive::{ReadAt, drive},
};

#[test]
fn raw_disks_of_any_size_are_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    for (format, len) in [(Format::Raw, 1), (Format::Ami, 511), (Format::Ari, 65_537), (Format::Aki, 9 << 20)]
    {
        sample(&raw, len, len);
        let oracle = File::open(&raw).unwrap();
        let mut opened = open(&raw, format).unwrap();
        assert_eq!(opened.layout.virtual_size(), len);
        for (start, len) in opened.windows(1_000_003) {
            assert_window(&mut opened, &oracle, start, len, &raw);
        }
    }
}

#[test]
fn a_part_of_a_large_raw_disk_takes_few_reads() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 2 * PART + 12_345, 1);
    assert_reads_are_few(&mut open(&raw, Format::Raw).unwrap());
    // Beyond 4 GiB, at the last byte: only the tail is written.
    let size = (5u64 << 30) + 3;
    File::options().write(true).open(&raw).unwrap().set_len(size).unwrap();
    let mut opened = open(&raw, Format::Raw).unwrap();
    assert_window(&mut opened, &File::open(&raw).unwrap(), size - 70_000, 70_000, &raw);
}

#[test]
fn an_iso_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume.iso");
    for sound in disk_image_fixtures::sound().into_iter().filter(|s| s.format == Format::Iso) {
        sound.file.write_to(&path).unwrap();
        let oracle = File::open(&path).unwrap();
        let mut opened = open(&path, Format::Iso).unwrap();
        let len = usize::try_from(opened.layout.virtual_size()).unwrap();
        assert_window(&mut opened, &oracle, 0, len, &path);
    }
}

/// A full map of 256 GiB has 34 MB of L2 tables: a walk holds a few of them, and asks for many at once.
#[test]
fn a_walk_over_a_full_map_holds_a_few_tables() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("full.qcow2");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "preallocation=metadata",
        image.to_str().unwrap(),
        "256G",
    ]);
    let mut file = File::open(&image).unwrap();
    let mut regions = Regions::new(ReadAt::size(&file));
    let layout =
        drive(&mut file, &mut regions, |r| Layout::open(r, Format::Qcow2, &Limits::default())).unwrap();
    let mut walker = layout.walk();
    let (mut covered, mut data, mut rounds, mut read, mut most) = (0, 0, 0, 0, 0);
    loop {
        match walker.next(&regions) {
            Ok(None) => break,
            Ok(Some(Extent { start, len, stored })) => {
                assert_eq!(start, covered);
                covered += len;
                if matches!(stored, Stored::Raw { .. }) {
                    data += len;
                }
            }
            Err(Error::Need(ranges)) => {
                regions.clear();
                rounds += 1;
                for range in ranges {
                    read += range.len();
                    regions.insert(range.start, file.read_range(range).unwrap());
                }
                most = most.max(regions.held());
            }
            Err(Error::Refused(refusal)) => panic!("{refusal}"),
        }
    }
    assert_eq!((covered, data), (256 << 30, 256 << 30));
    assert!(most <= 5 << 20, "{most} bytes held");
    assert!(read <= 36 << 20, "{read} bytes read");
    assert!(rounds <= 80, "{rounds} rounds of requests");
}

/// The flows move these between tasks of an asynchronous runtime.
#[test]
fn what_works_on_an_image_can_move_between_threads() {
    fn moves<T: Send>() {}
    moves::<Walker>();
    moves::<Decoder>();
    moves::<Fetch>();
    moves::<Layout>();
}
