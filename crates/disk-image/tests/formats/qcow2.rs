//! qcow2 against `qemu-img convert -O raw`, over the options that `qemu-img` can create.

use std::{fs::File, os::unix::fs::FileExt, path::Path, process::Command, sync::Mutex};

use crate::support::{
    Opened, assert_equals_qemu, assert_reads_are_few, assert_window, open, qemu_img, qemu_io, sample, to_raw,
};
use disk_image::{Format, Stored};
use proptest::prelude::*;

fn convert(raw: &Path, to: &Path, compressed: bool, options: &str) {
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
    if compressed {
        args.push("-c");
    }
    args.extend([raw.to_str().unwrap(), to.to_str().unwrap()]);
    qemu_img(&args);
}

#[test]
fn every_cluster_size_and_codec_reads_as_qemu_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    // Ends within a cluster of every size.
    sample(&raw, (5 << 20) + 3 * 512, 1);
    let image = dir.path().join("disk.qcow2");
    let mut seen = 0;
    for bits in 9..=21 {
        let size = 1u32 << bits;
        let mut options = vec![
            (false, format!("compat=0.10,cluster_size={size}")),
            (true, format!("compat=0.10,cluster_size={size}")),
            (false, format!("lazy_refcounts=on,cluster_size={size}")),
            (true, format!("compression_type=zlib,cluster_size={size}")),
            (true, format!("compression_type=zstd,cluster_size={size}")),
        ];
        if bits >= 14 {
            options.push((false, format!("extended_l2=on,cluster_size={size}")));
            options.push((true, format!("extended_l2=on,compression_type=zlib,cluster_size={size}")));
            options.push((true, format!("extended_l2=on,compression_type=zstd,cluster_size={size}")));
        }
        for (compressed, options) in options {
            convert(&raw, &image, compressed, &options);
            assert_equals_qemu(&image, "qcow2", Format::Qcow2);
            seen += 1;
        }
    }
    assert_eq!(seen, 13 * 5 + 8 * 3);
}

#[test]
fn refcount_widths_and_preallocation_change_nothing_for_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 3 << 20, 2);
    let image = dir.path().join("disk.qcow2");
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        convert(&raw, &image, false, &format!("refcount_bits={bits}"));
        assert_equals_qemu(&image, "qcow2", Format::Qcow2);
    }
    for mode in ["off", "metadata", "falloc", "full"] {
        for extended in ["off", "on"] {
            convert(&raw, &image, false, &format!("preallocation={mode},extended_l2={extended}"));
            assert_equals_qemu(&image, "qcow2", Format::Qcow2);
        }
    }
}

#[test]
fn partial_writes_zeros_and_discards_read_as_qemu_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    for (n, options) in
        ["", "extended_l2=on", "extended_l2=on,cluster_size=2M", "cluster_size=512", "lazy_refcounts=on"]
            .iter()
            .enumerate()
    {
        let image = dir.path().join(format!("{n}.qcow2"));
        let path = image.to_str().unwrap();
        let options = if options.is_empty() { "compat=1.1" } else { options };
        qemu_img(&["create", "-f", "qcow2", "-o", options, path, "10485248"]);
        qemu_io(
            &image,
            "qcow2",
            &[
                "write -P 1 0 512",
                "write -P 2 4k 2k",
                "write -P 3 100k 300k",
                "write -z 128k 64k",
                "write -z -u 200k 4k",
                "discard 300k 64k",
                "write -P 4 2049k 1k",
                "write -P 5 5000k 3M",
                "write -z 6M 1M",
                "write -P 6 10484224 1024",
            ],
        );
        let opened = assert_equals_qemu(&image, "qcow2", Format::Qcow2);
        assert!(opened.allocation.data_bytes() < 10 << 20);
        // A snapshot shares clusters with the disk; later writes copy them.
        qemu_img(&["snapshot", "-c", "before", path]);
        qemu_io(&image, "qcow2", &["write -P 9 100k 100k", "write -P 8 9M 64k"]);
        assert_equals_qemu(&image, "qcow2", Format::Qcow2);
    }
}

#[test]
fn empty_and_tiny_disks_are_disks() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("empty.qcow2");
    for size in ["512", "1024", "65024", "65536", "66048", "1073742336"] {
        for options in ["cluster_size=512", "cluster_size=65536", "cluster_size=2M,extended_l2=on"] {
            qemu_img(&["create", "-f", "qcow2", "-o", options, image.to_str().unwrap(), size]);
            let opened = open(&image, Format::Qcow2).unwrap();
            assert_eq!(opened.layout.virtual_size().to_string(), size);
            assert!(opened.allocation.data().is_empty());
            assert!(opened.plan(0, 512).is_zero());
        }
    }
}

/// Beyond 4 GiB every offset needs more than 32 bits; the sparse rest costs nothing.
#[test]
fn a_sparse_disk_beyond_4_gib_costs_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("sparse.qcow2");
    qemu_img(&["create", "-f", "qcow2", image.to_str().unwrap(), "1T"]);
    let writes = ["write -P 7 0 1M", "write -P 8 4294901760 192k", "write -P 9 1099511500800 64k"];
    qemu_io(&image, "qcow2", &writes);
    let mut opened = open(&image, Format::Qcow2).unwrap();
    assert_eq!(opened.allocation.data_bytes(), (1 << 20) + (192 << 10) + (128 << 10));
    assert_eq!(opened.read(0, 1 << 20), vec![7; 1 << 20]);
    assert_eq!(opened.read(4_294_901_760, 192 << 10), vec![8; 192 << 10]);
    assert_eq!(opened.read(1_099_511_500_800, 65536), vec![9; 65536]);
    assert_eq!(opened.read(4_294_901_760 - 10, 10), [0; 10]);
    assert!(opened.source.bytes < 5 << 20, "{} bytes read", opened.source.bytes);
    assert!(opened.sidecar.len() < 2 << 20, "{} bytes of sidecar", opened.sidecar.len());
}

/// What is stored around and beyond the 32-bit border, for every cluster size and codec.
#[test]
fn sparse_disks_beyond_4_gib_read_as_qemu_reads_them() {
    const MIB: u64 = 1 << 20;
    let size = (5 << 30) + 37 * MIB + 512;
    let islands = [(0, 100_000), ((4 << 30) - 70_000, 140_000), (size - 3 * MIB, MIB), (size - 700, 700)];
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
    let file = File::create(&raw).unwrap();
    file.set_len(size).unwrap();
    for (n, (start, len)) in (1u8..).zip(islands) {
        file.write_all_at(&vec![n; usize::try_from(len).unwrap()], start).unwrap();
    }
    // The oracle is the raw disk itself: what QEMU makes of it again is shown for smaller ones.
    let oracle = File::open(&raw).unwrap();
    for (compressed, options) in [
        (false, "compat=0.10"),
        (false, "cluster_size=512"),
        (true, "cluster_size=512,compression_type=zstd"),
        (false, "cluster_size=4096,lazy_refcounts=on"),
        (true, "compression_type=zlib"),
        (true, "compression_type=zstd"),
        (false, "extended_l2=on"),
        (true, "extended_l2=on,cluster_size=2M,compression_type=zstd"),
        (false, "cluster_size=2M"),
        (true, "cluster_size=2M"),
    ] {
        convert(&raw, &image, compressed, options);
        let mut opened = open(&image, Format::Qcow2).unwrap();
        assert_eq!(opened.layout.virtual_size(), size);
        for run in opened.allocation.data().to_vec() {
            let len = usize::try_from(run.end - run.start).unwrap();
            assert_window(&mut opened, &oracle, run.start, len, Path::new(options));
        }
        for (start, len) in islands {
            let run = opened.allocation.data().iter().find(|run| run.contains(&start));
            assert!(run.is_some_and(|run| run.end >= start + len), "{options}: {start}");
        }
    }
}

#[test]
fn a_part_takes_few_reads_and_the_file_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 200 << 20, 3);
    let image = dir.path().join("disk.qcow2");
    for (compressed, options) in [
        (false, "cluster_size=65536"),
        (false, "cluster_size=2M"),
        (false, "cluster_size=4096"),
        (false, "extended_l2=on"),
        (true, "compression_type=zlib"),
        (true, "compression_type=zstd"),
        (true, "compression_type=zstd,cluster_size=2M"),
        (true, "compression_type=zlib,cluster_size=4096"),
    ] {
        convert(&raw, &image, compressed, options);
        let mut opened = open(&image, Format::Qcow2).unwrap();
        assert_reads_are_few(&mut opened);
    }
}

/// A cluster on a window's border is planned once in each window, and once only.
#[test]
fn a_unit_is_fetched_and_decoded_once_in_a_window() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    std::fs::write(&raw, vec![0x55; 40 << 20]).unwrap();
    let image = dir.path().join("disk.qcow2");
    convert(&raw, &image, true, "cluster_size=2M");
    let mut opened = open(&image, Format::Qcow2).unwrap();
    // The sidecar's segments end at 16 and 32 MiB, within this window and between its clusters.
    let fetch = opened.plan((1 << 20) + 5, 38 << 20);
    assert_eq!(fetch.reads().len(), 1);
    assert_eq!(opened.read((1 << 20) + 5, 38 << 20), vec![0x55; 38 << 20]);
    let mut kinds = std::collections::BTreeSet::new();
    disk_image::drive::walk(&mut opened.source, &opened.layout, |e| {
        kinds.insert(matches!(e.stored, Stored::Deflate { unit: 2_097_152, skip: 0, .. }));
        Ok(())
    })
    .unwrap();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [true]);
}

/// Big-endian 64 bits of an image's file.
fn be64(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What `qemu-img check` calls an error in an entry is refused, and the image was accepted before.
#[test]
fn an_entry_that_qemu_img_check_calls_an_error_is_refused() {
    const COPIED: u64 = 1 << 63;
    let dir = tempfile::tempdir().unwrap();
    let (raw, image, broken) =
        (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"), dir.path().join("broken.qcow2"));
    // Data in two of the three stretches that an L2 table maps, nothing in the last; ends within the last one.
    let table = |extended: bool| if extended { 8 << 20 } else { 16 << 20 };
    for (options, extended) in [("cluster_size=16k", false), ("cluster_size=16k,extended_l2=on", true)] {
        let (span, entry) = if extended { (16 << 20, 16) } else { (32 << 20, 8) };
        let file = File::create(&raw).unwrap();
        file.set_len(2 * span + table(extended)).unwrap();
        file.write_all_at(&[5; 40_000], 0).unwrap();
        file.write_all_at(&[6; 40_000], 2 * span).unwrap();
        let options = format!("{options},compression_type=zstd");
        for compressed in [false, true] {
            convert(&raw, &image, compressed, &options);
            open(&image, Format::Qcow2).unwrap();
            let bytes = std::fs::read(&image).unwrap();
            let (l1, refcounts) = (be64(&bytes, 40), be64(&bytes, 48));
            let (first, last) = (be64(&bytes, l1) & !COPIED, be64(&bytes, l1 + 16) & !COPIED);
            // Behind the disk's end, in the last table.
            let behind = last + (16 << 10) - entry;
            let mut cases = vec![
                ("L1 entry of no table is copied", l1 + 8, COPIED),
                ("L1 entry of no table has a reserved bit", l1 + 8, 1 << 58),
                ("L1 entry of no table has a reserved bit below", l1 + 8, 1),
                ("L1 entry has a reserved bit", l1, be64(&bytes, l1) | 1 << 60),
                ("L2 entry of no cluster has a reserved bit", first + 10 * entry, 1 << 57),
                ("L2 entry of no cluster has a reserved bit below", first + 10 * entry, 1 << 3),
                ("L2 entry behind the end has a reserved bit", behind, 1 << 57),
                ("L2 entry behind the end is a table", behind, first | COPIED),
                ("refcount table entry has a reserved bit", refcounts, be64(&bytes, refcounts) | 1),
                ("refcount table entry is of no block", refcounts + 8, 1 << 5),
                ("refcount block is outside", refcounts + 8, 1 << 40),
            ];
            if compressed {
                cases.push(("compressed cluster is copied", first, be64(&bytes, first) | COPIED));
            }
            if extended {
                cases.push(("subclusters of no cluster", first + 10 * entry + 8, 1));
                cases.push(("subcluster is allocated and zero", first + 8, 1 | 1 << 32));
                cases.push(("behind the end: subclusters of no cluster", behind + 8, 1));
            }
            if compressed && extended {
                cases.push(("compressed cluster has zero subclusters", first + 8, 1 << 32));
            }
            for (name, at, value) in cases {
                let name = format!("{name} ({options}, compressed: {compressed})");
                std::fs::write(&broken, &bytes).unwrap();
                File::options()
                    .write(true)
                    .open(&broken)
                    .unwrap()
                    .write_all_at(&value.to_be_bytes(), at)
                    .unwrap();
                let check =
                    Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&broken).output().unwrap();
                assert!(!check.status.success(), "{name}: no error to qemu-img check");
                assert!(open(&broken, Format::Qcow2).is_err(), "{name}: accepted");
            }
        }
    }
}

struct Cut {
    opened: Mutex<Vec<(Opened, File)>>,
    _dir: tempfile::TempDir,
}

static CUT: std::sync::LazyLock<Cut> = std::sync::LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, (20 << 20) + 512, 4);
    let mut opened = Vec::new();
    for (n, (compressed, options)) in [
        (false, "cluster_size=512"),
        (false, "extended_l2=on"),
        (true, "cluster_size=4096,compression_type=zstd"),
        (true, "cluster_size=2M"),
    ]
    .iter()
    .enumerate()
    {
        let image = dir.path().join(format!("{n}.qcow2"));
        convert(&raw, &image, *compressed, options);
        opened.push((open(&image, Format::Qcow2).unwrap(), File::open(to_raw(&image, "qcow2")).unwrap()));
    }
    Cut { opened: Mutex::new(opened), _dir: dir }
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_range_equals_the_same_range_of_qemus_raw(which in 0usize..4, start in 0u64..(20 << 20), len in 1usize..(3 << 20)) {
        let mut opened = CUT.opened.lock().unwrap();
        let (opened, oracle) = &mut opened[which];
        let len = len.min(usize::try_from(opened.layout.virtual_size() - start).unwrap());
        assert_window(opened, oracle, start, len, Path::new("cut"));
    }
}
