//! The demo's disk image: a small partitioned disk, as qcow2 where `qemu-img`
//! is installed, else raw.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_tasks_local::pattern;
use tokio::process::Command;

use super::layout::Layout;
use super::steps::{self, Stop};

const SECTOR: usize = 512;
const BLOCK: usize = 1 << 20;

/// An image file to import.
#[derive(Debug)]
pub(super) struct Disk {
    pub path: PathBuf,
    /// In Glance's words.
    pub format: &'static str,
    pub bytes: u64,
}

/// Makes a disk of `mebibytes`.
pub(super) async fn make(layout: &Layout, mebibytes: u64, stop: &Stop) -> Result<Disk> {
    fs::create_dir_all(layout.disk())?;
    let raw = layout.disk().join("disk.raw");
    write_raw(&raw, mebibytes).with_context(|| format!("cannot write {}", raw.display()))?;
    let (path, format) = if steps::succeeds("qemu-img", ["--version"]).await {
        let qcow2 = layout.disk().join("disk.qcow2");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&qcow2);
        steps::logged("qemu-img convert", convert, &layout.logs().join("qemu-img.log"), stop).await?;
        fs::remove_file(&raw)?;
        (qcow2, "qcow2")
    } else {
        (raw, "raw")
    };
    let bytes = fs::metadata(&path)?.len();
    Ok(Disk { path, format, bytes })
}

/// A disk with one partition from the first mebibyte to the end, full of
/// incompressible bytes.
fn write_raw(path: &Path, mebibytes: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let sectors = mebibytes * (BLOCK / SECTOR) as u64;
    let mut block = vec![0; BLOCK];
    block[..SECTOR].copy_from_slice(&boot_record(sectors)?);
    file.write_all(&block)?;
    for index in 1..mebibytes {
        pattern::fill(2013, index * BLOCK as u64, &mut block);
        file.write_all(&block)?;
    }
    file.flush()?;
    Ok(())
}

/// A master boot record: one Linux partition (type 0x83) by LBA, CHS fields at
/// their "too large" value, the signature 0x55 0xAA.
fn boot_record(sectors: u64) -> Result<[u8; SECTOR]> {
    let first = (BLOCK / SECTOR) as u64;
    let mut record = [0; SECTOR];
    let entry = &mut record[446..462];
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = 0x83;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&u32::try_from(first)?.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(sectors.saturating_sub(first))?.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_record_describes_the_disk() {
        let record = boot_record(192 * 2048).unwrap();
        assert_eq!(record[510..], [0x55, 0xaa]);
        assert_eq!(record[454..458], 2048_u32.to_le_bytes());
        assert_eq!(record[458..462], (191 * 2048_u32).to_le_bytes());
    }
}
