//! qcow2, versions 2 and 3.
//!
//! Read: standard and extended L2 entries (subclusters), zlib and zstd clusters, every cluster size and refcount width.
//! Internal snapshots are left out, as `qemu-img convert` does: only the active disk is the image.
//!
//! Threat model: the header can name other files (backing file, data file: CVE-2011-3147, CVE-2015-5163, CVE-2024-32498), tables can
//! point anywhere, at each other or at themselves, and sizes can be absurd. Names are refused whatever they say, offsets are
//! checked against alignment and the file's end, every cluster is claimed once, and tables have QEMU's own size limits.
//!
//! Field names, offsets and limits: QEMU `docs/interop/qcow2`.

mod tables;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    fields::{be32, be64},
    formats::check_virtual_size,
    limits::{Limits, MAX_TABLE_BYTES},
    regions::Regions,
};
pub(crate) use tables::Qcow2Tables;

const V2_HEADER: u32 = 72;
const V3_HEADER: u32 = 104;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const EXTENDED_L2_MIN_CLUSTER_BITS: u32 = 14;
/// QEMU `QCOW_MAX_REFTABLE_SIZE`.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Header and extensions: QEMU writes a few hundred bytes.
const MAX_HEADER: u64 = 64 << 10;
/// QEMU `QCOW_MAX_SNAPSHOTS`.
const MAX_SNAPSHOTS: u32 = 65536;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2;

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_ENCRYPTION: u32 = 0x0537_be77;
const EXT_DATA_FILE: u32 = 0x4441_5441;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
const EXT_BITMAPS: u32 = 0x2385_2875;

/// A qcow2 image whose header is sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qcow2Layout {
    /// Bytes of the virtual disk.
    pub virtual_size: u64,
    version: u32,
    cluster_bits: u32,
    extended_l2: bool,
    zstd: bool,
    l1_offset: u64,
    /// Entries that the virtual size needs; the table may have more.
    l1_entries: u64,
    /// Entries that the table has.
    l1_size: u32,
    refcount_table_offset: u64,
    refcount_table_clusters: u32,
}

impl Qcow2Layout {
    /// Reads and checks the header and its extensions.
    pub(crate) fn open(regions: &Regions, limits: &Limits) -> Result<Self> {
        let start = regions.read(0, V2_HEADER as usize)?;
        let version = be32(start, 4)?;
        let cluster_bits = be32(start, 20)?;
        match version {
            2 | 3 => {}
            1 => return Err(Error::refused(Code::UnsupportedFormat, "qcow of version 1 is not accepted")),
            _ => return Err(Error::refused(Code::UnsupportedFeature, format!("qcow2 of version {version}"))),
        }
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(bad(format!("cluster_bits is {cluster_bits}, allowed are 9 to 21")));
        }
        let cluster = 1u64 << cluster_bits;
        let features = if version == 2 { Features::V2 } else { Features::read(regions, cluster)? };
        backing_file(regions, start)?;
        match be32(start, 32)? {
            0 => {}
            method => {
                return Err(Error::refused(Code::Encrypted, format!("qcow2: crypt_method is {method}")));
            }
        }
        extensions(regions, features.header_length, cluster)?;
        if features.extended_l2 && cluster_bits < EXTENDED_L2_MIN_CLUSTER_BITS {
            return Err(bad(format!("extended L2 entries need cluster_bits of 14, not {cluster_bits}")));
        }

        let virtual_size = be64(start, 24)?;
        check_virtual_size(virtual_size, limits)?;
        if !virtual_size.is_multiple_of(512) {
            return Err(bad(format!("size {virtual_size} is not a multiple of 512")));
        }
        let mut layout = Self {
            virtual_size,
            version,
            cluster_bits,
            extended_l2: features.extended_l2,
            zstd: features.zstd,
            l1_offset: be64(start, 40)?,
            l1_entries: 0,
            l1_size: be32(start, 36)?,
            refcount_table_offset: be64(start, 48)?,
            refcount_table_clusters: be32(start, 56)?,
        };
        layout.l1_entries = virtual_size.div_ceil(layout.l2_span());
        layout.check_tables(regions.size())?;
        layout.check_snapshots(be32(start, 60)?, be64(start, 64)?, regions.size())?;
        Ok(layout)
    }

    /// Its tables, of a file of `file_size` bytes.
    pub(crate) fn tables(&self, file_size: u64) -> Qcow2Tables {
        Qcow2Tables::new(self.clone(), file_size)
    }

    const fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    const fn entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Virtual bytes that one L2 table maps.
    const fn l2_span(&self) -> u64 {
        self.cluster() / self.entry_bytes() * self.cluster()
    }

    fn check_tables(&self, file_size: u64) -> Result<()> {
        let l1_size = self.l1_size;
        let l1_bytes = u64::from(l1_size) * 8;
        if l1_bytes > MAX_TABLE_BYTES || self.l1_entries * 8 > MAX_TABLE_BYTES {
            return Err(Error::refused(
                Code::TableTooLarge,
                format!("qcow2: an L1 table of {} entries", u64::from(l1_size).max(self.l1_entries)),
            ));
        }
        if u64::from(l1_size) < self.l1_entries {
            return Err(bad(format!(
                "l1_size is {l1_size}, but a disk of {} bytes needs {}",
                self.virtual_size, self.l1_entries
            )));
        }
        self.check_place("L1 table", self.l1_offset, l1_bytes, file_size)?;
        let refcount_bytes = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if refcount_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::refused(
                Code::TableTooLarge,
                format!("qcow2: a refcount table of {} clusters", self.refcount_table_clusters),
            ));
        }
        if refcount_bytes == 0 {
            return Err(bad("refcount_table_clusters is 0".into()));
        }
        self.check_place("refcount table", self.refcount_table_offset, refcount_bytes, file_size)
    }

    fn check_snapshots(&self, count: u32, offset: u64, file_size: u64) -> Result<()> {
        if count > MAX_SNAPSHOTS {
            return Err(Error::refused(Code::TableTooLarge, format!("qcow2: {count} internal snapshots")));
        }
        if count == 0 {
            return Ok(());
        }
        // 40 bytes is the smallest entry.
        self.check_place("snapshot table", offset, u64::from(count) * 40, file_size)
    }

    /// A structure begins at a cluster other than the header's and lies inside the file.
    fn check_place(&self, what: &str, offset: u64, len: u64, file_size: u64) -> Result<()> {
        if offset == 0 || !offset.is_multiple_of(self.cluster()) {
            return Err(Error::refused(
                Code::BadTable,
                format!("qcow2: {what} at offset {offset}, not at a cluster of its own"),
            ));
        }
        if offset.checked_add(len).is_none_or(|end| end > file_size) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!(
                    "qcow2: {what} of {len} bytes at offset {offset}, but the file has {file_size} bytes"
                ),
            ));
        }
        Ok(())
    }
}

/// What version 3 adds to the header.
struct Features {
    header_length: u32,
    extended_l2: bool,
    zstd: bool,
}

impl Features {
    const V2: Self = Self { header_length: V2_HEADER, extended_l2: false, zstd: false };

    fn read(regions: &Regions, cluster: u64) -> Result<Self> {
        let header = regions.read(0, V3_HEADER as usize)?;
        let incompatible = be64(header, 72)?;
        if incompatible & !KNOWN_FEATURES != 0 {
            return Err(Error::refused(
                Code::UnsupportedFeature,
                format!("qcow2: unknown incompatible features {:#x}", incompatible & !KNOWN_FEATURES),
            ));
        }
        if incompatible & EXTERNAL_DATA != 0 {
            return Err(Error::refused(Code::ExternalData, "qcow2: the disk's data is in another file"));
        }
        if incompatible & (DIRTY | CORRUPT) != 0 {
            let which = if incompatible & CORRUPT != 0 { "corrupt" } else { "dirty" };
            return Err(Error::refused(
                Code::Corrupt,
                format!("qcow2: the image is marked {which}; repair it with qemu-img check -r all"),
            ));
        }
        let refcount_order = be32(header, 96)?;
        if refcount_order > 6 {
            return Err(bad(format!("refcount_order is {refcount_order}, at most 6 is allowed")));
        }
        let header_length = be32(header, 100)?;
        if header_length < V3_HEADER || !header_length.is_multiple_of(8) || u64::from(header_length) > cluster
        {
            return Err(bad(format!("header_length is {header_length}")));
        }
        let compression = if header_length > V3_HEADER {
            regions.read(u64::from(V3_HEADER), 1)?.first().copied().unwrap_or(0)
        } else {
            0
        };
        let zstd = match (incompatible & COMPRESSION_TYPE != 0, compression) {
            (false, 0) => false,
            (true, 1) => true,
            (true, 2..) => {
                return Err(Error::refused(
                    Code::UnsupportedFeature,
                    format!("qcow2: compression_type is {compression}"),
                ));
            }
            (bit, _) => {
                return Err(bad(format!("compression_type is {compression}, but its feature bit is {bit}")));
            }
        };
        Ok(Self { header_length, extended_l2: incompatible & EXTENDED_L2 != 0, zstd })
    }
}

/// Refused whatever it names; how it is named decides only the code.
fn backing_file(regions: &Regions, header: &[u8]) -> Result<()> {
    let (offset, len) = (be64(header, 8)?, be32(header, 16)?);
    if offset == 0 {
        return Ok(());
    }
    // QEMU takes at most 1023 bytes; a name that can't be read is refused like any other.
    let name = match regions.read(offset, len.min(1023) as usize) {
        Ok(name) => name,
        Err(need @ Error::Need(_)) => return Err(need),
        Err(Error::Refused(_)) => &[],
    };
    let name = String::from_utf8_lossy(name);
    let protocol = name.split_once(':').is_some_and(|(p, _)| !p.is_empty() && !p.contains(['/', '\\']));
    let code = if protocol { Code::UnsafeName } else { Code::BackingFile };
    let shown: String = name.chars().take(80).filter(|c| !c.is_control()).collect();
    Err(Error::refused(
        code,
        format!("qcow2: the image needs a backing file ('{shown}'); flatten it with qemu-img convert"),
    ))
}

/// Goes through the header extensions: none may name a file or a key, all must lie in the first cluster.
fn extensions(regions: &Regions, from: u32, cluster: u64) -> Result<()> {
    let end = cluster.min(regions.size());
    let place = end.min(MAX_HEADER);
    // One read for all: an image of many tiny extensions must not cost a request for each.
    let area = regions.read(0, usize::try_from(place).unwrap_or(usize::MAX))?;
    let mut at = u64::from(from);
    let mut seen = Vec::new();
    while at + 8 <= place {
        let field = usize::try_from(at).unwrap_or(usize::MAX);
        let (kind, len) = (be32(area, field)?, u64::from(be32(area, field + 4)?));
        at += 8;
        if kind == EXT_END {
            return Ok(());
        }
        if len > end - at {
            return Err(bad(format!("header extension {kind:#x} of {len} bytes leaves the first cluster")));
        }
        let refused =
            |code, what: &str| Err(Error::refused(code, format!("qcow2: a header extension {what}")));
        match kind {
            EXT_DATA_FILE => return refused(Code::ExternalData, "names a data file"),
            EXT_ENCRYPTION => return refused(Code::Encrypted, "points to an encryption header"),
            EXT_BACKING_FORMAT => return refused(Code::BackingFile, "names a backing format"),
            EXT_FEATURE_NAMES | EXT_BITMAPS if seen.contains(&kind) => {
                return Err(bad(format!("header extension {kind:#x} appears twice")));
            }
            EXT_FEATURE_NAMES | EXT_BITMAPS => seen.push(kind),
            _ => {}
        }
        at += len.next_multiple_of(8);
    }
    if place < end {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("qcow2: the header extensions take more than {MAX_HEADER} bytes"),
        ));
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::refused(Code::BadHeader, format!("qcow2: {message}"))
}
