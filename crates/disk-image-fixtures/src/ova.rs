//! OVAs: archive, descriptor and disk, each lying.

mod dialects;

use disk_image::{ByteRange, Code, Format};

use crate::{Hostile, Sound, Sparse, qcow2, vdi, vhd, vhdx, vmdk};

const NAME: u64 = 0;
const SIZE: u64 = 124;
const SUM: u64 = 148;
pub(crate) const KIND: u64 = 156;
pub(crate) const MAGIC: u64 = 257;
const PREFIX: u64 = 345;

/// A member's header, with its checksum set after `change`.
fn header(name: &str, len: u64, change: impl Fn(Sparse) -> Sparse) -> Vec<u8> {
    let file = Sparse::zeros(512)
        .with(NAME, name.as_bytes())
        .with(100, b"0000644\0")
        .with(SIZE, format!("{len:011o}\0").as_bytes())
        .with(KIND, b"0")
        .with(MAGIC, b"ustar\x0000");
    let file = change(file).with(SUM, b"        ");
    let sum: u32 = file.read(ByteRange { start: 0, end: 512 }).iter().map(|b| u32::from(*b)).sum();
    file.with(SUM, format!("{sum:06o}\0 ").as_bytes()).read(ByteRange { start: 0, end: 512 })
}

fn disk() -> Vec<u8> {
    let disk = vmdk::stream();
    disk.read(ByteRange { start: 0, end: disk.len() })
}

pub(crate) struct Archive(Sparse);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Sparse::zeros(0))
    }

    pub(crate) fn member(self, name: &str, bytes: &[u8]) -> Self {
        self.changed(name, bytes, |header| header)
    }

    pub(crate) fn changed(self, name: &str, bytes: &[u8], change: impl Fn(Sparse) -> Sparse) -> Self {
        let at = self.0.len();
        let file = self.0.with(at, &header(name, bytes.len() as u64, change)).with(at + 512, bytes);
        let padding =
            vec![0; usize::try_from(file.len().next_multiple_of(512) - file.len()).unwrap_or_default()];
        let end = file.len();
        Self(file.with(end, &padding))
    }

    pub(crate) fn end(self) -> Sparse {
        let end = self.0.len();
        self.0.with(end, &[0; 1024])
    }
}

/// A sound OVA of these disks.
pub fn ova(disks: &[(&str, &[u8])]) -> Sparse {
    let files: Vec<_> = disks.iter().map(|(name, bytes)| (*name, bytes.len())).collect();
    disks.iter().fold(with_descriptor(&describe(&files)), |a, (name, bytes)| a.member(name, bytes)).end()
}

/// A descriptor of these files, each a disk as long as [`disk`].
fn descriptor(files: &[&str]) -> String {
    let len = disk().len();
    describe(&files.iter().map(|name| (*name, len)).collect::<Vec<_>>())
}

fn describe(files: &[(&str, usize)]) -> String {
    let file =
        |(f, len): &(&str, usize)| format!("<File ovf:id=\"{f}\" ovf:href=\"{f}\" ovf:size=\"{len}\"/>");
    let listed: String = files.iter().map(file).collect();
    let disks: String =
        files.iter().map(|(f, _)| format!("<Disk ovf:diskId=\"d-{f}\" ovf:fileRef=\"{f}\"/>")).collect();
    format!(
        "<?xml version=\"1.0\"?><Envelope xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\
         <References>{listed}</References><DiskSection>{disks}</DiskSection></Envelope>"
    )
}

fn with_descriptor(xml: &str) -> Archive {
    Archive::new().member("vm.ovf", xml.as_bytes())
}

/// One disk; `change` is made to its descriptor.
fn described(change: impl Fn(String) -> String) -> Sparse {
    with_descriptor(&change(descriptor(&["a.vmdk"]))).member("a.vmdk", &disk()).end()
}

/// One disk, whose member's header is changed.
fn headed(change: impl Fn(Sparse) -> Sparse) -> Sparse {
    with_descriptor(&descriptor(&["a.vmdk"])).changed("a.vmdk", &disk(), change).end()
}

/// One disk and another member.
fn beside(name: &str, bytes: &[u8], change: impl Fn(Sparse) -> Sparse) -> Sparse {
    with_descriptor(&descriptor(&["a.vmdk"])).changed(name, bytes, change).member("a.vmdk", &disk()).end()
}

fn sound_one() -> Sparse {
    described(|xml| xml)
}

pub(crate) fn sound() -> Vec<Sound> {
    let dotted = with_descriptor(&descriptor(&["a.vmdk"])).member("./a.vmdk", &disk()).end();
    let base_256 = headed(|h| {
        let len = disk().len() as u64;
        h.with(SIZE, &[0x80, 0, 0, 0]).be64(SIZE + 4, len)
    });
    let own = [("ova", sound_one()), ("ova-dotted-name", dotted), ("ova-size-in-base-256", base_256)];
    let all = own.into_iter().chain(dialects::sound()).chain(of_other_formats());
    all.map(|(name, file)| Sound { name, format: Format::Ova, file }).collect()
}

/// What oVirt, XenServer and others put inside.
fn of_other_formats() -> Vec<(&'static str, Sparse)> {
    let names = [
        ("ova-of-qcow2", qcow2::sound()),
        ("ova-of-vhd", vhd::sound()),
        ("ova-of-vhdx", vhdx::sound()),
        ("ova-of-vdi", vdi::sound()),
    ];
    let smallest = |disks: Vec<Sound>| disks.into_iter().map(|disk| disk.file).min_by_key(Sparse::len);
    names
        .into_iter()
        .filter_map(|(name, disks)| {
            let disk = smallest(disks)?;
            Some((name, ova(&[("disk", &disk.read(ByteRange { start: 0, end: disk.len() }))])))
        })
        .collect()
}

pub(crate) fn hostile() -> Vec<Hostile> {
    [members(), archives(), descriptors(), files(), disks()]
        .concat()
        .into_iter()
        .map(|(name, file, code)| Hostile::new(format!("ova-{name}"), Format::Ova, file, code))
        .collect()
}

type Case = (&'static str, Sparse, Code);

fn members() -> Vec<Case> {
    use Code::{BadArchive, UnsafeName};
    let kind =
        |kind: &'static [u8; 1]| beside("x", b"", move |h| h.with(KIND, kind).with(157, b"/etc/shadow"));
    vec![
        ("traversal", beside("../x", b"x", |h| h), UnsafeName),
        ("absolute-name", beside("/etc/x", b"x", |h| h), UnsafeName),
        ("folder-above", beside("../x/", b"", |h| h.with(KIND, b"5")), UnsafeName),
        ("folder-above-in-name", beside("a/../x", b"x", |h| h), UnsafeName),
        ("folder-without-name-in-name", beside("a//x", b"x", |h| h), UnsafeName),
        ("backslash-in-name", beside("..\\x", b"x", |h| h), UnsafeName),
        ("hidden-name", beside(".x", b"x", |h| h), UnsafeName),
        ("empty-name", beside("", b"x", |h| h), UnsafeName),
        ("protocol-in-name", beside("json:{}", b"x", |h| h), UnsafeName),
        ("control-character-in-name", beside("a\u{1b}x", b"x", |h| h), UnsafeName),
        ("no-unicode-in-name", beside("x", b"x", |h| h.with(NAME, &[0xff, 0xfe])), UnsafeName),
        ("prefix", beside("x", b"x", |h| h.with(PREFIX, b"..")), UnsafeName),
        ("hard-link", kind(b"1"), BadArchive),
        ("symbolic-link", kind(b"2"), BadArchive),
        ("device", kind(b"3"), BadArchive),
        ("folder-of-bytes", beside("x/", b"x", |h| h.with(KIND, b"5")), BadArchive),
        ("pipe", kind(b"6"), BadArchive),
        ("pax-header", beside("x", b"19 path=/etc/shadow\n", |h| h.with(KIND, b"x")), BadArchive),
        ("pax-global-header", beside("x", b"11 size=99\n", |h| h.with(KIND, b"g")), BadArchive),
        ("gnu-long-name", beside("././@LongLink", b"/etc/shadow\0", |h| h.with(KIND, b"L")), UnsafeName),
        ("gnu-sparse", beside("x", b"x", |h| h.with(KIND, b"S")), BadArchive),
        ("pax-name-absolute", in_front(&[(b"x", b"20 path=/etc/shadow\n")]), UnsafeName),
        ("pax-name-twice", in_front(&[(b"x", b"9 path=a\n9 path=a\n")]), BadArchive),
        ("pax-and-gnu-name", in_front(&[(b"L", b"a.vmdk\0"), (b"x", b"15 path=a.vmdk\n")]), BadArchive),
        ("pax-size-twice", in_front(&[(b"x", b"9 size=1\n"), (b"x", b"9 size=1\n")]), BadArchive),
        ("pax-size-signed", in_front(&[(b"x", b"11 size=+1\n")]), BadArchive),
        ("pax-size-beyond-the-file", in_front(&[(b"x", b"17 size=99999999\n")]), Code::Truncated),
        ("pax-size-beyond-64-bits", in_front(&[(b"x", b"29 size=99999999999999999999\n")]), BadArchive),
        ("pax-sparse", in_front(&[(b"x", b"22 GNU.sparse.major=1\n")]), BadArchive),
        ("pax-record-of-no-length", in_front(&[(b"x", b"path=a.vmdk\n")]), BadArchive),
        ("pax-record-beyond-the-header", in_front(&[(b"x", b"99 path=a.vmdk\n")]), BadArchive),
        ("pax-record-of-length-0", in_front(&[(b"x", b"0 path=a.vmdk\n")]), BadArchive),
        ("pax-global-name", in_front(&[(b"g", b"9 path=a\n")]), BadArchive),
        ("extension-too-large", in_front(&[(b"x", &[b' '; (64 << 10) + 1])]), Code::TableTooLarge),
        ("sparse-of-runs-in-no-order", sparse("disk.raw", &[(600, 5), (0, 5)], 1000), BadArchive),
        ("sparse-of-runs-that-overlap", sparse("disk.raw", &[(0, 10), (9, 10)], 1000), BadArchive),
        ("sparse-beyond-its-disk", sparse("disk.raw", &[(995, 10)], 1000), BadArchive),
        ("sparse-of-other-bytes", sparse("disk.raw", &[(0, 10), (20, 11)], 1000), BadArchive),
        ("sparse-of-another-name", sparse("box.img", &[(0, 10), (990, 10)], 1000), BadArchive),
        ("sparse-too-large", sparse("disk.raw", &[(0, 20)], 1 << 62), Code::TooLarge),
        ("disk-as-a-link", headed(|h| h.with(KIND, b"2").with(157, b"/etc/shadow")), BadArchive),
    ]
}

/// The disk behind these headers.
fn in_front(headers: &[(&'static [u8; 1], &[u8])]) -> Sparse {
    let start = with_descriptor(&descriptor(&["a.vmdk"]));
    let add = |archive: Archive, (kind, bytes): &(&'static [u8; 1], &[u8])| {
        archive.changed("PaxHeaders/a.vmdk", bytes, |header| header.with(KIND, *kind))
    };
    headers.iter().fold(start, add).member("a.vmdk", &disk()).end()
}

/// An archive of one sparse file with 20 bytes, as GNU tar writes it.
fn sparse(name: &str, runs: &[(u64, u64)], size: u64) -> Sparse {
    let number = |n: u64| [&[0x80, 0, 0, 0][..], &n.to_be_bytes()].concat();
    let places: Vec<u8> = runs.iter().flat_map(|(at, len)| [number(*at), number(*len)].concat()).collect();
    let change = |header: Sparse| {
        let header = header.with(MAGIC, b"ustar  \0").with(KIND, b"S");
        header.with(386, &places).with(483, &number(size))
    };
    Archive::new().changed(name, &[7; 20], change).end()
}

fn archives() -> Vec<Case> {
    use Code::{BadArchive, TableTooLarge, Truncated};
    let disk_header = 1024 + descriptor(&["a.vmdk"]).len().next_multiple_of(512) as u64 - 512;
    let many =
        (0..70).fold(with_descriptor(&descriptor(&["a.vmdk"])), |a, n| a.member(&format!("f{n}"), b""));
    let folder = |a: Archive, n: usize| a.changed(&format!("f{n}/"), b"", |h| h.with(KIND, b"5"));
    let folders = (0..512).fold(with_descriptor(&descriptor(&["a.vmdk"])), folder);
    let large = Archive::new().member("vm.ovf", &vec![b' '; (1 << 20) + 1]).member("a.vmdk", &disk()).end();
    let unended = with_descriptor(&descriptor(&["a.vmdk"])).member("a.vmdk", &disk()).0;
    vec![
        ("member-twice", beside("a.vmdk", b"x", |h| h), BadArchive),
        ("member-twice-in-other-case", beside("A.VMDK", b"x", |h| h), BadArchive),
        ("header-checksum", sound_one().with(disk_header + 100, b"7"), BadArchive),
        ("header-magic", headed(|h| h.with(MAGIC, b"xxxxx")), BadArchive),
        ("size-no-number", headed(|h| h.with(SIZE, b"99999999999\0")), BadArchive),
        ("size-negative", headed(|h| h.with(SIZE, &[0xff; 12])), BadArchive),
        (
            "size-beyond-64-bits",
            headed(|h| h.with(SIZE, &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            BadArchive,
        ),
        ("size-beyond-the-file", headed(|h| h.with(SIZE, b"00077777777\0")), Truncated),
        ("size-of-all-bits", headed(|h| h.with(SIZE, &[0x80, 0, 0, 0]).be64(SIZE + 4, u64::MAX)), Truncated),
        ("no-end", unended, Truncated),
        ("members-too-many", many.end(), TableTooLarge),
        ("headers-too-many", folders.end(), TableTooLarge),
        ("descriptor-too-large", large, TableTooLarge),
    ]
}

fn descriptors() -> Vec<Case> {
    use Code::BadArchive;
    let entity = "<!DOCTYPE x [<!ENTITY a \"&b;&b;\"><!ENTITY f SYSTEM \"file:///etc/shadow\">]>";
    let two = descriptor(&["a.vmdk"]);
    vec![
        ("no-descriptor", Archive::new().member("a.vmdk", &disk()).end(), BadArchive),
        (
            "two-descriptors",
            with_descriptor(&two).member("b.OVF", two.as_bytes()).member("a.vmdk", &disk()).end(),
            BadArchive,
        ),
        (
            "document-type",
            described(|xml| xml.replace("<Envelope", &format!("{entity}<Envelope"))),
            BadArchive,
        ),
        ("entity-in-name", described(|xml| xml.replace("ovf:href=\"a.", "ovf:href=\"&f;a.")), BadArchive),
        ("xml-not-closed", described(|xml| xml.replace("</References>", "</Reference>")), BadArchive),
        (
            "xml-not-text",
            Archive::new().member("vm.ovf", &[0xff, 0xfe, 0, 1]).member("a.vmdk", &disk()).end(),
            BadArchive,
        ),
        (
            "xml-attribute-twice",
            described(|xml| xml.replace("<File ", "<File x:href=\"b.vmdk\" ")),
            BadArchive,
        ),
        ("no-disk", described(|xml| xml.replace("<Disk ", "<Other ")), BadArchive),
        ("disk-without-file", described(|xml| xml.replace("<File ", "<Other ")), BadArchive),
        ("file-without-id", described(|xml| xml.replace("ovf:id", "ovf:no")), BadArchive),
        (
            "file-id-twice",
            described(|xml| xml.replace("</References>", "<File id=\"a.vmdk\" href=\"b\"/></References>")),
            BadArchive,
        ),
        (
            "two-disks-in-one-file",
            described(|xml| xml.replace("<Disk ", "<Disk fileRef=\"a.vmdk\"/><Disk ")),
            BadArchive,
        ),
    ]
}

fn files() -> Vec<Case> {
    use Code::{BackingFile, BadArchive, UnsafeName, UnsupportedFeature};
    let href = |to: &'static str| {
        described(move |xml| xml.replace("ovf:href=\"a.vmdk\"", &format!("ovf:href=\"{to}\"")))
    };
    let attribute = |add: &'static str| described(move |xml| xml.replace("<File ", &format!("<File {add} ")));
    vec![
        ("href-absolute", href("/etc/shadow"), UnsafeName),
        ("href-url", href("http://169.254.169.254/latest"), UnsafeName),
        ("href-traversal", href("../a.vmdk"), UnsafeName),
        ("href-traversal-in-percents", href("%2e%2e%2fa.vmdk"), UnsafeName),
        ("href-traversal-in-entities", href("&#46;&#x2e;/a.vmdk"), UnsafeName),
        ("href-control-character", href("a&#7;.vmdk"), UnsafeName),
        ("href-empty", href(""), UnsafeName),
        ("disk-not-in-archive", href("b.vmdk"), BadArchive),
        (
            "disk-of-other-size",
            described(|xml| xml.replace(&format!("\"{}\"", disk().len()), "\"1\"")),
            BadArchive,
        ),
        (
            "disk-size-no-number",
            described(|xml| xml.replace(&format!("\"{}\"", disk().len()), "\"-1\"")),
            BadArchive,
        ),
        ("disk-gzip", attribute("ovf:compression=\"gzip\""), UnsupportedFeature),
        ("disk-in-chunks", attribute("ovf:chunkSize=\"65536\""), UnsupportedFeature),
        (
            "disk-with-parent",
            described(|xml| xml.replace("<Disk ", "<Disk ovf:parentRef=\"d0\" ")),
            BackingFile,
        ),
    ]
}

/// What is inside is held to the same rules.
fn disks() -> Vec<Case> {
    let inside = |bytes: &[u8]| {
        let xml = descriptor(&["a.vmdk"]).replace(&format!(" ovf:size=\"{}\"", disk().len()), "");
        with_descriptor(&xml).member("a.vmdk", bytes).end()
    };
    let text = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len(), "the text keeps its length");
        let mut bytes = disk();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_default();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let marked = || {
        let mut bytes = disk();
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes
    };
    vec![
        ("disk-of-zeros", inside(&[0; 4096]), Code::UnknownFormat),
        ("disk-empty", inside(&[]), Code::UnknownFormat),
        ("disk-qcow2", inside(&[b"QFI\xfb\0\0\0\x03", &[0; 1000][..]].concat()), Code::BadHeader),
        ("disk-gzip-inside", inside(b"\x1f\x8b\x08\0\0\0\0\0"), Code::UnsupportedFormat),
        (
            "disk-archive",
            inside(&in_front(&[]).read(ByteRange { start: 0, end: 4096 })),
            Code::FormatMismatch,
        ),
        ("disk-encrypted", inside(b"LUKS\xba\xbe\0\x01"), Code::Encrypted),
        ("disk-with-vhd-footer", inside(&[&disk()[..], b"conectix", &[0; 504]].concat()), Code::Polyglot),
        ("disk-with-partition-table", inside(&marked()), Code::Polyglot),
        ("disk-text-descriptor", inside(b"# Disk DescriptorFile\nversion=1\n"), Code::ExternalData),
        ("disk-with-parent-cid", inside(&text("ffffffff", "fffffffe")), Code::BackingFile),
        ("disk-of-flat-extent", inside(&text("SPARSE", "VMFSRA")), Code::ExternalData),
        ("disk-cut", inside(&disk()[..40 * 512]), Code::Truncated),
    ]
}
