//! Files that are something else than declared, more than one thing, or something never taken.

use disk_image::{Code, Format};

use crate::{
    Hostile, Sparse, iso, qcow2,
    streams::{PACKED, tars},
    vdi,
};

const SIZE: u64 = 256 << 10;

pub(crate) fn hostile() -> Vec<Hostile> {
    let mut all = Vec::new();
    let mut add = |name: &str, declared, file: Sparse, code| {
        all.push(Hostile { name: name.into(), declared, file, code })
    };
    let raw = Some(Format::Raw);
    let file = || Sparse::zeros(SIZE);

    for (name, at, magic) in REFUSED {
        let at = if *at == FOOTER { SIZE - 512 } else { *at };
        add(&format!("refused-{name}-declared-raw"), raw, file().with(at, magic), Code::UnsupportedFormat);
        add(&format!("refused-{name}-undeclared"), None, file().with(at, magic), Code::UnsupportedFormat);
    }
    for (n, packed) in PACKED.iter().enumerate() {
        for (said, declared) in [("raw", raw), ("qcow2", Some(Format::Qcow2)), ("nothing", None)] {
            let name = format!("refused-packed-{n}-declared-{said}");
            add(&name, declared, file().with(0, packed.begins), Code::UnsupportedFormat);
        }
    }
    for (name, tar) in tars(&[7; 4096]) {
        add(&format!("refused-tar-{name}-declared-raw"), raw, tar.clone(), Code::FormatMismatch);
        add(&format!("refused-tar-{name}-undeclared"), None, tar.clone(), Code::BadArchive);
        add(&format!("tar-{name}-declared-ova"), Some(Format::Ova), tar, Code::BadArchive);
    }
    add("refused-luks-declared-raw", raw, file().with(0, b"LUKS\xba\xbe\0\x01"), Code::Encrypted);
    let descriptor = b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 20 FLAT \"/etc/passwd\" 0\n";
    add("vmdk-descriptor-declared-vmdk", Some(Format::Vmdk), file().with(0, descriptor), Code::ExternalData);
    add("vmdk-descriptor-declared-raw", raw, file().with(0, descriptor), Code::ExternalData);
    add(
        "vmdk-descriptor-behind-blank-lines",
        raw,
        file().with(0, b"\n \n#x\nversion=1\n"),
        Code::ExternalData,
    );

    // An ISO may be declared raw.
    for (name, at, magic) in STRUCTURED.iter().filter(|(name, ..)| *name != "iso") {
        let at = if *at == FOOTER { SIZE - 512 } else { *at };
        add(&format!("{name}-declared-raw"), raw, file().with(at, magic), Code::FormatMismatch);
        add(&format!("{name}-declared-ami"), Some(Format::Ami), file().with(at, magic), Code::FormatMismatch);
    }
    add("zeros-undeclared", None, file(), Code::UnknownFormat);
    for format in
        [Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx, Format::Vdi, Format::Iso, Format::Ova]
    {
        add(&format!("zeros-declared-{format}"), Some(format), file(), Code::FormatMismatch);
    }
    add("empty-undeclared", None, Sparse::zeros(0), Code::UnknownFormat);
    add("empty-declared-qcow2", Some(Format::Qcow2), Sparse::zeros(0), Code::FormatMismatch);

    let qcow2 = Some(Format::Qcow2);
    let sound = || qcow2::v3();
    let size = sound().len();
    add("polyglot-qcow2-partition-table", qcow2, sound().with(510, &[0x55, 0xaa]), Code::Polyglot);
    add("polyglot-qcow2-iso", qcow2, sound().with(0x8001, b"CD001\x01"), Code::Polyglot);
    add("polyglot-qcow2-tar", qcow2, sound().with(257, b"ustar\x0000"), Code::Polyglot);
    add(
        "polyglot-qcow2-vhd-footer",
        qcow2,
        sound().with(size, b"conectix").with(size + 511, &[0]),
        Code::Polyglot,
    );
    add(
        "polyglot-qcow2-vhd-footer-of-511",
        qcow2,
        sound().with(size, b"conectix").with(size + 510, &[0]),
        Code::Polyglot,
    );
    add("polyglot-qcow2-dmg", qcow2, sound().with(size, b"koly").with(size + 511, &[0]), Code::Polyglot);
    add("polyglot-qcow2-vdi", qcow2, sound().with(0x40, b"\x7f\x10\xda\xbe"), Code::Polyglot);
    // A footer that is cut in the last sector is one to QEMU all the same.
    add(
        "polyglot-qcow2-vhd-footer-cut",
        qcow2,
        sound().with(size, &[b"conectix", &[0; 92][..]].concat()),
        Code::Polyglot,
    );
    add(
        "polyglot-qcow2-dmg-unaligned",
        qcow2,
        sound().with(size + 100, &[b"koly", &[0; 700][..]].concat()),
        Code::Polyglot,
    );
    let iso = Some(Format::Iso);
    for (name, at, magic) in STRUCTURED.iter().filter(|(_, at, _)| *at < 0x8000) {
        add(&format!("polyglot-iso-{name}"), iso, iso::volume().with(*at, magic), Code::Polyglot);
    }
    for version in [0, 1, 4, 255] {
        let magic = [b'Q', b'F', b'I', 0xfb, 0, 0, 0, version];
        let file = iso::volume().with(0, &magic);
        add(&format!("polyglot-iso-qcow-{version}"), iso, file, Code::Polyglot);
        let file = vdi::dynamic_of(&[0; 512]).with(0, &magic);
        add(&format!("polyglot-vdi-qcow-{version}"), Some(Format::Vdi), file, Code::Polyglot);
    }
    for (name, title) in [
        ("spaced", "# Disk Descriptor File\nCID=1\n"),
        ("tight", "#Disk DescriptorFile\nCID=1\n"),
        ("tight-and-spaced", "#Disk Descriptor File\nCID=1\n"),
        ("behind-a-comment", "# a comment\n\n# Disk DescriptorFile\nCID=1\n"),
    ] {
        let file = iso::volume().with(0, title.as_bytes());
        add(&format!("polyglot-iso-vmdk-descriptor-{name}"), iso, file, Code::Polyglot);
    }
    // A boot record in front of it doesn't excuse it; nor does the word that all is a raw disk.
    let booting = |at: u64, magic: &[u8]| iso::hybrid().with(at, magic);
    for (name, at, magic) in STRUCTURED.iter().filter(|(_, at, _)| *at < 0x8000) {
        add(&format!("polyglot-hybrid-iso-{name}-undeclared"), None, booting(*at, magic), Code::Polyglot);
        add(&format!("polyglot-hybrid-iso-{name}-declared-raw"), raw, booting(*at, magic), Code::Polyglot);
    }
    add("polyglot-gzip-iso", iso, iso::volume().with(0, b"\x1f\x8b\x08"), Code::Polyglot);
    let inside = Sparse::zeros(SIZE).with(0, b"QFI\xfb\0\0\0\x03").with(SIZE - 512, b"conectix");
    add("polyglot-fixed-vhd-of-qcow2", Some(Format::Vhd), inside, Code::Polyglot);
    all
}

/// Stands for 512 bytes before the end.
const FOOTER: u64 = u64::MAX;

const REFUSED: &[(&str, u64, &[u8])] = &[
    ("qcow1", 0, b"QFI\xfb\0\0\0\x01"),
    ("qcow4", 0, b"QFI\xfb\0\0\0\x04"),
    ("qed", 0, b"QED\0"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels-ext", 0, b"WithouFreSpacExt"),
    ("dmg", FOOTER, b"koly"),
    ("cow", 0, b"OOOM"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
    ("esx-sparse", 0, b"COWD"),
    ("se-sparse", 0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    ("wim", 0, b"MSWIM\0\0\0"),
];

const STRUCTURED: &[(&str, u64, &[u8])] = &[
    ("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
    ("qcow2-v2", 0, b"QFI\xfb\0\0\0\x02"),
    ("vmdk", 0, b"KDMV"),
    ("vhdx", 0, b"vhdxfile"),
    ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
    ("vhd-dynamic", 0, b"conectix"),
    ("vhd-fixed", FOOTER, b"conectix"),
    ("iso", 0x8001, b"CD001"),
    ("ova", 257, b"ustar"),
];
