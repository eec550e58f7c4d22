//! VMDK, VHD, VHDX and VDI against `qemu-img convert -O raw`, over the options that `qemu-img` can create.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex},
};

use crate::support::{
    Opened, assert_equals_qemu, assert_reads_are_few, assert_window, open, qemu_img, sample, to_raw,
};
use disk_image::Format;
use disk_image_fixtures::stream_optimized;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// Format, QEMU's name of it, options.
const ALL: &[(Format, &str, &str)] = &[
    (Format::Vmdk, "vmdk", "subformat=monolithicSparse"),
    (Format::Vmdk, "vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    (Format::Vmdk, "vmdk", "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=8"),
    (Format::Vmdk, "vmdk", "subformat=streamOptimized"),
    (Format::Vmdk, "vmdk", "subformat=streamOptimized,compat6=on"),
    (Format::Vhd, "vpc", "subformat=dynamic"),
    (Format::Vhd, "vpc", "subformat=dynamic,force_size=on"),
    (Format::Vhd, "vpc", "subformat=fixed"),
    (Format::Vhd, "vpc", "subformat=fixed,force_size=on"),
    (Format::Vhdx, "vhdx", "subformat=dynamic"),
    (Format::Vhdx, "vhdx", "subformat=dynamic,block_size=1M,log_size=2M"),
    (Format::Vhdx, "vhdx", "subformat=dynamic,block_size=64M"),
    (Format::Vhdx, "vhdx", "subformat=fixed,block_size=4M"),
    (Format::Vdi, "vdi", "static=off"),
    (Format::Vdi, "vdi", "static=on"),
];

/// A raw disk in a directory of its own, and images made of it.
struct Disk {
    dir: tempfile::TempDir,
    raw: PathBuf,
}

impl Disk {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("disk.raw");
        fill(&raw);
        Self { dir, raw }
    }

    /// `len` bytes with data at `islands`.
    fn sparse(len: u64, islands: &[(u64, u64)]) -> Self {
        Self::new(|raw| {
            let file = File::create(raw).unwrap();
            file.set_len(len).unwrap();
            for (n, (start, len)) in (1u8..).zip(islands) {
                file.write_all_at(&vec![n; usize::try_from(*len).unwrap()], *start).unwrap();
            }
        })
    }

    fn convert(&self, n: usize, qemu: &str, options: &str) -> PathBuf {
        let image = self.dir.path().join(format!("{n}.{qemu}"));
        let paths = [self.raw.to_str().unwrap(), image.to_str().unwrap()];
        qemu_img(&[&["convert", "-f", "raw", "-O", qemu, "-o", options], &paths[..]].concat());
        image
    }

    fn every_image_equals(&self) {
        for (n, (format, qemu, options)) in ALL.iter().enumerate() {
            let image = self.convert(n, qemu, options);
            assert_equals_qemu(&image, qemu, *format);
            std::fs::remove_file(image).unwrap();
        }
    }
}

/// What is stored is as QEMU reads it.
fn assert_data_equals(opened: &mut Opened, oracle: &File, image: &Path) {
    for run in opened.allocation.data().to_vec() {
        let len = usize::try_from(run.end - run.start).unwrap();
        assert_window(opened, oracle, run.start, len, image);
    }
}

#[test]
fn disks_of_one_sector_and_of_odd_sizes() {
    for (seed, size) in (1..).zip([512, 4096, 65_536, 66_048, MIB, 3 * MIB + 512, 34 * MIB - 512]) {
        Disk::new(|raw| sample(raw, size, seed)).every_image_equals();
    }
}

#[test]
fn disks_without_data() {
    for size in [512, 33 * MIB + 512] {
        let disk = Disk::sparse(size, &[]);
        disk.every_image_equals();
        for (n, (format, qemu, options)) in ALL.iter().enumerate() {
            if !options.contains("fixed") && !options.contains("static=on") {
                let opened = open(&disk.convert(n, qemu, options), *format).unwrap();
                assert!(opened.allocation.data().is_empty(), "{qemu} {options}");
            }
        }
    }
}

#[test]
fn a_part_takes_few_reads_and_the_file_is_read_once() {
    let disk = Disk::new(|raw| sample(raw, 150 * MIB, 3));
    for (n, (format, qemu, options)) in ALL.iter().enumerate() {
        let image = disk.convert(n, qemu, options);
        let mut opened = assert_equals_qemu(&image, qemu, *format);
        (opened.source.bytes, opened.source.requests) = (0, 0);
        assert_reads_are_few(&mut opened);
        std::fs::remove_file(image).unwrap();
    }
}

/// Opening and walking: a request for each stretch of tables, not for each table or block.
#[test]
fn the_planner_reads_tables_in_few_requests() {
    let disk = Disk::new(|raw| sample(raw, 100 * MIB, 5));
    for (n, (format, qemu, options)) in ALL.iter().enumerate() {
        let image = disk.convert(n, qemu, options);
        let opened = open(&image, *format).unwrap();
        let (requests, bytes) = (opened.source.requests, opened.source.bytes);
        assert!(requests <= 12 && bytes < MIB, "{qemu} {options}: {requests} requests, {bytes} bytes");
        std::fs::remove_file(image).unwrap();
    }
}

/// As VMware writes streams: tables between the grains, all places known at the end only.
#[test]
fn streams_with_tables_between_grains() {
    for (seed, len) in (1..).zip([512, 65_536, 32 * MIB, 66 * MIB + 1536]) {
        let disk = Disk::new(|raw| sample(raw, len, seed));
        let image = disk.dir.path().join("stream.vmdk");
        std::fs::write(&image, stream_optimized(&std::fs::read(&disk.raw).unwrap())).unwrap();
        let mut opened = assert_equals_qemu(&image, "vmdk", Format::Vmdk);
        (opened.source.bytes, opened.source.requests) = (0, 0);
        assert_reads_are_few(&mut opened);
    }
}

/// What the hostile images are made from, so that they differ from sound ones in one thing only.
#[test]
fn the_fixtures_sound_images_are_sound_to_qemu_too() {
    let names = [(Format::Vmdk, "vmdk"), (Format::Vhd, "vpc"), (Format::Vhdx, "vhdx"), (Format::Vdi, "vdi")];
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for sound in disk_image_fixtures::sound() {
        let Some((format, qemu)) = names.into_iter().find(|(format, _)| *format == sound.format) else {
            continue;
        };
        let image = dir.path().join(sound.name);
        sound.file.write_to(&image).unwrap();
        // Some are sparse gigabytes: where nothing is stored there is nothing to compare.
        let mut opened = open(&image, format).unwrap();
        let oracle = File::open(to_raw(&image, qemu)).unwrap();
        assert_eq!(opened.layout.virtual_size(), oracle.metadata().unwrap().len(), "{}", sound.name);
        assert_data_equals(&mut opened, &oracle, &image);
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn sparse_disks_beyond_4_gib_cost_what_they_hold() {
    let size = (5 << 30) + 37 * MIB + 512;
    let islands = [
        (0, 100_000),
        ((1 << 30) - 5000, 10_000),
        ((4 << 30) - 70_000, 140_000),
        (size - 3 * MIB, MIB),
        (size - 700, 700),
    ];
    let disk = Disk::sparse(size, &islands);
    // Fixed images of this size are gigabytes of zeros and say nothing new.
    let dynamic = |options: &str| !options.contains("fixed") && !options.contains("static=on");
    for (n, (format, qemu, options)) in ALL.iter().enumerate().filter(|(_, (_, _, o))| dynamic(o)) {
        let image = disk.convert(n, qemu, options);
        let mut opened = open(&image, *format).unwrap();
        let oracle = File::open(to_raw(&image, qemu)).unwrap();
        assert_eq!(opened.layout.virtual_size(), oracle.metadata().unwrap().len());
        // All that isn't zero lies in the runs of data, and those are as QEMU reads them.
        for (start, len) in islands {
            let run = opened.allocation.data().iter().find(|run| run.contains(&start));
            assert!(run.is_some_and(|run| run.end >= start + len), "{qemu} {options}: {start}");
        }
        assert_data_equals(&mut opened, &oracle, &image);
        assert!(opened.sidecar.len() < 1 << 20, "{} bytes of sidecar", opened.sidecar.len());
        std::fs::remove_file(image).unwrap();
    }
}

/// QEMU's `vpc.c`: some creators mean the geometry, all others the footer's size.
#[test]
fn a_vhds_creator_decides_between_geometry_and_size() {
    // 5 MiB + 512 bytes fit no geometry.
    let disk = Disk::sparse(5 * MIB + 512, &[(0, 5000), (5 * MIB - 4000, 4000)]);
    let image = disk.convert(0, "vpc", "subformat=dynamic,force_size=on");
    let mut sizes = std::collections::BTreeSet::new();
    for creator in [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"vpc ", b"qemu", b"abcd"] {
        let mut bytes = std::fs::read(&image).unwrap();
        for at in [0, bytes.len() - 512] {
            bytes[at + 28..at + 32].copy_from_slice(creator);
            // 10 cylinders, 16 heads, 63 sectors, where QEMU wrote the largest geometry.
            bytes[at + 56..at + 60].copy_from_slice(&[0, 10, 16, 63]);
            bytes[at + 64..at + 68].fill(0);
            let sum: u32 = bytes[at..at + 512].iter().map(|b| u32::from(*b)).sum();
            bytes[at + 64..at + 68].copy_from_slice(&(!sum).to_be_bytes());
        }
        let changed = disk.dir.path().join("changed.vpc");
        std::fs::write(&changed, bytes).unwrap();
        sizes.insert(assert_equals_qemu(&changed, "vpc", Format::Vhd).layout.virtual_size());
    }
    assert_eq!(sizes.len(), 2);
}

struct Cut {
    opened: Mutex<Vec<(Opened, File)>>,
    _disk: Disk,
}

const CUT_LEN: u64 = 20 * MIB + 512;

static CUT: LazyLock<Cut> = LazyLock::new(|| {
    let disk = Disk::new(|raw| sample(raw, CUT_LEN, 4));
    let opened = ALL.iter().enumerate().map(|(n, (format, qemu, options))| {
        let image = disk.convert(n, qemu, options);
        (open(&image, *format).unwrap(), File::open(to_raw(&image, qemu)).unwrap())
    });
    Cut { opened: Mutex::new(opened.collect()), _disk: disk }
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_range_equals_the_same_range_of_qemus_raw(which in 0..ALL.len(), start in 0..CUT_LEN, len in 1usize..(3 << 20)) {
        let mut opened = CUT.opened.lock().unwrap();
        let (opened, oracle) = &mut opened[which];
        let len = len.min(usize::try_from(opened.layout.virtual_size() - start).unwrap());
        assert_window(opened, oracle, start, len, Path::new(ALL[which].2));
    }
}
