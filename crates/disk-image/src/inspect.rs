//! What a file is, from its head and tail alone.
//!
//! Goal: the format that was declared is the only one that any program could see in the file.
//!
//! Threat model: a file that one program reads as format A and another as format B passes the checks of A and
//! harms through B (CVE-2024-32498, CVE-2024-44082). So all signatures are tried, exactly one may match, and it must be
//! the declared one; a structured file declared raw is refused, since a hypervisor may probe it again. A CD's volume is no
//! structure around a disk: no hypervisor looks into one, so an ISO may be declared raw.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    format::{Compression, Format},
    formats::{ova::UNTAR, view::View, vmdk::JOIN},
    regions::{ByteRange, Regions},
    signatures::{self, Ends, Meaning},
};

/// Bytes read at the start: past the last signature (sector 17 of an ISO) and enough for most headers.
pub const HEAD: u64 = 64 << 10;
/// Bytes read at the end: footers of VHD and DMG, footer and end marker of VMDK.
pub const TAIL: u64 = 2 << 10;

/// What to do with a file that is more than one thing.
const ANEW: &str = "make the image anew from the disk that is meant (qemu-img convert) and send that";

/// What the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inspection {
    /// A disk image of this format, to be opened with [`Layout::open`](crate::formats::Layout::open).
    Disk(Format),
    /// A compressed stream: unpack it, then inspect what comes out with the same declared format.
    Stream(Compression),
}

/// Tells what the file is, if that is one thing and the one declared. `None` accepts any format with a signature.
///
/// A kernel or ramdisk (`aki`, `ari`) is one whether it is compressed or not: whoever boots it unpacks it.
///
/// # Errors
/// [`Error::Need`] for head and tail, then [`Code::UnknownFormat`], [`Code::UnsupportedFormat`], [`Code::FormatMismatch`],
/// [`Code::Polyglot`], [`Code::Encrypted`], [`Code::ExternalData`].
pub fn inspect(regions: &Regions, declared: Option<Format>) -> Result<Inspection> {
    let ends = ends(View::whole(regions))?;
    let found = signatures::all(&ends);
    let partitioned = signatures::partition_table(ends.head);
    let Some((only, others)) = found.split_first() else {
        return without_signature(declared);
    };
    if let Some(declared) = declared
        && found.iter().all(|seen| seen.meaning.is_part_of(declared))
    {
        return Ok(Inspection::Disk(declared));
    }
    if let Some((last, rest)) = others.split_last() {
        let names: Vec<_> = [only].into_iter().chain(rest).map(|seen| seen.meaning.name()).collect();
        return Err(Error::refused(
            Code::Polyglot,
            format!(
                "the file is {} and {} at once, and programs would disagree about it; {ANEW}",
                names.join(", "),
                last.meaning.name()
            ),
        ));
    }
    match only.meaning {
        Meaning::Refused(name) => Err(Error::refused(
            Code::UnsupportedFormat,
            format!("the file is {name}, which is not accepted; convert it to qcow2 and send that"),
        )),
        Meaning::Packed(name, by) => Err(Error::refused(
            Code::UnsupportedFormat,
            format!(
                "the file is {name}, which is not unpacked here; unpack it ({by}) and send what is inside, \
                 as it is or as gzip, xz, zstd, bzip2 or lz4"
            ),
        )),
        Meaning::Volume(name) => Err(Error::refused(
            Code::UnsupportedFormat,
            format!("the file is {name}; if that is the disk's own, say import_from_format \"raw\""),
        )),
        Meaning::Encrypted(name) => {
            let message = format!("the file is a {name} encrypted disk; decrypt it and send what is inside");
            Err(Error::refused(Code::Encrypted, message))
        }
        Meaning::Descriptor(name) => Err(Error::refused(
            Code::ExternalData,
            format!("the file is a {name}: it names the files that hold the disk; {JOIN}"),
        )),
        Meaning::Stream(stream) => Ok(Inspection::Stream(stream)),
        Meaning::Disk(format) => {
            if let Some(declared) = declared.filter(|declared| *declared != format) {
                return Err(mismatch(declared, only.meaning, format));
            }
            if partitioned && !may_begin_with_partition_table(format, ends.head) {
                return Err(Error::refused(
                    Code::Polyglot,
                    format!(
                        "the file is {format} and begins with a partition table (55 AA at byte 510); {ANEW}"
                    ),
                ));
            }
            Ok(Inspection::Disk(format))
        }
    }
}

fn mismatch(declared: Format, found: Meaning, format: Format) -> Error {
    let mut message = format!("declared as {declared}, but the file is {}; ", found.name());
    message += &match format {
        Format::Ova => format!("{UNTAR}; if it is an OVA, say import_from_format \"ova\""),
        format => format!("say import_from_format \"{format}\", or leave it out"),
    };
    Error::refused(Code::FormatMismatch, message)
}

fn without_signature(declared: Option<Format>) -> Result<Inspection> {
    const RAW: &str = "if it is a raw disk, as a VMDK's -flat file is, say import_from_format \"raw\"";
    match declared {
        Some(format) if format.is_opaque() => Ok(Inspection::Disk(format)),
        Some(format) => Err(Error::refused(
            Code::FormatMismatch,
            format!("declared as {format}, but the file has no signature of it; {RAW}"),
        )),
        None => {
            let message = format!("the file has no known signature; {RAW}");
            Err(Error::refused(Code::UnknownFormat, message))
        }
    }
}

/// An ISO that boots from a disk too (a hybrid one) has one, as nearly all do; a fixed VHD begins with the guest's own disk.
fn may_begin_with_partition_table(format: Format, head: &[u8]) -> bool {
    match format {
        Format::Iso => true,
        Format::Vhd => !head.starts_with(b"conectix"),
        _ => false,
    }
}

/// Head and tail, asked for at once.
pub(crate) fn ends(file: View<'_>) -> Result<Ends<'_>> {
    let size = file.size();
    let (head, tail) = (HEAD.min(size), TAIL.min(size));
    let ranges = [ByteRange { start: 0, end: head }, ByteRange { start: size - tail, end: size }];
    // One request where the two ranges meet.
    if size - tail <= head {
        file.need(&[ByteRange { start: 0, end: size }])?;
    } else {
        file.need(&ranges)?;
    }
    Ok(Ends { head: file.read(0, head, "head")?, tail: file.read(size - tail, tail, "tail")?, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(bytes: &[u8], declared: Option<Format>) -> std::result::Result<Inspection, Code> {
        let mut regions = Regions::new(bytes.len() as u64);
        if let Err(Error::Need(ranges)) = inspect(&regions, declared) {
            for r in ranges {
                let (start, end) = (usize::try_from(r.start).unwrap(), usize::try_from(r.end).unwrap());
                regions.insert(r.start, bytes[start..end].to_vec());
            }
        }
        inspect(&regions, declared).map_err(|e| match e {
            Error::Refused(refusal) => refusal.code,
            Error::Need(_) => panic!("asked twice"),
        })
    }

    fn with(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (at, part) in parts {
            bytes[*at..*at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    #[test]
    fn raw_must_be_declared_and_must_not_be_anything_else() {
        let disk = with(100_000, &[(510, &[0x55, 0xaa])]);
        assert_eq!(seen(&disk, Some(Format::Raw)), Ok(Inspection::Disk(Format::Raw)));
        assert_eq!(seen(&disk, Some(Format::Ami)), Ok(Inspection::Disk(Format::Ami)));
        assert_eq!(seen(&disk, None), Err(Code::UnknownFormat));
        assert_eq!(seen(&disk, Some(Format::Qcow2)), Err(Code::FormatMismatch));
        let qcow2 = with(100_000, &[(0, b"QFI\xfb\0\0\0\x03")]);
        assert_eq!(seen(&qcow2, Some(Format::Raw)), Err(Code::FormatMismatch));
        assert_eq!(seen(&qcow2, None), Ok(Inspection::Disk(Format::Qcow2)));
        assert_eq!(seen(&[], Some(Format::Raw)), Ok(Inspection::Disk(Format::Raw)));
        assert_eq!(seen(&[], None), Err(Code::UnknownFormat));
        assert_eq!(seen(&[0], Some(Format::Raw)), Ok(Inspection::Disk(Format::Raw)));
    }

    #[test]
    fn a_partition_table_is_for_raw_iso_and_fixed_vhd_only() {
        let mbr: (usize, &[u8]) = (510, &[0x55, 0xaa]);
        let iso = with(100_000, &[mbr, (0x8001, b"CD001")]);
        for declared in [None, Some(Format::Iso)] {
            assert_eq!(seen(&iso, declared), Ok(Inspection::Disk(Format::Iso)));
        }
        let mut with_qcow2 = iso;
        with_qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        for declared in [None, Some(Format::Iso), Some(Format::Raw)] {
            assert_eq!(seen(&with_qcow2, declared), Err(Code::Polyglot));
        }
        let fixed = with(100_000, &[mbr, (100_000 - 512, b"conectix")]);
        assert_eq!(seen(&fixed, Some(Format::Vhd)), Ok(Inspection::Disk(Format::Vhd)));
        let dynamic = with(100_000, &[mbr, (0, b"conectix"), (100_000 - 512, b"conectix")]);
        assert_eq!(seen(&dynamic, Some(Format::Vhd)), Err(Code::Polyglot));
        let qcow2 = with(100_000, &[mbr, (0, b"QFI\xfb\0\0\0\x02")]);
        assert_eq!(seen(&qcow2, Some(Format::Qcow2)), Err(Code::Polyglot));
    }

    #[test]
    fn a_volume_may_be_declared_to_be_the_disks_own() {
        for (at, magic) in [(0x8001, &b"CD001"[..]), (0x8001, b"BEA01"), (0x8801, b"CDROM")] {
            for mark in [&[0, 0][..], &[0x55, 0xaa]] {
                let file = with(100_000, &[(at, magic), (510, mark)]);
                for format in Format::ALL.into_iter().filter(|format| format.is_opaque()) {
                    assert_eq!(seen(&file, Some(format)), Ok(Inspection::Disk(format)));
                }
                let iso = magic == b"CD001";
                assert_eq!(seen(&file, Some(Format::Iso)).is_ok(), iso);
                assert_eq!(seen(&file, None).is_ok(), iso);
            }
        }
    }

    #[test]
    fn every_pair_of_signatures_that_fits_one_file_is_a_polyglot() {
        let heads: &[&[u8]] =
            &[b"QFI\xfb\0\0\0\x03", b"KDMV", b"vhdxfile", b"\x1f\x8b\x08", b"QED\0", b"LUKS\xba\xbe"];
        for head in heads {
            for other in [
                (0x8001, &b"CD001"[..]),
                (257, b"ustar"),
                (100_000 - 512, b"conectix"),
                (0x40, b"\x7f\x10\xda\xbe"),
            ] {
                let file = with(100_000, &[(0, head), other]);
                assert_eq!(seen(&file, None), Err(Code::Polyglot), "{head:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_compressed_stream_is_told_unless_it_is_a_kernel_or_ramdisk() {
        for (magic, stream) in [
            (&b"\x1f\x8b\x08"[..], Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"BZh9", Compression::Bzip2),
            (b"\x04\x22\x4d\x18", Compression::Lz4),
            (b"\x5f\x2a\x4d\x18\x03\0\0\0abc\x04\x22\x4d\x18", Compression::Lz4),
        ] {
            let file = with(4096, &[(0, magic), (510, &[0x55, 0xaa])]);
            for declared in [None, Some(Format::Raw), Some(Format::Ami), Some(Format::Qcow2)] {
                assert_eq!(seen(&file, declared), Ok(Inspection::Stream(stream)));
            }
            for boot in [Format::Ari, Format::Aki] {
                assert_eq!(seen(&file, Some(boot)), Ok(Inspection::Disk(boot)));
            }
        }
    }

    #[test]
    fn a_vmdk_text_descriptor_is_seen_through_case_and_comments() {
        for text in
            ["# Disk DescriptorFile\nversion=1\n", "# DISK DESCRIPTORFILE", "\n# x\n\nversion=1\nCID=1"]
        {
            let file = with(4096, &[(0, text.as_bytes())]);
            for declared in [None, Some(Format::Raw), Some(Format::Vmdk)] {
                assert_eq!(seen(&file, declared), Err(Code::ExternalData), "{text}");
            }
        }
    }
}
