//! Random cluster maps: whatever mixes, `qemu-img check` is clean and every byte is there.

use disk_image::write::{
    parts::{BlobCut, MAX_PART, MAX_PARTS},
    qcow2::{BlobSummary, CopyPlan, File, Geometry, Place},
};
use proptest::prelude::*;
use std::ops::Range;

use super::{
    CODECS,
    harness::{Disk, assemble, export, noise, text},
};

/// What a run of clusters holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Zero,
    Noise,
    Text,
    Byte,
    /// Data that begins or ends within the run.
    Ragged,
}

fn runs() -> impl Strategy<Value = Vec<(Kind, usize)>> {
    let kind = prop_oneof![
        3 => Just(Kind::Zero),
        2 => Just(Kind::Noise),
        3 => Just(Kind::Text),
        1 => Just(Kind::Byte),
        2 => Just(Kind::Ragged),
    ];
    prop::collection::vec((kind, 1usize..70), 1..40)
}

/// A disk made of the runs, in clusters of `unit` bytes.
fn disk(runs: &[(Kind, usize)], unit: usize, cut: usize) -> Disk {
    let (mut data, mut at) = (Vec::new(), 0usize);
    for (i, (kind, clusters)) in runs.iter().enumerate() {
        let len = clusters * unit;
        let bytes = match kind {
            Kind::Zero => Vec::new(),
            Kind::Noise => noise(len, i as u64),
            Kind::Text => text(len, i as u64),
            Kind::Byte => vec![u8::try_from(i % 255).unwrap() + 1; len],
            Kind::Ragged => [vec![0; unit / 3], noise(len - unit / 2, i as u64)].concat(),
        };
        if !bytes.is_empty() {
            data.push((at as u64, bytes));
        }
        at += len;
    }
    // An end within a cluster.
    let size = (at - cut % unit) as u64;
    if let Some((start, bytes)) = data.last_mut() {
        bytes.truncate(usize::try_from(size - *start).unwrap());
    }
    Disk { size, data }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cluster_map_exports(
        runs in runs(),
        bits in prop::sample::select(vec![9u32, 12, 16]),
        codec in prop::sample::select(CODECS.to_vec()),
        cut in 0usize..65_536,
        cuts in prop::collection::btree_set(1u64..2_000, 0..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(&runs, 1 << bits, cut);
        let cuts: Vec<u64> = cuts.into_iter().map(|c| c << bits).filter(|c| *c < disk.size).collect();
        let geometry = Geometry::with_cluster_bits(disk.size, codec, bits).unwrap();
        export(&disk, geometry, &cuts, &dir.path().join("disk.qcow2")).assert_is(&disk);
    }

    #[test]
    fn any_raw_object_is_copied(
        runs in runs(),
        spread in prop::sample::select(vec![1u64, 7, 90]),
        cut in 0usize..65_536,
        max_part in prop::sample::select(vec![0, 11 << 20, MAX_PART]),
    ) {
        let mut disk = disk(&runs, 1 << 16, cut);
        // Islands further apart, on any byte.
        for (i, (at, _)) in disk.data.iter_mut().enumerate() {
            *at += i as u64 * spread * 131_071;
        }
        disk.size += disk.data.len() as u64 * spread * 131_071;
        copy(&disk, max_part);
    }
}

/// Exports the disk by copying ranges of it; answers the bytes that passed through the caller, and the file's.
fn copy(disk: &Disk, max_part: u64) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<Range<u64>> = disk.data.iter().map(|(at, b)| *at..at + b.len() as u64).collect();
    let plan = CopyPlan::new(disk.size, &data, max_part).unwrap();
    let summaries = plan.summaries().unwrap();
    let read = |k: usize| {
        let source = plan.source(k).unwrap();
        let mut bytes = vec![0; usize::try_from(summaries[k].len).unwrap()];
        assert!(source.end <= disk.size && source.end - source.start <= summaries[k].len);
        for (at, piece) in &disk.data {
            let (from, to) = ((*at).max(source.start), (at + piece.len() as u64).min(source.end));
            if from < to {
                let place = |n: u64, base: u64| usize::try_from(n - base).unwrap();
                bytes[place(from, source.start)..place(to, source.start)]
                    .copy_from_slice(&piece[place(from, *at)..place(to, *at)]);
            }
        }
        bytes
    };
    let index = |k: usize| plan.index(k).unwrap();
    let done = assemble(
        &BlobCut::S3,
        plan.geometry(),
        summaries.clone(),
        index,
        read,
        &dir.path().join("disk.qcow2"),
    );
    done.assert_is(disk);

    for (k, summary) in summaries.iter().enumerate() {
        let index = BlobSummary { place: summary.place, ..plan.index(k).unwrap().summary() };
        assert_eq!(index, *summary);
        let source = plan.source(k).unwrap();
        assert!(source.end - source.start <= max_part.max(10 << 20));
    }
    (done.len() - done.copied, done.len())
}

#[test]
fn a_copied_image_passes_through_nobody() {
    let mib = 1usize << 20;
    let mut disk = Disk::full(noise(100 * mib, 1));
    disk.data.push((700 << 20, noise(60 * mib + 5, 2)));
    disk.data.push((1000 << 20, noise(mib, 3)));
    disk.size = (1 << 30) + 17;
    let (through, file) = copy(&disk, MAX_PART);
    assert!(through * 100 < disk.size, "{through} of {}", disk.size);
    // The data, an island that is filled up at most, and the metadata.
    assert!(file < (161 + 5 + 1) << 20, "{file}");
}

#[test]
fn copies_of_large_disks_stay_within_part_numbers() {
    // 20,000 islands of 8 MiB, 52 MiB apart.
    let (island, apart) = (8u64 << 20, 52u64 << 20);
    let data: Vec<_> = (0..20_000).map(|i| i * apart..i * apart + island).collect();
    let plan = CopyPlan::new(20_000 * apart, &data, MAX_PART).unwrap();
    let summaries = plan.summaries().unwrap();
    let copies = || summaries.iter().enumerate().filter(|(_, s)| s.place == Place::Own);
    let copies: Vec<Range<u64>> = copies().map(|(k, _)| plan.source(k).unwrap()).collect();
    let file = File::new(plan.geometry(), summaries.clone()).unwrap();
    let parts = file.parts(&BlobCut::S3).unwrap();
    assert!(parts.len() as u64 <= MAX_PARTS, "{}", parts.len());
    assert!(copies.windows(2).all(|w| w[0].end <= w[1].start));
    let covered = |at: u64| copies.iter().any(|c| c.contains(&at));
    assert!(data.iter().step_by(97).all(|run| covered(run.start) && covered(run.end - 1)));
    // Empty, overlapping, out of order, past the end.
    for (a, b) in [(5..5, 6..7), (5..9, 8..10), (9..10, 0..3), (0..1, 2..101)] {
        assert!(CopyPlan::new(100, &[a, b], MAX_PART).is_err());
    }
}
