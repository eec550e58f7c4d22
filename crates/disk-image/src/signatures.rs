//! Every signature that a hypervisor, a tool or this reader could take for a format.
//!
//! All are tried on every file, so that a file which two programs would read as two formats is seen as such. A probe is
//! given the file's ends and nothing else: what one finds can't keep another from looking.
//! Offsets are from QEMU's `*_probe` functions and the formats' specifications.

use crate::{
    fields::{le32, le64},
    format::{Compression, Format},
    formats::ova::is_tar_header,
};

/// What a signature stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A disk format that is read here.
    Disk(Format),
    /// A compressed stream.
    Stream(Compression),
    /// A stream or archive that isn't unpacked here, and the program that does.
    Packed(&'static str, &'static str),
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
            // An OVA is one, and most tars are none.
            Self::Disk(Format::Ova) => "a tar archive",
            Self::Disk(format) => format.name(),
            Self::Stream(stream) => stream.name(),
            Self::Packed(name, _)
            | Self::Refused(name)
            | Self::Volume(name)
            | Self::Encrypted(name)
            | Self::Descriptor(name) => name,
        }
    }

    /// Whether a file that is said to be of `format` may have it as a part of its own. A volume is what a guest finds on
    /// its disk, and no format around a disk: nobody looks for another disk in it. Kernels and ramdisks are compressed.
    pub(crate) const fn is_part_of(self, format: Format) -> bool {
        match self {
            Self::Disk(Format::Iso) | Self::Volume(_) => format.is_opaque(),
            Self::Stream(_) | Self::Packed(..) => format.is_boot_file(),
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
    (0, b"\x1f\x8b\x08", Meaning::Stream(Compression::Gzip)),
    (0, b"\xfd7zXZ\0", Meaning::Stream(Compression::Xz)),
    (0, ZSTD, Meaning::Stream(Compression::Zstd)),
    (0, b"BZh", Meaning::Stream(Compression::Bzip2)),
    (0, LZ4, Meaning::Stream(Compression::Lz4)),
    (0, b"LUKS\xba\xbe", Meaning::Encrypted("LUKS")),
    (0, b"QED\0", Meaning::Refused("QED")),
    (0, b"WithoutFreeSpace", Meaning::Refused("Parallels")),
    (0, b"WithouFreSpacExt", Meaning::Refused("Parallels")),
    (0, b"OOOM", Meaning::Refused("COW (User-Mode Linux)")),
    (0, b"Bochs Virtual HD Image", Meaning::Refused("Bochs")),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", Meaning::Refused("cloop")),
    (0, b"COWD", Meaning::Refused("VMDK (ESX 3 sparse)")),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", Meaning::Refused("VMDK (seSparse)")),
    (0, b"PK\x03\x04", Meaning::Packed("zip", "unzip")),
    (0, b"PK\x05\x06", Meaning::Packed("zip", "unzip")),
    (0, b"PK\x07\x08", Meaning::Packed("zip", "unzip")),
    (0, b"7z\xbc\xaf\x27\x1c", Meaning::Packed("7z", "7z x")),
    (0, b"Rar!\x1a\x07", Meaning::Packed("RAR", "unrar x")),
    (0, b"LZIP\x01", Meaning::Packed("lzip", "lzip -d")),
    (0, b"\x02\x21\x4c\x18", Meaning::Packed("LZ4 (legacy frames)", "lz4 -d")),
    (0, b"\x89LZO\0\r\n\x1a\n", Meaning::Packed("LZO", "lzop -d")),
    (0, b"LRZI\0", Meaning::Packed("lrzip", "lrunzip")),
    (0, b"\xff\x06\0\0sNaPpY", Meaning::Packed("Snappy", "snzip -d")),
    (0, b"\x3a\xff\x26\xed\x01\0", Meaning::Packed("an Android sparse image", "simg2img")),
    (0, b"MSWIM\0\0\0", Meaning::Refused("WIM")),
    (0x8001, b"BEA01", Meaning::Volume("UDF without ISO 9660")),
    (0x8801, b"CDROM", Meaning::Volume("High Sierra")),
];

const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const LZ4: &[u8] = b"\x04\x22\x4d\x18";

/// What takes more than bytes at a fixed place.
const PROBES: &[fn(&Ends<'_>) -> Option<Seen>] =
    &[qcow, vhd, dmg, vmdk_descriptor, tar, skippable, old_zstd, lzma, compress];

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

/// POSIX and GNU write "ustar". Before 1988 there was only the header's checksum to know it by.
fn tar(ends: &Ends<'_>) -> Option<Seen> {
    let has_header = |block: &[u8]| block.first() != Some(&0) && is_tar_header(block);
    let is_tar = ends.has(257, b"ustar") || ends.head.get(..512).is_some_and(has_header);
    is_tar.then_some(start(Meaning::Disk(Format::Ova)))
}

/// Frames to be skipped, which pzstd and others write before those that hold data (RFC 8878, section 3.1.2). LZ4 took over
/// the same: what follows tells.
fn skippable(ends: &Ends<'_>) -> Option<Seen> {
    let mut rest = ends.head;
    while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = rest {
        let len = le32(rest, 4).ok().and_then(|len| usize::try_from(len).ok());
        rest = len.and_then(|len| rest.get(8..)?.get(len..)).unwrap_or_default();
    }
    let skipped = rest.len() < ends.head.len();
    let stream = if rest.starts_with(LZ4) { Compression::Lz4 } else { Compression::Zstd };
    skipped.then_some(start(Meaning::Stream(stream)))
}

/// Versions 0.1 to 0.7 of zstd wrote other formats, each with a number of its own (`zstd_legacy.h`).
fn old_zstd(ends: &Ends<'_>) -> Option<Seen> {
    let is_old = matches!(ends.head, [0x1e | 0x22..=0x27, 0xb5, 0x2f, 0xfd, ..]);
    is_old.then_some(start(Meaning::Packed("zstd of a version before 0.8", "zstd -d of that version")))
}

/// The .lzma format has no signature: known are the properties that every tool writes, a dictionary of 2^n or 2^n + 2^(n-1)
/// bytes, a length that is not told or below 256 GiB (as liblzma has it), and a first byte of data that is always 0.
fn lzma(ends: &Ends<'_>) -> Option<Seen> {
    let (dictionary, len) = (le32(ends.head, 1).ok()?, le64(ends.head, 5).ok()?);
    let is_usual = dictionary >= 4096
        && (dictionary.is_power_of_two()
            || (dictionary / 3 * 3 == dictionary && (dictionary / 3).is_power_of_two()));
    let is_lzma = ends.head.first() == Some(&0x5d)
        && (is_usual || dictionary == u32::MAX)
        && (len == u64::MAX || len < 1 << 38)
        && ends.head.get(13) == Some(&0);
    is_lzma.then_some(start(Meaning::Packed("LZMA", "xz -d --format=lzma")))
}

/// Two bytes, and a third that says of how many bits codes are: 9 to 16.
fn compress(ends: &Ends<'_>) -> Option<Seen> {
    let is_compress = matches!(ends.head, [0x1f, 0x9d, flags, ..] if flags & 0x60 == 0 && (9..=16).contains(&(flags & 0x1f)));
    is_compress.then_some(start(Meaning::Packed("compress (.Z)", "uncompress")))
}

impl Compression {
    /// The stream that a file of this head is; 64 KiB are enough.
    pub fn of(head: &[u8]) -> Option<Self> {
        let ends = Ends { head, tail: &[], size: head.len() as u64 };
        all(&ends).iter().find_map(|seen| match seen.meaning {
            Meaning::Stream(stream) => Some(stream),
            _ => None,
        })
    }
}

/// A master boot record's mark, which also every GPT disk has.
pub(crate) fn partition_table(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa])
}
