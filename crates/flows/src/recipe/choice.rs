//! What is made of a source: the format that its disk gets, and from it the recipe.

use disk_image::write::qcow2::Codec;
use disk_image::{Format, Layout};
use image_tasks_domain::FailureCode;
use image_tasks_domain::image_properties::ImageProperties;
use image_tasks_domain::import_input::OutputFormat;
use image_tasks_domain::transfer::{MAX_PARTS, TransferPlan};

use super::qcow2::too_large;
use crate::error::{Flow, Stop};

/// As Glance's conversion: guests run on the image, and an export compresses what is sent away.
pub(crate) const STORED: Codec = Codec::None;

/// What will be stored.
pub(crate) struct Target {
    /// Format of the stored bytes.
    pub(crate) format: Format,
    /// Their envelope.
    pub(crate) container: String,
    pub(crate) made: Made,
}

/// What is made of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// Nothing: it is stored as it is.
    AsIs,
    /// The disk inside it.
    Raw,
    /// A qcow2 of that disk.
    Qcow2,
}

impl Target {
    /// What becomes of a disk that comes in, by what is said of the image and by the operator's default.
    pub(crate) fn of(
        layout: &Layout,
        said: &ImageProperties,
        member: Option<&str>,
        output: OutputFormat,
    ) -> Flow<Self> {
        let unsupported = |message: &str| Stop::failed(FailureCode::UnsupportedFormat, message);
        let found = layout.format();
        let wanted = said.disk_format.and_then(Format::from_name);
        let wanted = wanted.unwrap_or_else(|| by_default(layout, said.container_format, output));
        if found == Format::Ova && matches!(wanted, Format::Ova | Format::Vmdk) {
            if member.is_some() {
                return Err(unsupported(
                    "import_from_member takes one disk out of the archive; ask for it as raw or qcow2, in \
                     image_properties.disk_format; else the ova is stored whole",
                ));
            }
            if layout.is_mere_archive() {
                return Err(Stop::failed(
                    FailureCode::BadArchive,
                    format!(
                        "the file is a tar archive without an OVF descriptor; its disk {} can be taken out if you ask for it \
                         as image_properties.disk_format raw or qcow2",
                        quoted(&layout.disks())
                    ),
                ));
            }
            return Ok(Self { format: found, container: "ova".to_owned(), made: Made::AsIs });
        }
        if layout.disks().len() > 1 {
            let message = format!(
                "the ova holds {} disks ({}), and one is stored as {wanted}; name it in import_from_member, or say \
                 container_format ova and no disk_format to store the ova whole",
                layout.disks().len(),
                quoted(&layout.disks())
            );
            return Err(Stop::failed(FailureCode::BadArchive, message));
        }
        let container = said.container_format.unwrap_or("bare").to_owned();
        if container == Format::Ova.name() {
            let message = format!(
                "container_format is ova, but a {found} stored as {wanted} is none; leave container_format out, or \
                 leave disk_format out to store an ova whole"
            );
            return Err(Stop::failed(FailureCode::FormatMismatch, message));
        }
        // Opaque formats are the same bytes by another name, and so is an ISO's disk.
        let made = if wanted == found || wanted.is_opaque() && found.is_verbatim() {
            Made::AsIs
        } else if wanted == Format::Raw {
            Made::Raw
        } else if wanted == Format::Qcow2 && layout.virtual_size() > 0 {
            Made::Qcow2
        } else if wanted == Format::Qcow2 {
            return Err(unsupported(
                "the image has no bytes, and a qcow2 of none is of no use; ask for it as raw",
            ));
        } else {
            return Err(unsupported(&format!(
                "the image is {found}; it can't be stored as {wanted}, only as {found}, raw or qcow2"
            )));
        };
        Ok(Self { format: wanted, container, made })
    }
}

/// Names of disks, as a sentence lists them.
fn quoted(names: &[&str]) -> String {
    const MOST: usize = 8;
    let more = if names.len() > MOST { ", ..." } else { "" };
    let names: Vec<_> =
        names.iter().take(MOST).map(|name| format!("\"{}\"", name.escape_default())).collect();
    names.join(", ") + more
}

/// The format that an image gets where nobody asks for one: the operator's, for whatever is a disk and not asked for as an OVA.
///
/// An ISO stays, as Glance's image_conversion plugin has it. Kernels, ramdisks and the partitions that go with them stay: a
/// hypervisor is handed their bytes.
fn by_default(layout: &Layout, container: Option<&str>, output: OutputFormat) -> Format {
    let found = layout.format();
    let is_disk = !matches!(found, Format::Iso | Format::Ami | Format::Ari | Format::Aki);
    let wanted = match output {
        OutputFormat::AsIs => found,
        OutputFormat::Raw => Format::Raw,
        OutputFormat::Qcow2 => Format::Qcow2,
    };
    let stays = !is_disk || container == Some(Format::Ova.name()) || layout.virtual_size() == 0;
    if stays { found } else { wanted }
}

/// Parts of that size, larger ones where S3 takes no more of them.
pub(crate) fn by_parts(size: u64, part: u64) -> Flow<TransferPlan> {
    let plan = TransferPlan::new(size).map_err(too_large)?;
    Ok(TransferPlan {
        part_size: if size.div_ceil(part) > MAX_PARTS { plan.part_size } else { part },
        ..plan
    })
}
