//! What the disk of a stored image tells of the machine that starts it.
//!
//! Goal: an image says by itself which firmware and machine it is for, so that whoever starts it needn't guess. It is looked
//! for in what is stored, after the judge has passed it: a server can't show one disk and send another.
//!
//! Threat model: the bytes are hostile, and what they tell is a hint, no more. A disk that can't be decoded tells nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use disk_image::{Boot, Firmware, Format, Layout, Limits, Machine, Regions, boot};
use image_tasks_domain::FailureCode;

use crate::bounds::{BOOT_EXTENTS, BOOT_REACH};
use crate::disk::{Disk, DiskSource, Places};
use crate::error::{Flow, Stop};
use crate::ports::Source;
use crate::source::read::{Walk, drive};

/// What a stored object tells, by Glance's names for it. `read` is what of it is here already.
pub(crate) async fn found(
    object: Box<dyn Source>,
    format: Format,
    read: Option<Regions>,
) -> Flow<BTreeMap<String, String>> {
    if format.is_boot_file() {
        return Ok(BTreeMap::new());
    }
    let read = read.unwrap_or_else(|| Regions::new(object.info().size.unwrap_or(0)));
    let boot = match look(object, format, read).await {
        // What is stored as it came is decoded here for the first time.
        Err(Stop::Failed(failure)) if failure.code == FailureCode::BadData => {
            tracing::info!(reason = failure.message, "the disk's begin can't be decoded");
            return Ok(BTreeMap::new());
        }
        boot => boot?,
    };
    let Some(boot) = boot else { return Ok(BTreeMap::new()) };
    tracing::info!(?boot, "what firmware finds");
    // As a CD, an ISO is started otherwise than as a disk.
    let firmware = boot.firmware().filter(|_| format != Format::Iso).map(Firmware::name);
    let told = [("architecture", boot.machine().map(Machine::name)), ("hw_firmware_type", firmware)];
    Ok(told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect())
}

/// Nothing of an archive of several disks: which of them a machine starts is nowhere said.
async fn look(object: Box<dyn Source>, format: Format, mut regions: Regions) -> Flow<Option<Boot>> {
    if format.is_verbatim() {
        return drive(&*object, &mut regions, |regions| boot(regions, u64::MAX)).await.map(Some);
    }
    let limits = Limits { max_virtual_size: u64::MAX };
    let layout = drive(&*object, &mut regions, |regions| Layout::open(regions, format, &limits)).await?;
    if layout.disks().len() > 1 {
        return Ok(None);
    }
    let size = layout.virtual_size();
    let (mut extents, mut reach) = (Vec::new(), 0);
    let mut walk = Walk::new(&*object, &layout);
    while reach < size.min(BOOT_REACH) && extents.len() < BOOT_EXTENTS {
        let Some(extent) = walk.next().await? else { break };
        reach = extent.end();
        extents.push(extent);
    }
    let disk = Disk { source: object, places: Places::Listed(extents) };
    let disk = DiskSource::new(Arc::new(disk), size);
    drive(&disk, &mut Regions::new(size), |regions| boot(regions, reach)).await.map(Some)
}
