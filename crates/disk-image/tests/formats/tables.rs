//! What it costs to read the tables of large images, which lie all over the file: requests, how many of them wait for each
//! other, bytes held, bytes read twice.

use std::{collections::BTreeMap, fs::File};

use crate::support::qemu_img;
use disk_image::{
    ByteRange, Error, Extent, Format, Layout, Limits, Regions,
    drive::{MAX_OPEN_BYTES, ReadAt, drive},
    inspect,
};
use disk_image_fixtures::Scattered;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// What a walk cost.
#[derive(Debug, Default)]
struct Cost {
    /// Questions; the requests of one need not wait for each other.
    depth: u64,
    requests: u64,
    bytes: u64,
    /// Most bytes of one question.
    most: u64,
    /// Bytes that were asked for before.
    twice: u64,
    extents: u64,
}

fn walked(mut file: impl ReadAt, format: Format) -> Cost {
    let mut regions = Regions::new(file.size());
    drive(&mut file, &mut regions, |r| inspect(r, Some(format))).unwrap();
    let limits = Limits::default();
    let layout = drive(&mut file, &mut regions, |r| Layout::open(r, format, &limits)).unwrap();
    let (mut cost, mut seen) = (Cost::default(), Seen::default());
    let (mut walker, mut regions, mut at) = (layout.walk(), Regions::new(file.size()), 0);
    loop {
        match walker.next(&regions) {
            Ok(None) => break,
            Ok(Some(Extent { start, len, .. })) => {
                assert_eq!(start, at);
                at += len;
                cost.extents += 1;
            }
            Err(Error::Need(ranges)) => {
                regions.clear();
                cost.depth += 1;
                cost.requests += ranges.len() as u64;
                for range in ranges {
                    regions.insert(range.start, file.read_range(range).unwrap());
                    cost.twice += seen.again(range);
                }
                cost.bytes += regions.held() as u64;
                cost.most = cost.most.max(regions.held() as u64);
            }
            Err(Error::Refused(refusal)) => panic!("{refusal}"),
        }
    }
    assert_eq!(at, layout.virtual_size());
    assert!(cost.most <= MAX_OPEN_BYTES as u64);
    assert_eq!(cost.twice, 0);
    cost
}

/// What was read, as runs: start and end.
#[derive(Debug, Default)]
struct Seen(BTreeMap<u64, u64>);

impl Seen {
    /// Adds it; how much of it was there.
    fn again(&mut self, ByteRange { mut start, mut end }: ByteRange) -> u64 {
        let mut again = 0;
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            again += to.min(end) - from.max(start);
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
        again
    }
}

#[test]
fn scattered_l2_tables_of_a_tebibyte() {
    let cost = walked(&Scattered::qcow2(TIB, 16), Format::Qcow2);
    // 2048 tables, 64 at once; the refcount table, the L1 table.
    assert_eq!((cost.requests, cost.extents, cost.depth), (2050, 2048, 34));
}

#[test]
fn scattered_l2_tables_of_other_clusters() {
    // Clusters of 4 KiB and 16 KiB, and those where an L2 table takes more than a step: 128 KiB, 2 MiB.
    for (disk, bits, requests, depth) in
        [(TIB / 16, 12, 32_770, 34), (TIB, 14, 32_770, 130), (TIB, 17, 514, 18), (TIB, 21, 5, 4)]
    {
        let cost = walked(&Scattered::qcow2(disk, bits), Format::Qcow2);
        assert_eq!((cost.requests, cost.depth), (requests, depth), "{bits}: {cost:?}");
    }
}

#[test]
fn scattered_grain_tables_of_a_stream() {
    let cost = walked(&Scattered::stream_optimized(500 * GIB), Format::Vmdk);
    // 16000 tables, 1024 at once; the directory, and of each window its last grain's marker.
    assert_eq!((cost.requests, cost.depth, cost.extents), (16_017, 33, 500 * 16_384));
}

/// One table, in reads of megabytes.
#[test]
fn block_maps_of_a_tebibyte() {
    let dir = tempfile::tempdir().unwrap();
    for (format, qemu, options, most) in [
        (Format::Vhd, "vpc", "subformat=dynamic", 1),
        (Format::Vhdx, "vhdx", "block_size=1M", 3),
        (Format::Vdi, "vdi", "static=off", 1),
    ] {
        let image = dir.path().join("image");
        qemu_img(&["create", "-q", "-f", qemu, "-o", options, image.to_str().unwrap(), "1T"]);
        let cost = walked(File::open(&image).unwrap(), format);
        assert_eq!((cost.requests, cost.depth), (most, most), "{qemu}: {cost:?}");
    }
}
