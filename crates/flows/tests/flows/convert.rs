//! Images of every format stored as raw, against `qemu-img`; and hostile ones, which leave nothing.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::Cut;
use md5::Digest as _;
use serde_json::{Value, json};

use crate::faults::{Fault, Kind};
use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern};

const MIB: usize = 1 << 20;

fn to_raw(format: &str) -> Value {
    json!({"import_from_format": format, "image_properties": {"disk_format": "raw"}})
}

fn qemu_img(arguments: &[&str], from: &Path, to: &Path) {
    let done = Command::new("qemu-img").args(arguments).arg(from).arg(to).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Data, a long hole, data, a short hole, data, and zeros to the end.
pub(crate) fn disk(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (from, to) in [(0, len / 8), (len / 2, len / 2 + len / 16), (len / 2 + len / 16 + 4096, len * 5 / 8)]
    {
        bytes[from..to].copy_from_slice(&pattern(to - from));
    }
    bytes
}

/// The image of a disk, and the disk as `qemu-img` reads it back.
pub(crate) fn image(disk: &[u8], format: &str, options: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let [raw, made, back] = ["raw", "made", "back"].map(|name| dir.path().join(name));
    std::fs::write(&raw, disk).unwrap();
    qemu_img(&[&["convert", "-f", "raw", "-O", format], options].concat(), &raw, &made);
    qemu_img(&["convert", "-f", format, "-O", "raw"], &made, &back);
    (std::fs::read(made).unwrap(), std::fs::read(back).unwrap())
}

pub(crate) const IMAGES: &[(&str, &[&str])] = &[
    ("qcow2", &[]),
    ("qcow2", &["-c"]),
    ("qcow2", &["-c", "-o", "compression_type=zstd"]),
    ("qcow2", &["-o", "cluster_size=512"]),
    ("vmdk", &["-o", "subformat=monolithicSparse"]),
    ("vmdk", &["-o", "subformat=streamOptimized"]),
    ("vpc", &["-o", "subformat=dynamic"]),
    ("vpc", &["-o", "subformat=fixed"]),
    ("vhdx", &[]),
    ("vdi", &[]),
];

#[tokio::test(start_paused = true)]
async fn every_format_becomes_the_disk_inside_it() {
    let disk = disk(4 * MIB);
    for (format, options) in IMAGES {
        let (image, stored) = image(&disk, format, options);
        for (name, cut, ranges) in [
            ("one call", Cut { single_below: u64::MAX, ..CUT }, true),
            ("parts", Cut { single_below: 0, part: 300_007, stage_part: 100_000, ..crate::world::CUT }, true),
            (
                "parts, staged",
                Cut { single_below: 0, part: 1 << 20, stage_part: 100_000, ..crate::world::CUT },
                false,
            ),
        ] {
            let context = format!("{format} {options:?}, {name}");
            let script = Script { ranges, ..Script::of(image.clone()) };
            let world = World::new(script, to_raw(format), cut).await;
            world.run().await;
            let status = world.check_ended(&stored, &context).await;
            assert_eq!(status, TaskStatus::Success, "{context}: {}", world.task().await.message);
            let record = world.image().await.unwrap();
            assert_eq!(record.disk_format.as_deref(), Some("raw"), "{context}");
            assert_eq!(record.virtual_size, Some(stored.len() as u64), "{context}");
            let bytes = world
                .objects
                .bytes("images", &format!("{}.allocation", record.id.object_key(world.id)))
                .unwrap();
            let map = disk_image::AllocationMap::decode(&bytes).unwrap();
            assert_eq!(map.virtual_size(), stored.len() as u64, "{context}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn zeros_are_neither_fetched_nor_read_to_be_hashed() {
    let disk = disk(64 * MIB);
    let (image, stored) = image(&disk, "qcow2", &[]);
    let cut = Cut { single_below: 0, part: 4 << 20, ..Cut::default() };
    let mut world = World::new(Script::of(image.clone()), to_raw("qcow2"), cut).await;
    world.policy.max_image_bytes = 1 << 30;
    world.run().await;
    assert_eq!(world.check_ended(&stored, "sparse").await, TaskStatus::Success);
    let script = world.script();
    let (read, reads) = (script.bytes_read.load(Ordering::SeqCst), script.reads.load(Ordering::SeqCst));
    assert!(read * 100 <= image.len() as u64 * 102, "{read} bytes of {}", image.len());
    // Of 16 parts of 4 MiB, those with data; head, tail, tables before them.
    assert!(reads <= 16 + 12, "{reads} reads");
    let key = world.image().await.unwrap().id.object_key(world.id);
    let hashed = world.objects.read_from("images", &key);
    assert!(hashed < stored.len() as u64 / 2, "{hashed} bytes were read to be hashed");
}

#[tokio::test(start_paused = true)]
async fn a_dense_part_takes_few_requests() {
    let disk = pattern(64 * MIB);
    for (format, options) in IMAGES.iter().filter(|(_, options)| !options.contains(&"cluster_size=512")) {
        let (image, stored) = image(&disk, format, options);
        let cut = Cut { single_below: 0, ..Cut::default() };
        let mut world = World::new(Script::of(image.clone()), to_raw(format), cut).await;
        world.policy.max_image_bytes = 1 << 30;
        world.run().await;
        let context = format!("{format} {options:?}");
        assert_eq!(world.check_ended(&stored, &context).await, TaskStatus::Success);
        let script = world.script();
        let (read, reads) = (script.bytes_read.load(Ordering::SeqCst), script.reads.load(Ordering::SeqCst));
        assert!(read * 100 <= image.len() as u64 * 102, "{context}: {read} bytes of {}", image.len());
        let parts = (stored.len() as u64).div_ceil(64 << 20);
        assert!(reads <= 12 * parts + 8, "{context}: {reads} reads for {parts} parts and the tables");
    }
}

#[tokio::test(start_paused = true)]
async fn a_given_checksum_is_the_sources() {
    let (image, stored) = image(&disk(2 * MIB), "qcow2", &["-c"]);
    for (right, single_below) in [(true, 0), (true, u64::MAX), (false, 0), (false, u64::MAX)] {
        let mut input = to_raw("qcow2");
        let checksum = if right { hex(&sha2::Sha256::digest(&image)) } else { "0".repeat(64) };
        (input["os_hash_algo"], input["os_hash_value"]) = (json!("sha256"), json!(checksum));
        let cut = Cut { single_below, part: 300_000, stage_part: 100_000, ..crate::world::CUT };
        let world = World::new(Script::of(image.clone()), input, cut).await;
        world.run().await;
        let status = world.check_ended(&stored, "checksum").await;
        assert_eq!(status == TaskStatus::Success, right, "{}", world.task().await.message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_truncated_image_is_refused_before_anything_is_copied() {
    for (format, options) in IMAGES {
        let (image, _) = image(&disk(4 * MIB), format, options);
        for wanted in [Some("raw"), None] {
            let mut input = json!({"import_from_format": format});
            if let Some(wanted) = wanted {
                input["image_properties"] = json!({"disk_format": wanted});
            }
            let script = Script::of(image[..image.len() * 2 / 3].to_vec());
            let world = World::new(script, input, Cut { single_below: 0, ..CUT }).await;
            world.run().await;
            let context = format!("{format} {options:?} as {wanted:?}");
            assert_eq!(world.check_ended(&[], &context).await, TaskStatus::Failure, "{context}");
            assert_eq!(world.objects.largest_upload(), 0, "{context}: {}", world.task().await.message);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_images_end_with_their_code_and_leave_nothing() {
    let mut run = 0;
    for hostile in disk_image_fixtures::all() {
        // Sparse ones of terabytes are for the parsers' own tests.
        let Ok(len) = usize::try_from(hostile.file.len()) else { continue };
        if len > 16 * MIB {
            continue;
        }
        let range = disk_image::ByteRange { start: 0, end: hostile.file.len() };
        let bytes = if len == 0 { Vec::new() } else { hostile.file.read(range) };
        for convert in [Some("raw"), Some("qcow2"), None] {
            // What is only wrong inside of compressed data shows when it is unpacked; and who asks for raw has declared it.
            let needless = match convert {
                Some("raw") => hostile.code == disk_image::Code::UnknownFormat,
                // A qcow2 is stored as it is.
                Some(_) if hostile.declared != Some(disk_image::Format::Qcow2) => false,
                _ => hostile.code == disk_image::Code::BadData,
            };
            if needless {
                continue;
            }
            let mut input = json!({});
            if let Some(declared) = hostile.declared {
                input["import_from_format"] = json!(declared.name());
            }
            if let Some(format) = convert {
                input["image_properties"] = json!({"disk_format": format});
            }
            let mut world = World::new(Script::of(bytes.clone()), input, CUT).await;
            world.policy.max_image_bytes = 1 << 40;
            world.run().await;
            let context = format!("{}, converted to {convert:?}", hostile.name);
            assert_eq!(world.check_ended(&[], &context).await, TaskStatus::Failure, "{context}");
            let message = world.task().await.message;
            assert!(message.starts_with(&format!("{}: ", hostile.code)), "{context}: {message}");
            run += 1;
        }
    }
    assert!(run >= 240, "{run} imports of hostile images");
}

#[tokio::test(start_paused = true)]
async fn a_fault_anywhere_in_a_conversion_leaves_nothing_behind() {
    let (image, stored) = image(&disk(MIB), "qcow2", &["-c"]);
    for single_below in [0, u64::MAX] {
        let cut = Cut { single_below, part: 100_000, stage_part: 100_000, ..crate::world::CUT };
        let world = async || World::new(Script::of(image.clone()), to_raw("qcow2"), cut).await;
        let whole = world().await;
        whole.run().await;
        assert_eq!(whole.check_ended(&stored, "no fault").await, TaskStatus::Success);
        for call in 0..whole.faults.calls() {
            for (after, kind) in
                [(false, Kind::Transient), (true, Kind::Transient), (false, Kind::Fatal), (true, Kind::Crash)]
            {
                let world = world().await;
                world.faults.set(Some(Fault { call, after, kind }));
                world.run().await;
                let context = format!("{kind:?} at call {call}, after {after}");
                let status = world.check_ended(&stored, &context).await;
                assert!(kind == Kind::Fatal || status == TaskStatus::Success, "{context}");
            }
        }
    }
}
