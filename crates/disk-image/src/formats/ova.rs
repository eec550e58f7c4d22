//! OVA: a tar with an OVF descriptor and the disk it names.
//!
//! Goal: find the one disk and where it lies in the file; nothing is unpacked.
//!
//! Threat model: members that leave the archive's folder, links, headers that contradict each other, members of the same
//! name, an XML that defines entities: none is needed by an honest OVA, so each is refused. Names are only compared, never
//! opened.

mod envelope;
mod tar;

use crate::{
    error::{Code, Error, Result},
    format::Format,
    formats::view::View,
    inspect::ends,
    regions::Regions,
    signatures::{self, Meaning},
};

pub(crate) use tar::is_header as is_tar_header;

/// What to do with an archive that is no OVA.
pub(crate) const UNTAR: &str =
    "take the disk out of it (tar -xf) and send that, as it is or as gzip, xz or zstd";
/// OVF descriptors take some tens of KiB.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// Where the disk lies: offset and length in the file. `disk` names a member, needed only where there are several disks.
pub(crate) fn find_disk(regions: &Regions, disk: Option<&str>) -> Result<(u64, u64)> {
    let view = View::whole(regions);
    let members = tar::members(view)?;
    let mut descriptors = members.iter().filter(|m| m.name.to_ascii_lowercase().ends_with(".ovf"));
    let Some(descriptor) = descriptors.next() else {
        return Err(bad(format!("the file is a tar archive without an OVF descriptor; {UNTAR}")));
    };
    if descriptors.next().is_some() {
        return Err(bad("it has several OVF descriptors; pack one machine by itself"));
    }
    if descriptor.size > MAX_DESCRIPTOR {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("OVA: the descriptor has {} bytes, more than {MAX_DESCRIPTOR}", descriptor.size),
        ));
    }
    let xml = view.read(descriptor.offset, descriptor.size, "OVF descriptor")?;
    let named = envelope::disks(xml)?;
    let chosen = match (disk, named.as_slice()) {
        (_, []) => return Err(bad("its descriptor names no disk")),
        (None, [only]) => only,
        (None, several) => {
            let names: Vec<_> = several.iter().map(|d| d.name.as_str()).collect();
            return Err(bad(format!(
                "it holds {} disks ({}); import_from_member has to name one",
                names.len(),
                names.join(", ")
            )));
        }
        (Some(wanted), several) => several
            .iter()
            .find(|d| d.name == wanted || d.unescaped() == wanted)
            .ok_or_else(|| bad(format!("it holds no disk \"{}\"", wanted.escape_default())))?,
    };
    // What a descriptor names lies beside it. Some write the name as it stands in a URL.
    let folder = descriptor.name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let find = |name: &str| members.iter().find(|m| m.name.strip_prefix(folder.as_str()) == Some(name));
    let member = find(&chosen.name)
        .or_else(|| find(&chosen.unescaped()))
        .ok_or_else(|| bad(format!("the disk \"{}\" is not in the archive", chosen.name.escape_default())))?;
    if chosen.size.is_some_and(|size| size != member.size) {
        return Err(bad(format!(
            "the disk \"{}\" has {} bytes, the descriptor says otherwise",
            member.name.escape_default(),
            member.size
        )));
    }
    check_signatures(View::part(regions, member.offset, member.size)?)?;
    Ok((member.offset, member.size))
}

/// The disk must be a VMDK and nothing else, by the rules for whole files.
fn check_signatures(disk: View<'_>) -> Result<()> {
    let ends = ends(disk)?;
    let found: Vec<_> = signatures::all(&ends).into_iter().map(|seen| seen.meaning).collect();
    match found.as_slice() {
        [Meaning::Disk(Format::Vmdk)] if !signatures::partition_table(ends.head) => Ok(()),
        [] => Err(Error::refused(
            Code::UnknownFormat,
            format!("OVA: the disk has no known signature, and only a VMDK is read in place; {UNTAR}"),
        )),
        [Meaning::Disk(Format::Vmdk)] => {
            Err(Error::refused(Code::Polyglot, "OVA: the disk is a VMDK and begins with a partition table"))
        }
        [other] => Err(Error::refused(
            Code::FormatMismatch,
            format!("OVA: the disk is {}, and only a VMDK is read in place; {UNTAR}", other.name()),
        )),
        [one, other, ..] => Err(Error::refused(
            Code::Polyglot,
            format!("OVA: the disk is {} and {} at once", one.name(), other.name()),
        )),
    }
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadArchive, format!("OVA: {message}"))
}
