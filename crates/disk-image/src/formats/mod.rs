//! The formats that are read, each in its own file, joined by [`Layout`].
//!
//! A format's file has `XLayout` (plain, serialisable: what the planner must remember), `XLayout::open(&Regions, &Limits)` with
//! every check of the header, and `XLayout::tables()`, a `walk::Tables` that reads the map piece by piece and
//! claims each part of the file in `claims::Claims`. Signatures are all in one place, `signatures.rs`.

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

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    format::Format,
    formats::view::View,
    limits::Limits,
    regions::Regions,
    walk::{Tables, Walker},
};

/// An image whose header is sound: small, and all that a walk needs beside the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    file_size: u64,
    format: Format,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Raw(raw::RawLayout),
    Qcow2(qcow2::Qcow2Layout),
    Vmdk(vmdk::VmdkLayout),
    Vhd(vhd::VhdLayout),
    Vhdx(vhdx::VhdxLayout),
    Vdi(vdi::VdiLayout),
}

impl Layout {
    /// Reads and checks the headers of a file that [`inspect`](crate::inspect::inspect) found to be of `format`.
    ///
    /// # Errors
    /// [`Error::Need`], or the refusal.
    pub fn open(regions: &Regions, format: Format, limits: &Limits) -> Result<Self> {
        let kind = match format {
            Format::Raw | Format::Ami | Format::Ari | Format::Aki => Kind::Raw(raw::RawLayout::open(regions)),
            Format::Iso => Kind::Raw(iso::open(regions)?),
            Format::Qcow2 => Kind::Qcow2(qcow2::Qcow2Layout::open(regions, limits)?),
            Format::Vmdk => Kind::Vmdk(vmdk::VmdkLayout::open(View::whole(regions), limits)?),
            Format::Vhd => Kind::Vhd(vhd::VhdLayout::open(regions, limits)?),
            Format::Vhdx => Kind::Vhdx(vhdx::VhdxLayout::open(regions, limits)?),
            Format::Vdi => Kind::Vdi(vdi::VdiLayout::open(regions, limits)?),
            Format::Ova => return Self::open_ova(regions, None, limits),
        };
        let layout = Self { file_size: regions.size(), format, kind };
        // Raw of no bytes is what it says; a structured format without a disk is a broken one.
        if !matches!(layout.kind, Kind::Raw(_)) || layout.file_size > 0 {
            check_virtual_size(layout.virtual_size(), limits)?;
        }
        Ok(layout)
    }

    /// As [`open`](Self::open) for an OVA; `disk` names the member to read where the descriptor has several disks.
    ///
    /// # Errors
    /// [`Error::Need`], or the refusal.
    pub fn open_ova(regions: &Regions, disk: Option<&str>, limits: &Limits) -> Result<Self> {
        let (offset, size) = ova::find_disk(regions, disk)?;
        let inner = vmdk::VmdkLayout::open(View::part(regions, offset, size)?, limits)?;
        Ok(Self { file_size: regions.size(), format: Format::Ova, kind: Kind::Vmdk(inner) })
    }

    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        match &self.kind {
            Kind::Raw(l) => l.virtual_size,
            Kind::Qcow2(l) => l.virtual_size,
            Kind::Vmdk(l) => l.virtual_size,
            Kind::Vhd(l) => l.virtual_size,
            Kind::Vhdx(l) => l.virtual_size,
            Kind::Vdi(l) => l.virtual_size,
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

    /// A walk over the whole disk.
    pub fn walk(&self) -> Walker {
        let tables: Box<dyn Tables> = match &self.kind {
            Kind::Raw(l) => Box::new(l.tables()),
            Kind::Qcow2(l) => Box::new(l.tables(self.file_size)),
            Kind::Vmdk(l) => Box::new(l.tables()),
            Kind::Vhd(l) => Box::new(l.tables(self.file_size)),
            Kind::Vhdx(l) => Box::new(l.tables(self.file_size)),
            Kind::Vdi(l) => Box::new(l.tables(self.file_size)),
        };
        Walker::new(tables, self.virtual_size(), self.file_size)
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
