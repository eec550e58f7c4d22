//! Our writer beside `qemu-img convert` on the same input in the same run: MB per CPU-second (user and system), and file sizes.
//!
//! Ours goes the way of an export: windows as a worker reads them, blobs cut into parts as they are uploaded, each part written out
//! whole, then what passes a worker once more. What a network, a checksum and S3's copies cost is in neither.
//!
//! `cargo bench -p disk-image --bench write_qcow2 [-- FILE]`. Without a raw image to write, one is made of zeros, noise, and what
//! lies in /usr. The sides take turns, and the best of each one's runs counts; each of our files is compared with the input.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

mod cpu;

use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use disk_image::write::{
    parts::BlobCut,
    qcow2::{Assembly, AssemblyStep, BlobWriter, Codec, File as Made, Geometry},
    rope::Rope,
};
use nix::sys::resource::UsageWho;

const MIB: u64 = 1 << 20;
const RUNS: usize = 5;
/// Bytes of the disk that an export's worker reads at once.
const WINDOW: usize = 8 << 20;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let given = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let input = given.map_or_else(|| make(&dir.path().join("input.raw")), PathBuf::from);
    let size = fs::metadata(&input).unwrap().len();
    let (ours, theirs) = (dir.path().join("ours.qcow2"), dir.path().join("theirs.qcow2"));
    println!("input: {} MiB", size / MIB);
    println!("codec    ours MB/cpu-s    qemu-img    ratio    ours bytes    qemu-img bytes    size");
    let mut parts: Vec<PathBuf> = Vec::new();
    for (codec, options) in [
        (Codec::None, &[][..]),
        (Codec::Zlib, &["-c"][..]),
        (Codec::Zstd, &["-c", "-o", "compression_type=zstd"][..]),
    ] {
        let (mut us, mut them) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..RUNS {
            // Neither side pays for what it replaces, and both get the pages that were freed a moment ago.
            parts.iter().for_each(|part| fs::remove_file(part).unwrap());
            let (seconds, made) = cpu::spent(UsageWho::RUSAGE_SELF, || export(&input, codec, dir.path()));
            us = us.min(seconds);
            complete(&made, &ours);
            parts = made.files;
            let _ = fs::remove_file(&theirs);
            them = them.min(cpu::spent(UsageWho::RUSAGE_CHILDREN, || convert(&input, options, &theirs)).0);
        }
        run(&["compare", "-q", "-f", "raw", "-F", "qcow2", input.to_str().unwrap(), ours.to_str().unwrap()]);
        run(&["check", "-q", "-f", "qcow2", ours.to_str().unwrap()]);
        let (a, b) = (fs::metadata(&ours).unwrap().len(), fs::metadata(&theirs).unwrap().len());
        let speed = |seconds: f64| size as f64 / 1e6 / seconds;
        println!(
            "{codec:<8?} {:>14.0} {:>11.0} {:>7.2}x {a:>13} {b:>17} {:>6.3}x",
            speed(us),
            speed(them),
            them / us,
            a as f64 / b as f64
        );
    }
}

/// What an export leaves in S3 before the upload is completed: the file's parts, as files and bytes of them.
struct Parts {
    files: Vec<PathBuf>,
    pieces: Vec<(PathBuf, Range<u64>)>,
    len: u64,
}

/// The export flow, a file for each part of a blob and each part that is made.
fn export(input: &Path, codec: Codec, dir: &Path) -> Parts {
    let cut = BlobCut::S3;
    let part_size = usize::try_from(cut.part).unwrap();
    let source = File::open(input).unwrap();
    let size = source.metadata().unwrap().len();
    let geometry = Geometry::new(size, codec).unwrap();
    let (mut indexes, mut blobs, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=cut.ranges(size).unwrap() {
        let range = cut.range(size, number).unwrap();
        let mut writer = BlobWriter::new(geometry, range.start).unwrap();
        let (mut buffer, mut parts) = (Rope::default(), Vec::new());
        let mut upload = |part: Rope| {
            let path = dir.join(format!("part{number}-{}", parts.len()));
            let mut file = File::create(&path).unwrap();
            let len = part.len() as u64;
            part.into_iter().for_each(|bytes| file.write_all(&bytes).unwrap());
            parts.push((path, len));
        };
        let mut left = range.end - range.start;
        while left > 0 {
            let len = left.min(WINDOW as u64);
            let mut window = Vec::with_capacity(usize::try_from(len).unwrap());
            assert_eq!((&source).take(len).read_to_end(&mut window).unwrap() as u64, len);
            left -= len;
            writer.write(&window.into(), &mut buffer).unwrap();
            while buffer.len() >= part_size {
                upload(buffer.split_to(part_size));
            }
        }
        indexes.push(writer.finish(&mut buffer).unwrap());
        while !buffer.is_empty() {
            upload(buffer.split_to(part_size));
        }
        files.extend(parts.iter().map(|(path, _)| path.clone()));
        blobs.push(parts);
    }
    // Bytes of a blob, as pieces of its parts.
    let of = |blob: usize, range: Range<u64>| {
        let mut at = 0;
        let mut pieces = Vec::new();
        for (path, len) in &blobs[blob] {
            let (from, to) = (range.start.max(at), range.end.min(at + len));
            if from < to {
                pieces.push((path.clone(), from - at..to - at));
            }
            at += len;
        }
        pieces
    };
    let made = Arc::new(Made::new(geometry, indexes.iter().map(|i| i.summary()).collect()).unwrap());
    let mut pieces = Vec::new();
    for (n, part) in made.parts(&cut).unwrap().into_iter().enumerate() {
        if let Some((blob, range)) = part.copied {
            pieces.extend(of(blob, range));
            continue;
        }
        let path = dir.join(format!("made{n}"));
        let mut file = File::create(&path).unwrap();
        let mut assembly = Assembly::new(Arc::clone(&made), part.range.clone()).unwrap();
        loop {
            match assembly.step().unwrap() {
                AssemblyStep::Bytes(bytes) => file.write_all(&bytes).unwrap(),
                AssemblyStep::Index(k) => assembly.give(k, indexes[k].clone()).unwrap(),
                AssemblyStep::Blob(k, range) => {
                    of(k, range).iter().for_each(|piece| file.write_all(&read(piece)).unwrap())
                }
                AssemblyStep::Done => break,
            }
        }
        files.push(path.clone());
        pieces.push((path, 0..part.range.end - part.range.start));
    }
    Parts { files, pieces, len: made.len() }
}

fn read((path, range): &(PathBuf, Range<u64>)) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    File::open(path).unwrap().read_exact_at(&mut bytes, range.start).unwrap();
    bytes
}

/// What `UploadPartCopy` and `CompleteMultipartUpload` do, on nobody's CPU.
fn complete(parts: &Parts, output: &Path) {
    let mut file = File::create(output).unwrap();
    parts.pieces.iter().for_each(|piece| file.write_all(&read(piece)).unwrap());
    assert_eq!(file.metadata().unwrap().len(), parts.len);
}

fn convert(input: &Path, options: &[&str], output: &Path) {
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    run(&[&["convert", "-f", "raw", "-O", "qcow2"], options, &[input, output]].concat());
}

fn run(args: &[&str]) {
    assert!(
        Command::new("qemu-img").args(args).status().expect("qemu-img is installed").success(),
        "{args:?}"
    );
}

/// 1 GiB, about as much of each kind as a server's image: 44% zeros, 20% noise, 20% texts, 16% programs; all of it written, as
/// an object in S3 has no holes.
fn make(path: &Path) -> PathBuf {
    let file = File::create(path).unwrap();
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        file.write_all_at(bytes, at).unwrap();
        at = (at + bytes.len() as u64).next_multiple_of(4096);
    };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let (mut texts, mut programs) = (Files::below("/usr/share"), Files::below("/usr/lib"));
    for _ in 0..16 {
        put(&vec![0; 28 << 20]);
        put(&(0..13 << 17).flat_map(|_| noise()).collect::<Vec<_>>());
        texts.take(13 << 20, &mut put);
        programs.take(10 << 20, &mut put);
    }
    file.set_len(1 << 30).unwrap();
    path.to_path_buf()
}

/// Regular files below a directory, in a stable order.
struct Files(Vec<PathBuf>);

impl Files {
    fn below(dir: &str) -> Self {
        let (mut dirs, mut files) = (vec![PathBuf::from(dir)], Vec::new());
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(t) if t.is_dir() => dirs.push(entry.path()),
                    Ok(t) if t.is_file() => files.push(entry.path()),
                    _ => {}
                }
            }
        }
        files.sort();
        Self(files)
    }

    fn take(&mut self, mut len: usize, put: &mut impl FnMut(&[u8])) {
        while let Some(mut bytes) =
            (len > 0).then(|| self.0.pop()).flatten().map(|f| fs::read(f).unwrap_or_default())
        {
            bytes.truncate(len);
            len -= bytes.len();
            put(&bytes);
        }
    }
}
