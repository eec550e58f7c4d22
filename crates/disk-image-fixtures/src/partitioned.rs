//! Disks with partition tables and FAT file systems, as installers make them: what firmware looks at.

use disk_image::Machine;

use crate::Sparse;

/// Type of the EFI system partition, as it lies on a disk (UEFI 2.10, 5.3.3).
pub const EFI_SYSTEM: [u8; 16] = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";
/// Type of the partition that holds GRUB's second stage; it spells `Hah!IdontNeedEFI`.
pub const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";
/// Type of a Linux root partition for x86-64 (Discoverable Partitions Specification).
pub const ROOT_X86_64: [u8; 16] = *b"\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09";
/// The same for 64-bit ARM.
pub const ROOT_AARCH64: [u8; 16] = *b"\x45\xb0\x21\xb9\xf0\x1d\xc3\x41\xaf\x44\x4c\x6f\x28\x0d\x3f\xae";
/// Type of Microsoft's data partitions.
pub const BASIC_DATA: [u8; 16] = *b"\xa2\xa0\xd0\xeb\xe5\xb9\x33\x44\x87\xc0\x68\xb6\xb7\x26\x99\xc7";

/// A partition of a [`gpt`].
#[derive(Debug, Clone)]
pub struct Partition {
    /// Its type.
    pub kind: [u8; 16],
    /// Its first byte.
    pub start: u64,
    /// What it holds; its length is rounded up to sectors.
    pub content: Vec<u8>,
    /// Its attributes.
    pub attributes: u64,
}

impl Partition {
    /// A partition without attributes.
    pub fn new(kind: [u8; 16], start: u64, content: Vec<u8>) -> Self {
        Self { kind, start, content, attributes: 0 }
    }
}

/// A disk of `size` bytes with a GPT of `sector` bytes and its protective record.
pub fn gpt(size: u64, sector: u64, partitions: &[Partition]) -> Sparse {
    let mut entries = vec![0; 128 * 128];
    let mut disk = Sparse::zeros(size);
    for (partition, entry) in partitions.iter().zip(entries.chunks_exact_mut(128)) {
        let first = partition.start / sector;
        let last = first + (partition.content.len() as u64).div_ceil(sector).max(1) - 1;
        entry[..16].copy_from_slice(&partition.kind);
        entry[16..32].fill(7);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
        disk = disk.with(partition.start, &partition.content);
    }
    let last = size / sector - 1;
    let mut header = vec![0; 92];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"EFI PART\0\0\x01\0");
    put(12, &92u32.to_le_bytes());
    put(24, &1u64.to_le_bytes());
    put(32, &last.to_le_bytes());
    put(40, &(2 + (16 << 10) / sector).to_le_bytes());
    put(48, &(last - 1 - (16 << 10) / sector).to_le_bytes());
    put(56, &[9; 16]);
    put(72, &2u64.to_le_bytes());
    put(80, &128u32.to_le_bytes());
    put(84, &128u32.to_le_bytes());
    put(88, &libdeflater::crc32(&entries).to_le_bytes());
    let sum = libdeflater::crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    let disk = record(disk, 0, (0, 0xee), 1, u32::try_from(last).unwrap_or(u32::MAX));
    disk.with(sector, &header).with(2 * sector, &entries)
}

/// Writes one of the four records of a master boot record: its status and type, its first sector and how many.
pub fn record(disk: Sparse, index: u64, (status, kind): (u8, u8), first: u32, sectors: u32) -> Sparse {
    let at = 446 + 16 * index;
    let disk = disk.with(at, &[status]).with(at + 4, &[kind]).le32(at + 8, first).le32(at + 12, sectors);
    disk.with(510, &[0x55, 0xaa])
}

/// Code in the first sector; it only stops the machine.
pub fn with_code(disk: Sparse) -> Sparse {
    disk.with(0, &[0xfa, 0xf4, 0xeb, 0xfd]).with(510, &[0x55, 0xaa])
}

/// Printed by a [`program`] on 64-bit x86.
pub const LOADED: &str = "loader runs\r\n";

/// A program for UEFI, its header for that machine (PE format, "Machine Types"). Its code is for 64-bit x86: it prints
/// [`LOADED`] over COM1, which the firmware has set up, and ends QEMU as [`bootable`](crate::bootable) does.
pub fn program(machine: u16) -> Vec<u8> {
    let code: &[&[u8]] = &[
        &[0x48, 0x8d, 0x35, 0x24, 0, 0, 0], // 00 lea rsi, [2b]
        &[0xac],                            // 07 lodsb
        &[0x84, 0xc0],                      // 08 test al, al
        &[0x74, 0x14],                      // 0a jz 20
        &[0x88, 0xc4],                      // 0c mov ah, al
        &[0x66, 0xba, 0xfd, 0x03],          // 0e mov dx, 0x3fd
        &[0xec],                            // 12 in al, dx
        &[0xa8, 0x20],                      // 13 test al, 0x20
        &[0x74, 0xfb],                      // 15 jz 12
        &[0x66, 0xba, 0xf8, 0x03],          // 17 mov dx, 0x3f8
        &[0x88, 0xe0],                      // 1b mov al, ah
        &[0xee],                            // 1d out dx, al
        &[0xeb, 0xe7],                      // 1e jmp 07
        &[0x66, 0xba, 0xf4, 0x00],          // 20 mov dx, 0xf4
        &[0xb0, 0x10],                      // 24 mov al, 0x10
        &[0xee],                            // 26 out dx, al
        &[0xfa],                            // 27 cli
        &[0xf4],                            // 28 hlt
        &[0xeb, 0xfc],                      // 29 jmp 27
        LOADED.as_bytes(),                  // 2b
    ];
    // One section of one page behind the headers, which fit a sector.
    let mut program = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| program[at..at + bytes.len()].copy_from_slice(bytes);
    let long = |n: u32| n.to_le_bytes();
    put(0, b"MZ");
    put(0x3c, &long(0x40));
    put(0x40, b"PE\0\0");
    put(0x44, &machine.to_le_bytes());
    put(0x46, &[1, 0]); // sections
    put(0x54, &[0xf0, 0, 0x22, 0x02]); // bytes of the optional header; executable, large addresses, no debug information
    put(0x58, &[0x0b, 0x02]); // PE32+
    put(0x5c, &long(512)); // bytes of code
    put(0x68, &long(0x1000)); // entry
    put(0x6c, &long(0x1000)); // begin of the code
    put(0x78, &long(0x1000)); // alignment of sections
    put(0x7c, &long(512)); // and in the file
    put(0x90, &long(0x2000)); // bytes in memory
    put(0x94, &long(512)); // bytes of headers
    put(0x9c, &[10, 0]); // an EFI application
    put(0xc4, &long(16)); // directories, all of them empty
    put(0x148, b".text");
    put(0x150, &long(512));
    put(0x154, &long(0x1000));
    put(0x158, &long(512));
    put(0x15c, &long(512));
    put(0x16c, &long(0x6000_0020)); // code, executable, readable
    put(0x200, &code.concat());
    program
}

/// An EFI system partition with a loader for each of these machines, by a FAT of 12 bits.
pub fn efi_system(machines: &[Machine]) -> Vec<u8> {
    let loaders = machines.iter().map(|machine| match machine {
        Machine::X86_64 => (*b"BOOTX64 EFI", program(0x8664)),
        Machine::Aarch64 => (*b"BOOTAA64EFI", program(0xaa64)),
    });
    Fat { files: loaders.collect(), ..Fat::new(12) }.volume()
}

/// Small disks to begin a search with, by their names.
pub fn seeds() -> Vec<(&'static str, Sparse)> {
    const AT: u64 = 64 << 10;
    let fat = |others| Fat { others, files: vec![(*b"BOOTX64 EFI", program(0x8664))], ..Fat::new(12) };
    let efi = |others| Partition::new(EFI_SYSTEM, AT, fat(others).volume());
    let size = 512 << 10;
    vec![
        ("gpt", with_code(gpt(size, 512, &[efi(0)]))),
        ("gpt-long", gpt(size, 512, &[efi(40)])),
        ("gpt-4096", gpt(size, 4096, &[efi(0), Partition::new(ROOT_X86_64, AT / 2, vec![1])])),
        ("mbr", record(Sparse::zeros(size).with(AT, &fat(0).volume()), 0, (0x80, 0x0c), 128, 500)),
        ("fat", Sparse::zeros(size).with(0, &fat(0).volume())),
    ]
}

/// A FAT file system with files in `\EFI\BOOT`.
#[derive(Debug, Clone)]
pub struct Fat {
    /// Bits of an entry in its table: 12, 16 or 32.
    pub bits: usize,
    /// Bytes of a sector.
    pub sector: usize,
    /// Sectors of a cluster.
    pub per_cluster: usize,
    /// Entries of other files that come first in each directory.
    pub others: usize,
    /// Files in `\EFI\BOOT`, by their names as a directory has them.
    pub files: Vec<([u8; 11], Vec<u8>)>,
}

/// A volume that is being filled.
struct Volume {
    bits: usize,
    cluster: usize,
    /// Of each cluster the next one.
    next: Vec<u32>,
    data: Vec<u8>,
}

impl Fat {
    /// One with sectors and clusters of 512 bytes, and no files.
    pub fn new(bits: usize) -> Self {
        Self { bits, sector: 512, per_cluster: 1, others: 0, files: Vec::new() }
    }

    /// Its bytes.
    pub fn volume(&self) -> Vec<u8> {
        // By their count the widths are told apart.
        let clusters: usize = match self.bits {
            12 => 200,
            16 => 5000,
            _ => 65_600,
        };
        let cluster = self.sector * self.per_cluster;
        let mut volume =
            Volume { bits: self.bits, cluster, next: vec![u32::MAX; 2], data: vec![0; clusters * cluster] };
        let boot = self.files.iter().map(|(name, bytes)| {
            let first = volume.store(bytes);
            entry(name, 0x20, first, bytes.len())
        });
        let boot: Vec<_> = boot.collect();
        let boot = volume.store(&self.directory(&boot.concat()));
        let efi = volume.store(&self.directory(&entry(b"BOOT       ", 0x10, boot, 0)));
        let root = self.directory(&entry(b"EFI        ", 0x10, efi, 0));

        let table = volume.table(clusters);
        let table_sectors = table.len().div_ceil(self.sector);
        let root_sectors = if self.bits == 32 { 0 } else { root.len().div_ceil(self.sector).max(1) };
        let root_cluster = if self.bits == 32 { volume.store(&root) } else { 0 };
        // Once more, with the root's clusters.
        let table = volume.table(clusters);
        let data_at = (1 + table_sectors + root_sectors) * self.sector;
        let sectors = data_at / self.sector + clusters * self.per_cluster;
        let mut bytes = vec![0; data_at];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let short = |n: usize| u16::try_from(n).unwrap_or_default().to_le_bytes();
        let long = |n: usize| u32::try_from(n).unwrap_or_default().to_le_bytes();
        put(0, b"\xeb\x3c\x90MKFS.TST");
        put(11, &short(self.sector));
        put(13, &[u8::try_from(self.per_cluster).unwrap_or_default()]);
        put(14, &short(1));
        put(16, &[1]);
        put(17, &short(root_sectors * self.sector / 32));
        put(21, &[0xf8]);
        put(32, &long(sectors));
        if self.bits == 32 {
            put(36, &long(table_sectors));
            put(44, &root_cluster.to_le_bytes());
            put(82, b"FAT32   ");
        } else {
            put(22, &short(table_sectors));
            put(54, if self.bits == 12 { b"FAT12   " } else { b"FAT16   " });
            put((1 + table_sectors) * self.sector, &root);
        }
        put(self.sector, &table);
        put(128, b"This is not a bootable disk");
        put(510, &[0x55, 0xaa]);
        bytes.extend(volume.data);
        bytes
    }

    fn directory(&self, entries: &[u8]) -> Vec<u8> {
        // A label, a long name's piece, a file that was deleted: none of them is the directory that has their name.
        let label = entry(b"EFI        ", 0x08, 0, 0);
        let deleted = entry(b"\xe5FI        ", 0x10, 2, 0);
        let others = (0..self.others).map(|n| entry(format!("{n:08}TXT").as_bytes(), 0x20, 0, 0));
        [label, deleted].into_iter().chain(others).chain([entries.to_vec()]).flatten().collect()
    }
}

impl Volume {
    /// Stores a file in a chain with gaps; its first cluster.
    fn store(&mut self, bytes: &[u8]) -> u32 {
        let first = self.next.len();
        let pieces = bytes.chunks(self.cluster);
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.enumerate() {
            let number = self.next.len();
            let at = (number - 2) * self.cluster;
            self.data[at..at + piece.len()].copy_from_slice(piece);
            let next = if index == last { u32::MAX } else { u32::try_from(number + 2).unwrap_or_default() };
            self.next.extend([next, 0]);
        }
        u32::try_from(first).unwrap_or_default()
    }

    fn table(&self, clusters: usize) -> Vec<u8> {
        let mut table = vec![0; (clusters + 2) * self.bits / 8 + 2];
        for (number, next) in self.next.iter().enumerate() {
            match self.bits {
                12 => {
                    let (at, next) = (number + number / 2, next & 0xfff);
                    let pair = u16::from_le_bytes([table[at], table[at + 1]]);
                    let next = u16::try_from(next).unwrap_or_default();
                    let pair = if number % 2 == 1 { pair & 0xf | next << 4 } else { pair & 0xf000 | next };
                    table[at..at + 2].copy_from_slice(&pair.to_le_bytes());
                }
                16 => table[2 * number..2 * number + 2]
                    .copy_from_slice(&u16::try_from(next & 0xffff).unwrap_or_default().to_le_bytes()),
                _ => table[4 * number..4 * number + 4].copy_from_slice(&(next & 0x0fff_ffff).to_le_bytes()),
            }
        }
        table
    }
}

fn entry(name: &[u8], attributes: u8, cluster: u32, size: usize) -> Vec<u8> {
    let mut entry = vec![0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    let [a, b, c, d] = cluster.to_le_bytes();
    entry[20..22].copy_from_slice(&[c, d]);
    entry[26..28].copy_from_slice(&[a, b]);
    entry[28..].copy_from_slice(&u32::try_from(size).unwrap_or_default().to_le_bytes());
    entry
}
