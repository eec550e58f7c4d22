//! Raw disks: the file is the disk.
//!
//! Threat model: none of the bytes is interpreted. That a "raw" file isn't in truth another format, which a
//! hypervisor might detect later, is [`inspect`](crate::inspect::inspect)'s to see.

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    extent::Stored,
    regions::Regions,
    walk::{Stretch, Tables},
};

/// A file that is its own disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawLayout {
    /// Bytes of the file and of the disk.
    pub virtual_size: u64,
}

impl RawLayout {
    pub(crate) fn open(regions: &Regions) -> Self {
        Self { virtual_size: regions.size() }
    }

    pub(crate) fn tables(&self) -> RawTables {
        RawTables { len: self.virtual_size }
    }
}

/// One extent.
#[derive(Debug)]
pub(crate) struct RawTables {
    len: u64,
}

impl Tables for RawTables {
    fn step(&mut self, _: &Regions, out: &mut Stretch) -> Result<()> {
        out.push(self.len, Stored::Raw { offset: 0 });
        Ok(())
    }
}
