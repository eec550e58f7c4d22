//! Reading each format against `qemu-img convert` of the same file in the same run.
//!
//! Both read from the page cache and throw the disk's bytes away: `qemu-img` into its `null-co` driver, this crate into a window
//! that is filled again and again. Counted is CPU time, user and system, the least of some rounds; a ratio above 1 means that
//! this crate needs less. `qemu-img` runs with and without its search for zeros (`-S 0`), and the better of the two counts.
//!
//! `cargo bench -p disk-image [-- SIZE_IN_MIB]`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a benchmark fails and reports this way, and its sizes are its own"
)]

mod cpu;

use std::{fs::File, hint::black_box, os::unix::fs::FileExt, path::Path, process::Command};

use disk_image::{
    Decoder, ExtentMap, Fetch, Format, Layout, Limits, MapWriter, Regions,
    drive::{ReadAt, drive, walk},
    inspect,
};
use nix::sys::resource::UsageWho;

const ROUNDS: usize = 3;
/// Bytes of the disk made at a time.
const WINDOW: u64 = 8 << 20;

/// Format, QEMU's name for it, options, aim for the ratio.
const CASES: &[(&str, Format, &str, &[&str], f64)] = &[
    // Without holes: objects have none, so neither side may learn from the file system where zeros are.
    ("raw", Format::Raw, "raw", &["-S", "0"], 1.0),
    ("qcow2", Format::Qcow2, "qcow2", &[], 1.0),
    ("qcow2 extended L2", Format::Qcow2, "qcow2", &["-o", "extended_l2=on"], 1.0),
    ("qcow2 zlib", Format::Qcow2, "qcow2", &["-c"], 1.5),
    ("qcow2 zstd", Format::Qcow2, "qcow2", &["-c", "-o", "compression_type=zstd"], 1.5),
    ("vmdk sparse", Format::Vmdk, "vmdk", &["-o", "subformat=monolithicSparse"], 1.0),
    ("vmdk stream", Format::Vmdk, "vmdk", &["-o", "subformat=streamOptimized"], 1.5),
    ("vhd dynamic", Format::Vhd, "vpc", &["-o", "subformat=dynamic,force_size=on"], 1.0),
    ("vhd fixed", Format::Vhd, "vpc", &["-S", "0", "-o", "subformat=fixed,force_size=on"], 1.0),
    ("vhdx", Format::Vhdx, "vhdx", &[], 1.0),
    ("vdi", Format::Vdi, "vdi", &[], 1.0),
];

fn main() {
    // Cargo passes `--bench`; a number is the size of the disk.
    let mib: u64 = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(512);
    let dir = tempfile::tempdir().expect("a directory for images");
    let disk = dir.path().join("disk.raw");
    sample(&disk, mib << 20);
    println!("{mib} MiB disk; MB of disk per CPU-second, best of {ROUNDS}");
    println!("{:<18} {:>10} {:>10} {:>7} {:>5}", "format", "here", "qemu-img", "ratio", "aim");
    for (name, format, qemu, options, aim) in CASES {
        let image = dir.path().join("image");
        qemu_img(
            &[&["convert", "-f", "raw", "-O", qemu][..], options, &[text(&disk), text(&image)]].concat(),
        );
        let ours = least(UsageWho::RUSAGE_SELF, || read(&image, *format));
        let null = format!("driver=null-co,read-zeroes=on,size={}", mib << 20);
        let convert = |sparse: &[&str]| {
            let to = ["convert", "-f", qemu, "-n", "--target-image-opts"];
            let args = [&to[..], sparse, &[text(&image), &null]].concat();
            least(UsageWho::RUSAGE_CHILDREN, || qemu_img(&args))
        };
        let theirs = convert(&[]).min(convert(&["-S", "0"]));
        let rate = |seconds: f64| (mib << 20) as f64 / 1e6 / seconds;
        println!("{name:<18} {:>10.0} {:>10.0} {:>7.2} {aim:>5.1}", rate(ours), rate(theirs), theirs / ours);
        std::fs::remove_file(image).unwrap();
    }
}

/// All that planner and workers do with a file.
fn read(path: &Path, format: Format) {
    let mut file = File::open(path).unwrap();
    let mut regions = Regions::new(ReadAt::size(&file));
    drive(&mut file, &mut regions, |r| inspect(r, Some(format))).unwrap();
    let layout = drive(&mut file, &mut regions, |r| Layout::open(r, format, &Limits::default())).unwrap();
    let mut writer = MapWriter::new(layout.virtual_size(), layout.file_size());
    let mut sidecar = Vec::new();
    walk(&mut file, &layout, |extent| {
        writer.push(&extent)?;
        sidecar.extend(writer.take());
        Ok(())
    })
    .unwrap();
    let (rest, map) = writer.finish().unwrap();
    sidecar.extend(rest);
    let (mut window, mut stored, mut decoder) = (Vec::new(), Vec::new(), Decoder::new());
    for start in (0..map.virtual_size).step_by(WINDOW as usize) {
        let fetch = plan(&map, &sidecar, start, WINDOW.min(map.virtual_size - start) as usize);
        if fetch.is_zero() {
            continue;
        }
        window.resize(WINDOW as usize, 0);
        for zeros in fetch.zeros() {
            window[zeros.clone()].fill(0);
        }
        for read in fetch.reads() {
            if let Some(parts) = read.verbatim() {
                for (part, place) in parts {
                    file.read_exact_at(&mut window[place], part.start).unwrap();
                }
            } else {
                let range = read.range();
                stored.resize(range.len() as usize, 0);
                file.read_exact_at(&mut stored, range.start).unwrap();
                read.decode(&stored, &mut window, &mut decoder).unwrap();
            }
        }
        black_box(&window);
    }
}

fn plan(map: &ExtentMap, mut sidecar: &[u8], start: u64, len: usize) -> Fetch {
    let mut regions = Regions::new(sidecar.len() as u64);
    let extents = drive(&mut sidecar, &mut regions, |r| map.extents(r, start..start + len as u64)).unwrap();
    Fetch::plan(start, len, extents).unwrap()
}

/// CPU-seconds of the cheapest round.
fn least(who: UsageWho, mut work: impl FnMut()) -> f64 {
    (0..ROUNDS).map(|_| cpu::spent(who, &mut work).0).fold(f64::INFINITY, f64::min)
}

fn qemu_img(args: &[&str]) {
    let status = Command::new("qemu-img").args(args).status().expect("qemu-utils is installed");
    assert!(status.success(), "qemu-img {args:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk like a system's: two fifths holes; then noise, prose and programs in about equal parts, in runs of up to 16 MiB.
fn sample(path: &Path, len: u64) {
    const WORDS: [&str; 16] = [
        "the ", "image ", "of ", "a ", "disk ", "is ", "read ", "by ", "range, ", "and ", "every ",
        "cluster ", "once; ", "then ", "\n", "again ",
    ];
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut at = 0;
    while at < len {
        let run = (1 + next() % (16 << 20)).min(len - at) as usize;
        let mut bytes = Vec::with_capacity(run + 16);
        match next() % 5 {
            0 | 1 => {}
            2 => bytes.extend(std::iter::repeat_with(&mut next).flat_map(u64::to_le_bytes).take(run)),
            3 => {
                while bytes.len() < run {
                    let word = WORDS[(next() % 16) as usize];
                    bytes.extend(word.bytes());
                    if next() % 8 == 0 {
                        bytes.extend(next().to_string().bytes());
                    }
                }
            }
            _ => {
                let from = next() as usize % program.len();
                bytes.extend(program.iter().cycle().skip(from).take(run));
            }
        }
        bytes.truncate(run);
        file.write_all_at(&bytes, at).unwrap();
        at += run as u64;
    }
}
