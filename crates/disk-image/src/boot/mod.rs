//! What a machine's firmware finds on a disk to start.
//!
//! Goal: from tens of KiB of the disk, whether a BIOS finds code to run, and for which machines UEFI finds a loader. It is told as
//! firmware sees it that knows nothing of the disk: a new instance has no boot entries, so only the default paths count.
//!
//! Threat model: every byte is the guest's. What is found is a hint for whoever starts the disk, and nothing else hangs on it. So
//! nothing is refused: what is damaged is not there, for firmware neither. Chains and tables are capped, and all reads of the
//! most hostile disk together stay below [`MAX_OPEN_BYTES`](crate::drive::MAX_OPEN_BYTES).

mod disk;
mod fat;
mod table;

use self::{disk::Disk, fat::Fat, table::Kind};
use crate::{error::Result, regions::Regions};

/// What is read first: a boot sector, a GPT of either sector size, and the place where an ISO says that it is one.
const HEAD: u64 = 36 << 10;
/// Volumes that are looked into for a loader.
const MAX_VOLUMES: usize = 2;
/// Code of a boot sector: before the disk's signature and the partition table.
const CODE: usize = 440;

/// What firmware finds on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// How the disk is divided.
    pub table: Table,
    /// Whether a BIOS finds code, and that code something to go on with.
    pub bios: bool,
    /// The machines for which UEFI finds a loader at its default path.
    pub uefi: Vec<Machine>,
    /// The machine that the root partition's type names (UAPI Group, "Discoverable Partitions Specification").
    pub root: Option<Machine>,
    /// Whether everything was seen that matters: what lies beyond the reach was not.
    pub complete: bool,
}

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Not at all.
    None,
    /// By a master boot record alone.
    Mbr,
    /// By a GUID partition table, for sectors of so many bytes.
    Gpt(u16),
}

/// What starts a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// A PC's BIOS, or UEFI as one.
    Bios,
    /// UEFI.
    Uefi,
}

/// A machine that a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Firmware {
    /// Its name, as Glance's `hw_firmware_type` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

impl Machine {
    /// Its name, as Glance's `architecture` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Name of the loader in `\EFI\BOOT`, as a directory has it, and the machine in that file's header (UEFI 2.10, 3.5.1.1;
    /// PE format, "Machine Types").
    const fn loader(self) -> (&'static [u8; 11], u16) {
        match self {
            Self::X86_64 => (b"BOOTX64 EFI", 0x8664),
            Self::Aarch64 => (b"BOOTAA64EFI", 0xaa64),
        }
    }
}

impl Boot {
    /// The firmware that starts the disk, where it is one of them and certainly not the other.
    pub fn firmware(&self) -> Option<Firmware> {
        match (self.bios, !self.uefi.is_empty()) {
            (true, false) => self.complete.then_some(Firmware::Bios),
            (false, true) => Some(Firmware::Uefi),
            (true, true) | (false, false) => None,
        }
    }

    /// The machine that the disk is for, where that is one.
    pub fn machine(&self) -> Option<Machine> {
        match self.uefi.as_slice() {
            [only] => Some(*only),
            [] => self.root,
            _ => None,
        }
    }
}

/// Looks at the disk's first `reach` bytes for what firmware would start. `regions` are of the disk, not of its file.
///
/// # Errors
/// [`Error::Need`](crate::Error::Need), and nothing else.
pub fn boot(regions: &Regions, reach: u64) -> Result<Boot> {
    let disk = Disk::new(regions, reach);
    let head = disk.read_up_to(0, HEAD)?;
    let (table, partitions) = table::read(&disk, head)?;
    let is_iso = head.get(0x8001..0x8006) == Some(b"CD001");
    let bios = has_code(head)
        && match table {
            // The code of a formatted volume, or a disk of nothing but code.
            Table::None => true,
            // The code goes on in the active partition or in the next sector, or it is a hybrid ISO's and knows where.
            Table::Mbr => is_iso || partitions.iter().any(|p| p.active) || is_written(head, 512, 1024),
            // Windows and others write their usual code beside any GPT.
            Table::Gpt(_) => is_iso || partitions.iter().any(|p| p.active || p.kind == Kind::BiosBoot),
        };
    let mut volumes: Vec<_> =
        partitions.iter().filter(|p| p.kind == Kind::Efi).map(|p| (p.start, p.end)).collect();
    if volumes.is_empty() && !matches!(table, Table::Gpt(_)) {
        // UEFI takes any FAT that it finds.
        volumes.extend(partitions.iter().filter(|p| p.kind == Kind::Fat).map(|p| (p.start, p.end)));
        if table == Table::None {
            volumes.push((0, regions.size()));
        }
    }
    if volumes.len() > MAX_VOLUMES {
        disk.miss();
    }
    let mut uefi = Vec::new();
    for (start, end) in volumes.into_iter().take(MAX_VOLUMES) {
        let Some(fat) = Fat::open(&disk, start, end)? else { continue };
        for machine in [Machine::X86_64, Machine::Aarch64] {
            if !uefi.contains(&machine) && fat.has_loader(machine.loader())? {
                uefi.push(machine);
            }
        }
    }
    let mut roots = partitions.iter().filter_map(|p| match p.kind {
        Kind::Root(machine) => Some(machine),
        _ => None,
    });
    let root = roots.next().filter(|root| roots.all(|other| other == *root));
    Ok(Boot { table, bios, uefi, root, complete: !disk.has_missed() })
}

/// Whether a BIOS runs the first sector. The code that mkfs.fat writes only says that it is none.
fn has_code(head: &[u8]) -> bool {
    const NO_CODE: &[u8] = b"This is not a bootable disk";
    head.get(510..512) == Some(&[0x55, 0xaa])
        && head.first().is_some_and(|first| *first != 0)
        && is_written(head, 0, CODE)
        && head.get(..512).is_some_and(|sector| !sector.windows(NO_CODE.len()).any(|text| text == NO_CODE))
}

fn is_written(head: &[u8], from: usize, to: usize) -> bool {
    head.get(from..to).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0))
}
