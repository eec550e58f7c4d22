//! qcow2 images: each field that can lie, lying.

use disk_image::{ByteRange, Code, Format};

use crate::{Hostile, Sound, Sparse};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

// Header fields (QEMU `docs/interop/qcow2`).
const VERSION: u64 = 4;
const BACKING_OFFSET: u64 = 8;
const BACKING_SIZE: u64 = 16;
const CLUSTER_BITS: u64 = 20;
const SIZE: u64 = 24;
const CRYPT: u64 = 32;
const L1_SIZE: u64 = 36;
const L1_OFFSET: u64 = 40;
const REFCOUNT_OFFSET: u64 = 48;
const REFCOUNT_CLUSTERS: u64 = 56;
const SNAPSHOTS: u64 = 60;
const SNAPSHOTS_OFFSET: u64 = 64;
const INCOMPATIBLE: u64 = 72;
const REFCOUNT_ORDER: u64 = 96;
const HEADER_LENGTH: u64 = 100;
const COMPRESSION: u64 = 104;
const EXTENSIONS: u64 = 112;

/// Offset of each structure in clusters of `1 << bits` bytes.
#[derive(Clone, Copy)]
struct Place {
    bits: u32,
}

impl Place {
    const fn cluster(self, n: u64) -> u64 {
        n << self.bits
    }
    const fn refcount_table(self) -> u64 {
        self.cluster(1)
    }
    const fn refcount_block(self) -> u64 {
        self.cluster(2)
    }
    const fn l1(self) -> u64 {
        self.cluster(3)
    }
    /// Two L2 tables, of the first and the second half of the disk.
    const fn l2(self, n: u64) -> u64 {
        self.cluster(4 + n)
    }
    /// Three clusters of data.
    const fn data(self, n: u64) -> u64 {
        self.cluster(6 + n)
    }
    const fn compressed(self) -> u64 {
        self.cluster(9)
    }
}

const SMALL: Place = Place { bits: 9 };
const LARGE: Place = Place { bits: 14 };

fn base(place: Place, version: u32, entry: u64, payload: &[u8]) -> Sparse {
    let cluster = place.cluster(1);
    let per_table = cluster / entry;
    Sparse::zeros(place.cluster(10))
        .with(0, b"QFI\xfb")
        .be32(VERSION, version)
        .be32(CLUSTER_BITS, place.bits)
        .be64(SIZE, 2 * per_table * cluster)
        .be32(L1_SIZE, 2)
        .be64(L1_OFFSET, place.l1())
        .be64(REFCOUNT_OFFSET, place.refcount_table())
        .be32(REFCOUNT_CLUSTERS, 1)
        .be64(place.refcount_table(), place.refcount_block())
        .be64(place.l1(), place.l2(0) | COPIED)
        .be64(place.l1() + 8, place.l2(1) | COPIED)
        .be64(place.l2(0), place.data(0) | COPIED)
        .be64(place.l2(0) + entry, place.data(1) | COPIED)
        .be64(place.l2(0) + 2 * entry, place.compressed() | COMPRESSED)
        .be64(place.l2(1), place.data(2) | COPIED)
        .with(place.data(0), &[1; 512])
        .with(place.data(1), &[2; 512])
        .with(place.data(2), &[3; 512])
        .with(place.compressed(), payload)
}

fn deflated(len: usize) -> Vec<u8> {
    let mut out = vec![0; 4096];
    let mut codec = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let n = codec.deflate_compress(&vec![b'A'; len], &mut out).unwrap_or_default();
    out.truncate(n);
    out
}

fn zstandard(len: usize) -> Vec<u8> {
    zstd::bulk::compress(&vec![b'B'; len], 3).unwrap_or_default()
}

/// A disk of at most 512 MiB, all stored; sound to `qemu-img check` too.
pub(crate) fn image_of(disk: &[u8]) -> Sparse {
    let place = Place { bits: 16 };
    let clusters = (disk.len() as u64).div_ceil(place.cluster(1));
    // Header, refcount table and block, L1 and L2 table, data.
    let used = 5 + clusters;
    let file = Sparse::zeros(place.cluster(used))
        .with(0, b"QFI\xfb")
        .be32(VERSION, 3)
        .be32(CLUSTER_BITS, place.bits)
        .be64(SIZE, disk.len() as u64)
        .be32(L1_SIZE, 1)
        .be64(L1_OFFSET, place.l1())
        .be64(REFCOUNT_OFFSET, place.refcount_table())
        .be32(REFCOUNT_CLUSTERS, 1)
        .be32(REFCOUNT_ORDER, 4)
        .be32(HEADER_LENGTH, 112)
        .be64(place.refcount_table(), place.refcount_block())
        .be64(place.l1(), place.l2(0) | COPIED);
    let file = (0..used).fold(file, |file, n| file.be16(place.refcount_block() + 2 * n, 1));
    // The disk's end is not the file's, so that what it ends with says nothing of the image.
    (0..clusters).zip(disk.chunks(64 << 10)).fold(file, |file, (n, data)| {
        let at = place.cluster(used - 1 - n);
        file.be64(place.l2(0) + 8 * n, at | COPIED).with(at, data)
    })
}

/// The head of an image that names `name` as its backing file.
pub(crate) fn backed_by(name: &str) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let file =
        image_of(&[0; 512]).be64(BACKING_OFFSET, 512).be32(BACKING_SIZE, len).with(512, name.as_bytes());
    file.read(ByteRange { start: 0, end: file.len() })
}

/// The head of an image whose data is in the file `name`.
pub(crate) fn data_in(name: &str) -> Vec<u8> {
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let file = image_of(&[0; 512])
        .be64(INCOMPATIBLE, 1 << 2)
        .be32(EXTENSIONS, 0x4441_5441)
        .be32(EXTENSIONS + 4, len)
        .with(EXTENSIONS + 8, name.as_bytes());
    file.read(ByteRange { start: 0, end: file.len() })
}

fn v2() -> Sparse {
    base(SMALL, 2, 8, &deflated(512))
}

/// Version 3, clusters of 512 bytes, zlib.
pub(crate) fn v3() -> Sparse {
    base(SMALL, 3, 8, &deflated(512)).be32(REFCOUNT_ORDER, 4).be32(HEADER_LENGTH, 112)
}

/// Version 3, clusters of 16 KiB, zstd, extended L2 entries.
fn extended() -> Sparse {
    base(LARGE, 3, 16, &zstandard(16 << 10))
        .be32(REFCOUNT_ORDER, 4)
        .be32(HEADER_LENGTH, 112)
        .be64(INCOMPATIBLE, 1 << 3 | 1 << 4)
        .with(COMPRESSION, &[1])
        .be64(LARGE.l2(0) + 8, 0xffff_ffff)
        .be64(LARGE.l2(0) + 24, 0x0000_00f0_0000_000f)
        .be64(LARGE.l2(1) + 8, 0xffff_fffe_0000_0001)
}

pub(crate) fn sound() -> Vec<Sound> {
    [("qcow2-v2", v2()), ("qcow2-v3", v3()), ("qcow2-extended-zstd", extended())]
        .map(|(name, file)| Sound { name, format: Format::Qcow2, file })
        .to_vec()
}

pub(crate) fn hostile() -> Vec<Hostile> {
    [other_files(), features(), header(), places(), map(), compressed(), subclusters()]
        .concat()
        .into_iter()
        .map(|(name, file, code)| Hostile::new(format!("qcow2-{name}"), Format::Qcow2, file, code))
        .collect()
}

type Case = (&'static str, Sparse, Code);

fn other_files() -> Vec<Case> {
    let backing = |name: &str| {
        let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        v3().be64(BACKING_OFFSET, 256).be32(BACKING_SIZE, len).with(256, name.as_bytes())
    };
    let extension = |kind: u32, text: &[u8]| {
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        v3().be32(EXTENSIONS, kind).be32(EXTENSIONS + 4, len).with(EXTENSIONS + 8, text)
    };
    // Empty extensions of an unknown kind up to the end of a cluster of 2 MiB.
    let endless = base(Place { bits: 21 }, 3, 8, &deflated(2 << 20))
        .be32(REFCOUNT_ORDER, 4)
        .be32(HEADER_LENGTH, 112)
        .with(EXTENSIONS, &[0, 0, 0, 1, 0, 0, 0, 0].repeat(262_130));
    let json = r#"json:{"driver":"file","filename":"/etc/shadow"}"#;
    vec![
        ("backing-file", backing("base.qcow2"), Code::BackingFile),
        ("backing-file-absolute", backing("/etc/passwd"), Code::BackingFile),
        ("backing-file-json", backing(json), Code::UnsafeName),
        ("backing-file-nbd", backing("nbd://10.0.0.1:10809/x"), Code::UnsafeName),
        ("backing-file-fd", backing("fd:3"), Code::UnsafeName),
        ("backing-file-empty-name", v3().be64(BACKING_OFFSET, 256), Code::BackingFile),
        ("backing-file-outside", v3().be64(BACKING_OFFSET, 1 << 40).be32(BACKING_SIZE, 9), Code::BackingFile),
        (
            "backing-file-overflow",
            v3().be64(BACKING_OFFSET, u64::MAX).be32(BACKING_SIZE, 9),
            Code::BackingFile,
        ),
        (
            "backing-file-v2",
            v2().be64(BACKING_OFFSET, 256).be32(BACKING_SIZE, 3).with(256, b"abc"),
            Code::BackingFile,
        ),
        ("backing-format", extension(0xe279_2aca, b"raw"), Code::BackingFile),
        ("data-file-bit", v3().be64(INCOMPATIBLE, 1 << 2), Code::ExternalData),
        ("data-file-name", extension(0x4441_5441, b"/etc/passwd"), Code::ExternalData),
        (
            "data-file-name-v2",
            v2().be32(72, 0x4441_5441).be32(76, 11).with(80, b"/etc/passwd"),
            Code::ExternalData,
        ),
        ("encryption-header", extension(0x0537_be77, &[0; 16]), Code::Encrypted),
        ("aes", v3().be32(CRYPT, 1), Code::Encrypted),
        ("luks", v3().be32(CRYPT, 2), Code::Encrypted),
        ("unknown-encryption", v3().be32(CRYPT, u32::MAX), Code::Encrypted),
        ("extension-overlong", v3().be32(EXTENSIONS, 1).be32(EXTENSIONS + 4, 500), Code::BadHeader),
        ("extension-of-4-gib", v3().be32(EXTENSIONS, 1).be32(EXTENSIONS + 4, u32::MAX), Code::BadHeader),
        ("extensions-without-end", endless, Code::TableTooLarge),
        (
            "extension-twice",
            v3().be32(EXTENSIONS, 0x6803_f857).be32(EXTENSIONS + 8, 0x6803_f857),
            Code::BadHeader,
        ),
    ]
}

fn features() -> Vec<Case> {
    vec![
        ("dirty", v3().be64(INCOMPATIBLE, 1), Code::Corrupt),
        ("corrupt", v3().be64(INCOMPATIBLE, 1 << 1), Code::Corrupt),
        ("unknown-feature", v3().be64(INCOMPATIBLE, 1 << 5), Code::UnsupportedFeature),
        ("unknown-feature-63", v3().be64(INCOMPATIBLE, 1 << 63), Code::UnsupportedFeature),
        ("compression-bit-alone", v3().be64(INCOMPATIBLE, 1 << 3), Code::BadHeader),
        ("compression-type-alone", v3().with(COMPRESSION, &[1]), Code::BadHeader),
        (
            "compression-short-header",
            v3().be64(INCOMPATIBLE, 1 << 3).be32(HEADER_LENGTH, 104),
            Code::BadHeader,
        ),
        (
            "compression-type-2",
            v3().be64(INCOMPATIBLE, 1 << 3).with(COMPRESSION, &[2]),
            Code::UnsupportedFeature,
        ),
        ("extended-l2-small-cluster", v3().be64(INCOMPATIBLE, 1 << 4), Code::BadHeader),
        ("refcount-order-7", v3().be32(REFCOUNT_ORDER, 7), Code::BadHeader),
        ("header-length-0", v3().be32(HEADER_LENGTH, 0), Code::BadHeader),
        ("header-length-96", v3().be32(HEADER_LENGTH, 96), Code::BadHeader),
        ("header-length-109", v3().be32(HEADER_LENGTH, 109), Code::BadHeader),
        ("header-length-4-gib", v3().be32(HEADER_LENGTH, 0xffff_fff8), Code::BadHeader),
    ]
}

fn header() -> Vec<Case> {
    // 1.5 MB that claim 64 TiB: 2 MiB clusters need an L1 table of 128 entries only.
    let huge = Sparse::zeros(1_500_000)
        .with(0, &v3().read(ByteRange { start: 0, end: 512 }))
        .be32(CLUSTER_BITS, 16)
        .be64(SIZE, 64 << 40)
        .be32(L1_SIZE, 131_072)
        .be64(L1_OFFSET, 3 << 16)
        .be64(REFCOUNT_OFFSET, 1 << 16);
    vec![
        ("cluster-bits-0", v3().be32(CLUSTER_BITS, 0), Code::BadHeader),
        ("cluster-bits-8", v3().be32(CLUSTER_BITS, 8), Code::BadHeader),
        ("cluster-bits-22", v3().be32(CLUSTER_BITS, 22), Code::BadHeader),
        ("cluster-bits-64", v3().be32(CLUSTER_BITS, 64), Code::BadHeader),
        ("cluster-bits-max", v3().be32(CLUSTER_BITS, u32::MAX), Code::BadHeader),
        ("no-size", v3().be64(SIZE, 0), Code::BadHeader),
        ("odd-size", v3().be64(SIZE, 65_535), Code::BadHeader),
        ("size-max", v3().be64(SIZE, u64::MAX), Code::TooLarge),
        ("size-2-63", v3().be64(SIZE, 1 << 63), Code::TooLarge),
        ("64-tib-in-1.5-mb", huge, Code::TooLarge),
        ("l1-too-short", v3().be32(L1_SIZE, 1), Code::BadHeader),
        ("l1-empty", v3().be32(L1_SIZE, 0), Code::BadHeader),
        ("l1-of-32-gib", v3().be32(L1_SIZE, u32::MAX), Code::TableTooLarge),
        ("l1-needed-too-large", v3().be64(SIZE, 1 << 40).be32(L1_SIZE, 1 << 22), Code::TableTooLarge),
        ("refcount-table-empty", v3().be32(REFCOUNT_CLUSTERS, 0), Code::BadHeader),
        ("refcount-table-of-2-tib", v3().be32(REFCOUNT_CLUSTERS, u32::MAX), Code::TableTooLarge),
        ("snapshots-65537", v3().be32(SNAPSHOTS, 65_537), Code::TableTooLarge),
        ("cut-in-header", v3().cut(60), Code::OutOfBounds),
        ("cut-in-header-v3", v3().cut(90), Code::OutOfBounds),
        ("cut-behind-header", v3().cut(512), Code::OutOfBounds),
    ]
}

fn places() -> Vec<Case> {
    let p = SMALL;
    vec![
        ("l1-at-0", v3().be64(L1_OFFSET, 0), Code::BadTable),
        ("l1-unaligned", v3().be64(L1_OFFSET, p.l1() + 8), Code::BadTable),
        ("l1-outside", v3().be64(L1_OFFSET, p.cluster(10)), Code::OutOfBounds),
        ("l1-overflow", v3().be64(L1_OFFSET, u64::MAX - 511), Code::OutOfBounds),
        // Its second cluster is the first L2 table.
        ("l1-behind-the-disks-end-over-l2", v3().be32(L1_SIZE, 65), Code::BadTable),
        ("l1-cut", v3().be32(L1_SIZE, 1000), Code::OutOfBounds),
        ("l1-is-refcount-table", v3().be64(L1_OFFSET, p.refcount_table()), Code::BadTable),
        ("refcount-table-at-0", v3().be64(REFCOUNT_OFFSET, 0), Code::BadTable),
        ("refcount-table-unaligned", v3().be64(REFCOUNT_OFFSET, 513), Code::BadTable),
        ("refcount-table-outside", v3().be64(REFCOUNT_OFFSET, 1 << 50), Code::OutOfBounds),
        ("refcount-table-overflow", v3().be64(REFCOUNT_OFFSET, u64::MAX - 511), Code::OutOfBounds),
        ("refcount-table-cut", v3().be32(REFCOUNT_CLUSTERS, 100), Code::OutOfBounds),
        ("refcount-table-over-data", v3().be32(REFCOUNT_CLUSTERS, 9), Code::BadTable),
        ("refcount-block-unaligned", v3().be64(p.refcount_table(), p.refcount_block() + 1), Code::BadTable),
        ("refcount-block-outside", v3().be64(p.refcount_table(), 1 << 40), Code::OutOfBounds),
        ("refcount-block-is-table", v3().be64(p.refcount_table(), p.refcount_table()), Code::BadTable),
        ("refcount-block-twice", v3().be64(p.refcount_table() + 8, p.refcount_block()), Code::BadTable),
        ("refcount-block-is-data", v3().be64(p.refcount_table(), p.data(2)), Code::BadTable),
        (
            "snapshot-table-outside",
            v3().be32(SNAPSHOTS, 1).be64(SNAPSHOTS_OFFSET, 1 << 40),
            Code::OutOfBounds,
        ),
        ("snapshot-table-unaligned", v3().be32(SNAPSHOTS, 1).be64(SNAPSHOTS_OFFSET, 77), Code::BadTable),
    ]
}

fn map() -> Vec<Case> {
    let p = SMALL;
    let l1 = |entry: u64| v3().be64(p.l1(), entry);
    let l2 = |entry: u64| v3().be64(p.l2(0), entry);
    // A disk that ends behind the first cluster of the second table; the table's next entry.
    let behind = |entry: u64| v3().be64(SIZE, 65 * 512).be64(p.l2(1) + 8, entry);
    vec![
        ("l1-entry-reserved-low", l1(p.l2(0) | 1), Code::BadTable),
        ("l1-entry-reserved-high", l1(p.l2(0) | 1 << 60), Code::BadTable),
        ("l1-entry-copied-of-no-table", l1(COPIED), Code::BadTable),
        ("l1-entry-reserved-of-no-table", l1(1 << 60), Code::BadTable),
        ("l1-entry-outside", l1(1 << 45 | COPIED), Code::OutOfBounds),
        (
            "l1-entry-last-cluster-cut",
            l1(p.compressed() | COPIED).cut(p.compressed() + 400),
            Code::OutOfBounds,
        ),
        ("l1-entry-is-l1", l1(p.l1() | COPIED), Code::BadTable),
        ("l1-entry-is-refcount-table", l1(p.refcount_table() | COPIED), Code::BadTable),
        ("l1-entry-twice", l1(p.l2(1) | COPIED), Code::BadTable),
        ("l2-entry-reserved-low", l2(p.data(0) | 1 << 4), Code::BadTable),
        ("l2-entry-reserved-high", l2(p.data(0) | 1 << 58), Code::BadTable),
        ("l2-entry-copied-of-no-cluster", l2(COPIED), Code::BadTable),
        ("l2-entry-copied-zero-of-no-cluster", l2(COPIED | 1), Code::BadTable),
        ("l2-entry-copied-of-no-cluster-v2", v2().be64(p.l2(0), COPIED), Code::BadTable),
        ("l2-entry-behind-the-end-reserved", behind(1 << 58), Code::BadTable),
        ("l2-entry-behind-the-end-copied", behind(COPIED), Code::BadTable),
        ("l2-entry-behind-the-end-twice", behind(p.data(0) | COPIED), Code::BadTable),
        ("l2-entry-behind-the-end-is-l2", behind(p.l2(1) | COPIED), Code::BadTable),
        ("l2-entry-zero-flag-v2", v2().be64(p.l2(0), p.data(0) | 1), Code::BadTable),
        ("l2-entry-outside", l2(1 << 50 | COPIED), Code::Truncated),
        ("l2-entry-at-end", l2(p.cluster(10) | COPIED), Code::Truncated),
        ("l2-entry-is-l1", l2(p.l1() | COPIED), Code::BadTable),
        ("l2-entry-is-l2", l2(p.l2(0) | COPIED), Code::BadTable),
        ("l2-entry-is-refcount-block", l2(p.refcount_block() | COPIED), Code::BadTable),
        ("l2-entry-twice", l2(p.data(1) | COPIED), Code::BadTable),
        ("l2-entry-twice-in-another-table", v3().be64(p.l2(1), p.data(0) | COPIED), Code::BadTable),
        ("l2-entry-zero-and-data-twice", l2(p.data(1) | 1), Code::BadTable),
        ("data-cut", v3().cut(p.data(2) + 511), Code::Truncated),
        ("l2-cut", l1(0).cut(p.l2(1) + 1), Code::OutOfBounds),
        ("l2-unaligned", extended().be64(LARGE.l1(), LARGE.l2(0) + 512), Code::BadTable),
        ("data-unaligned", extended().be64(LARGE.l2(0), LARGE.data(0) + 512), Code::BadTable),
    ]
}

fn compressed() -> Vec<Case> {
    let p = SMALL;
    let at = p.l2(0) + 16;
    let payload = |bytes: &[u8]| v3().with(p.compressed(), &[0; 512]).with(p.compressed(), bytes);
    let zstd = |bytes: &[u8]| {
        let at = LARGE.compressed();
        extended().with(at, &[0; 512]).with(at, bytes)
    };
    let cut = zstandard(16 << 10);
    // Frame header of RFC 8878, 3.1.1: no single segment, window descriptor of exponent 31: 2 TiB.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
    // The same cluster for the whole disk: 60 bytes that would decode without end.
    let repeated = (0..64).fold(v3(), |file, n| file.be64(p.l2(0) + n * 8, p.compressed() | COMPRESSED));
    let again = p.compressed() | COMPRESSED | 1 << 61;
    vec![
        ("compressed-outside", v3().be64(at, 1 << 45 | COMPRESSED), Code::Truncated),
        ("compressed-beyond-2-56", v3().be64(at, 1 << 57 | COMPRESSED), Code::BadTable),
        ("compressed-copied", v3().be64(at, p.compressed() | COMPRESSED | COPIED), Code::BadTable),
        ("compressed-length-past-end", v3().be64(at, again).cut(p.compressed() + 500), Code::Truncated),
        ("compressed-over-l2", v3().be64(at, (p.l2(0) - 100) | COMPRESSED | 1 << 61), Code::BadData),
        ("compressed-repeated", repeated, Code::BadTable),
        ("deflate-garbage", payload(&[0xff; 512]), Code::BadData),
        ("deflate-nothing", payload(&[]), Code::BadData),
        ("deflate-short", payload(&deflated(511)), Code::BadData),
        ("deflate-long", payload(&deflated(513)), Code::BadData),
        ("deflate-bomb", payload(&deflated(400_000)), Code::BadData),
        ("zstd-garbage", zstd(&[0xee; 512]), Code::BadData),
        ("zstd-nothing", zstd(&[]), Code::BadData),
        ("zstd-short", zstd(&zstandard(16_383)), Code::BadData),
        ("zstd-long", zstd(&zstandard(16_385)), Code::BadData),
        ("zstd-bomb", zstd(&zstandard(8 << 20)), Code::BadData),
        ("zstd-cut", zstd(&cut[..cut.len() / 2]), Code::BadData),
        ("zstd-window-of-2-tib", zstd(&window), Code::BadData),
    ]
}

fn subclusters() -> Vec<Case> {
    let p = LARGE;
    vec![
        ("subcluster-allocated-and-zero", extended().be64(p.l2(0) + 8, 1 << 32 | 1), Code::BadTable),
        ("subcluster-without-cluster", extended().be64(p.l2(0), 0), Code::BadTable),
        ("subcluster-of-compressed", extended().be64(p.l2(0) + 40, 1), Code::BadTable),
        ("subcluster-of-compressed-zero", extended().be64(p.l2(0) + 40, 1 << 32), Code::BadTable),
        ("subcluster-of-nothing-copied", extended().be64(p.l2(0) + 48, COPIED), Code::BadTable),
        ("subcluster-zero-flag", extended().be64(p.l2(0), p.data(0) | COPIED | 1), Code::BadTable),
        ("subcluster-cut", extended().cut(p.data(2) + 511), Code::Truncated),
    ]
}
