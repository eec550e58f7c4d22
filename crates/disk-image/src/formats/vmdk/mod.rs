//! VMDK in one file: monolithicSparse and streamOptimized.
//!
//! Goal: the sparse extent of VMware's "Virtual Disk Format 5.0", with all that QEMU, VirtualBox and VMware write.
//!
//! Threat model: a VMDK is a text that names files plus tables that name sectors. The text ("descriptor") could make a hypervisor
//! open any path of its host (CVE-2022-47951, CVE-2024-32498), so it is read only to be refused unless it is the plain
//! descriptor of one sparse extent: see `descriptor.rs`. Header and footer could describe two disks, so they must agree.

mod descriptor;
mod walk;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    fields::{le16, le32, le64},
    formats::check_virtual_size,
    formats::table::check_table_bytes,
    formats::view::View,
    limits::Limits,
};

pub(crate) use walk::VmdkTables;

/// What to do with a disk that lies in several files.
pub(crate) const JOIN: &str = "make one file of the disk and send that: qemu-img convert -O qcow2 disk.vmdk \
                               disk.qcow2, where disk.vmdk is the text that names the parts";
/// Bytes of a sector, the unit of all offsets.
pub(crate) const SECTOR: u64 = 512;
/// `gdOffset` of a stream whose grain directory comes last (VMware: `GD_AT_END`).
const GD_AT_END: u64 = u64::MAX;
/// Entries of a grain table: fixed by the specification.
pub(crate) const TABLE_ENTRIES: u64 = 512;
/// Largest grain: as stored ones are only cut, 16 MiB; as a compressed one is decoded whole, 2 MiB.
const MAX_GRAIN: u64 = 16 << 20;
const MAX_COMPRESSED_GRAIN: u64 = 2 << 20;
/// Footer marker, footer, end-of-stream marker.
const FOOTER_BYTES: u64 = 3 * SECTOR;
const MARKER_FOOTER: u32 = 3;

const FLAG_NEWLINES: u32 = 1;
const FLAG_REDUNDANT: u32 = 1 << 1;
const FLAG_ZERO_GRAIN: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// What a walk over the tables needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmdkLayout {
    /// Bytes of the file.
    size: u64,
    /// Bytes of the disk.
    pub(crate) virtual_size: u64,
    /// Bytes of a grain.
    grain: u64,
    /// Sectors of header, descriptor and directories; grains lie behind.
    overhead: u64,
    /// Offset of the grain directory.
    directory: u64,
    compressed: bool,
    zero_grains: bool,
}

/// The header's fields that matter, in its units.
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: u64,
    descriptor_len: u64,
    table_entries: u32,
    redundant: u64,
    directory: u64,
    overhead: u64,
    unclean: u8,
    newlines: [u8; 4],
    compression: u16,
}

impl Header {
    fn parse(sector: &[u8]) -> Result<Self> {
        let byte = |at: usize| sector.get(at).copied().unwrap_or_default();
        Ok(Self {
            version: le32(sector, 4)?,
            flags: le32(sector, 8)?,
            capacity: le64(sector, 12)?,
            grain: le64(sector, 20)?,
            descriptor: le64(sector, 28)?,
            descriptor_len: le64(sector, 36)?,
            table_entries: le32(sector, 44)?,
            redundant: le64(sector, 48)?,
            directory: le64(sector, 56)?,
            overhead: le64(sector, 64)?,
            unclean: byte(72),
            newlines: [byte(73), byte(74), byte(75), byte(76)],
            compression: le16(sector, 77)?,
        })
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    fn check(&self) -> Result<()> {
        if !(1..=3).contains(&self.version) {
            return Err(Error::refused(
                Code::UnsupportedFeature,
                format!("VMDK version {}; 1 to 3 are read", self.version),
            ));
        }
        let known = FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZERO_GRAIN | FLAG_COMPRESSED | FLAG_MARKERS;
        if self.flags & !known != 0 {
            return Err(Error::refused(
                Code::UnsupportedFeature,
                format!("VMDK: unknown flags {:#x}", self.flags & !known),
            ));
        }
        if self.has(FLAG_NEWLINES) && self.newlines != *b"\n \r\n" {
            return Err(bad(
                "the newline test bytes are changed: the file went through a text mode transfer",
            ));
        }
        if self.unclean != 0 {
            return Err(Error::refused(
                Code::Corrupt,
                "VMDK: not cleanly shut down (uncleanShutdown is set, byte 72): it was copied while a machine ran on it, \
                 or one crashed; shut the machine down and send it again, or repair it (vmware-vdiskmanager -R)",
            ));
        }
        if self.capacity == 0 {
            return Err(bad("capacity is 0, which lets the descriptor name other files"));
        }
        if self.compression > 1 || self.has(FLAG_COMPRESSED) != (self.compression == 1) {
            return Err(Error::refused(
                Code::UnsupportedFeature,
                format!("VMDK: compression algorithm {} with flags {:#x}", self.compression, self.flags),
            ));
        }
        if self.has(FLAG_COMPRESSED) != self.has(FLAG_MARKERS) {
            return Err(Error::refused(
                Code::UnsupportedFeature,
                "VMDK: only compressed extents have markers, and all of them do",
            ));
        }
        if u64::from(self.table_entries) != TABLE_ENTRIES {
            return Err(bad(format!(
                "grain tables of {} entries instead of {TABLE_ENTRIES}",
                self.table_entries
            )));
        }
        let most = if self.has(FLAG_COMPRESSED) { MAX_COMPRESSED_GRAIN } else { MAX_GRAIN };
        if !self.grain.is_power_of_two() || self.grain < 8 || self.grain > most / SECTOR {
            return Err(bad(format!(
                "grains of {} sectors; a power of two from 8 to {} is accepted",
                self.grain,
                most / SECTOR
            )));
        }
        Ok(())
    }
}

impl VmdkLayout {
    pub(crate) fn open(view: View<'_>, limits: &Limits) -> Result<Self> {
        if view.size() < SECTOR {
            return Err(Error::refused(
                Code::Truncated,
                format!("VMDK: {} bytes hold no header", view.size()),
            ));
        }
        let first = view.read(0, SECTOR, "VMDK header")?;
        if !first.starts_with(b"KDMV") {
            return Err(Error::refused(Code::FormatMismatch, "VMDK: no sparse extent header (KDMV)"));
        }
        let mut header = Header::parse(first)?;
        header.check()?;
        let virtual_size = header
            .capacity
            .checked_mul(SECTOR)
            .ok_or_else(|| bad("the capacity in bytes exceeds 64 bits"))?;
        check_virtual_size(virtual_size, limits)?;
        if header.overhead.checked_mul(SECTOR).is_none_or(|end| end > view.size()) {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "VMDK: {} sectors of metadata, but the file has {} bytes",
                    header.overhead,
                    view.size()
                ),
            ));
        }
        if let Some(directory) = footer_directory(view, first, &header)? {
            header.directory = directory;
        }
        descriptor::check(
            view,
            header.descriptor,
            header.descriptor_len,
            &descriptor::Expected {
                compressed: header.has(FLAG_COMPRESSED),
                capacity: header.capacity,
                grain: header.grain,
            },
        )?;
        // Sector 0 and the descriptor, whose length is checked by now.
        if header.overhead < 1 + header.descriptor_len {
            return Err(bad(format!(
                "{} sectors of metadata, fewer than header and descriptor take",
                header.overhead
            )));
        }
        let grain = header.grain * SECTOR;
        let layout = Self {
            size: view.size(),
            virtual_size,
            grain,
            overhead: header.overhead,
            directory: directory_offset(
                view,
                "grain directory",
                header.directory,
                virtual_size.div_ceil(grain),
            )?,
            compressed: header.has(FLAG_COMPRESSED),
            zero_grains: header.has(FLAG_ZERO_GRAIN),
        };
        if header.has(FLAG_REDUNDANT) && header.redundant != GD_AT_END {
            directory_offset(view, "redundant grain directory", header.redundant, layout.grains())?;
        }
        Ok(layout)
    }

    fn grains(&self) -> u64 {
        self.virtual_size.div_ceil(self.grain)
    }

    pub(crate) fn tables(&self) -> VmdkTables {
        VmdkTables::new(self.clone())
    }
}

/// Checks that a directory for `grains` grains lies in the file, behind the header, and says at which byte.
fn directory_offset(view: View<'_>, what: &str, sector: u64, grains: u64) -> Result<u64> {
    let bytes = grains.div_ceil(TABLE_ENTRIES) * 4;
    check_table_bytes(bytes, &format!("VMDK: the {what}"))?;
    match sector.checked_mul(SECTOR) {
        Some(offset) if sector > 0 && view.holds(offset, bytes) => Ok(offset),
        _ => Err(Error::refused(
            Code::OutOfBounds,
            format!("VMDK: the {what} of {bytes} bytes at sector {sector} is outside of the file"),
        )),
    }
}

/// Where a stream's footer says the grain directory is. A footer describes the disk a second time: apart from the
/// offsets that a stream's writer couldn't know at first, and the metadata's length that follows from them, it must
/// repeat the header.
fn footer_directory(view: View<'_>, first: &[u8], header: &Header) -> Result<Option<u64>> {
    let at_end = header.directory == GD_AT_END;
    if !header.has(FLAG_MARKERS) {
        return if at_end {
            Err(bad("the grain directory of a monolithicSparse disk can't come last"))
        } else {
            Ok(None)
        };
    }
    let whole = view.size().is_multiple_of(SECTOR) && view.size() >= FOOTER_BYTES + SECTOR;
    if !whole {
        return if at_end { Err(no_footer()) } else { Ok(None) };
    }
    let tail = view.read(view.size() - FOOTER_BYTES, FOOTER_BYTES, "VMDK footer")?;
    let (marker, rest) = tail.split_at_checked(512).unwrap_or_default();
    let (footer, end) = rest.split_at_checked(512).unwrap_or_default();
    if le32(marker, 12)? != MARKER_FOOTER || !footer.starts_with(b"KDMV") {
        return if at_end { Err(no_footer()) } else { Ok(None) };
    }
    // Size and type of the marker are 0 for the end of the stream.
    if le32(marker, 8)? != 0 || end.iter().take(16).any(|b| *b != 0) {
        return Err(no_footer());
    }
    let same = |from: usize, to: usize| first.get(from..to) == footer.get(from..to);
    let offsets = if at_end { 48..72 } else { 48..48 };
    if !same(0, offsets.start) || !same(offsets.end, 512) {
        return Err(bad("the footer describes another disk than the header"));
    }
    let directory = le64(footer, 56)?;
    if directory == GD_AT_END {
        return Err(bad("neither header nor footer says where the grain directory is"));
    }
    Ok(Some(directory))
}

fn no_footer() -> Error {
    Error::refused(Code::Truncated, "VMDK: the stream does not end with a footer and an end-of-stream marker")
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadHeader, format!("VMDK: {message}"))
}
