//! Large images whose tables lie all over the file, computed while they are read: nothing of their size is held.

use std::io;

use disk_image::{ByteRange, drive::ReadAt};

use crate::vmdk;

const SECTOR: u64 = 512;
type Sector = [u8; 512];

/// A file that is computed, sector by sector.
pub struct Scattered {
    size: u64,
    sector: Box<dyn Fn(u64) -> Sector + Send + Sync>,
}

impl std::fmt::Debug for Scattered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scattered of {} bytes", self.size)
    }
}

impl Scattered {
    /// A full qcow2 of a disk of `disk` bytes, a power of two. Each L2 table lies in front of its data; the order of these
    /// pairs in the file has nothing to do with their order on the disk.
    pub fn qcow2(disk: u64, cluster_bits: u32) -> Self {
        let cluster = 1u64 << cluster_bits;
        let entries = cluster / 8;
        let tables = disk / (entries * cluster);
        // Header, an empty refcount table, L1 table, in clusters of their own.
        let l1 = 2 * cluster;
        let first = l1 + (tables * 8).next_multiple_of(cluster);
        let pair = (entries + 1) * cluster;
        // An odd factor modulo a power of two reaches each place once.
        let place = move |table: u64| first + table.wrapping_mul(0x9e37_79b1) % tables * pair;
        let mut head = vec![0; bytes(first)];
        put(&mut head, 0, b"QFI\xfb\0\0\0\x03");
        put(&mut head, 20, &cluster_bits.to_be_bytes());
        put(&mut head, 24, &disk.to_be_bytes());
        put(&mut head, 36, &u32::try_from(tables).unwrap_or_default().to_be_bytes());
        put(&mut head, 40, &l1.to_be_bytes());
        put(&mut head, 48, &cluster.to_be_bytes());
        put(&mut head, 56, &1u32.to_be_bytes());
        put(&mut head, 96, &4u32.to_be_bytes());
        put(&mut head, 100, &104u32.to_be_bytes());
        for table in 0..tables {
            put(&mut head, bytes(l1 + table * 8), &(place(table) | 1 << 63).to_be_bytes());
        }
        let sector = move |number: u64| {
            let offset = number * SECTOR;
            let mut sector = [0; 512];
            let Some(behind) = offset.checked_sub(first) else {
                sector.copy_from_slice(&head[bytes(offset)..bytes(offset + SECTOR)]);
                return sector;
            };
            let in_pair = behind % pair;
            if in_pair < cluster {
                for (field, entry) in sector.chunks_exact_mut(8).zip(in_pair / 8..) {
                    let data = offset - in_pair + (entry + 1) * cluster;
                    field.copy_from_slice(&(data | 1 << 63).to_be_bytes());
                }
            }
            sector
        };
        Self { size: first + tables * pair, sector: Box::new(sector) }
    }

    /// A full streamOptimized VMDK of a disk of `disk` bytes, whole grain tables of 64 KiB grains, as VMware writes it:
    /// each table behind its grains, directory and footer last. Each grain takes 10 KiB.
    pub fn stream_optimized(disk: u64) -> Self {
        const GRAIN: u64 = 128;
        const STORED: u64 = 20;
        // A group is 512 grains, the table's marker and the table.
        const GRAINS: u64 = 512 * STORED;
        const GROUP: u64 = GRAINS + 1 + 4;
        let tables = disk / (512 * GRAIN * SECTOR);
        // The directory's marker, the directory, the footer's marker, the footer, the end of the stream.
        let directory = vmdk::FIRST_GRAIN + tables * GROUP + 1;
        let footer_at = directory + (tables * 4).div_ceil(SECTOR) + 1;
        let head = vmdk::stream_head(disk / SECTOR);
        let footer = vmdk::stream_footer(head.clone(), directory);
        let sector = move |number: u64| {
            let mut sector = [0; 512];
            match number {
                _ if number < vmdk::FIRST_GRAIN => {
                    let range = ByteRange { start: number * SECTOR, end: (number + 1) * SECTOR };
                    sector.copy_from_slice(&head.read(range));
                }
                _ if number < directory => {
                    let (group, at) =
                        ((number - vmdk::FIRST_GRAIN) / GROUP, (number - vmdk::FIRST_GRAIN) % GROUP);
                    let first = number - at;
                    if let Some(table) = at.checked_sub(GRAINS + 1) {
                        le32s(&mut sector, |n| first + (table * 128 + n) * STORED);
                    } else if at.is_multiple_of(STORED) && at < GRAINS {
                        put(&mut sector, 0, &((group * 512 + at / STORED) * GRAIN).to_le_bytes());
                        put(&mut sector, 8, &10_228_u32.to_le_bytes());
                    }
                }
                _ if number < footer_at - 1 => le32s(&mut sector, |n| {
                    let table = (number - directory) * 128 + n;
                    if table < tables { vmdk::FIRST_GRAIN + table * GROUP + GRAINS + 1 } else { 0 }
                }),
                _ if number < footer_at => sector[12] = 3,
                _ if number == footer_at => sector.copy_from_slice(&footer),
                _ => {}
            }
            sector
        };
        Self { size: (footer_at + 2) * SECTOR, sector: Box::new(sector) }
    }

    /// The size in bytes.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The bytes of `range`; those past the end are left out.
    pub fn read(&self, range: ByteRange) -> Vec<u8> {
        let (start, end) = (range.start, range.end.min(self.size));
        let mut read = Vec::with_capacity(bytes(range.len()));
        for number in start / SECTOR..end.div_ceil(SECTOR) {
            let sector = (self.sector)(number);
            let from = start.saturating_sub(number * SECTOR);
            let to = (end - number * SECTOR).min(SECTOR);
            read.extend_from_slice(&sector[bytes(from)..bytes(to)]);
        }
        read
    }
}

impl ReadAt for &Scattered {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_range(&mut self, range: ByteRange) -> io::Result<Vec<u8>> {
        crate::all_of(self.read(range), range)
    }
}

fn put(head: &mut [u8], at: usize, field: &[u8]) {
    head[at..at + field.len()].copy_from_slice(field);
}

fn le32s(sector: &mut Sector, value: impl Fn(u64) -> u64) {
    for (field, n) in sector.chunks_exact_mut(4).zip(0..) {
        field.copy_from_slice(&u32::try_from(value(n)).unwrap_or_default().to_le_bytes());
    }
}

fn bytes(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use disk_image::Format;

    use super::*;
    use crate::{Counting, import};

    #[test]
    fn small_ones_are_sound() {
        // Smallest clusters, 64 tables; every byte of the disk is read, and is a zero that is stored.
        let qcow2 = Scattered::qcow2(64 * 64 * 512, 9);
        let imported = import(&mut Counting::new(&qcow2), Some(Format::Qcow2)).unwrap();
        assert_eq!(imported.data_bytes, 64 * 64 * 512);
    }

    #[test]
    fn any_range_is_as_the_whole_has_it() {
        let file = Scattered::stream_optimized(64 << 20);
        let whole = file.read(ByteRange { start: 0, end: file.len() });
        assert_eq!(whole.len() as u64, file.len());
        for (start, end) in [(0, 1), (511, 1025), (file.len() - 1500, file.len()), (70_000, 5_300_000)] {
            assert_eq!(file.read(ByteRange { start, end }), whole[bytes(start)..bytes(end)]);
        }
    }
}
