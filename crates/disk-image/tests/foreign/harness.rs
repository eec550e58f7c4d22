//! Reads an image as planner and workers do, and holds it against `qemu-img convert -O raw`.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use disk_image::{
    Extent, Format, Inspection, Layout, Limits, Regions, Result,
    decode::Decoder,
    drive::{DriveError, ReadAt, drive, walk},
    fetch::Fetch,
    inspect,
    regions::ByteRange,
};

/// What one worker makes.
pub const PART: u64 = 64 << 20;
pub const MIB: u64 = 1 << 20;

/// A file that counts what is read of it.
pub struct Counted {
    file: File,
    pub requests: u64,
    pub bytes: u64,
}

impl Counted {
    pub fn open(path: &Path) -> Self {
        Self { file: File::open(path).unwrap(), requests: 0, bytes: 0 }
    }
}

impl ReadAt for Counted {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_range(&mut self, range: ByteRange) -> std::io::Result<Vec<u8>> {
        self.requests += 1;
        self.bytes += range.len();
        self.file.read_range(range)
    }
}

/// An opened image and its whole map.
pub struct Opened {
    pub layout: Layout,
    pub extents: Vec<Extent>,
    pub source: Counted,
}

pub fn limits() -> Limits {
    Limits { max_virtual_size: 64 << 40 }
}

/// Inspects, opens, walks.
pub fn open(path: &Path, format: Format) -> std::result::Result<Opened, DriveError> {
    open_with(path, format, |regions| Layout::open(regions, format, &limits()))
}

pub fn open_with(
    path: &Path,
    format: Format,
    layout: impl Fn(&Regions) -> Result<Layout>,
) -> std::result::Result<Opened, DriveError> {
    let mut source = Counted::open(path);
    let mut regions = Regions::new(source.size());
    let found = drive(&mut source, &mut regions, |r| inspect(r, Some(format)))?;
    assert_eq!(found, Inspection::Disk(format));
    let layout = drive(&mut source, &mut regions, layout)?;
    let mut extents = Vec::new();
    walk(&mut source, &layout, |e| {
        extents.push(e);
        Ok(())
    })?;
    Ok(Opened { layout, extents, source })
}

impl Opened {
    /// `len` bytes of the disk from `start`; the requests that took.
    pub fn read(&mut self, start: u64, len: usize) -> (Vec<u8>, u64) {
        let from = self.extents.partition_point(|e| e.end() <= start);
        let covering = self.extents[from..].iter().copied().take_while(|e| e.start < start + len as u64);
        let plan = Fetch::plan(start, len, covering).unwrap();
        let (mut window, mut decoder) = (vec![0; len], Decoder::new());
        let before = self.source.requests;
        for read in plan.reads() {
            let bytes = self.source.read_range(read.range()).unwrap();
            read.decode(&bytes, &mut window, &mut decoder).unwrap();
        }
        (window, self.source.requests - before)
    }

    /// Every byte equals `raw`'s; no part takes more than 12 requests, all together hardly more bytes than the file has.
    pub fn equals(&mut self, raw: &Path) {
        let oracle = File::open(raw).unwrap();
        assert_eq!(self.layout.virtual_size(), oracle.size(), "virtual size");
        let before = self.source.bytes;
        for start in (0..oracle.size()).step_by(usize::try_from(PART).unwrap()) {
            let len = usize::try_from(PART.min(oracle.size() - start)).unwrap();
            let (got, requests) = self.read(start, len);
            assert!(requests <= 12, "{requests} requests for the part at {start}");
            let mut expected = vec![0; len];
            oracle.read_exact_at(&mut expected, start).unwrap();
            assert!(got == expected, "{} differs within {len} bytes at {start}", raw.display());
        }
        let (read, size) = (self.source.bytes - before, self.source.size());
        assert!(read * 100 <= size * 102, "{read} bytes read of a file of {size}");
    }
}

/// A directory with a raw disk, from which images of all formats are made.
pub struct Bench {
    dir: tempfile::TempDir,
    pub raw: PathBuf,
}

impl Bench {
    /// A disk of `size` bytes with `islands` of data: text that compresses and noise that does not.
    pub fn new(size: u64, islands: &[(u64, u64)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("disk.raw");
        let file = File::create(&raw).unwrap();
        file.set_len(size).unwrap();
        let mut noise = Noise(size ^ 0x9e37_79b9_7f4a_7c15);
        for (n, (start, len)) in islands.iter().enumerate() {
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < *len {
                if n % 2 == 0 {
                    write!(bytes, "line {} of island {n}\n", bytes.len()).unwrap();
                } else {
                    bytes.extend(noise.next().to_le_bytes());
                }
            }
            bytes.truncate(usize::try_from(*len).unwrap());
            file.write_all_at(&bytes, *start).unwrap();
        }
        Self { dir, raw }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The disk in `format` with `options`, and what QEMU reads from that: some formats round the size up.
    pub fn convert(&self, format: &str, options: &[&str]) -> (PathBuf, PathBuf) {
        let name = format!("{format}-{}", options.join("-").replace(['=', ','], "_"));
        let (image, back) = (self.path(&name), self.path(&format!("{name}.raw")));
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        options.iter().for_each(|o| args.extend(["-o", o]));
        qemu_img(&args, &[&self.raw, &image]);
        qemu_img(&["convert", "-f", format, "-O", "raw"], &[&image, &back]);
        (image, back)
    }
}

pub fn qemu_img(args: &[&str], paths: &[&Path]) {
    let done =
        Command::new("qemu-img").args(args).args(paths).output().expect("qemu-img (Debian: qemu-utils)");
    assert!(done.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Xorshift: the same bytes in every run.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
