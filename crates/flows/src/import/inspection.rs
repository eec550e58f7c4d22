//! What a source is, and whether it may come in.
//!
//! Invariant: nothing of a source is copied to its final place before its signature, its headers and its whole map have been checked.

use disk_image::{Format, Inspection, Layout, Limits, Regions, inspect};
use image_tasks_domain::{Failure, FailureCode, ImportInput};

use super::Importer;
use super::convert::Maps;
use crate::error::{Step, Stop};
use crate::origin::{drive, fetch};
use crate::ports::Source;

/// What was found.
pub(super) enum Found {
    /// A disk image, sound as far as can be known without reading its data.
    Disk(Layout),
    /// A compressed stream: it has to be unpacked first.
    Stream,
}

impl Importer {
    /// Signature and headers of a source of known size that can be read by range.
    pub(super) async fn inspect(&self, source: &dyn Source, size: u64, input: &ImportInput) -> Step<Found> {
        self.check_quota(size)?;
        let mut regions = Regions::new(size);
        let declared = input.declared_format.and_then(Format::from_name);
        let inspected = drive(source, &mut regions, |regions| inspect(regions, declared)).await;
        let format = match (inspected, declared) {
            (Ok(Inspection::Disk(format)), _) => format,
            (Ok(Inspection::Stream(_)), _) => return Ok(Found::Stream),
            // Nothing was declared and there is no signature: a caller who asks for an opaque format has declared that.
            (Err(Stop::Failed(failure)), None) if failure.code == FailureCode::UnknownFormat => input
                .image
                .disk_format
                .and_then(Format::from_name)
                .filter(|f| f.is_opaque())
                .ok_or(failure)?,
            (Err(stop), _) => return Err(stop),
        };
        let limits = Limits { max_virtual_size: self.policy.max_image_bytes };
        let member = input.member.as_deref();
        if member.is_some() && format != Format::Ova {
            let message = format!("import_from_member names a disk in an ova, but the source is {format}");
            return Err(Failure::new(FailureCode::FormatMismatch, message).into());
        }
        let open = |regions: &Regions| match format {
            Format::Ova => Layout::open_ova(regions, member, &limits),
            _ => Layout::open(regions, format, &limits),
        };
        Ok(Found::Disk(drive(source, &mut regions, open).await?))
    }

    /// Goes through the whole map of an image: every table entry is checked, every byte it points to is inside the file.
    pub(super) async fn walk(
        &self,
        source: &dyn Source,
        layout: &Layout,
        mut maps: Option<&mut Maps>,
    ) -> Step<()> {
        let mut regions = Regions::new(layout.file_size());
        let mut walker = layout.walk();
        loop {
            match walker.next(&regions) {
                Ok(Some(extent)) => {
                    if let Some(maps) = &mut maps {
                        maps.push(&extent).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(disk_image::Error::Refused(refusal)) => return Err(refusal.into()),
                Err(disk_image::Error::Need(ranges)) => {
                    regions.clear();
                    fetch(source, &mut regions, &ranges).await?;
                }
            }
        }
    }

    pub(super) fn check_quota(&self, size: u64) -> Step<()> {
        let most = self.policy.max_image_bytes;
        if size > most {
            let message = format!("the source has {size} bytes, the quota is {most}");
            return Err(Failure::new(FailureCode::SourceTooLarge, message).into());
        }
        Ok(())
    }
}

pub(super) fn too_slow(message: impl Into<String>) -> Stop {
    Failure::new(FailureCode::SourceTooSlow, message).into()
}
