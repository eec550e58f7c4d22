//! Every signature that a hypervisor, a tool or this reader could take for a format.
//!
//! All are tried on every file, so that a file which two programs would read as two formats is seen as such.
//! Offsets are from QEMU's `*_probe` functions and the formats' specifications.

use crate::format::{Compression, Format};

/// What a signature stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A disk format that is read here.
    Disk(Format),
    /// A compressed stream.
    Stream(Compression),
    /// Never taken.
    Refused(&'static str),
    /// Whole-disk encryption.
    Encrypted(&'static str),
    /// Names other files and holds no data itself.
    Descriptor(&'static str),
}

impl Meaning {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Disk(format) => format.name(),
            Self::Stream(stream) => stream.name(),
            Self::Refused(name) | Self::Encrypted(name) | Self::Descriptor(name) => name,
        }
    }
}

/// Bytes at fixed places of the head.
const HEAD: &[(usize, &[u8], Meaning)] = &[
    (0, b"QFI\xfb\0\0\0\x02", Meaning::Disk(Format::Qcow2)),
    (0, b"QFI\xfb\0\0\0\x03", Meaning::Disk(Format::Qcow2)),
    (0, b"KDMV", Meaning::Disk(Format::Vmdk)),
    (0, b"vhdxfile", Meaning::Disk(Format::Vhdx)),
    (0x40, b"\x7f\x10\xda\xbe", Meaning::Disk(Format::Vdi)),
    (0x8001, b"CD001", Meaning::Disk(Format::Iso)),
    (257, b"ustar", Meaning::Disk(Format::Ova)),
    (0, b"\x1f\x8b\x08", Meaning::Stream(Compression::Gzip)),
    (0, b"\xfd7zXZ\0", Meaning::Stream(Compression::Xz)),
    (0, b"\x28\xb5\x2f\xfd", Meaning::Stream(Compression::Zstd)),
    (0, b"LUKS\xba\xbe", Meaning::Encrypted("LUKS")),
    (0, b"QED\0", Meaning::Refused("QED")),
    (0, b"WithoutFreeSpace", Meaning::Refused("Parallels")),
    (0, b"WithouFreSpacExt", Meaning::Refused("Parallels")),
    (0, b"OOOM", Meaning::Refused("COW (User-Mode Linux)")),
    (0, b"Bochs Virtual HD Image", Meaning::Refused("Bochs")),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", Meaning::Refused("cloop")),
    (0, b"COWD", Meaning::Refused("VMDK (ESX 3 sparse)")),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", Meaning::Refused("VMDK (seSparse)")),
    (0, b"BZh", Meaning::Refused("bzip2")),
    (0, b"PK\x03\x04", Meaning::Refused("zip")),
    (0, b"7z\xbc\xaf\x27\x1c", Meaning::Refused("7z")),
    (0, b"MSWIM\0\0\0", Meaning::Refused("WIM")),
    (0x8001, b"BEA01", Meaning::Refused("UDF without ISO 9660")),
    (0x8801, b"CDROM", Meaning::Refused("High Sierra")),
];

/// Every meaning the file has. `tail` ends where the file ends; both may be the whole of a small file.
pub(crate) fn all(head: &[u8], tail: &[u8]) -> Vec<Meaning> {
    let at = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let mut found: Vec<_> =
        HEAD.iter().filter(|(offset, magic, _)| at(*offset, magic)).map(|(_, _, meaning)| *meaning).collect();
    if at(0, b"QFI\xfb") && found.is_empty() {
        found.push(Meaning::Refused("qcow of a version other than 2 and 3"));
    }
    if vhd(head, tail) {
        found.push(Meaning::Disk(Format::Vhd));
    }
    if tail
        .len()
        .checked_sub(512)
        .and_then(|at| tail.get(at..))
        .is_some_and(|footer| footer.starts_with(b"koly"))
    {
        found.push(Meaning::Refused("DMG"));
    }
    if vmdk_descriptor(head) {
        found.push(Meaning::Descriptor("VMDK descriptor"));
    }
    found
}

/// A footer in the last 512 bytes (511 in files of old versions of Virtual PC), or its copy in front.
fn vhd(head: &[u8], tail: &[u8]) -> bool {
    const COOKIE: &[u8] = b"conectix";
    head.starts_with(COOKIE)
        || [512, 511].into_iter().any(|n| {
            tail.len()
                .checked_sub(n)
                .and_then(|at| tail.get(at..))
                .is_some_and(|footer| footer.starts_with(COOKIE))
        })
}

/// QEMU takes a text for a VMDK whose first line that is neither empty nor a comment is `version=1` to `3`; others look for the comment.
fn vmdk_descriptor(head: &[u8]) -> bool {
    const TITLE: &[u8] = b"# disk descriptorfile";
    if head.get(..TITLE.len()).is_some_and(|start| start.eq_ignore_ascii_case(TITLE)) {
        return true;
    }
    let mut lines = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    lines
        .find(|line| !line.is_empty() && !line.starts_with(b"#"))
        .is_some_and(|line| line.starts_with(b"version="))
}

/// A master boot record's mark, which also every GPT disk has.
pub(crate) fn partition_table(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}
