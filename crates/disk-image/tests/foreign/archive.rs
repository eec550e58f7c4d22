//! OVAs, made here: QEMU writes none.

use std::path::{Path, PathBuf};

use disk_image::{Code, Format, Layout, drive::DriveError};

use crate::harness::{Bench, MIB, limits, open, open_with};

/// A plain member of a tar.
fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(bytes);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn descriptor(disks: &[(&str, u64)]) -> Vec<u8> {
    let mut files = String::new();
    let mut sections = String::new();
    for (n, (name, size)) in disks.iter().enumerate() {
        files += &format!("<File ovf:id=\"file{n}\" ovf:href=\"{name}\" ovf:size=\"{size}\"/>");
        sections += &format!(
            "<Disk ovf:diskId=\"d{n}\" ovf:fileRef=\"file{n}\" ovf:capacity=\"1\" ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/>"
        );
    }
    format!("<?xml version=\"1.0\"?><Envelope xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References>{files}</References><DiskSection><Info>Disks &amp; more</Info>{sections}</DiskSection></Envelope>").into_bytes()
}

/// An archive with these disks, in a file.
fn archive(bench: &Bench, disks: &[(&str, &Path)]) -> PathBuf {
    let disks: Vec<_> = disks.iter().map(|(name, path)| (*name, std::fs::read(path).unwrap())).collect();
    let named: Vec<_> = disks.iter().map(|(name, bytes)| (*name, bytes.len() as u64)).collect();
    let mut tar = member("vm.ovf", &descriptor(&named));
    tar.extend(member("vm.mf", b"SHA256(vm.ovf)= 00\n"));
    disks.iter().for_each(|(name, bytes)| tar.extend(member(name, bytes)));
    tar.resize(tar.len() + 1024, 0);
    let path = bench.path("vm.ova");
    std::fs::write(&path, tar).unwrap();
    path
}

#[test]
fn the_disk_inside_is_read_in_place() {
    let bench = Bench::new(40 * MIB + 512, &[(0, MIB), (9 * MIB + 3, 2 * MIB), (40 * MIB - 100, 600)]);
    for subformat in ["subformat=streamOptimized", "subformat=monolithicSparse"] {
        let (disk, back) = bench.convert("vmdk", &[subformat]);
        let mut opened = open(&archive(&bench, &[("vm-disk1.vmdk", &disk)]), Format::Ova).unwrap();
        opened.equals(&back);
    }
}

#[test]
fn of_several_disks_one_must_be_named() {
    let bench = Bench::new(3 * MIB, &[(0, 5000)]);
    let (first, first_raw) = bench.convert("vmdk", &["subformat=streamOptimized"]);
    let (second, second_raw) = bench.convert("vmdk", &["subformat=monolithicSparse"]);
    let ova = archive(&bench, &[("a.vmdk", &first), ("b.vmdk", &second)]);
    let code = |result| match result {
        Err(DriveError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    };
    assert_eq!(code(open(&ova, Format::Ova)), Some(Code::BadArchive));
    for (name, raw) in [("a.vmdk", first_raw), ("b.vmdk", second_raw)] {
        open_with(&ova, Format::Ova, |r| Layout::open_ova(r, Some(name), &limits())).unwrap().equals(&raw);
    }
    let none = open_with(&ova, Format::Ova, |r| Layout::open_ova(r, Some("c.vmdk"), &limits()));
    assert_eq!(code(none), Some(Code::BadArchive));
}
