//! The heap's peak: a test binary of its own, with one test, since the allocator counts for the whole program.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use disk_image::{Decoder, Format, drive::ReadAt};
use disk_image_fixtures::{Counting, import};
use peak_alloc::PeakAlloc;
use support::{Opened, PART, open, qemu_img, sample};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// The most bytes on the heap during `work`, beyond those there before.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let done = work();
    (HEAP.peak_usage() - before, done)
}

#[test]
fn memory_does_not_follow_the_image() {
    hostile_images_take_little();
    workers_take_the_same_for_any_size();
}

fn hostile_images_take_little() {
    for hostile in disk_image_fixtures::all() {
        let mut source = Counting::new(&hostile.file);
        let (most, _) = peak(|| import(&mut source, hostile.declared));
        // A window of 8 MiB, a read of 8 MiB, metadata and codecs.
        assert!(most < 24 * MIB, "{}: {most} bytes", hostile.name);
    }
}

/// A worker's part of an image of 2 GiB and of one of 1 TiB: the window, one read, the slice of the map.
fn workers_take_the_same_for_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let small = image(dir.path(), "2G", 1 << 30);
    let large = image(dir.path(), "1T", 1 << 39);
    let part = |mut opened: Opened, start: u64| {
        let (most, data) = peak(|| work(&mut opened, start));
        assert!(data > 0);
        most
    };
    let (small, large) = (part(small, 1 << 30), part(large, 1 << 39));
    assert!(small.abs_diff(large) * 10 <= small, "{small} and {large} bytes");
    assert!(small < 64 * MIB + 12 * MIB, "{small} bytes");
}

/// A compressed image with data in the part at `at`.
fn image(dir: &Path, size: &str, at: u64) -> Opened {
    let raw = dir.join("disk.raw");
    sample(&raw, PART, 5);
    let data = std::fs::read(&raw).unwrap();
    std::fs::remove_file(&raw).unwrap();
    qemu_img(&["create", "-q", "-f", "raw", raw.to_str().unwrap(), size]);
    File::options().write(true).open(&raw).unwrap().write_all_at(&data, at).unwrap();
    let image = dir.join(format!("{size}.qcow2"));
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
    open(&image, Format::Qcow2).unwrap()
}

fn work(opened: &mut Opened, start: u64) -> usize {
    let len = usize::try_from(PART).unwrap();
    let fetch = opened.plan(start, len);
    let mut window = vec![0; len];
    let mut decoder = Decoder::new();
    for read in fetch.reads() {
        let bytes = opened.source.read_range(read.range()).unwrap();
        read.decode(&bytes, &mut window, &mut decoder).unwrap();
    }
    window.iter().filter(|b| **b != 0).count()
}
