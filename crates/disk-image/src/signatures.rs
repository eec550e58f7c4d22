//! Every signature that a hypervisor, a tool or this reader could take for a format.
//!
//! All are tried on every file, so that a file which two programs would read as two formats is seen as such. A probe is
//! given the file's ends and nothing else: what one finds can't keep another from looking.
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
    /// A file system of optical media that is not taken as an image.
    Volume(&'static str),
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
            Self::Refused(name) | Self::Volume(name) | Self::Encrypted(name) | Self::Descriptor(name) => name,
        }
    }

    /// Whether a file that is said to be of `format` may have it as a part of its own. A volume is what a guest finds on
    /// its disk, and no format around a disk: nobody looks for another disk in it.
    pub(crate) const fn is_part_of(self, format: Format) -> bool {
        match self {
            Self::Disk(Format::Iso) | Self::Volume(_) => format.is_opaque(),
            _ => false,
        }
    }
}

/// A signature that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) meaning: Meaning,
    /// Whether it is at the file's end, not at its start.
    pub(crate) at_end: bool,
}

/// The first and the last bytes of a file; both may be the whole of a small one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) tail: &'a [u8],
    pub(crate) size: u64,
}

impl Ends<'_> {
    fn has(&self, at: usize, magic: &[u8]) -> bool {
        self.head.get(at..).is_some_and(|rest| rest.starts_with(magic))
    }

    /// Whether `magic` begins somewhere from `far` to `near` bytes before the end.
    fn ends_with(&self, magic: &[u8], far: u64, near: u64) -> bool {
        let len = self.tail.len() as u64;
        self.tail
            .windows(magic.len())
            .zip(0..)
            .any(|(window, at): (_, u64)| window == magic && (near..=far).contains(&(len - at)))
    }
}

/// Bytes at fixed places of the head.
const HEAD: &[(usize, &[u8], Meaning)] = &[
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
    (0x8001, b"BEA01", Meaning::Volume("UDF without ISO 9660")),
    (0x8801, b"CDROM", Meaning::Volume("High Sierra")),
];

/// What takes more than bytes at a fixed place.
const PROBES: &[fn(&Ends<'_>) -> Option<Seen>] = &[qcow, vhd, dmg, vmdk_descriptor];

/// Every meaning the file has.
pub(crate) fn all(ends: &Ends<'_>) -> Vec<Seen> {
    let fixed =
        HEAD.iter().filter(|(at, magic, _)| ends.has(*at, magic)).map(|(_, _, meaning)| start(*meaning));
    fixed.chain(PROBES.iter().filter_map(|probe| probe(ends))).collect()
}

const fn start(meaning: Meaning) -> Seen {
    Seen { meaning, at_end: false }
}

/// QEMU probes version 1 as qcow and all above as qcow2.
fn qcow(ends: &Ends<'_>) -> Option<Seen> {
    let version = ends.head.strip_prefix(b"QFI\xfb")?.get(..4);
    Some(start(match version {
        Some([0, 0, 0, 2 | 3]) => Meaning::Disk(Format::Qcow2),
        _ => Meaning::Refused("qcow of a version other than 2 and 3"),
    }))
}

/// A footer in front, or in the last sector. QEMU rounds a file up to whole sectors, so it reads a footer that is cut,
/// as it is in files of old versions of Virtual PC (511 bytes).
fn vhd(ends: &Ends<'_>) -> Option<Seen> {
    const COOKIE: &[u8] = b"conectix";
    let at_end = !ends.has(0, COOKIE);
    (!at_end || ends.ends_with(COOKIE, 512, 0))
        .then_some(Seen { meaning: Meaning::Disk(Format::Vhd), at_end })
}

/// QEMU looks for a trailer that begins in the 512 bytes up to the last sector, of a file rounded up to whole sectors.
fn dmg(ends: &Ends<'_>) -> Option<Seen> {
    let missing = ends.size.next_multiple_of(512) - ends.size;
    let found = ends.ends_with(b"koly", 1023 - missing, 512 - missing) || ends.ends_with(b"koly", 512, 512);
    found.then_some(Seen { meaning: Meaning::Refused("DMG"), at_end: true })
}

/// QEMU takes a text for a VMDK whose first line that is neither empty nor a comment is `version=1` to `3`. Others look
/// for a comment before it, which VirtualBox spells in four ways.
fn vmdk_descriptor(ends: &Ends<'_>) -> Option<Seen> {
    let titled = |line: &[u8]| {
        let letters = line.iter().filter(|b| !b.is_ascii_whitespace()).map(u8::to_ascii_lowercase);
        letters.take(TITLE.len()).eq(TITLE.iter().copied())
    };
    const TITLE: &[u8] = b"#diskdescriptorfile";
    let mut lines = ends.head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines
        .find(|line| !line.starts_with(b"#") || titled(line))
        .is_some_and(|line| line.starts_with(b"#") || line.starts_with(b"version="))
        .then_some(start(Meaning::Descriptor("VMDK text descriptor")))
}

/// A master boot record's mark, which also every GPT disk has.
pub(crate) fn partition_table(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}
