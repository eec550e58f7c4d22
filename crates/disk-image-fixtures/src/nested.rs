//! Disks in images: what a guest's disk may begin or end with, and what it must not where the disk is stored as it is.
//!
//! Goal: tests show that no image, however sound, becomes a raw object that a program would take for another image; and
//! that the disks people have stay welcome.

use disk_image::{ByteRange, Format};

use crate::{
    Sound, Sparse, iso, ova, qcow2, stream_optimized,
    streams::{self, PACKED},
    vdi, vhd, vhdx, vmdk,
};

/// Bytes of every [`Guest`]'s disk.
pub const DISK: u64 = 512 << 10;

/// A disk as a guest sees it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name.
    pub name: &'static str,
    /// Every byte of it, [`DISK`] of them.
    pub disk: Vec<u8>,
    /// QEMU's name of the format that `qemu-img info` takes it for; `None` for raw.
    pub probed: Option<&'static str>,
}

/// A sound image of `disk` in every format that holds one, all of it stored. `disk` is whole sectors, at most 8 MiB.
pub fn disks(disk: &[u8]) -> Vec<Sound> {
    let stream = stream_optimized(disk);
    let of = |name, format, file| Sound { name, format, file };
    vec![
        of("qcow2", Format::Qcow2, qcow2::image_of(disk)),
        of("vmdk-sparse", Format::Vmdk, vmdk::monolithic_of(disk)),
        of("vmdk-stream", Format::Vmdk, Sparse::zeros(0).with(0, &stream)),
        of("vhd-dynamic", Format::Vhd, vhd::dynamic_of(disk)),
        of("vhdx", Format::Vhdx, vhdx::dynamic_of(disk)),
        of("vdi", Format::Vdi, vdi::dynamic_of(disk)),
        of("ova", Format::Ova, ova(&[("disk.vmdk", &stream)])),
    ]
}

/// Disks that begin or end like an image, an archive or a compressed stream: stored as they are they must be refused.
pub fn headers() -> Vec<Guest> {
    let bytes = |file: Sparse| file.read(ByteRange { start: 0, end: 64 << 10 });
    let inner = || qcow2::image_of(&[7; 512]);
    let descriptor = |title: &str| {
        let flat = "version=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";
        format!("{title}{flat}RW 1024 FLAT \"/etc/passwd\" 0\n").into_bytes()
    };
    let json = r#"json:{"driver":"file","filename":"/etc/shadow"}"#;
    let parallels = |magic: &[u8; 16]| [&magic[..], &[2, 0, 0, 0]].concat();
    let bochs = Sparse::zeros(512)
        .with(0, b"Bochs Virtual HD Image")
        .with(32, b"Redolog")
        .with(48, b"Growing")
        .le32(64, 0x0002_0000)
        .le32(68, 512);
    let cloop =
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n";
    let archive = ova(&[("disk.vmdk", &[0; 512])]);
    let footer = bytes(vhd::dynamic_of(&[0; 512]));
    let mut all = vec![
        begins("qcow2", Some("qcow2"), &inner().read(ByteRange { start: 0, end: DISK })),
        begins("qcow2-backing-file", Some("qcow2"), &qcow2::backed_by("/etc/passwd")),
        begins("qcow2-backing-json", Some("qcow2"), &qcow2::backed_by(json)),
        begins("qcow2-data-file", Some("qcow2"), &qcow2::data_in("/etc/passwd")),
        begins("qcow2-v2", Some("qcow2"), &bytes(inner().be32(4, 2))),
        begins("qcow2-v9", Some("qcow2"), &bytes(inner().be32(4, 9))),
        begins("qcow1", Some("qcow"), &bytes(inner().be32(4, 1))),
        begins("qcow0", None, &bytes(inner().be32(4, 0))),
        begins("vmdk-sparse", Some("vmdk"), &bytes(vmdk::monolithic_of(&[0; 4096]))),
        begins("vmdk-descriptor", Some("vmdk"), &descriptor("# Disk DescriptorFile\n")),
        begins("vmdk-descriptor-without-title", Some("vmdk"), &descriptor("")),
        begins("vmdk-descriptor-of-virtualbox", Some("vmdk"), &descriptor("#Disk Descriptor File\n")),
        begins("vmdk-esx-sparse", Some("vmdk"), b"COWD\x01\0\0\0"),
        begins("vmdk-se-sparse", None, b"\xbe\xba\xfe\xca\0\0\0\0"),
        begins("vhd-dynamic", Some("vpc"), &footer),
        begins("vhdx", Some("vhdx"), &bytes(vhdx::dynamic_of(&[0; 512]))),
        begins("vdi", Some("vdi"), &bytes(vdi::dynamic_of(&[0; 512]))),
        begins("qed", Some("qed"), b"QED\0\0\0\x01\0\x04\0\0\0\x01\0\0\0"),
        begins("luks1", Some("luks"), b"LUKS\xba\xbe\0\x01"),
        begins("luks2", None, b"LUKS\xba\xbe\0\x02"),
        begins("parallels", Some("parallels"), &parallels(b"WithoutFreeSpace")),
        begins("parallels-ext", Some("parallels"), &parallels(b"WithouFreSpacExt")),
        begins("bochs", Some("bochs"), &bytes(bochs)),
        begins("cloop", Some("cloop"), cloop),
        begins("cow", None, b"OOOM\0\0\0\x02"),
        begins("ova", None, &bytes(archive)),
        begins("gzip", None, b"\x1f\x8b\x08\0"),
        begins("xz", None, b"\xfd7zXZ\0"),
        begins("zstd", None, b"\x28\xb5\x2f\xfd"),
        begins("zstd-behind-a-skipped-frame", None, b"\x50\x2a\x4d\x18\x04\0\0\0\x09\0\0\0\x28\xb5\x2f\xfd"),
        begins("tar-v7", None, &bytes(streams::tars(&[0; 512]).remove(0).1)),
        begins("wim", None, b"MSWIM\0\0\0"),
        ends("vhd-fixed", 512, &footer[..512]),
        ends("dmg", 512, b"koly\0\0\0\x04\0\0\x02\0"),
    ];
    // One of each name.
    let mut packed: Vec<_> = PACKED.to_vec();
    packed.dedup_by_key(|packed| packed.name);
    all.extend(packed.iter().map(|packed| begins(packed.name, None, packed.begins)));
    // With a partition table, as a disk that boots has, and with an ISO's descriptors behind it.
    let booting = ["qcow2-backing-file", "qcow1", "vmdk-descriptor"].map(|name| {
        let found = all.iter().find(|guest| guest.name == name);
        found.map(|guest| (guest.probed, Sparse::zeros(DISK).with(0, &guest.disk).with(510, &[0x55, 0xaa])))
    });
    let names = ["qcow2-backing-file-and-mbr", "qcow1-and-mbr-and-iso", "vmdk-descriptor-and-mbr-and-iso"];
    for ((name, iso), (probed, file)) in
        names.into_iter().zip([false, true, true]).zip(booting.into_iter().flatten())
    {
        let file = if iso { file.with(0x8001, b"CD001") } else { file };
        all.push(guest(name, probed, &file));
    }
    all
}

/// Disks that people have: they must be welcome.
pub fn ordinary() -> Vec<Guest> {
    const BOOTABLE: (u64, &[u8]) = (510, &[0x55, 0xaa]);
    const CODE: (u64, &[u8]) = (0, b"\xeb\x63\x90\x10\x8e\xd0\xbc\0\xb0\xb8\0\0\x8e\xd8\x8e\xc0");
    const LINUX: (u64, &[u8]) = (446, b"\x80\x20\x21\0\x83\xff\xff\xff\0\x08\0\0\xf8\x03\0\0");
    const PROTECTIVE: (u64, &[u8]) = (446, b"\0\0\x02\0\xee\xff\xff\xff\x01\0\0\0\xff\x03\0\0");
    const HYBRID: (u64, &[u8]) = (462, b"\x80\x20\x21\0\x0c\xff\xff\xff\0\x08\0\0\xf8\x03\0\0");
    const GPT: (u64, &[u8]) = (512, b"EFI PART\0\0\x01\0\x5c\0\0\0");
    const GPT_COPY: (u64, &[u8]) = (DISK - 512, b"EFI PART\0\0\x01\0\x5c\0\0\0");
    let disk = |name, parts: &[(u64, &[u8])]| {
        guest(name, None, &parts.iter().fold(Sparse::zeros(DISK), |file, (at, bytes)| file.with(*at, bytes)))
    };
    let volume = iso::volume();
    let primary = volume.read(ByteRange { start: 0x8000, end: volume.len() });
    let noise: Vec<u8> =
        (0..DISK).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]).collect();
    vec![
        disk("zeros", &[]),
        disk("ones", &[(0, &vec![0xff; 512 << 10])]),
        disk("noise", &[(0, &noise)]),
        disk("text", &[(0, b"#!/bin/sh\n# version=1\necho hello\n")]),
        disk("mbr", &[CODE, LINUX, BOOTABLE]),
        disk("gpt", &[PROTECTIVE, BOOTABLE, GPT, GPT_COPY]),
        disk("hybrid-mbr", &[CODE, PROTECTIVE, HYBRID, BOOTABLE, GPT, GPT_COPY]),
        disk("ext2", &[(1080, b"\x53\xef\x01\0")]),
        disk("ext4-in-a-partition", &[LINUX, BOOTABLE, ((2048 << 6) + 1080, b"\x53\xef\x01\0")]),
        disk("xfs", &[(0, b"XFSB\0\0\x10\0")]),
        disk("btrfs", &[(0x1_0040, b"_BHRfS_M")]),
        disk("lvm", &[(512, b"LABELONE\x01\0\0\0\0\0\0\0"), (536, b"LVM2 001")]),
        disk("luks-in-a-partition", &[LINUX, BOOTABLE, (64 << 10, b"LUKS\xba\xbe\0\x02")]),
        disk("swap", &[(4086, b"SWAPSPACE2")]),
        disk("zfs", &[(0x4000, b"\x11\x7a\x0c\xb1\x7a\xda\x10\x02"), (128 << 10, b"\x0c\xb1\xba\0\0\0\0\0")]),
        disk("md-raid", &[(4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0")]),
        disk("fat", &[(0, b"\xeb\x3c\x90mkfs.fat"), (54, b"FAT16   "), BOOTABLE]),
        disk("ntfs", &[(0, b"\xeb\x52\x90NTFS    "), BOOTABLE]),
        disk("bitlocker", &[(0, b"\xeb\x58\x90-FVE-FS-"), BOOTABLE]),
        disk("iso", &[(0x8000, &primary)]),
        disk("hybrid-iso", &[CODE, LINUX, BOOTABLE, (0x8000, &primary)]),
        disk("udf", &[(0x8000, b"\0BEA01\x01"), (0x8800, b"\0NSR03\x01"), (0x9000, b"\0TEA01\x01")]),
        disk("udf-bridge", &[(0x8000, &primary), (0x9000, b"\0BEA01\x01"), (0x9800, b"\0NSR02\x01")]),
        disk("high-sierra", &[(0x8801, b"CDROM\x01")]),
        disk("kernel", &[(0, b"MZ"), (514, b"HdrS"), BOOTABLE]),
        disk("cpio", &[(0, b"070701")]),
        disk("image-within-a-file-system", &[(1080, b"\x53\xef\x01\0"), (64 << 10, b"QFI\xfb\0\0\0\x03")]),
    ]
}

fn guest(name: &'static str, probed: Option<&'static str>, file: &Sparse) -> Guest {
    Guest { name, disk: file.read(ByteRange { start: 0, end: DISK }), probed }
}

fn begins(name: &'static str, probed: Option<&'static str>, bytes: &[u8]) -> Guest {
    guest(name, probed, &Sparse::zeros(DISK).with(0, bytes))
}

/// `bytes` from `before` the end.
fn ends(name: &'static str, before: u64, bytes: &[u8]) -> Guest {
    guest(name, None, &Sparse::zeros(DISK).with(DISK - before, bytes))
}
