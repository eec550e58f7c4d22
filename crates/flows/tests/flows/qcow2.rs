//! Images of every format stored as qcow2, held against `qemu-img`; and the format that the operator wants.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::{FailureCode, TaskStatus};
use image_tasks_flows::bounds::Cut;
use serde_json::{Value, json};

use crate::convert::{IMAGES, disk, image};
use crate::disks::{Islands, assert_same_disk, qcow2};
use crate::faults::{Fault, Kind};
use crate::sources::Script;
use crate::world::{CUT, World, hex, pattern};
use md5::Digest as _;

const MIB: usize = 1 << 20;
/// Many calls, and parts as small as S3 takes.
const PARTS: Cut = Cut { single_below: 0, part: 5 << 20, stage_part: 5 << 20, ..crate::world::CUT };
const ONE_CALL: Cut = Cut { single_below: u64::MAX, ..PARTS };

pub(crate) fn to_qcow2(format: &str) -> Value {
    json!({"import_from_format": format, "image_properties": {"disk_format": "qcow2"}})
}

async fn world(script: Script, input: Value, cut: Cut) -> World {
    let mut world = World::new(script, input, cut).await;
    world.policy.max_image_bytes = 1 << 30;
    world
}

/// The stored file, after looking that the task and all beside it are as they should be.
pub(crate) async fn stored(world: &World, context: &str) -> Vec<u8> {
    let task = world.task().await;
    assert_eq!(task.status, TaskStatus::Success, "{context}: {}", task.message);
    let record = world.image().await.unwrap();
    let key = record.id.object_key(world.id);
    let bytes = world.objects.bytes("images", &key).unwrap();
    world.check_ended(&bytes, context).await;
    // The file's own tables say where its disk has data.
    assert_eq!(world.objects.everything(), [format!("images/{key}")], "{context}");
    assert_eq!(record.disk_format.as_deref(), Some("qcow2"), "{context}");
    assert_eq!(record.container_format.as_deref(), Some("bare"), "{context}");
    bytes.to_vec()
}

/// The file is one that `qemu-img` finds nothing to say about, and its disk is this one.
pub(crate) fn assert_holds(file: &[u8], disk: &[u8], context: &str) {
    let dir = tempfile::tempdir().unwrap();
    let [made, raw] = ["made", "raw"].map(|name| dir.path().join(name));
    std::fs::write(&made, file).unwrap();
    std::fs::write(&raw, disk).unwrap();
    for arguments in [&["check", "-q", "-f", "qcow2"][..], &["compare", "-q", "-f", "raw", "-F", "qcow2"]] {
        let mut run = Command::new("qemu-img");
        run.args(arguments);
        if arguments[0] == "compare" {
            run.arg(&raw);
        }
        let done = run.arg(&made).output().unwrap();
        assert!(done.status.success(), "{context}, {arguments:?}: {done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_format_becomes_a_qcow2() {
    let disk = disk(4 * MIB);
    // A qcow2 is stored as it is.
    let others = IMAGES.iter().filter(|(format, _)| *format != "qcow2");
    for (format, options) in others.chain(&[("raw", &[] as &[&str])]) {
        let (image, inside) = image(&disk, format, options);
        for (name, cut, ranges) in
            [("one call", ONE_CALL, true), ("parts", PARTS, true), ("parts, staged", PARTS, false)]
        {
            let context = format!("{format} {options:?}, {name}");
            let script = Script { ranges, ..Script::of(image.clone()) };
            let world = world(script, to_qcow2(format), cut).await;
            world.run().await;
            let file = stored(&world, &context).await;
            assert_holds(&file, &inside, &context);
            // Not compressed: zeros left out, the rest and a few tables.
            assert!(file.len() < 5 * MIB + MIB / 2, "{context}: {} bytes", file.len());
            let virtual_size = world.image().await.unwrap().virtual_size;
            assert_eq!(virtual_size, Some(inside.len() as u64), "{context}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_several_ranges_and_odd_length() {
    // Three ranges of 64 MiB: parts of its own, one too short for a part, none.
    let len = 180 * MIB + 700;
    let mut disk = vec![0; len];
    disk[3 * MIB + 5..40 * MIB].copy_from_slice(&pattern(37 * MIB - 5));
    disk[70 * MIB..71 * MIB].copy_from_slice(&pattern(MIB));
    disk[len - 700..].copy_from_slice(&pattern(700));
    for ranges in [true, false] {
        let script = Script { ranges, ..Script::of(disk.clone()) };
        let mut world = world(script, to_qcow2("raw"), Cut { stage_part: 8 << 20, ..PARTS }).await;
        world.twice = ranges;
        world.run().await;
        let file = stored(&world, "several ranges").await;
        let mut padded = disk.clone();
        padded.resize(len.next_multiple_of(512), 0);
        assert_holds(&file, &padded, "several ranges");
        assert!(file.len() < 44 * MIB, "{} bytes", file.len());
        let record = world.image().await.unwrap();
        assert_eq!(record.virtual_size, Some(padded.len() as u64));
        assert_eq!((record.size, record.min_disk), (Some(file.len() as u64), 1));
        if ranges {
            let script = world.script();
            let (read, reads) =
                (script.bytes_read.load(Ordering::SeqCst), script.reads.load(Ordering::SeqCst));
            assert!(read * 100 <= len as u64 * 102 * 2, "{read} bytes, each phase invoked twice");
            assert!(reads <= 2 * (12 * 3 + 8), "{reads} reads");
        } else {
            // The spool has told where its zeros are.
            let read = world.objects.read_from("work", &format!("work/{}/staged", world.id));
            assert!(read < 40 * MIB as u64, "{read} bytes of the spool");
        }
    }
}

/// 130 MiB in three ranges, the last of them without data.
fn islands() -> Islands {
    vec![(0, pattern(3000)), (70 << 20, pattern(200_000)), ((100 << 20) - 600, pattern(600))]
}

#[tokio::test(start_paused = true)]
async fn a_fault_anywhere_leaves_nothing_behind() {
    let several = qcow2(130 << 20, &islands());
    let dir = tempfile::tempdir().unwrap();
    let [source, made] = ["source", "made"].map(|name| dir.path().join(name));
    std::fs::write(&source, &several).unwrap();
    let convert = ["convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    let done = Command::new("qemu-img").args(convert).arg(&source).arg(&made).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let several_vmdk = std::fs::read(made).unwrap();
    let small = pattern(3000);
    for (name, source, format, cut, ranges) in [
        ("ranges", several_vmdk, "vmdk", PARTS, true),
        ("one call", small.clone(), "raw", ONE_CALL, true),
        ("staged", small, "raw", PARTS, false),
    ] {
        let world = async |twice| {
            let script = Script { ranges, ..Script::of(source.clone()) };
            let mut world = world(script, to_qcow2(format), cut).await;
            world.twice = twice;
            world
        };
        for twice in [false, true] {
            let whole = world(twice).await;
            whole.run().await;
            let file = stored(&whole, name).await;
            assert_same_disk(&source, format, &file, "qcow2", name);
            let calls = whole.faults.calls();
            assert!(calls > 10, "{name}: {calls} calls");
            for call in 0..calls {
                for (after, kind) in [
                    (false, Kind::Transient),
                    (true, Kind::Transient),
                    (false, Kind::Fatal),
                    (false, Kind::Crash),
                    (true, Kind::Crash),
                ] {
                    let world = world(twice).await;
                    world.faults.set(Some(Fault { call, after, kind }));
                    world.run().await;
                    let context = format!("{name}, twice {twice}: {kind:?} at call {call}, after {after}");
                    assert!(!world.faults.is_pending(), "{context}: the fault never came");
                    let status = world.check_ended(&file, &context).await;
                    assert!(kind == Kind::Fatal || status == TaskStatus::Success, "{context}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_with_the_source_is_told() {
    let source = || Script::of(pattern(70 * MIB));
    let checksum = |sum: String| {
        let mut input = to_qcow2("raw");
        input["checksum"] = json!(sum);
        input
    };
    let right = hex(&md5::Md5::digest(pattern(70 * MIB)));
    for (name, script, input, ends) in [
        ("a right checksum", source(), checksum(right), None),
        ("a wrong checksum", source(), checksum("0".repeat(32)), Some(FailureCode::ChecksumMismatch)),
        (
            "changed",
            Script { changes_after: Some(6), ..source() },
            to_qcow2("raw"),
            Some(FailureCode::SourceChanged),
        ),
        ("breaks off a few times", Script { breaks: AtomicU64::new(3), ..source() }, to_qcow2("raw"), None),
        (
            "breaks off always",
            Script { breaks: AtomicU64::new(u64::MAX), ..source() },
            to_qcow2("raw"),
            Some(FailureCode::SourceUnreachable),
        ),
        ("no bytes", Script::of(Vec::new()), to_qcow2("raw"), Some(FailureCode::UnsupportedFormat)),
    ] {
        let world = world(script, input, Cut { stage_part: 8 << 20, ..PARTS }).await;
        world.run().await;
        match ends {
            None => assert_holds(&stored(&world, name).await, &pattern(70 * MIB), name),
            Some(code) => {
                assert_eq!(world.check_ended(&[], name).await, TaskStatus::Failure, "{name}");
                let message = world.task().await.message;
                assert!(message.starts_with(&format!("{}: ", code.name())), "{name}: {message}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_operators_format_is_for_disks_of_which_nothing_is_said() {
    let disk = disk(MIB);
    let iso = disk_image_fixtures::sound().into_iter().find(|s| s.name == "iso").unwrap().file;
    let iso = iso.read(disk_image::ByteRange { start: 0, end: iso.len() });
    let vmdk = image(&disk, "vmdk", &["-o", "subformat=streamOptimized"]).0;
    let ova = disk_image_fixtures::ova(&[("a.vmdk", &vmdk)]);
    let ova = ova.read(disk_image::ByteRange { start: 0, end: ova.len() });
    let qcow2 = image(&disk, "qcow2", &[]).0;
    let nothing = json!({});
    for (source, format, said, as_raw, as_qcow2) in [
        (&disk, "raw", &nothing, "raw", "qcow2"),
        (&qcow2, "qcow2", &nothing, "raw", "qcow2"),
        (&vmdk, "vmdk", &nothing, "raw", "qcow2"),
        (&vmdk, "vmdk", &json!({"disk_format": "vmdk"}), "vmdk", "vmdk"),
        (&vmdk, "vmdk", &json!({"disk_format": "raw"}), "raw", "raw"),
        (&iso, "iso", &nothing, "iso", "iso"),
        (&iso, "iso", &json!({"disk_format": "qcow2"}), "qcow2", "qcow2"),
        (&disk, "aki", &nothing, "aki", "aki"),
        (&disk, "ami", &nothing, "ami", "ami"),
        (&ova, "ova", &nothing, "raw", "qcow2"),
        (&ova, "ova", &json!({"container_format": "ova"}), "vmdk", "vmdk"),
        (&Vec::new(), "raw", &nothing, "raw", "raw"),
    ] {
        for (output, wanted) in [(OutputFormat::Raw, as_raw), (OutputFormat::Qcow2, as_qcow2)] {
            let context = format!("{format} of which is said {said}, the operator wants {output:?}");
            let input = json!({"import_from_format": format, "image_properties": said});
            let mut world = world(Script::of(source.clone()), input, ONE_CALL).await;
            world.policy.output = output;
            world.run().await;
            let task = world.task().await;
            assert_eq!(task.status, TaskStatus::Success, "{context}: {}", task.message);
            let record = world.image().await.unwrap();
            assert_eq!(record.disk_format.as_deref(), Some(wanted), "{context}");
            let file = world.objects.bytes("images", &record.id.object_key(world.id)).unwrap();
            world.check_ended(&file, &context).await;
            match wanted {
                // As it came.
                _ if format == wanted || format == "ova" && wanted == "vmdk" => {
                    assert!(file == source[..], "{context}");
                }
                "raw" => assert!(file == disk[..], "{context}"),
                _ if format == "iso" => assert_holds(&file, &iso, &context),
                _ => assert_holds(&file, &disk, &context),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_ova_is_not_called_one() {
    for (source, format, said) in [
        (pattern(1000), "raw", json!({"container_format": "ova"})),
        (qcow2(1 << 20, &Islands::new()), "qcow2", json!({"container_format": "ova", "disk_format": "raw"})),
    ] {
        let input = json!({"import_from_format": format, "image_properties": said});
        let world = world(Script::of(source), input, CUT).await;
        world.run().await;
        assert_eq!(world.check_ended(&[], format).await, TaskStatus::Failure);
        let message = world.task().await.message;
        assert!(message.starts_with("FormatMismatch: container_format is ova"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_ova_with_several_disks_the_named_one_is_taken() {
    let disks = [disk(MIB), pattern(MIB / 2)];
    let options: [&[&str]; 2] = [&["-o", "subformat=streamOptimized"], &["-o", "subformat=monolithicSparse"]];
    let [a, b] = [0, 1].map(|n| image(&disks[n], "vmdk", options[n]).0);
    let ova = disk_image_fixtures::ova(&[("a.vmdk", &a), ("b.vmdk", &b)]);
    let ova = ova.read(disk_image::ByteRange { start: 0, end: ova.len() });
    let named = |member: &str, format: &str| json!({"import_from_format": "ova", "import_from_member": member, "image_properties": {"disk_format": format}});
    for (member, inside) in [("a.vmdk", &disks[0]), ("b.vmdk", &disks[1])] {
        for (cut, format) in [(ONE_CALL, "raw"), (PARTS, "raw"), (ONE_CALL, "qcow2"), (PARTS, "qcow2")] {
            let world = world(Script::of(ova.clone()), named(member, format), cut).await;
            world.run().await;
            let context = format!("{member} as {format}");
            if format == "raw" {
                assert_eq!(world.check_ended(inside, &context).await, TaskStatus::Success, "{context}");
            } else {
                assert_holds(&stored(&world, &context).await, inside, &context);
            }
        }
    }
    let only = json!({"import_from_member": "a.vmdk"});
    for (source, input, code, part) in [
        (
            &ova,
            json!({"image_properties": {"disk_format": "raw"}}),
            FailureCode::BadArchive,
            "import_from_member",
        ),
        (&ova, named("c.vmdk", "raw"), FailureCode::BadArchive, "no disk \"c.vmdk\""),
        (&ova, only.clone(), FailureCode::UnsupportedFormat, "raw or qcow2"),
        (&a, only, FailureCode::FormatMismatch, "import_from_member"),
    ] {
        let world = world(Script::of(source.clone()), input, CUT).await;
        world.run().await;
        assert_eq!(world.check_ended(&[], part).await, TaskStatus::Failure);
        let message = world.task().await.message;
        assert!(message.starts_with(&format!("{}: ", code.name())) && message.contains(part), "{message}");
    }
}
