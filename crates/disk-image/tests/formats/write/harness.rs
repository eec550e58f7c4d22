//! An export as the flow does it, with files for S3, and the oracles: `qemu-img check`, `qemu-img compare`, our own reader.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use disk_image::{
    Format,
    write::{
        parts::{BlobCut, MAX_PART},
        qcow2::{Assembly, AssemblyStep, BlobIndex, BlobSummary, BlobWriter, File as Made, Geometry, Place},
        rope::Rope,
    },
};

use crate::support::{self, Numbers, PART, qemu_img};

/// A disk of which only some bytes are given; in order, apart from each other.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub size: u64,
    pub data: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    pub fn full(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, data: vec![(0, bytes)] }
    }

    pub fn zeros(size: u64) -> Self {
        Self { size, data: Vec::new() }
    }

    pub fn save(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.size).unwrap();
        for (at, bytes) in &self.data {
            file.write_all_at(bytes, *at).unwrap();
        }
    }

    /// Its bytes from `start` to `end`, as the source yields them: zeros as runs, data in chunks of any size.
    fn feed(&self, start: u64, end: u64, numbers: &mut Numbers, writer: &mut BlobWriter, out: &mut Rope) {
        let mut at = start;
        for (offset, bytes) in &self.data {
            let (from, to) = ((*offset).max(start), (offset + bytes.len() as u64).min(end));
            if from >= to {
                continue;
            }
            writer.zeros(from - at, out).unwrap();
            let index = |n: u64| usize::try_from(n - offset).unwrap();
            let mut rest = Bytes::copy_from_slice(&bytes[index(from)..index(to)]);
            while !rest.is_empty() {
                let n = 1 + usize::try_from(numbers.below(200_000)).unwrap();
                // Now and then several clusters, in a buffer of their own and in one of many.
                let n = if n % 4 == 0 { n * 5 } else { n }.min(rest.len());
                let now = rest.split_to(n);
                writer.write(&if n % 3 == 0 { now } else { Bytes::copy_from_slice(&now) }, out).unwrap();
            }
            at = to;
        }
        writer.zeros(end - at, out).unwrap();
        assert_eq!(writer.position(), end);
    }
}

/// An export that is done.
pub struct Exported {
    pub path: PathBuf,
    pub parts: Vec<u64>,
    /// Bytes that no worker saw.
    pub copied: u64,
    /// Indexes that the assembly asked for.
    pub indexes: usize,
}

/// Map and reduce. `cuts` are where a new worker takes over.
pub fn export(disk: &Disk, geometry: Geometry, cuts: &[u64], path: &Path) -> Exported {
    export_by(&BlobCut::S3, disk, geometry, cuts, path)
}

/// The same in parts of another size.
pub fn export_by(cut: &BlobCut, disk: &Disk, geometry: Geometry, cuts: &[u64], path: &Path) -> Exported {
    let mut numbers = Numbers::new(disk.size);
    let edges = [&[0], cuts, &[disk.size]].concat();
    let (mut blobs, mut indexes) = (Vec::new(), Vec::new());
    for edge in edges.windows(2) {
        let mut writer = BlobWriter::new(geometry, edge[0]).unwrap();
        let mut out = Rope::default();
        disk.feed(edge[0], edge[1], &mut numbers, &mut writer, &mut out);
        let index = writer.finish(&mut out).unwrap();
        assert_eq!(index.blob_len(), out.len() as u64);
        indexes.push(index.as_bytes().to_vec());
        blobs.push(out.into_iter().collect::<Vec<_>>().concat());
    }
    let summary = |index: &Vec<u8>| {
        let summary = BlobIndex::decode(index.clone()).unwrap().summary();
        BlobSummary { place: if summary.len > cut.least { Place::Own } else { Place::Joined }, ..summary }
    };
    let summaries = indexes.iter().map(summary).collect();
    assemble(
        cut,
        geometry,
        summaries,
        |k| BlobIndex::decode(indexes[k].clone()).unwrap(),
        |k| blobs[k].clone(),
        path,
    )
}

/// Puts the file together: parts from assemblies of their own, and copies of blobs.
pub fn assemble(
    cut: &BlobCut,
    geometry: Geometry,
    summaries: Vec<BlobSummary>,
    index: impl Fn(usize) -> BlobIndex,
    blob: impl Fn(usize) -> Vec<u8>,
    path: &Path,
) -> Exported {
    let made = Arc::new(Made::new(geometry, summaries.clone()).unwrap());
    let file = File::create(path).unwrap();
    let (mut asked, mut copied, mut at) = (0, 0, 0);
    let piece = |k: usize, range: Range<u64>| {
        let bytes = blob(k);
        assert_eq!(bytes.len() as u64, summaries[k].len);
        bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec()
    };
    let parts = made.parts(cut).unwrap();
    for part in &parts {
        assert_eq!(part.range.start, at);
        let mut append = |bytes: &[u8]| {
            file.write_all_at(bytes, at).unwrap();
            at += bytes.len() as u64;
        };
        if let Some((k, range)) = &part.copied {
            assert!(summaries[*k].len >= cut.least || part.range.end == made.len());
            copied += range.end - range.start;
            append(&piece(*k, range.clone()));
        } else {
            let mut assembly = Assembly::new(Arc::clone(&made), part.range.clone()).unwrap();
            loop {
                match assembly.step().unwrap() {
                    AssemblyStep::Bytes(bytes) => {
                        assert!(!bytes.is_empty() && bytes.len() < 8 << 20, "a chunk of {}", bytes.len());
                        append(&bytes);
                    }
                    AssemblyStep::Index(k) => {
                        asked += 1;
                        assembly.give(k, index(k)).unwrap();
                    }
                    AssemblyStep::Blob(k, range) => append(&piece(k, range)),
                    AssemblyStep::Done => break,
                }
            }
        }
        assert_eq!(at, part.range.end);
    }
    assert_eq!(at, made.len());
    let parts: Vec<u64> = parts.into_iter().map(|part| part.range.end - part.range.start).collect();
    let (_, all_but_last) = parts.split_last().unwrap();
    assert!(all_but_last.iter().all(|len| (cut.least..=MAX_PART).contains(len)), "{parts:?}");
    Exported { path: path.to_path_buf(), parts, copied, indexes: asked }
}

impl Exported {
    pub fn len(&self) -> u64 {
        self.parts.iter().sum()
    }

    /// Clean, and the same disk to QEMU and to our own reader.
    pub fn assert_is(&self, disk: &Disk) {
        let path = self.path.to_str().unwrap();
        qemu_img(&["check", "-q", "-f", "qcow2", path]);
        let raw = self.path.with_extension("raw");
        disk.save(&raw);
        qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", path, raw.to_str().unwrap()]);
        std::fs::remove_file(raw).unwrap();

        if disk.size == 0 {
            // QEMU takes a disk without bytes; an import never does.
            return;
        }
        let mut opened = support::open(&self.path, Format::Qcow2).unwrap();
        assert_eq!(opened.layout.virtual_size(), disk.size.next_multiple_of(512));
        for (offset, bytes) in &disk.data {
            for (i, expected) in bytes.chunks(usize::try_from(PART).unwrap()).enumerate() {
                let found = opened.read(offset + i as u64 * PART, expected.len());
                assert!(found == expected, "own reader: data at {offset}, part {i}");
            }
        }
        // What it holds beyond the data is at most the rest of the clusters that data lies in.
        let held = opened.allocation.data_bytes();
        let given: u64 = disk.data.iter().map(|(_, b)| b.len() as u64 + (4 << 20)).sum();
        assert!(held <= given, "{held} bytes allocated for {given}");
    }
}

/// Bytes that don't compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| numbers.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Bytes that compress to something like a third.
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "disk ",
        "image ",
        "cluster ",
        "table ",
        "entry ",
        "offset ",
        "part ",
        "range ",
        "the ",
        "of ",
        "a ",
        "at ",
        "0x",
        "\n",
        "refcount ",
        "zero ",
    ];
    let mut numbers = Numbers::new(seed);
    let mut bytes = Vec::with_capacity(len + 32);
    while bytes.len() < len {
        let n = numbers.next();
        bytes.extend_from_slice(WORDS[usize::try_from(n % 16).unwrap()].as_bytes());
        if n >> 60 == 0 {
            bytes.extend_from_slice(n.to_string().as_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}
