//! The qcow2 writer against `qemu-img check` and `compare`, and against our own reader.

mod boot;
mod harness;
mod maps;

use std::sync::Arc;

use bytes::Bytes;
use disk_image::write::{
    parts::{BlobCut, MAX_DISK, MAX_OBJECT, MAX_PART, MAX_PARTS, MIN_PART},
    qcow2::{Assembly, BlobSummary, BlobWriter, Codec, CopyPlan, File, Geometry, Place, WriteError},
    rope::Rope,
};
use harness::{Disk, export, export_by, noise, text};

const CODECS: [Codec; 3] = [Codec::None, Codec::Zlib, Codec::Zstd];
const CLUSTER: u64 = 64 << 10;

#[test]
fn any_size_with_any_content_in_any_codec() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    for len in [0usize, 1, 511, 512, 513, 65_535, 65_536, 65_537, 200_000, (3 << 20) + 77] {
        for codec in CODECS {
            let geometry = Geometry::new(len as u64, codec).unwrap();
            for disk in [Disk::full(noise(len, 1)), Disk::full(text(len, 2)), Disk::full(vec![0; len])] {
                let done = export(&disk, geometry, &[], &path);
                assert_eq!((done.parts.len(), done.copied), (1, 0));
                done.assert_is(&disk);
            }
        }
    }
}

#[test]
fn all_zero_disks_are_metadata_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    for size in [CLUSTER, 1 << 30, (8 << 30) + 512, 1 << 40] {
        let disk = Disk::zeros(size);
        let done = export(&disk, Geometry::new(size, Codec::Zstd).unwrap(), &[CLUSTER], &path);
        assert_eq!((done.len(), done.indexes), (4 * CLUSTER, 0));
        done.assert_is(&disk);
    }
}

#[test]
fn every_cluster_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let bytes =
        [text(5 << 20, 3), noise(5 << 20, 4), vec![0; 1 << 20], text(777, 5), noise(300_000, 6)].concat();
    let disk = Disk::full([bytes.clone(), bytes].concat());
    for bits in 9..=21 {
        for codec in CODECS {
            let geometry = Geometry::with_cluster_bits(disk.size, codec, bits).unwrap();
            export(&disk, geometry, &[6 << 20, 14 << 20], &path).assert_is(&disk);
        }
    }
}

#[test]
fn one_to_sixty_four_parts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let part = (5usize << 20) + 65_536;
    for codec in CODECS {
        for parts in [1usize, 2, 3, 17, 64] {
            let disk = Disk::full(noise(part * parts - 5, parts as u64));
            let cuts: Vec<u64> = (1..parts).map(|i| (part * i) as u64).collect();
            let done = export(&disk, Geometry::new(disk.size, codec).unwrap(), &cuts, &path);
            // The first begins with the metadata, and takes the first blob's begin along, or all of it.
            assert!(
                done.parts.len() <= parts + 1 && done.copied + (11 << 20) > disk.size,
                "{:?}",
                done.parts
            );
            done.assert_is(&disk);
        }
    }
}

/// As many workers, none of whom has enough for a part.
#[test]
fn one_to_sixty_four_blobs_below_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let cluster = usize::try_from(CLUSTER).unwrap();
    for codec in CODECS {
        for blobs in 1..=64u64 {
            let pieces = (0..blobs).map(|n| match n % 4 {
                0 => [text(cluster, n), noise(cluster, n)].concat(),
                1 => vec![0; 2 * cluster],
                2 => noise(2 * cluster, n),
                _ => [vec![0; cluster], text(cluster, n)].concat(),
            });
            let mut bytes = pieces.collect::<Vec<_>>().concat();
            bytes.truncate(bytes.len() - 99);
            let disk = Disk::full(bytes);
            let cuts: Vec<u64> = (1..blobs).map(|n| n * 2 * CLUSTER).collect();
            let done = export(&disk, Geometry::new(disk.size, codec).unwrap(), &cuts, &path);
            assert_eq!((done.parts.len(), done.copied), (1, 0), "{blobs}");
            done.assert_is(&disk);
        }
    }
}

#[test]
fn blobs_too_short_for_a_part_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let short = text(6 << 20, 7);
    for codec in [Codec::Zlib, Codec::Zstd] {
        // Six MiB each, which compress to less than five; what isn't compressed is as long as it is.
        let all_short = Disk::full(short.repeat(4));
        let cuts = [6 << 20, 12 << 20, 18 << 20];
        let done = export(&all_short, Geometry::new(all_short.size, codec).unwrap(), &cuts, &path);
        assert_eq!((done.parts.len(), done.copied), (1, 0));
        done.assert_is(&all_short);

        let between = Disk::full([noise(12 << 20, 8), text(6 << 20, 9), noise(7 << 20, 10)].concat());
        let cuts = [12 << 20, 18 << 20];
        let done = export(&between, Geometry::new(between.size, codec).unwrap(), &cuts, &path);
        let [first, rest, last] = done.parts[..] else { panic!("{:?}", done.parts) };
        assert_eq!((first, last), (MIN_PART, 7 << 20));
        assert!(rest > 6 << 20 && rest < 12 << 20, "{rest}");
        done.assert_is(&between);
    }
}

/// In parts as small as they get: each begins and ends anywhere among tables and blobs.
#[test]
fn parts_of_any_size_are_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| dir.path().join(name));
    let islands =
        (0..30).map(|i| (i * 600_000_000, if i % 3 == 0 { noise(90_000, i) } else { text(700_000, i) }));
    let disk = Disk { size: 20_000_000_000, data: islands.collect() };
    for bits in [12, 16] {
        let geometry = Geometry::with_cluster_bits(disk.size, Codec::Zstd, bits).unwrap();
        let cuts: Vec<u64> = (1..25u64).map(|i| i * 799_997_952 / 65_536 * 65_536).collect();
        export(&disk, geometry, &cuts, &whole).assert_is(&disk);
        let smallest = BlobCut { least: 1 << bits, made: 3 << bits, ..BlobCut::S3 };
        let done = export_by(&smallest, &disk, geometry, &cuts, &cut);
        assert!(done.parts.len() > 30, "{}", done.parts.len());
        done.assert_is(&disk);
    }
}

#[test]
fn sparse_disks_cost_their_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    for size in [8u64 << 30, 1 << 40] {
        let islands = (0..40).map(|i| {
            let at = size / 40 * i + 12_345 * i;
            (at, if i % 2 == 0 { text(300_000, i) } else { noise(70_001, i) })
        });
        let disk = Disk { size, data: islands.chain([(size - 1, vec![1])]).collect() };
        for codec in CODECS {
            let cuts: Vec<u64> = (1..16).map(|i| size / 16 * i).collect();
            let done = export(&disk, Geometry::new(size, codec).unwrap(), &cuts, &path);
            // 41 islands of at most 6 clusters, and an L2 table for each at most.
            assert!(done.len() < 41 * 7 * CLUSTER + 10 * CLUSTER, "{}", done.len());
            done.assert_is(&disk);
        }
    }
}

/// QEMU inflates with a window of 4 KiB; ours has matches further away than that.
#[test]
fn far_matches_inflate_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    for period in [5_000, 20_000, 32_000] {
        let disk = Disk::full(noise(period, 11).repeat(40));
        let done = export(&disk, Geometry::new(disk.size, Codec::Zlib).unwrap(), &[], &path);
        done.assert_is(&disk);
        // Only matches at the period's distance can make it this small.
        assert!(done.len() < disk.size * 6 / 10 + 6 * CLUSTER, "{period}: {} of {}", done.len(), disk.size);
    }
}

#[test]
fn alignment_costs_little_where_plain_and_compressed_clusters_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let cluster = usize::try_from(CLUSTER).unwrap();
    for text_clusters in [1u64, 3, 10] {
        let clusters =
            (0..600).map(|i| if i % (text_clusters + 1) == 0 { noise(cluster, i) } else { text(cluster, i) });
        let disk = Disk::full(clusters.collect::<Vec<_>>().concat());
        let done = export(&disk, Geometry::new(disk.size, Codec::Zstd).unwrap(), &[], &path);
        done.assert_is(&disk);
        let apart: Vec<Vec<u8>> = disk.data[0].1.chunks(cluster).map(<[u8]>::to_vec).collect();
        let (mut packed, mut plain) = (0u64, 0u64);
        for bytes in &apart {
            // The writer's level.
            match zstd::bulk::compress(bytes, 2).unwrap() {
                c if c.len() < cluster - cluster / 64 => packed += c.len() as u64,
                _ => plain += CLUSTER,
            }
        }
        let metadata = 5 * CLUSTER;
        let least = packed + plain + metadata;
        assert!(done.len() <= least + plain / 32 + CLUSTER, "{} for {least}", done.len());
    }
}

#[test]
fn wrong_ranges_are_refused() {
    let geometry = Geometry::new(3 * CLUSTER + 1, Codec::Zlib).unwrap();
    assert!(matches!(BlobWriter::new(geometry, 1), Err(WriteError::Range(_))));
    assert!(matches!(BlobWriter::new(geometry, 4 * CLUSTER), Err(WriteError::Range(_))));
    let mut out = Rope::default();
    let mut writer = BlobWriter::new(geometry, CLUSTER).unwrap();
    assert!(matches!(writer.zeros(2 * CLUSTER + 2, &mut out), Err(WriteError::Range(_))));
    writer.write(&Bytes::from_static(&[1; 10]), &mut out).unwrap();
    assert!(matches!(writer.finish(&mut out), Err(WriteError::Range(_))));
    assert!(matches!(Geometry::new(3 << 50, Codec::None), Err(WriteError::TooLarge(_))));
    assert!(matches!(Geometry::with_cluster_bits(1, Codec::None, 22), Err(WriteError::Range(_))));
}

#[test]
fn summaries_that_do_not_make_a_disk_are_refused() {
    let geometry = Geometry::new(64 << 20, Codec::None).unwrap();
    let blob = |start: u64, end: u64| {
        let mut writer = BlobWriter::new(geometry, start).unwrap();
        let mut out = Rope::default();
        writer.write(&vec![7; usize::try_from(end - start).unwrap()].into(), &mut out).unwrap();
        writer.finish(&mut out).unwrap()
    };
    let (a, b) = (blob(0, 4 << 20), blob(4 << 20, 64 << 20));
    let refused = |blobs: Vec<_>| matches!(File::new(geometry, blobs), Err(WriteError::Index(_)));
    assert!(!refused(vec![a.summary(), b.summary()]));
    assert!(refused(vec![a.summary()]), "the end is missing");
    assert!(refused(vec![b.summary(), a.summary()]), "order");
    assert!(refused(vec![a.summary(), a.summary(), b.summary()]), "twice");

    let file = Arc::new(File::new(geometry, vec![a.summary(), b.summary()]).unwrap());
    for range in [0..1, 1..CLUSTER, 0..file.len() + CLUSTER] {
        assert!(matches!(Assembly::new(Arc::clone(&file), range), Err(WriteError::Range(_))));
    }
    let mut assembly = Assembly::new(Arc::clone(&file), 0..file.len()).unwrap();
    assert!(matches!(assembly.give(0, b.clone()), Err(WriteError::Index(_))), "the other's index");
    assert!(matches!(assembly.give(2, a), Err(WriteError::Index(_))), "no such blob");
}

#[test]
fn a_blob_has_room_for_what_it_says() {
    for codec in CODECS {
        for bits in [9, 16] {
            let geometry = Geometry::with_cluster_bits(64 << 20, codec, bits).unwrap();
            for (most, clusters) in
                [(0, 9), (3 << bits, 9), (50 << bits, 1000), (400 << bits, 1000), (50 << bits, 30)]
            {
                let mut writer = BlobWriter::new(geometry, 0).unwrap();
                let (mut out, mut n) = (Rope::default(), 0);
                while let room @ 1.. = writer.room(most, clusters) {
                    // A few clusters at a time, of both kinds.
                    let len = usize::try_from(room.min((n % 5 + 1) << bits)).unwrap();
                    writer
                        .write(&if n % 2 == 0 { noise(len, n) } else { text(len, n) }.into(), &mut out)
                        .unwrap();
                    n += 1;
                }
                let index = writer.finish(&mut out).unwrap();
                assert!(index.blob_len() <= most, "{codec:?}: {} bytes of {most}", index.blob_len());
                let held = index.summary().clusters;
                assert!(held <= clusters);
                assert!(
                    held == clusters || index.blob_len() + most / 16 + (4 << bits) > most,
                    "{codec:?}: {held}"
                );
            }
        }
    }
}

/// What a disk of 40 TiB becomes at the worst, in blobs as long as they may be: nothing compresses.
#[test]
fn forty_tebibytes_fit_in_the_parts_of_one_object() {
    let geometry = Geometry::new(MAX_DISK, Codec::Zlib).unwrap();
    let mut blobs = Vec::new();
    for number in 1..=BlobCut::S3.ranges(MAX_DISK).unwrap() {
        let range = BlobCut::S3.range(MAX_DISK, number).unwrap();
        let mut at = range.start;
        while at < range.end {
            // A window less than S3 takes; a 32nd of it is lost to alignment.
            let end =
                range.end.min(at + ((MAX_PART - (10 << 20)) / 33 * 32).next_multiple_of(CLUSTER) - CLUSTER);
            let per = CLUSTER * CLUSTER / 8;
            blobs.push(BlobSummary {
                first_cluster: at / CLUSTER,
                clusters: (end - at) / CLUSTER,
                len: ((end - at) / 32 * 33).next_multiple_of(CLUSTER),
                tables: vec![(at / per, end.div_ceil(per) - at / per)],
                place: Place::Own,
            });
            at = end;
        }
    }
    let file = File::new(geometry, blobs).unwrap();
    let parts = file.parts(&BlobCut::S3).unwrap();
    println!("{} blobs, {} parts, {} bytes", file.blobs().len(), parts.len(), file.len());
    assert!(parts.len() as u64 <= MAX_PARTS - 1000 && file.len() <= MAX_OBJECT);
    let made: u64 = parts.iter().filter(|p| p.copied.is_none()).map(|p| p.range.end - p.range.start).sum();
    assert!(made <= 11 * MAX_DISK / CLUSTER, "{made}");
    assert!(parts.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
    assert!(parts.iter().all(|p| (MIN_PART..=MAX_PART).contains(&(p.range.end - p.range.start))));

    let copies = CopyPlan::new(MAX_DISK, &[0..1 << 40, 1 << 40..MAX_DISK], 512 << 20).unwrap();
    let file = File::new(copies.geometry(), copies.summaries().unwrap()).unwrap();
    let parts = file.parts(&BlobCut::S3).unwrap();
    println!("copied: {} parts", parts.len());
    assert!(parts.len() as u64 <= MAX_PARTS);
    assert!(matches!(CopyPlan::new(MAX_DISK + 1, &[], 512 << 20), Err(WriteError::TooLarge(_))));
}
