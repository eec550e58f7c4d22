//! VMDK, VHD, VHDX, VDI and OVA against `qemu-img convert -O raw`: whole disks and ranges, sizes that fit no block, every option
//! that `qemu-img` can write.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's way to fail")]

mod archive;
mod harness;

use disk_image::Format;
use harness::{Bench, MIB, Noise, open};

/// Format, QEMU's name of it, options.
const ALL: &[(Format, &str, &[&str])] = &[
    (Format::Vmdk, "vmdk", &["subformat=monolithicSparse"]),
    (Format::Vmdk, "vmdk", &["subformat=monolithicSparse", "zeroed_grain=on"]),
    (Format::Vmdk, "vmdk", &["subformat=monolithicSparse", "compat6=on", "adapter_type=lsilogic"]),
    (Format::Vmdk, "vmdk", &["subformat=streamOptimized"]),
    (Format::Vhd, "vpc", &["subformat=dynamic"]),
    (Format::Vhd, "vpc", &["subformat=dynamic", "force_size=on"]),
    (Format::Vhd, "vpc", &["subformat=fixed"]),
    (Format::Vhd, "vpc", &["subformat=fixed", "force_size=on"]),
    (Format::Vhdx, "vhdx", &["subformat=dynamic"]),
    (Format::Vhdx, "vhdx", &["subformat=dynamic", "block_size=1M", "log_size=2M"]),
    (Format::Vhdx, "vhdx", &["subformat=dynamic", "block_size=2M", "block_state_zero=off"]),
    (Format::Vhdx, "vhdx", &["subformat=dynamic", "block_size=64M"]),
    (Format::Vhdx, "vhdx", &["subformat=fixed", "block_size=4M"]),
    (Format::Vdi, "vdi", &[]),
    (Format::Vdi, "vdi", &["static=on"]),
];

fn whole(bench: &Bench, only: impl Fn(Format, &[&str]) -> bool) {
    for (format, name, options) in ALL.iter().filter(|(f, _, o)| only(*f, o)) {
        let (image, back) = bench.convert(name, options);
        let mut opened = open(&image, *format).unwrap_or_else(|e| panic!("{name} {options:?}: {e}"));
        eprintln!("{name} {options:?}: {} extents", opened.extents.len());
        opened.equals(&back);
        std::fs::remove_file(image).unwrap();
        std::fs::remove_file(back).unwrap();
    }
}

#[test]
fn disks_of_one_sector_and_of_odd_sizes() {
    for size in [512, 4096, 1000 * 512, 64 * 1024 + 512, 3 * MIB + 512, 34 * MIB - 512] {
        let first = (0, size.min(70_000));
        let last = (size.saturating_sub(1500), size.min(1500));
        whole(&Bench::new(size, &[first, last]), |_, _| true);
    }
}

#[test]
fn disks_without_data() {
    whole(&Bench::new(100 * MIB + 1024, &[]), |_, _| true);
}

#[test]
fn data_and_holes_of_all_sizes() {
    let mut noise = Noise(7);
    let size = 192 * MIB;
    let islands: Vec<_> = (0..90)
        .map(|n| (noise.below(size - MIB), 1 + noise.below(if n % 5 == 0 { MIB } else { 9000 })))
        .collect();
    whole(&Bench::new(size, &islands), |_, _| true);
}

#[test]
fn a_dense_disk_takes_few_requests() {
    let size = 130 * MIB;
    let islands: Vec<_> = (0..size / (5 * MIB)).map(|n| (n * 5 * MIB, 5 * MIB)).collect();
    whole(&Bench::new(size, &islands), |_, _| true);
}

#[test]
fn sparse_disks_beyond_four_gib() {
    let size = (4 << 30) + 37 * MIB + 512;
    let islands = [
        (0, 100_000),
        ((1 << 30) - 5000, 10_000),
        ((4 << 30) - 70_000, 140_000),
        (size - 3 * MIB, MIB),
        (size - 700, 700),
    ];
    whole(&Bench::new(size, &islands), |_, options| {
        // Fixed images of this size are gigabytes of zeros and say nothing new.
        !options.iter().any(|o| o.ends_with("fixed") || o.starts_with("static") || o.starts_with("compat6"))
    });
}

#[test]
fn ranges_cut_at_random_places() {
    let mut noise = Noise(11);
    let size = 20 * MIB + 1536;
    let islands: Vec<_> = (0..40).map(|_| (noise.below(size - 300_000), 1 + noise.below(300_000))).collect();
    let bench = Bench::new(size, &islands);
    for (format, name, options) in ALL {
        let (image, back) = bench.convert(name, options);
        let (mut opened, oracle) = (open(&image, *format).unwrap(), std::fs::read(&back).unwrap());
        let disk = oracle.len() as u64;
        for _ in 0..150 {
            let start = noise.below(disk);
            let most = [1, 700, 66_000, 3 * MIB][usize::try_from(noise.below(4)).unwrap()];
            let len = (1 + noise.below(most)).min(disk - start);
            let (start_at, len) = (usize::try_from(start).unwrap(), usize::try_from(len).unwrap());
            let (got, _) = opened.read(start, len);
            assert!(got == oracle[start_at..start_at + len], "{name} {options:?}: {len} bytes at {start}");
        }
    }
}

#[test]
fn creators_that_qemu_knows_decide_between_geometry_and_size() {
    // 5 MiB + 512 bytes fit no geometry exactly.
    let bench = Bench::new(5 * MIB + 512, &[(0, 5000), (5 * MIB - 4000, 4000)]);
    let (image, _) = bench.convert("vpc", &["subformat=dynamic", "force_size=on"]);
    for creator in [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"vpc ", b"qemu", b"abcd"] {
        let mut bytes = std::fs::read(&image).unwrap();
        let footer = bytes.len() - 512;
        for at in [0, footer] {
            bytes[at + 28..at + 32].copy_from_slice(creator);
            bytes[at + 64..at + 68].fill(0);
            let sum: u32 = bytes[at..at + 512].iter().map(|b| u32::from(*b)).sum();
            bytes[at + 64..at + 68].copy_from_slice(&(!sum).to_be_bytes());
        }
        let (changed, back) = (bench.path("changed"), bench.path("changed.raw"));
        std::fs::write(&changed, bytes).unwrap();
        harness::qemu_img(&["convert", "-f", "vpc", "-O", "raw"], &[&changed, &back]);
        open(&changed, Format::Vhd).unwrap().equals(&back);
    }
}
