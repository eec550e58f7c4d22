//! Streams and archives around a disk: unpacked as their own tools do, or refused by name with what to do.

use std::io::Write as _;

use disk_image::ByteRange;
use disk_image_fixtures::streams;
use image_tasks_domain::TaskStatus;
use md5::Digest as _;
use serde_json::{Value, json};

use crate::import::{gzip, xz, zstd};
use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern};

/// As each of these a stream's disk may be asked for.
fn ways() -> [Value; 3] {
    [
        json!({"import_from_format": "raw"}),
        json!({"image_properties": {"disk_format": "raw"}}),
        json!({"import_from_format": "raw", "image_properties": {"disk_format": "raw"}}),
    ]
}

async fn run(source: &[u8], ranges: bool, input: &Value) -> World {
    let script = Script { ranges, ..Script::of(source.to_vec()) };
    let world = World::new(script, input.clone(), CUT).await;
    world.run().await;
    world
}

async fn becomes(source: &[u8], disk: &[u8], context: &str) {
    for mut input in ways() {
        for ranges in [true, false] {
            // Of every byte that came, those behind the stream too.
            input["checksum"] = json!(hex(&md5::Md5::digest(source)));
            let world = run(source, ranges, &input).await;
            let status = world.check_ended(disk, context).await;
            assert_eq!(status, TaskStatus::Success, "{context}: {}", world.task().await.message);
        }
    }
}

/// Refused whatever is said of it, with all of these words.
async fn refused(source: &[u8], inputs: &[Value], code: &str, words: &[&str]) {
    for input in inputs {
        for ranges in [true, false] {
            let world = run(source, ranges, input).await;
            assert_eq!(world.check_ended(&[], code).await, TaskStatus::Failure, "{words:?}");
            let told = world.task().await.message;
            let all = told.starts_with(&format!("{code}: ")) && words.iter().all(|word| told.contains(word));
            assert!(all, "{words:?}: {told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_stream_is_left_out() {
    let disk = pattern(9000);
    // The trailer of a firmware image, and what block devices are filled up with.
    let trailer = [&br#"{"metadata_version":"1.1"}FWx0"#[..], &[0, 1, 2, 3, 0, 0, 0, 1, 0, 0, 0, 0]].concat();
    becomes(&[gzip(&disk), trailer.clone()].concat(), &disk, "gzip with a trailer").await;
    let members = [gzip(&disk[..4000]), gzip(&disk[4000..])].concat();
    becomes(&[members, vec![0; 70], trailer].concat(), &disk, "gzip of two members, zeros, a trailer").await;
    for (name, packed) in [("gzip", gzip(&disk)), ("xz", xz(&disk)), ("zstd", zstd(&disk))] {
        let padded = [&packed[..], &vec![0; 4096 - packed.len() % 512]].concat();
        becomes(&padded, &disk, &format!("{name} with zeros")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn frames_of_all_kinds_are_one_stream() {
    let disk = pattern(9000);
    // As pzstd has it: in front of each frame one that tells its length.
    let framed = |disk: &[u8]| {
        let frame = zstd(disk);
        let len = u32::try_from(frame.len()).unwrap().to_le_bytes();
        [&b"\x50\x2a\x4d\x18\x04\0\0\0"[..], &len, &frame].concat()
    };
    becomes(&[framed(&disk[..4000]), framed(&disk[4000..])].concat(), &disk, "pzstd").await;
    let seekable = [&zstd(&disk)[..], b"\x5e\x2a\x4d\x18\x04\0\0\0seek"].concat();
    becomes(&seekable, &disk, "seekable").await;
}

#[tokio::test(start_paused = true)]
async fn limits_are_named() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(&pattern(9000)).unwrap();
    let long = encoder.finish().unwrap();
    refused(&long, &ways(), "BadData", &["zstd", "window", "128 MiB", "--long=27 or less"]).await;

    let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    options.dict_size(256 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(&pattern(9000)).unwrap();
    let large = encoder.finish().unwrap();
    refused(&large, &ways(), "BadData", &["xz", "dictionary", "128 MiB", "xz -9 or less"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_unpacked_is_named_and_never_stored_as_a_disk() {
    let mut inputs = ways().to_vec();
    inputs.extend([json!({}), json!({"import_from_format": "qcow2"})]);
    for packed in streams::PACKED {
        let mut source = pattern(5000);
        source[..packed.begins.len()].copy_from_slice(packed.begins);
        let is = format!("the file is {}, which is not unpacked", packed.name);
        let unpack = format!("unpack it ({})", packed.by);
        let words = [is.as_str(), unpack.as_str()];
        refused(&source, &inputs, "UnsupportedFormat", &words).await;
        // What a stream holds is looked at like what comes by itself.
        refused(&gzip(&source), &inputs[..1], "UnsupportedFormat", &words).await;
    }
}

/// Of the program itself, where there is one.
#[tokio::test(start_paused = true)]
async fn what_a_program_packs_is_known_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::write(&disk, pattern(300_000)).unwrap();
    for (program, arguments, name) in [
        ("xz", &["--format=lzma", "-c"][..], "LZMA"),
        ("lz4", &["-l", "-c"], "LZ4 (legacy frames)"),
        ("lzop", &["-c"], "LZO"),
        ("lzip", &["-c"], "lzip"),
        ("compress", &["-c"], "compress (.Z)"),
    ] {
        let Ok(output) = std::process::Command::new(program).args(arguments).arg(&disk).output() else {
            continue;
        };
        assert!(output.status.success(), "{program}");
        let told = format!("the file is {name}, which is not unpacked");
        refused(&output.stdout, &ways()[..1], "UnsupportedFormat", &[&told]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tar_is_a_tar_in_any_dialect() {
    let disk = pattern(5000);
    let untar = "take the disk out of it (tar -xf)";
    for (name, tar) in streams::tars(&disk) {
        let tar = tar.read(ByteRange { start: 0, end: tar.len() });
        for source in [tar.clone(), gzip(&tar)] {
            let declared = [ways()[0].clone(), ways()[2].clone()];
            refused(&source, &declared, "FormatMismatch", &["the file is a tar archive", untar]).await;
            let undeclared = [json!({}), json!({"image_properties": {"container_format": "ova"}})];
            refused(&source, &undeclared, "BadArchive", &["tar"]).await;
        }
        println!("{name} refused");
    }
}

/// A kernel or ramdisk is stored as it is, however it is packed and whatever was appended to it.
#[tokio::test(start_paused = true)]
async fn kernels_and_ramdisks_stay_as_they_are() {
    let cpio = [&b"070701"[..], &pattern(6000)].concat();
    let vmlinuz = [&b"MZ"[..], &[0; 508], b"\x55\xaa", b"HdrS", &pattern(5000)].concat();
    let firmware = [&gzip(&cpio)[..], &[0; 515], b"070701", &[b'0'; 300], &gzip(&[5; 600])].concat();
    let mut files =
        vec![cpio.clone(), vmlinuz, firmware, gzip(&cpio), xz(&cpio), zstd(&cpio), gzip(&gzip(&cpio))];
    files.extend(streams::PACKED.iter().map(|packed| [packed.begins, &pattern(3000)].concat()));
    for (n, file) in files.into_iter().enumerate() {
        for format in ["ari", "aki"] {
            for input in [
                json!({"import_from_format": format}),
                json!({"image_properties": {"disk_format": format}}),
                json!({"import_from_format": "raw", "image_properties": {"disk_format": format}}),
                json!({"import_from_format": format, "checksum": hex(&md5::Md5::digest(&file))}),
            ] {
                for ranges in [true, false] {
                    let context = format!("{n}: {input}, ranges {ranges}");
                    let world = run(&file, ranges, &input).await;
                    let status = world.check_ended(&file, &context).await;
                    assert_eq!(status, TaskStatus::Success, "{context}: {}", world.task().await.message);
                    assert_eq!(
                        world.image().await.unwrap().disk_format.as_deref(),
                        Some(format),
                        "{context}"
                    );
                }
            }
        }
    }
}

/// A disk that harms is none, whatever it is called.
#[tokio::test(start_paused = true)]
async fn an_image_is_no_kernel() {
    let images = disk_image_fixtures::sound().into_iter().filter(|image| !image.format.is_verbatim());
    for image in images.filter(|image| image.file.len() < 1 << 20) {
        let bytes = image.file.read(ByteRange { start: 0, end: image.file.len() });
        let inputs =
            [json!({"import_from_format": "ari"}), json!({"image_properties": {"disk_format": "aki"}})];
        refused(&bytes, &inputs, "FormatMismatch", &["declared as a"]).await;
    }
}

/// The oracle's own archives.
#[tokio::test(start_paused = true)]
async fn what_tar_packs_is_refused_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let disk = std::fs::File::create(dir.path().join("disk.raw")).unwrap();
    disk.set_len(150_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, &pattern(5000), 100_000).unwrap();
    // Google asks for the second.
    let ways_to_pack = ["v7", "oldgnu -S", "oldgnu", "gnu", "gnu -S", "ustar", "posix", "posix -S"];
    for way in ways_to_pack {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(dir.path()).arg("--format").args(way.split(' ')).args(["-c", "disk.raw"]);
        let output = tar.output().unwrap();
        assert!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));
        let words = ["the file is a tar archive"];
        refused(&output.stdout, &ways()[..1], "FormatMismatch", &words).await;
        refused(&output.stdout, &[json!({})], "BadArchive", &["; "]).await;
    }
}
