//! Streams around a disk, and kernels and ramdisks that are streams.

use std::io::Write as _;

use disk_image_fixtures::streams;

use super::{Input, NOTHING, Said, TO_RAW, disk, from, kept, program, refused, stored};
use crate::disks::qcow2;
use crate::import::{gzip, xz, zstd};

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Frames that are to be skipped, of zstd and lz4 alike.
fn skipped(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [&b"\x50\x2a\x4d\x18"[..], &len, bytes].concat()
}

/// A stream that is unpacked: its name, what packs it, what unpacks it, and whether anything may follow.
type Stream = (&'static str, fn(&[u8]) -> Vec<u8>, &'static str, bool);
const STREAMS: [Stream; 5] = [
    ("gzip", gzip, "gzip -dc", true),
    ("xz", xz, "xz -dc", false),
    ("zstd", zstd, "zstd -dc", false),
    ("bzip2", bzip2, "bzip2 -dc", true),
    ("lz4", lz4, "lz4 -dc", false),
];

pub(super) fn inputs() -> Vec<Input> {
    let (disk, image) = (disk(), qcow2(4096, &vec![(1000, vec![7; 2000])]));
    let mut all = Vec::new();
    for (name, pack, unpack, takes_all) in STREAMS {
        let packed = pack(&disk);
        if let Some(oracle) = program(unpack, &packed) {
            assert!(oracle == disk, "{unpack} unpacks something else");
        }
        let raw = |file: String, bytes: Vec<u8>, said| stored(file, bytes, said, ("raw", disk.clone()));
        all.push(refused(format!("{name} of a raw disk"), packed.clone(), NOTHING, "UnknownFormat"));
        all.push(raw(format!("{name} of a raw disk"), packed.clone(), from("raw")));
        all.push(raw(format!("{name} of a raw disk"), packed.clone(), TO_RAW));
        all.push(stored(format!("{name} of a qcow2"), pack(&image), NOTHING, ("qcow2", image.clone())));
        let two = [pack(&disk[..100_000]), pack(&disk[100_000..])].concat();
        all.push(raw(format!("{name} of two members"), two, from("raw")));
        let zeros = [&packed[..], &vec![0; 4096 - packed.len() % 512]].concat();
        all.push(raw(format!("{name}, zeros behind it"), zeros, from("raw")));
        let trailer = [&packed[..], b"{\"a\": 1}FWx0"].concat();
        let file = format!("{name}, other bytes behind it");
        all.push(match takes_all {
            true => raw(file, trailer, from("raw")),
            false => refused(file, trailer, from("raw"), "BadData"),
        });
        let cut = packed[..packed.len() - 9].to_vec();
        all.push(refused(format!("{name} without its end"), cut, from("raw"), "BadData"));
        all.push(refused(format!("{name} of {name}"), pack(&packed), from("raw"), "UnsupportedFormat"));
        all.push(refused(format!("{name} of a raw disk"), packed, from("vmdk"), "FormatMismatch"));
    }
    for (name, pack) in [("zstd", zstd as fn(&[u8]) -> Vec<u8>), ("lz4", lz4)] {
        let frames =
            [skipped(b"told"), pack(&disk[..9000]), skipped(b""), pack(&disk[9000..]), skipped(b"end")];
        let raw = ("raw", disk.clone());
        all.push(stored(format!("{name} with frames to be skipped"), frames.concat(), from("raw"), raw));
    }
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(&disk).unwrap();
    let long = encoder.finish().unwrap();
    all.push(refused("zstd with a window of 256 MiB", long, from("raw"), "BadData"));
    let mut last = "";
    for packed in streams::PACKED {
        // One of each name is enough for a page.
        if packed.name != last {
            let file = [packed.begins, &[7; 4000]].concat();
            all.push(refused(packed.name, file.clone(), from("raw"), "UnsupportedFormat"));
            all.push(refused(packed.name, file, TO_RAW, "UnsupportedFormat"));
        }
        last = packed.name;
    }
    all
}

pub(super) fn boot_files() -> Vec<Input> {
    let cpio = [&b"070701"[..], &disk()[70_000..80_000]].concat();
    let appended = [&gzip(&cpio)[..], &[0; 515], b"070701", &[b'0'; 300], &gzip(&[5; 600])].concat();
    let kernel = [&b"MZ"[..], &[0; 508], b"\x55\xaa", b"HdrS", &disk()[70_000..75_000]].concat();
    let mut all = vec![
        kept("a kernel with a boot record", &kernel, from("aki"), "aki"),
        kept("a cpio", &cpio, from("ari"), "ari"),
        kept("a cpio in gzip with firmware appended", &appended, from("ari"), "ari"),
        kept(
            "a cpio in gzip with firmware appended",
            &appended,
            Said { disk: Some("ari"), ..NOTHING },
            "ari",
        ),
        kept("a cpio in gzip twice", &gzip(&gzip(&cpio)), from("ari"), "ari"),
    ];
    for (name, pack, ..) in STREAMS {
        all.push(kept(format!("a cpio in {name}"), &pack(&cpio), from("ari"), "ari"));
        all.push(kept(
            format!("a kernel in {name}"),
            &pack(&kernel),
            Said { disk: Some("aki"), ..NOTHING },
            "aki",
        ));
    }
    let legacy = [&b"\x02\x21\x4c\x18"[..], &[9; 100]].concat();
    all.push(kept("a cpio in legacy frames of lz4", &legacy, from("ari"), "ari"));
    all.push(refused("a qcow2", qcow2(4096, &vec![(1000, vec![7; 2000])]), from("ari"), "FormatMismatch"));
    all
}
