//! The fuzzers' corpus, mutated a fixed number of times with fixed seeds: whatever the bytes say, an import ends with an answer,
//! and reads little. The fuzzers in `fuzz/` do the same without end.

use std::{fs, path::Path, process::Command};

use crate::support::Numbers;
use disk_image::{
    ByteRange, Format,
    drive::{DriveError, ReadAt},
};
use disk_image_fixtures::{Counting, import, seal};

const MUTATIONS: u64 = 300;

/// A file with some bytes changed.
struct Patched<'a> {
    bytes: &'a [u8],
    size: u64,
    patches: Vec<(u64, Vec<u8>)>,
}

impl ReadAt for &Patched<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_range(&mut self, range: ByteRange) -> std::io::Result<Vec<u8>> {
        let mut bytes = (&*self.bytes).read_range(range)?;
        for (at, patch) in &self.patches {
            for (at, byte) in (*at..).zip(patch) {
                if (range.start..range.end).contains(&at) {
                    bytes[usize::try_from(at - range.start).unwrap()] = *byte;
                }
            }
        }
        Ok(bytes)
    }
}

/// Values that overflow, wrap, point to the start, the end, and to odd places.
fn value(numbers: &mut Numbers, size: u64) -> u64 {
    match numbers.below(9) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << numbers.below(64),
        3 => (1 << numbers.below(64)) - 1,
        4 => size,
        5 => size / 512 + numbers.below(3),
        6 => numbers.below(size) / 512,
        7 => numbers.below(size) / 512 * 512,
        _ => numbers.next(),
    }
}

fn patch(numbers: &mut Numbers, size: u64) -> Vec<u8> {
    let value = value(numbers, size);
    let little = value.to_le_bytes();
    let big = value.to_be_bytes();
    match numbers.below(7) {
        0 => little[..1].to_vec(),
        1 => little[..2].to_vec(),
        2 => little[..4].to_vec(),
        3 => little.to_vec(),
        4 => big[6..].to_vec(),
        5 => big[4..].to_vec(),
        _ => big.to_vec(),
    }
}

fn mutate(name: &str, bytes: &[u8], format: Format) -> (u64, u64) {
    let mut whole = Counting::new(bytes);
    let sound = import(&mut whole, Some(format)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let metadata = &whole.reads[..sound.metadata_reads.min(whole.reads.len())];
    let mut numbers = Numbers::new(bytes.len() as u64);
    let (mut accepted, mut refused) = (0, 0);
    for n in 0..MUTATIONS {
        let mut patched = Patched { bytes, size: bytes.len() as u64, patches: Vec::new() };
        if n % 10 == 0 {
            patched.size = numbers.below(patched.size) + 1;
        }
        for _ in 0..=numbers.below(3) {
            // Where the parsers look, most of all at the start of it: fields are there, the rest is often zeros.
            let range = metadata[usize::try_from(numbers.below(metadata.len() as u64)).unwrap()];
            let within = range.len().min(if numbers.below(2) == 0 { 512 } else { u64::MAX });
            let at = range.start + numbers.below(within) / 4 * 4;
            let bytes = patch(&mut numbers, patched.size);
            patched.patches.push((at, bytes));
        }
        let seals = seal(format, &mut &patched).unwrap();
        patched.patches.extend(seals);
        let mut source = Counting::new(&patched);
        match import(&mut source, Some(format)) {
            Ok(_) => accepted += 1,
            Err(DriveError::Refused(_)) => refused += 1,
            Err(DriveError::Source(e)) => panic!("{name}, mutation {n}: a read that can't be: {e}"),
        }
        let (read, size) = (source.bytes(), patched.size);
        assert!(read <= 4 * size + (1 << 20), "{name}, mutation {n}: {read} bytes of {size}");
    }
    (accepted, refused)
}

#[test]
fn no_mutation_breaks_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let status = Command::new(script).arg(dir.path()).status().expect("bash and qemu-utils are installed");
    assert!(status.success());
    let mut seeds = Vec::new();
    for format in Format::ALL {
        for file in fs::read_dir(dir.path().join(format.name())).into_iter().flatten() {
            let path = file.unwrap().path();
            seeds.push((path.display().to_string(), fs::read(&path).unwrap(), format));
        }
    }
    for sound in disk_image_fixtures::sound() {
        let all = ByteRange { start: 0, end: sound.file.len() };
        seeds.push((sound.name.to_owned(), sound.file.read(all), sound.format));
    }
    seeds.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(seeds.len() >= 12);
    for (name, bytes, format) in &seeds {
        let (accepted, refused) = mutate(name, bytes, *format);
        // Raw has nothing to refuse; of all others a good part must be seen.
        assert!(
            *format == Format::Raw || refused >= MUTATIONS / 20,
            "{name}: {accepted} accepted, {refused} refused"
        );
    }
}
