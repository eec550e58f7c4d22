//! What an imported disk tells of the machine that starts it, and what is told where its user says otherwise.

use std::collections::BTreeMap;

use disk_image::{ByteRange, Format, Layout, Limits, Machine, Regions, Stored, drive};
use disk_image_fixtures::partitioned::{BIOS_BOOT, EFI_SYSTEM, Partition, efi_system, gpt, with_code};
use image_tasks_domain::TaskStatus;
use image_tasks_flows::bounds::Cut;
use serde_json::{Value, json};

use crate::convert::{IMAGES, image};
use crate::sources::Script;
use crate::world::{CUT, World};

const MIB: u64 = 1 << 20;
/// Larger parts than elsewhere: a FAT32 has 33 MiB at least.
const LARGER: Cut = Cut { part: 100_000, stage_part: 90_000, ..CUT };

fn disk(partitions: &[Partition]) -> Vec<u8> {
    let disk = with_code(gpt(4 * MIB, 512, partitions));
    disk.read(ByteRange { start: 0, end: disk.len() })
}

fn uefi() -> Vec<u8> {
    disk(&[Partition::new(EFI_SYSTEM, MIB, efi_system(&[Machine::X86_64]))])
}

fn bios() -> Vec<u8> {
    disk(&[Partition::new(BIOS_BOOT, MIB, vec![1; 512])])
}

async fn imported(bytes: Vec<u8>, input: Value) -> (BTreeMap<String, String>, String) {
    let world = World::new(Script::of(bytes), input.clone(), LARGER).await;
    world.run().await;
    let task = world.task().await;
    assert_eq!(task.status, TaskStatus::Success, "{input}: {}", task.message);
    let image = world.image().await.unwrap();
    let stored = world.objects.bytes("images", &image.id.object_key(world.id)).unwrap();
    world.check_ended(&stored, "boot").await;
    (image.properties, task.message)
}

fn told(properties: &BTreeMap<String, String>) -> (Option<&str>, Option<&str>) {
    let of = |name: &str| properties.get(name).map(String::as_str);
    (of("architecture"), of("hw_firmware_type"))
}

#[tokio::test(start_paused = true)]
async fn a_disk_in_any_format_tells_its_firmware_and_machine() {
    let raw = ("raw", &[][..]);
    for (format, options) in IMAGES.iter().copied().chain([raw]) {
        let (image, _) = image(&uefi(), format, options);
        for wanted in [None, Some("raw"), Some("qcow2")] {
            let mut input = json!({"import_from_format": format});
            if let Some(wanted) = wanted {
                input["image_properties"] = json!({"disk_format": wanted});
            }
            let (properties, message) = imported(image.clone(), input.clone()).await;
            assert_eq!(told(&properties), (Some("x86_64"), Some("uefi")), "{input}");
            assert_eq!((properties.len(), message.as_str()), (2, ""));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_user_says_stays_and_a_contradiction_is_told() {
    let said = |properties: Value| json!({"import_from_format": "raw", "image_properties": properties});
    let (properties, message) = imported(bios(), said(json!({}))).await;
    assert_eq!((told(&properties), message.as_str()), ((None, Some("bios")), ""));
    let agreed = json!({"architecture": "x86_64", "hw_firmware_type": "uefi"});
    let (properties, message) = imported(uefi(), said(agreed)).await;
    assert_eq!((told(&properties), message.as_str()), ((Some("x86_64"), Some("uefi")), ""));
    let other = json!({"architecture": "aarch64", "hw_firmware_type": "bios"});
    let (properties, message) = imported(uefi(), said(other)).await;
    assert_eq!(told(&properties), (Some("aarch64"), Some("bios")));
    assert_eq!(
        message,
        "the image's architecture is \"aarch64\", but its disk is for x86_64; an instance may not start. \
         the image's hw_firmware_type is \"bios\", but its disk is for uefi; an instance may not start."
    );
}

#[tokio::test(start_paused = true)]
async fn what_holds_no_disk_to_start_tells_nothing() {
    for (bytes, format) in [(vec![0; 100_000], "raw"), (uefi(), "aki"), (uefi(), "ari")] {
        let (properties, message) = imported(bytes, json!({"import_from_format": format})).await;
        assert_eq!((properties.len(), message.as_str()), (0, ""), "{format}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_begin_that_cannot_be_decoded_is_stored_all_the_same() {
    let (mut image, _) = image(&uefi(), "qcow2", &["-c"]);
    let mut regions = Regions::new(image.len() as u64);
    let open = |regions: &Regions| Layout::open(regions, Format::Qcow2, &Limits::default());
    let layout = drive::drive(&mut image.as_slice(), &mut regions, open).unwrap();
    let mut first = None;
    drive::walk(&mut image.as_slice(), &layout, |extent| {
        if let Stored::Deflate { offset, .. } = extent.stored {
            first.get_or_insert(usize::try_from(offset).unwrap());
        }
        Ok(())
    })
    .unwrap();
    let first = first.unwrap();
    image[first..first + 8].fill(0xff);
    let (properties, message) = imported(image, json!({})).await;
    assert_eq!((properties.len(), message.as_str()), (0, ""));
}
