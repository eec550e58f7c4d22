//! The whole read path over a file, with every read of the source counted, and `qemu-img` as the oracle.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "test support")]

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use disk_image::{
    AllocationMap, AllocationWriter, ByteRange, Decoder, ExtentMap, Fetch, Format, Inspection, Layout,
    Limits, MapWriter, Regions,
    drive::{DriveError, ReadAt, drive, walk},
    inspect,
};

/// Bytes of a worker's part.
pub const PART: u64 = 64 << 20;

/// Reads of a source, counted.
pub struct Counting<R> {
    inner: R,
    pub requests: u64,
    pub bytes: u64,
    /// Bytes of the largest single read.
    pub largest: u64,
}

impl<R: ReadAt> Counting<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, requests: 0, bytes: 0, largest: 0 }
    }
}

impl<R: ReadAt> ReadAt for Counting<R> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>> {
        assert!(!range.is_empty() && range.end <= self.size(), "{range:?} of {}", self.size());
        self.requests += 1;
        self.bytes += range.len();
        self.largest = self.largest.max(range.len());
        self.inner.read_range(range)
    }
}

/// An image as the workers see it: the pinned source and the sidecar.
pub struct Opened {
    pub source: Counting<File>,
    pub layout: Layout,
    pub sidecar: Vec<u8>,
    pub map: ExtentMap,
    pub allocation: AllocationMap,
}

/// Inspects, opens and walks.
pub fn open(path: &Path, format: Format) -> Result<Opened, DriveError> {
    let mut source = Counting::new(File::open(path)?);
    let mut regions = Regions::new(source.size());
    let limits = Limits { max_virtual_size: 1 << 50 };
    let found = drive(&mut source, &mut regions, |r| inspect(r, Some(format)))?;
    assert_eq!(found, Inspection::Disk(format));
    let layout = drive(&mut source, &mut regions, |r| Layout::open(r, format, &limits))?;
    let mut writer = MapWriter::new(layout.virtual_size(), layout.file_size());
    let mut allocation = AllocationWriter::new(layout.virtual_size());
    let mut sidecar = Vec::new();
    walk(&mut source, &layout, |extent| {
        allocation.push(&extent);
        writer.push(&extent)?;
        sidecar.extend(writer.take());
        Ok(())
    })?;
    let (rest, map) = writer.finish().expect("a walk covers the disk");
    sidecar.extend(rest);
    Ok(Opened { source, layout, sidecar, map, allocation: allocation.finish() })
}

impl Opened {
    /// The plan of a window, from the sidecar.
    pub fn plan(&self, start: u64, len: usize) -> Fetch {
        let mut sidecar = self.sidecar.as_slice();
        let mut regions = Regions::new(sidecar.size());
        let extents = drive(&mut sidecar, &mut regions, |r| self.map.extents(r, start..start + len as u64))
            .expect("own map");
        Fetch::plan(start, len, extents).expect("own map")
    }

    /// A window of the disk. What no read fills is left as it was made: zeros.
    pub fn read(&mut self, start: u64, len: usize) -> Vec<u8> {
        let fetch = self.plan(start, len);
        let mut window = vec![0xa5; len];
        for zeros in fetch.zeros() {
            window[zeros.clone()].fill(0);
        }
        let mut decoder = Decoder::new();
        for read in fetch.reads() {
            let bytes = self.source.read_range(read.range()).expect("source");
            if let Some(parts) = read.verbatim() {
                for (part, place) in parts {
                    let from = usize::try_from(part.start - read.range().start).unwrap();
                    window[place.clone()].copy_from_slice(&bytes[from..from + place.len()]);
                }
            } else {
                read.decode(&bytes, &mut window, &mut decoder).expect("decodes");
            }
        }
        window
    }

    /// The windows that cover the disk.
    pub fn windows(&self, len: u64) -> Vec<(u64, usize)> {
        let size = self.layout.virtual_size();
        (0..size)
            .step_by(usize::try_from(len).unwrap())
            .map(|at| (at, usize::try_from(len.min(size - at)).unwrap()))
            .collect()
    }
}

pub fn qemu_img(args: &[&str]) {
    run("qemu-img", args);
}

pub fn qemu_io(path: &Path, format: &str, commands: &[&str]) {
    let mut args = vec!["-f", format];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(path.to_str().unwrap());
    run("qemu-io", &args);
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("qemu-utils is installed");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `qemu-img convert -O raw`.
pub fn to_raw(path: &Path, qemu_format: &str) -> PathBuf {
    let raw = path.with_extension("oracle.raw");
    qemu_img(&["convert", "-f", qemu_format, "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()]);
    raw
}

/// The whole disk equals what `qemu-img` makes of it, also in windows that border nowhere.
pub fn assert_equals_qemu(path: &Path, qemu_format: &str, format: Format) -> Opened {
    let mut opened = open(path, format).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let raw = to_raw(path, qemu_format);
    let oracle = File::open(&raw).unwrap();
    assert_eq!(opened.layout.virtual_size(), oracle.metadata().unwrap().len(), "{}", path.display());
    for window in [PART, 1_000_003] {
        // Odd windows over small disks only: they cost a plan each.
        if window != PART && opened.layout.virtual_size() > 64 << 20 {
            continue;
        }
        for (start, len) in opened.windows(window) {
            assert_window(&mut opened, &oracle, start, len, path);
        }
    }
    std::fs::remove_file(raw).unwrap();
    opened
}

/// One window equals the oracle's bytes.
pub fn assert_window(opened: &mut Opened, oracle: &File, start: u64, len: usize, path: &Path) {
    let mut expected = vec![0; len];
    oracle.read_exact_at(&mut expected, start).unwrap();
    let found = opened.read(start, len);
    if found != expected {
        let at = found.iter().zip(&expected).position(|(a, b)| a != b);
        panic!("{}: window {start}+{len} differs at {at:?}", path.display());
    }
}

/// Reads the whole disk in parts and holds each against the bounds of the design. Bytes of zeros are not fetched, so
/// `holds` (what the file holds, at most its size) is a bound of all reads together.
pub fn assert_reads_are_few(opened: &mut Opened) {
    let holds = opened.source.size();
    for (start, len) in opened.windows(PART) {
        let before = opened.source.requests;
        let _ = opened.read(start, len);
        let requests = opened.source.requests - before;
        assert!(requests <= 12, "{requests} requests for the part at {start}");
    }
    let bytes = opened.source.bytes;
    assert!(bytes as f64 <= holds as f64 * 1.02, "{bytes} bytes read of a file of {holds}");
}

/// Numbers that look random and are the same each time.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A raw disk with runs of zeros (a hole), noise, text and repeats, lengths unrelated to any cluster.
pub fn sample(path: &Path, len: u64, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let mut file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    let mut at = 0;
    while at < len {
        let run = (1 + numbers.below(300_000)).min(len - at);
        let n = usize::try_from(run).unwrap();
        let bytes: Vec<u8> = match numbers.below(5) {
            0 | 1 => Vec::new(),
            2 => (0..n).map(|_| numbers.next().to_le_bytes()[3]).collect(),
            3 => {
                (0..n).map(|i| b"a line of text, again and again\n"[i % 32] ^ u8::from(i % 97 == 0)).collect()
            }
            _ => vec![numbers.next().to_le_bytes()[1]; n],
        };
        if !bytes.is_empty() {
            file.write_all_at(&bytes, at).unwrap();
        }
        at += run;
    }
    file.flush().unwrap();
}
