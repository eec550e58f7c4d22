//! The formats that are read, each in its own file, joined by [`Layout`].
//!
//! A format's file has `XLayout` (plain, serialisable: what the planner must remember), `XLayout::open(&Regions, &Limits)` with
//! every check of the header, and `XLayout::tables()`, a `walk::Tables` that reads the map piece by piece and
//! claims each part of the file in `claims::Claims`. Signatures are all in one place, `signatures.rs`.

pub mod holes;
pub mod iso;
pub(crate) mod ova;
pub mod qcow2;
pub mod raw;
mod table;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub(crate) mod view;
pub mod vmdk;

use std::sync::Arc;

use crate::{
    error::{Code, Error, Result, of_part},
    format::Format,
    formats::{ova::Place, view::View},
    limits::Limits,
    regions::Regions,
    walk::{DiskWalker, Tables, Walker},
};

/// An image whose header is sound: small, and all that a walk needs beside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    file_size: u64,
    format: Format,
    holds: Holds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holds {
    /// It is a disk.
    Disk(Kind),
    /// It is an archive of disks.
    Archive {
        /// Whether a descriptor names them.
        is_appliance: bool,
        disks: Vec<(Arc<Place>, Kind)>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Raw(raw::RawLayout),
    Qcow2(qcow2::Qcow2Layout),
    Vmdk(vmdk::VmdkLayout),
    Vhd(vhd::VhdLayout),
    Vhdx(vhdx::VhdxLayout),
    Vdi(vdi::VdiLayout),
    Holes(holes::HolesLayout),
}

impl Kind {
    fn open(regions: &Regions, format: Format, limits: &Limits) -> Result<Self> {
        let kind = match format {
            Format::Raw | Format::Ami | Format::Ari | Format::Aki => Self::Raw(raw::RawLayout::open(regions)),
            Format::Iso => Self::Raw(iso::open(regions)?),
            Format::Qcow2 => Self::Qcow2(qcow2::Qcow2Layout::open(regions, limits)?),
            Format::Vmdk => Self::Vmdk(vmdk::VmdkLayout::open(View::whole(regions), limits)?),
            Format::Vhd => Self::Vhd(vhd::VhdLayout::open(regions, limits)?),
            Format::Vhdx => Self::Vhdx(vhdx::VhdxLayout::open(regions, limits)?),
            Format::Vdi => Self::Vdi(vdi::VdiLayout::open(regions, limits)?),
            Format::Ova => {
                let message = format!("it is a tar archive and no disk; {}", ova::UNTAR);
                return Err(Error::refused(Code::BadArchive, message));
            }
        };
        // Raw of no bytes is what it says; a structured format without a disk is a broken one.
        if !matches!(kind, Self::Raw(_)) || regions.size() > 0 {
            check_virtual_size(kind.virtual_size(), limits)?;
        }
        Ok(kind)
    }

    const fn format(&self) -> Format {
        match self {
            Self::Raw(_) | Self::Holes(_) => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
            Self::Vmdk(_) => Format::Vmdk,
            Self::Vhd(_) => Format::Vhd,
            Self::Vhdx(_) => Format::Vhdx,
            Self::Vdi(_) => Format::Vdi,
        }
    }

    fn virtual_size(&self) -> u64 {
        match self {
            Self::Raw(l) => l.virtual_size,
            Self::Qcow2(l) => l.virtual_size,
            Self::Vmdk(l) => l.virtual_size,
            Self::Vhd(l) => l.virtual_size,
            Self::Vhdx(l) => l.virtual_size,
            Self::Vdi(l) => l.virtual_size,
            Self::Holes(l) => l.virtual_size,
        }
    }

    /// A walk over the disk in a file of so many bytes.
    fn walk(&self, file_size: u64, place: Option<Arc<Place>>) -> DiskWalker {
        let tables: Box<dyn Tables> = match self {
            Self::Raw(l) => Box::new(l.tables()),
            Self::Qcow2(l) => Box::new(l.tables(file_size)),
            Self::Vmdk(l) => Box::new(l.tables()),
            Self::Vhd(l) => Box::new(l.tables(file_size)),
            Self::Vhdx(l) => Box::new(l.tables(file_size)),
            Self::Vdi(l) => Box::new(l.tables(file_size)),
            Self::Holes(l) => Box::new(l.tables()),
        };
        DiskWalker::new(tables, self.virtual_size(), file_size, place)
    }
}

impl Layout {
    /// Reads and checks the headers of a file that [`inspect`](crate::inspect::inspect) found to be of `format`.
    ///
    /// # Errors
    /// [`Error::Need`], or the refusal.
    pub fn open(regions: &Regions, format: Format, limits: &Limits) -> Result<Self> {
        if format == Format::Ova {
            return Self::open_ova(regions, None, limits);
        }
        let holds = Holds::Disk(Kind::open(regions, format, limits)?);
        Ok(Self { file_size: regions.size(), format, holds })
    }

    /// As [`open`](Self::open) for an archive; `disk` names the member to read. Without it all disks of an OVA are opened, or
    /// of an archive without descriptor the member that has the name of a disk.
    ///
    /// # Errors
    /// [`Error::Need`], or the refusal.
    pub fn open_ova(regions: &Regions, disk: Option<&str>, limits: &Limits) -> Result<Self> {
        let found = ova::find(regions, disk)?;
        let mut disks = Vec::new();
        for ova::Disk { place, format, holes } in found.disks {
            let kind = match holes {
                Some(holes) => {
                    check_virtual_size(holes.virtual_size, limits)?;
                    Kind::Holes(holes)
                }
                None => {
                    let part = regions.part(place.offset, place.size)?;
                    of_part(Kind::open(&part, format, limits), place.offset, &place.name)?
                }
            };
            disks.push((Arc::new(place), kind));
        }
        let holds = Holds::Archive { is_appliance: found.is_appliance, disks };
        Ok(Self { file_size: regions.size(), format: Format::Ova, holds })
    }

    /// Bytes of the virtual disk; in an archive of several of all of them.
    pub fn virtual_size(&self) -> u64 {
        match &self.holds {
            Holds::Disk(kind) => kind.virtual_size(),
            Holds::Archive { disks, .. } => {
                disks.iter().fold(0, |sum, (_, kind)| sum.saturating_add(kind.virtual_size()))
            }
        }
    }

    /// Bytes of the file it was opened from.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Names of the disks that were opened in an archive. Only one disk can be taken out of it.
    pub fn disks(&self) -> Vec<&str> {
        match &self.holds {
            Holds::Disk(_) => Vec::new(),
            Holds::Archive { disks, .. } => disks.iter().map(|(place, _)| place.name.as_str()).collect(),
        }
    }

    /// The format of the disk in an archive, of several that of the first.
    pub fn disk_format(&self) -> Option<Format> {
        match &self.holds {
            Holds::Disk(_) => None,
            Holds::Archive { disks, .. } => disks.first().map(|(_, kind)| kind.format()),
        }
    }

    /// Whether it is an archive without a descriptor: no OVA, but a disk can be taken out of it.
    pub fn is_mere_archive(&self) -> bool {
        matches!(self.holds, Holds::Archive { is_appliance: false, .. })
    }

    /// A walk over the whole disk. Of several disks it only proves that each is sound: they are no disk together.
    pub fn walk(&self) -> Walker {
        match &self.holds {
            Holds::Disk(kind) => Walker::new([kind.walk(self.file_size, None)]),
            Holds::Archive { disks, .. } => {
                Walker::new(disks.iter().map(|(place, kind)| kind.walk(place.size, Some(Arc::clone(place)))))
            }
        }
    }
}

/// Formats call it too, before they size a table by it.
pub(crate) fn check_virtual_size(virtual_size: u64, limits: &Limits) -> Result<()> {
    if virtual_size == 0 {
        return Err(Error::refused(Code::BadHeader, "the virtual disk has no bytes"));
    }
    if virtual_size > limits.max_virtual_size {
        return Err(Error::refused(
            Code::TooLarge,
            format!("the virtual disk has {virtual_size} bytes, the quota is {}", limits.max_virtual_size),
        ));
    }
    Ok(())
}
