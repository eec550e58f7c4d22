//! Disks that begin or end like an image: taken out of what holds them, none becomes an image that it would pass for.

use disk_image::Format;
use disk_image_fixtures::nested::{self, Guest};
use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::{Cut, ExportCut};
use serde_json::{Value, json};

use crate::disks::assert_same_disk;
use crate::export::{self, IMAGE, Scenario, task_id};
use crate::import::gzip;
use crate::sources::Script;
use crate::world::World;

const ONE_CALL: Cut = Cut { single_below: u64::MAX, part: 100_000, stage_part: 100_000, ..crate::world::CUT };
const PARTS: Cut = Cut { single_below: 0, ..ONE_CALL };

fn bytes(file: &disk_image_fixtures::Sparse) -> Vec<u8> {
    file.read(disk_image::ByteRange { start: 0, end: file.len() })
}

/// An import of these bytes, run to its end.
async fn imported(bytes: Vec<u8>, ranges: bool, input: Value, cut: Cut) -> World {
    let world = World::new(Script { ranges, ..Script::of(bytes) }, input, cut).await;
    world.run().await;
    world
}

async fn refused(world: &World, codes: &[&str], context: &str) {
    assert_eq!(world.check_ended(&[], context).await, TaskStatus::Failure, "{context}: active");
    let message = world.task().await.message;
    let code = message.split(": ").next().unwrap();
    assert!(codes.contains(&code), "{context}: {message}");
}

/// Every image of a guest's disk, converted to raw: in one call, in parts and from a spool, by turns.
async fn to_raw(guest: &Guest, mut check: impl AsyncFnMut(World, String)) {
    let ways = [("one call", ONE_CALL, true), ("parts", PARTS, true), ("spooled", PARTS, false)];
    for (n, image) in nested::disks(&guest.disk).into_iter().enumerate() {
        let (name, cut, ranges) = ways[(n + guest.name.len()) % ways.len()];
        let context = format!("{} in {}, {name}", guest.name, image.name);
        let input = json!({
            "import_from_format": image.format.name(), "image_properties": {"disk_format": "raw"},
        });
        check(imported(bytes(&image.file), ranges, input, cut).await, context).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_import_takes_an_image_out_of_an_image_as_raw() {
    let mut count = 0;
    for guest in nested::headers() {
        to_raw(&guest, async |world, context| {
            refused(&world, &["Polyglot"], &context).await;
            count += 1;
        })
        .await;
    }
    println!("{count} imports to raw refused");
    assert!(count >= 35 * 7, "{count}");
}

#[tokio::test(start_paused = true)]
async fn imports_of_ordinary_disks_are_welcome() {
    let mut count = 0;
    for guest in nested::ordinary() {
        to_raw(&guest, async |world, context| {
            let status = world.check_ended(&guest.disk, &context).await;
            assert_eq!(status, TaskStatus::Success, "{context}: {}", world.task().await.message);
            count += 1;
        })
        .await;
    }
    println!("{count} imports to raw welcome");
    assert!(count >= 25 * 7, "{count}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_unpacked_to_a_raw_that_is_an_image() {
    let raw = json!({"import_from_format": "raw"});
    for guest in nested::headers() {
        for (ranges, cut) in [(true, ONE_CALL), (false, PARTS)] {
            let world = imported(gzip(&guest.disk), ranges, raw.clone(), cut).await;
            // What is spooled is looked at like any source: it says what it is, and that isn't what was declared.
            let codes = ["FormatMismatch", "UnsupportedFormat", "Polyglot", "Encrypted", "ExternalData"];
            refused(&world, &codes, guest.name).await;
        }
    }
    for guest in nested::ordinary() {
        for (ranges, cut) in [(true, ONE_CALL), (false, PARTS)] {
            let world = imported(gzip(&guest.disk), ranges, raw.clone(), cut).await;
            let status = world.check_ended(&guest.disk, guest.name).await;
            assert_eq!(status, TaskStatus::Success, "{}: {}", guest.name, world.task().await.message);
        }
    }
}

/// A CD, with a boot record or without, of whatever kind, by each way of saying what it is.
#[tokio::test(start_paused = true)]
async fn a_disc_is_what_it_is_said_to_be() {
    let said = [
        (json!({"import_from_format": "raw"}), "raw"),
        (json!({"image_properties": {"disk_format": "raw"}}), "raw"),
        (json!({"import_from_format": "ami"}), "ami"),
        (json!({}), "iso"),
        (json!({"import_from_format": "iso"}), "iso"),
        (json!({"image_properties": {"disk_format": "iso"}}), "iso"),
        (json!({"import_from_format": "iso", "image_properties": {"disk_format": "raw"}}), "raw"),
    ];
    for name in ["iso", "hybrid-iso", "udf-bridge", "udf", "high-sierra"] {
        let guest = nested::ordinary().into_iter().find(|guest| guest.name == name).unwrap();
        for (ranges, cut) in [(true, ONE_CALL), (true, PARTS), (false, PARTS)] {
            for packed in [false, true] {
                for (input, stored_as) in &said {
                    let context = format!("{name}, packed {packed}, {input}");
                    let source = if packed { gzip(&guest.disk) } else { guest.disk.clone() };
                    let world = imported(source, ranges, input.clone(), cut).await;
                    let is_iso = !["udf", "high-sierra"].contains(&name);
                    let raw = ["raw", "ami"].contains(stored_as) && input["import_from_format"] != "iso";
                    if !is_iso && !raw {
                        refused(&world, &["UnsupportedFormat", "FormatMismatch"], &context).await;
                        continue;
                    }
                    let status = world.check_ended(&guest.disk, &context).await;
                    let message = world.task().await.message;
                    assert_eq!(status, TaskStatus::Success, "{context}: {message}");
                    let record = world.image().await.unwrap();
                    assert_eq!(record.disk_format.as_deref(), Some(*stored_as), "{context}");
                }
            }
        }
    }
}

const EXPORT_PARTS: ExportCut = ExportCut { part: 100_000, copy_part: 100_000, ..export::CUT };

/// An export of the qcow2 image that holds the guest's disk, run to its end.
async fn exported(guest: &Guest, more: Value, cut: ExportCut) -> (export::World, Vec<u8>) {
    let image = nested::disks(&guest.disk).into_iter().find(|image| image.format == Format::Qcow2).unwrap();
    let mut input = json!({"image_uuid": IMAGE, "receiving_bucket": "exports"});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let stored = bytes(&image.file);
    let scenario =
        Scenario { name: guest.name, format: "qcow2", stored: stored.clone(), data: None, input, cut };
    let world = scenario.world().await;
    world.run(task_id(1)).await;
    (world, stored)
}

#[tokio::test(start_paused = true)]
async fn no_export_takes_an_image_out_of_an_image_as_raw() {
    let mut count = 0;
    for guest in nested::headers() {
        for (way, cut) in [("one call", ExportCut::default()), ("parts", EXPORT_PARTS)] {
            let context = format!("{}, {way}", guest.name);
            let (world, _) = exported(&guest, json!({"export_format": "raw"}), cut).await;
            let message = world.task(task_id(1)).await.message;
            // Nothing in the bucket, no upload, no claim, no work.
            assert_eq!(world.check(None, &context).await, TaskStatus::Failure, "{context}");
            assert!(message.starts_with("Polyglot: the disk "), "{context}: {message}");
            count += 1;
            // As a qcow2 it is what it says, whatever disk it holds.
            for more in [json!({}), json!({"compression": "zstd"})] {
                let (world, stored) = exported(&guest, more, cut).await;
                let message = world.task(task_id(1)).await.message;
                assert_eq!(world.check(None, &context).await, TaskStatus::Success, "{context}: {message}");
                assert_same_disk(&world.exported().unwrap(), "qcow2", &stored, "qcow2", &context);
            }
        }
    }
    println!("{count} exports to raw refused");
    assert!(count >= 35 * 2, "{count}");
}

#[tokio::test(start_paused = true)]
async fn exports_of_ordinary_disks_are_welcome() {
    for guest in nested::ordinary() {
        for cut in [ExportCut::default(), EXPORT_PARTS] {
            let (world, _) = exported(&guest, json!({"export_format": "raw"}), cut).await;
            let message = world.task(task_id(1)).await.message;
            let status = world.check(Some(&guest.disk.clone().into()), guest.name).await;
            assert_eq!(status, TaskStatus::Success, "{}: {message}", guest.name);
        }
    }
}
