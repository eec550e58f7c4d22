//! The formats that are read, each in its own file, joined by [`Layout`].
//!
//! A format's file has `XLayout` (plain, serialisable: what the planner must remember), `XLayout::open(&Regions, &Limits)` with
//! every check of the header, and `XLayout::tables()`, a [`Tables`](crate::walk::Tables) that reads the map piece by piece and
//! claims each part of the file in [`Claims`](crate::claims::Claims). Signatures are all in one place, `signatures.rs`.

pub mod iso;
pub mod qcow2;
pub mod raw;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    format::Format,
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
            Format::Vmdk | Format::Vhd | Format::Vhdx | Format::Vdi | Format::Ova => {
                return Err(Error::refused(Code::UnsupportedFormat, format!("{format} is not read")));
            }
        };
        let layout = Self { file_size: regions.size(), format, kind };
        check_virtual_size(layout.virtual_size(), limits)?;
        Ok(layout)
    }

    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        match &self.kind {
            Kind::Raw(l) => l.virtual_size,
            Kind::Qcow2(l) => l.virtual_size,
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
