//! OVA: a tar with an OVF descriptor and the disks it names. Also a tar with one disk and no descriptor, as clouds pack them.
//!
//! Goal: find the disks and where they lie in the file; nothing is unpacked.
//!
//! Threat model: members that leave the archive's folder, links, headers that contradict each other, members of the same
//! name, an XML that defines entities: none is needed by an honest OVA, so each is refused. Names are only compared, never
//! opened. What is inside is held to the rules for whole files.

mod envelope;
mod manifest;
mod tar;

use crate::{
    error::{Code, Error, Result, of_part},
    format::Format,
    formats::{holes::HolesLayout, view::View},
    inspect::{Inspection, inspect},
    regions::Regions,
};

pub use manifest::{Algorithm, Listed, manifest};
pub(crate) use tar::is_header as is_tar_header;

use self::tar::Member;

/// What to do with an archive that is no OVA.
pub(crate) const UNTAR: &str = "take the disk out of it (tar -xf) and send that, as it is or as a stream";
/// OVF descriptors take some tens of KiB.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// What an archive without a descriptor calls its disk: Google Cloud, and Vagrant for libvirt.
const DISKS: [&str; 2] = ["disk.raw", "box.img"];
/// Names that a refusal lists.
const LISTED: usize = 8;

/// A file in an archive: bytes of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// A disk in an archive.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) place: Place,
    pub(crate) format: Format,
    /// Which of its bytes are there, if not all are.
    pub(crate) holes: Option<HolesLayout>,
}

/// What an archive holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Whether a descriptor names the disks.
    pub(crate) is_appliance: bool,
    /// At least one.
    pub(crate) disks: Vec<Disk>,
}

/// The disks of an archive; `wanted` names one of them.
pub(crate) fn find(regions: &Regions, wanted: Option<&str>) -> Result<Found> {
    let view = View::whole(regions);
    let members = tar::members(view)?;
    let Some(descriptor) = descriptor(&members)? else {
        let disk = disk(regions, without_descriptor(&members, wanted)?)?;
        return Ok(Found { is_appliance: false, disks: vec![disk] });
    };
    let named = envelope::disks(read_descriptor(view, descriptor)?)?;
    if named.is_empty() {
        return Err(bad("its descriptor names no disk"));
    }
    let names = named.iter().map(|d| d.name.as_str());
    let is_wanted =
        |d: &&envelope::Disk| wanted.is_none_or(|wanted| d.name == wanted || d.unescaped() == wanted);
    let chosen: Vec<_> = named.iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        return Err(bad(format!(
            "it holds no disk \"{}\"; import_from_member may be {}",
            wanted.unwrap_or_default().escape_default(),
            listed(names)
        )));
    }
    // What a descriptor names lies beside it. Some write the name as it stands in a URL.
    let find = |name: &str| beside(&members, descriptor, name);
    let mut disks = Vec::new();
    for chosen in chosen {
        let member = find(&chosen.name).or_else(|| find(&chosen.unescaped())).ok_or_else(|| {
            bad(format!(
                "the disk \"{}\" is not in the archive; pack it anew with all its files",
                chosen.name.escape_default()
            ))
        })?;
        if chosen.size.is_some_and(|size| size != member.size) {
            return Err(bad(format!(
                "the disk \"{}\" has {} bytes, the descriptor says otherwise; fetch the archive again",
                member.name.escape_default(),
                member.size
            )));
        }
        disks.push(disk(regions, member)?);
    }
    Ok(Found { is_appliance: true, disks })
}

/// The archive's one descriptor, if it has any.
fn descriptor(members: &[Member]) -> Result<Option<&Member>> {
    let mut descriptors = members.iter().filter(|m| m.name.to_ascii_lowercase().ends_with(".ovf"));
    let first = descriptors.next();
    if descriptors.next().is_some() {
        return Err(bad("it has several OVF descriptors; pack one machine by itself"));
    }
    Ok(first)
}

fn read_descriptor<'a>(view: View<'a>, descriptor: &Member) -> Result<&'a [u8]> {
    if descriptor.size > MAX_DESCRIPTOR {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("OVA: the descriptor has {} bytes, more than {MAX_DESCRIPTOR}; {UNTAR}", descriptor.size),
        ));
    }
    view.read(descriptor.offset, descriptor.size, "OVF descriptor")
}

/// The member of that name in the descriptor's folder.
fn beside<'a>(members: &'a [Member], descriptor: &Member, name: &str) -> Option<&'a Member> {
    let folder = descriptor.name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    members.iter().find(|m| m.name.strip_prefix(folder.as_str()) == Some(name))
}

/// The disk of an archive that says nothing of its members.
fn without_descriptor<'a>(members: &'a [Member], wanted: Option<&str>) -> Result<&'a Member> {
    let is_disk = |m: &&Member| match wanted {
        Some(wanted) => m.file_name() == wanted,
        None => DISKS.contains(&m.file_name().to_ascii_lowercase().as_str()),
    };
    let mut disks = members.iter().filter(is_disk);
    if let (Some(disk), None) = (disks.next(), disks.next()) {
        return Ok(disk);
    }
    Err(bad(format!(
        "the file is a tar archive without an OVF descriptor; it holds {}; name the disk in import_from_member and ask \
         for it as disk_format raw or qcow2, or {UNTAR}",
        listed(members.iter().map(|m| m.name.as_str()))
    )))
}

/// The first of the names, as a sentence says them.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<_> = names.map(|name| format!("\"{}\"", name.escape_default())).collect();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "no file".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

/// What a member is, if that is a disk that is read where it lies.
fn disk(regions: &Regions, member: &Member) -> Result<Disk> {
    let is_raw = member.name.to_ascii_lowercase().ends_with(".raw");
    let place = Place { name: member.name.clone(), offset: member.offset, size: member.size };
    if let Some(holes) = &member.holes {
        if !is_raw {
            return Err(bad(format!(
                "\"{}\" is a sparse file, and only a raw disk is read from one; {UNTAR}",
                place.name.escape_default()
            )));
        }
        return Ok(Disk { place, format: Format::Raw, holes: Some(holes.clone()) });
    }
    let part = regions.part(place.offset, place.size)?;
    let refused = |code, what: &str| {
        let name = place.name.escape_default();
        Err(Error::refused(code, format!("OVA: the disk \"{name}\" {what}; {UNTAR}")))
    };
    let format = match inspect(&part, is_raw.then_some(Format::Raw)) {
        Ok(Inspection::Disk(format @ (Format::Iso | Format::Ova))) => {
            return refused(Code::FormatMismatch, &format!("is {format}, which is no disk of a machine"));
        }
        Ok(Inspection::Disk(format)) => format,
        Ok(Inspection::Stream(stream)) => {
            return refused(
                Code::UnsupportedFormat,
                &format!("is a {stream} stream, which is not unpacked inside of an archive"),
            );
        }
        Err(Error::Refused(refusal)) if refusal.code == Code::UnknownFormat => {
            return refused(
                Code::UnknownFormat,
                "has no known signature, and in an archive only a name that ends with .raw says that it is raw",
            );
        }
        Err(error) => return of_part(Err(error), place.offset, &place.name),
    };
    Ok(Disk { place, format, holes: None })
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadArchive, format!("OVA: {message}"))
}
