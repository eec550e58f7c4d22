//! VMDK images: header, descriptor, footer and tables, each field lying.

mod writers;

use disk_image::{ByteRange, Code, Format};

use crate::{Hostile, Sound, Sparse};

// Header fields ("Virtual Disk Format 5.0", hosted sparse extents). They are not aligned.
const VERSION: u64 = 4;
const FLAGS: u64 = 8;
const CAPACITY: u64 = 12;
const GRAIN: u64 = 20;
const DESCRIPTOR: u64 = 28;
const DESCRIPTOR_LEN: u64 = 36;
const TABLE_ENTRIES: u64 = 44;
const REDUNDANT: u64 = 48;
const DIRECTORY: u64 = 56;
const OVERHEAD: u64 = 64;
const UNCLEAN: u64 = 72;
const NEWLINES: u64 = 73;
const ALGORITHM: u64 = 77;

const AT_END: u64 = u64::MAX;
/// Two grain tables: 512 grains of 8 sectors and one more.
const SECTORS: u64 = 513 * 8;
const TEXT: u64 = 512;

// Places of the monolithic image, in sectors.
const MONO_DIRECTORY: u64 = 22;
const MONO_TABLES: [u64; 2] = [23, 27];
const MONO_GRAINS: [u64; 3] = [32, 40, 48];
// Places of the stream.
const STREAM_GRAINS: [u64; 3] = [32, 33, 34];
const STREAM_TABLES: [u64; 2] = [36, 41];
const STREAM_DIRECTORY: u64 = 46;
const FOOTER: u64 = 48;
/// Sector of the first grain of what [`stream_optimized`] writes.
pub(crate) const FIRST_GRAIN: u64 = 32;

const fn at(sector: u64) -> u64 {
    sector * 512
}

/// A plain descriptor, line by line.
fn text(create_type: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\nRW {SECTORS} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\nddb.adapterType = \"ide\"\n"
    )
}

fn header(flags: u32, algorithm: u16, directory: u64) -> Sparse {
    Sparse::zeros(512)
        .with(0, b"KDMV")
        .le32(VERSION, 1)
        .le32(FLAGS, flags)
        .le64(CAPACITY, SECTORS)
        .le64(GRAIN, 8)
        .le64(DESCRIPTOR, 1)
        .le64(DESCRIPTOR_LEN, 20)
        .le32(TABLE_ENTRIES, 512)
        .le64(DIRECTORY, directory)
        .le64(OVERHEAD, 32)
        .with(NEWLINES, b"\n \r\n")
        .le16(ALGORITHM, algorithm)
}

/// Directory and tables for grains 0, 2 and 512.
fn tables(file: Sparse, directory: u64, tables: [u64; 2], grains: [u64; 3]) -> Sparse {
    let short = |n: u64| u32::try_from(n).unwrap_or_default();
    file.le32(at(directory), short(tables[0]))
        .le32(at(directory) + 4, short(tables[1]))
        .le32(at(tables[0]), short(grains[0]))
        .le32(at(tables[0]) + 8, short(grains[1]))
        .le32(at(tables[1]), short(grains[2]))
        .with(at(tables[1]) + 2044, &[0; 4])
}

fn monolithic() -> Sparse {
    let file = header(1, 0, MONO_DIRECTORY).with(TEXT, text("monolithicSparse").as_bytes());
    MONO_GRAINS.into_iter().fold(tables(file, MONO_DIRECTORY, MONO_TABLES, MONO_GRAINS), |file, grain| {
        file.with(at(grain), &[7; 4096])
    })
}

/// A disk of at most 32 MiB, all stored, in grains of 64 KiB.
pub(crate) fn monolithic_of(disk: &[u8]) -> Sparse {
    let sectors = disk.len() as u64 / 512;
    let text = text("monolithicSparse").replace(&SECTORS.to_string(), &sectors.to_string());
    let file = header(1, 0, MONO_DIRECTORY)
        .le64(CAPACITY, sectors)
        .le64(GRAIN, 128)
        .with(TEXT, text.as_bytes())
        .le32(at(MONO_DIRECTORY), 23)
        .with(at(MONO_TABLES[0]), &[0; 2048]);
    // The disk's end is not the file's, so that what it ends with says nothing of the image.
    let end = 32 + sectors.next_multiple_of(128);
    let grains = (1..).zip(disk.chunks(64 << 10));
    grains.fold(file.with(at(end) - 1, &[0]), |file, (n, grain)| {
        let sector = u32::try_from(end - 128 * n).unwrap_or_default();
        file.le32(at(MONO_TABLES[0]) + 4 * (n - 1), sector).with(at(end - 128 * n), grain)
    })
}

/// Marker and zlib stream of a grain.
fn compressed(lba: u64, grain: &[u8]) -> Vec<u8> {
    let mut codec = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).unwrap_or_default());
    let mut stream = vec![0; codec.zlib_compress_bound(grain.len())];
    let used = codec.zlib_compress(grain, &mut stream).unwrap_or_default();
    let size = u32::try_from(used).unwrap_or_default();
    [&lba.to_le_bytes()[..], &size.to_le_bytes()[..], &stream[..used]].concat()
}

/// A grain of `len` equal bytes.
fn grain(lba: u64, len: usize) -> Vec<u8> {
    compressed(lba, &vec![b'G'; len])
}

fn stream_from(directory: u64) -> Sparse {
    let head = header(0x3_0001, 1, directory).le32(VERSION, 3).with(TEXT, text("streamOptimized").as_bytes());
    let marked = |file: Sparse, sector: u64, sectors: u64, kind: u32| {
        file.le64(at(sector), sectors).le32(at(sector) + 12, kind)
    };
    let file = tables(head, STREAM_DIRECTORY, STREAM_TABLES, STREAM_GRAINS)
        .with(at(STREAM_GRAINS[0]), &grain(0, 4096))
        .with(at(STREAM_GRAINS[1]), &grain(16, 4096))
        .with(at(STREAM_GRAINS[2]), &grain(4096, 4096));
    let file = marked(file, STREAM_TABLES[0] - 1, 4, 1);
    let file = marked(file, STREAM_TABLES[1] - 1, 4, 1);
    let file = marked(file, STREAM_DIRECTORY - 1, 1, 2);
    marked(file, FOOTER - 1, 1, 3).with(at(FOOTER + 1), &[0; 512])
}

/// With the directory's place in the footer only, as programs write that can't go back.
pub(crate) fn stream() -> Sparse {
    let footer = stream_from(STREAM_DIRECTORY).cut(512).read(ByteRange { start: 0, end: 512 });
    stream_from(AT_END).with(at(FOOTER), &footer)
}

pub(crate) fn sound() -> Vec<Sound> {
    let own = [
        ("vmdk-monolithic", monolithic()),
        ("vmdk-stream-footer", stream()),
        ("vmdk-stream-in-place", stream_from(STREAM_DIRECTORY)),
    ];
    let all = own.into_iter().chain(writers::sound());
    all.map(|(name, file)| Sound { name, format: Format::Vmdk, file }).collect()
}

pub(crate) fn hostile() -> Vec<Hostile> {
    [header_fields(), places(), names(), descriptor_text(), create_types(), map(), footer(), grains()]
        .concat()
        .into_iter()
        .map(|(name, file, code)| Hostile::new(format!("vmdk-{name}"), Format::Vmdk, file, code))
        .collect()
}

type Case = (String, Sparse, Code);

fn case(name: &str, file: Sparse, code: Code) -> Case {
    (name.to_owned(), file, code)
}

fn header_fields() -> Vec<Case> {
    use Code::{BadHeader, Corrupt, TooLarge, UnsupportedFeature};
    let m = monolithic;
    vec![
        case("version-0", m().le32(VERSION, 0), UnsupportedFeature),
        case("version-4", m().le32(VERSION, 4), UnsupportedFeature),
        case("unknown-flag", m().le32(FLAGS, 1 | 1 << 9), UnsupportedFeature),
        case("newlines-mangled", m().with(NEWLINES, b"\r\n \n"), BadHeader),
        case("unclean-shutdown", m().with(UNCLEAN, &[1]), Corrupt),
        case("capacity-0", m().le64(CAPACITY, 0), BadHeader),
        case("capacity-64-tib", m().le64(CAPACITY, 64 << 31), TooLarge),
        case("capacity-beyond-64-bits", m().le64(CAPACITY, 1 << 60), BadHeader),
        case("capacity-other-than-extent", m().le64(CAPACITY, SECTORS - 8), BadHeader),
        case("algorithm-2", m().le16(ALGORITHM, 2), UnsupportedFeature),
        case("algorithm-without-flag", m().le16(ALGORITHM, 1), UnsupportedFeature),
        case("compressed-without-markers", stream().le32(FLAGS, 0x1_0001), UnsupportedFeature),
        case("markers-without-compression", m().le32(FLAGS, 0x2_0001), UnsupportedFeature),
        case("grain-0", m().le64(GRAIN, 0), BadHeader),
        case("grain-4-sectors", m().le64(GRAIN, 4), BadHeader),
        case("grain-9-sectors", m().le64(GRAIN, 9), BadHeader),
        case("grain-1-gib", m().le64(GRAIN, 1 << 21), BadHeader),
        case("grain-beyond-64-bits", m().le64(GRAIN, 1 << 63), BadHeader),
        case("compressed-grain-4-mib", stream().le64(GRAIN, 8192), BadHeader),
        case("table-of-511-entries", m().le32(TABLE_ENTRIES, 511), BadHeader),
        case("table-of-0-entries", m().le32(TABLE_ENTRIES, 0), BadHeader),
    ]
}

fn places() -> Vec<Case> {
    use Code::{BadHeader, OutOfBounds, TableTooLarge, Truncated};
    let m = monolithic;
    vec![
        case("directory-at-0", m().le64(DIRECTORY, 0), OutOfBounds),
        case("directory-outside", m().le64(DIRECTORY, 56), OutOfBounds),
        case("directory-beyond-64-bits", m().le64(DIRECTORY, u64::MAX - 1), OutOfBounds),
        case("directory-at-end-of-monolithic", m().le64(DIRECTORY, AT_END), BadHeader),
        case("redundant-directory-outside", m().le32(FLAGS, 3).le64(REDUNDANT, 1 << 40), OutOfBounds),
        case("overhead-of-less-than-the-descriptor", m().le64(OVERHEAD, 20), BadHeader),
        case("overhead-outside", m().le64(OVERHEAD, 57), Truncated),
        case("overhead-beyond-64-bits", m().le64(OVERHEAD, u64::MAX), Truncated),
        case("no-descriptor", m().le64(DESCRIPTOR, 0), BadHeader),
        case("descriptor-of-0-sectors", m().le64(DESCRIPTOR_LEN, 0), BadHeader),
        case("descriptor-elsewhere", m().le64(DESCRIPTOR, 2), BadHeader),
        case("descriptor-outside", m().le64(DESCRIPTOR_LEN, 56), OutOfBounds),
        case("descriptor-huge", m().le64(DESCRIPTOR_LEN, u64::MAX), TableTooLarge),
        case("header-only", m().cut(512), Truncated),
        case("cut-in-the-header", m().cut(100), Truncated),
    ]
}

fn with_text(replace: &str, by: &str) -> Sparse {
    let changed = text("monolithicSparse").replace(replace, by);
    monolithic().with(TEXT, &[0; 1024]).with(TEXT, changed.as_bytes())
}

fn with_line(line: &str) -> Sparse {
    with_text("version=1\n", &format!("version=1\n{line}\n"))
}

/// What could make somebody open another file.
fn names() -> Vec<Case> {
    use Code::{BackingFile, ExternalData, UnsafeName};
    // A declared length of one sector, full of text: QEMU goes on reading behind it.
    let behind = format!("{:#<513}", text("monolithicSparse")) + "\nparentFileNameHint=\"/etc/shadow\"\n";
    let mut cases = vec![
        case("parent-cid", with_text("ffffffff", "00000001"), BackingFile),
        case("parent-hint", with_line("parentFileNameHint=\"/etc/shadow\""), BackingFile),
        case("parent-hint-in-other-case", with_line("PARENTFILENAMEHINT=\"base.vmdk\""), BackingFile),
        case("parent-hint-in-comment", with_line("# parentFileNameHint=\"/etc/shadow\""), BackingFile),
        case(
            "parent-hint-behind-end",
            monolithic().with(TEXT + 5000, b"parentFileNameHint=\"x\""),
            BackingFile,
        ),
        case(
            "parent-hint-behind-length",
            monolithic().le64(DESCRIPTOR_LEN, 1).with(TEXT, behind.as_bytes()),
            BackingFile,
        ),
        case(
            "parent-uuid",
            with_line("ddb.uuid.parent=\"5c0e4c6b-0000-0000-0000-000000000001\""),
            BackingFile,
        ),
        case("native-parent", with_line("ddb.nativeParentHint=\"/vmfs/volumes/x\""), BackingFile),
        case("change-track-path", with_line("changeTrackPath=\"disk-ctk.vmdk\""), ExternalData),
        case("two-extents", with_line(&format!("RW {SECTORS} SPARSE \"other.vmdk\"")), ExternalData),
        case("flat-extent-behind", with_line("RW 100 FLAT \"/etc/shadow\" 0"), ExternalData),
    ];
    for kind in ["FLAT", "VMFS", "VMFSSPARSE", "SESPARSE", "VMFSRDM", "VMFSRAW", "ZERO"] {
        let name = format!("extent-{}", kind.to_ascii_lowercase());
        cases.push(case(&name, with_text("SPARSE", kind), ExternalData));
    }
    let tricks = [
        ("json", "json:{}".to_owned()),
        ("protocol", "nbd://host/x".to_owned()),
        ("two-names", "a\" \"b".to_owned()),
        ("empty", String::new()),
        ("endless", "x".repeat(4097)),
    ];
    cases.extend(
        tricks.map(|(name, path)| {
            case(&format!("extent-name-{name}"), with_text("disk.vmdk", &path), UnsafeName)
        }),
    );
    cases
}

fn descriptor_text() -> Vec<Case> {
    use Code::{BadHeader, Encrypted, UnsupportedFeature};
    vec![
        case("key-twice", with_line("createType=\"monolithicSparse\""), BadHeader),
        case("key-twice-in-other-case", with_line("CREATETYPE=\"monolithicSparse\""), BadHeader),
        case("parent-cid-twice", with_line("parentCID=ffffffff"), BadHeader),
        case("unknown-key", with_line("digestFilename=\"x\""), UnsupportedFeature),
        case("encryption-keys", with_line("encryptionKeys=\"vmware:key/list/x\""), Encrypted),
        case("line-without-key", with_line("nonsense"), BadHeader),
        case("control-character", with_line("ddb.comment=\"\u{1b}[2J\""), BadHeader),
        case("no-title", with_text("# Disk DescriptorFile\n", ""), BadHeader),
        case("no-extent", with_text("RW ", "# RW "), BadHeader),
        case("no-create-type", with_text("createType", "# createType"), BadHeader),
        case("extent-without-name", with_text("\"disk.vmdk\"", ""), BadHeader),
        case("extent-without-size", with_text(&SECTORS.to_string(), ""), BadHeader),
        case("extent-of-other-size", with_text(&SECTORS.to_string(), "99999999"), BadHeader),
        case("extent-of-a-grain-less", with_text(&SECTORS.to_string(), "4096"), BadHeader),
        case("extent-of-negative-size", with_text(&SECTORS.to_string(), "-1"), BadHeader),
        case("extent-with-offset", with_text("\"disk.vmdk\"", "\"disk.vmdk\" 128"), BadHeader),
        case("extent-no-access", with_text("RW ", "NOACCESS "), BadHeader),
        case("bytes-behind-text", monolithic().with(TEXT + 4000, b"RW 1 FLAT \"x\" 0"), BadHeader),
    ]
}

fn create_types() -> Vec<Case> {
    let others = [
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "vmfs",
        "vmfsSparse",
        "vmfsThin",
        "vmfsRawDeviceMap",
        "seSparse",
        "fullDevice",
        "partitionedDevice",
        "custom",
        "2GbMaxExtentSparse",
        "MONOLITHICSPARSE",
        "",
    ];
    let mut cases: Vec<Case> = others
        .iter()
        .map(|other| {
            case(
                &format!("create-type-{other}"),
                with_text("monolithicSparse", other),
                Code::UnsupportedFormat,
            )
        })
        .collect();
    cases.push(case(
        "create-type-of-a-stream",
        with_text("monolithicSparse", "streamOptimized"),
        Code::BadHeader,
    ));
    cases
}

fn map() -> Vec<Case> {
    use Code::{BadTable, OutOfBounds, Truncated};
    let m = monolithic;
    let (directory, table) = (at(MONO_DIRECTORY), at(MONO_TABLES[0]));
    vec![
        case("table-outside", m().le32(directory, 53), OutOfBounds),
        case("table-far-outside", m().le32(directory + 4, u32::MAX), OutOfBounds),
        case("table-twice", m().le32(directory + 4, 23), BadTable),
        case("table-over-table", m().le32(directory + 4, 24), BadTable),
        case("directory-as-table", m().le32(directory, 22), BadTable),
        case("directory-as-grain", m().le64(OVERHEAD, 21).le32(table, 22), BadTable),
        case("table-as-grain", m().le32(table, 23), BadTable),
        case("grain-twice", m().le32(table + 8, 32), BadTable),
        case("grain-twice-in-two-tables", m().le32(at(MONO_TABLES[1]), 40), BadTable),
        case("grain-over-grain", m().le32(table + 8, 39), BadTable),
        case("grain-over-header", m().le32(table, 1), BadTable),
        case("grain-outside", m().le32(table, 56), Truncated),
        case("grain-far-outside", m().le32(table, u32::MAX), Truncated),
        case("grain-cut-off", m().le32(table + 8, 49), Truncated),
        case("last-grain-cut-off", m().cut(at(56) - 512), Truncated),
    ]
}

fn footer() -> Vec<Case> {
    use Code::{BadHeader, OutOfBounds, Truncated};
    let f = at(FOOTER);
    vec![
        case("footer-of-other-capacity", stream().le64(f + CAPACITY, SECTORS + 8), BadHeader),
        case("footer-of-other-grain", stream().le64(f + GRAIN, 16), BadHeader),
        case("footer-of-other-descriptor", stream().le64(f + DESCRIPTOR, 3), BadHeader),
        case("footer-of-other-padding", stream().with(f + 500, &[1]), BadHeader),
        case(
            "footer-of-other-disk-in-place",
            stream_from(STREAM_DIRECTORY).with(f, &footer_of(44)),
            BadHeader,
        ),
        case("footer-without-directory", stream().le64(f + DIRECTORY, AT_END), BadHeader),
        case("footer-with-directory-outside", stream().le64(f + DIRECTORY, 50), OutOfBounds),
        case("footer-missing", stream().with(f, &[0; 512]), Truncated),
        case("footer-marker-missing", stream().le32(f - 500, 0), Truncated),
        case("footer-marker-with-size", stream().le32(f - 504, 9), Truncated),
        case("end-marker-missing", stream().le32(f + 512 + 12, 1), Truncated),
        case("stream-cut", stream().cut(at(49)), Truncated),
        case("stream-cut-in-a-sector", stream().cut(at(49) + 100), Truncated),
    ]
}

fn footer_of(directory: u64) -> Vec<u8> {
    stream_from(directory).read(ByteRange { start: 0, end: 512 })
}

fn grains() -> Vec<Case> {
    use Code::{BadData, BadTable, Truncated};
    let [first, second, last] = STREAM_GRAINS.map(at);
    let table = at(STREAM_TABLES[0]);
    vec![
        case("stream-grain-twice", stream().le32(table + 8, 32), BadTable),
        case("stream-grain-over-header", stream().le32(table, 2), BadTable),
        case("stream-grain-outside", stream().le32(table, 50), Truncated),
        case("stream-grain-of-other-sector", stream().le64(first, 8), BadData),
        case("stream-grains-swapped", stream().le32(table, 33).le32(table + 8, 32), BadData),
        case("stream-last-grain-of-other-sector", stream().le64(last, 8), BadTable),
        case("stream-last-grain-sector-beyond-64-bits", stream().le64(last, u64::MAX), BadTable),
        case("stream-grain-too-long", stream().le32(first + 8, 600), BadData),
        case("stream-grain-cut", stream().le32(second + 8, 10), BadData),
        case("stream-last-grain-of-0-bytes", stream().le32(last + 8, 0), BadData),
        case("stream-last-grain-of-4-gib", stream().le32(last + 8, u32::MAX), BadData),
        case("stream-last-grain-behind-the-end", late_grain(), Truncated),
        case("stream-grain-of-garbage", stream().with(first + 12, &[0xff; 40]), BadData),
        case("stream-grain-of-other-checksum", stream().with(first + 12, &flipped(&grain(0, 4096))), BadData),
        case(
            "stream-grain-of-half-a-grain",
            stream().with(first, &[0; 64]).with(first, &grain(0, 2048)),
            BadData,
        ),
        case("stream-grain-of-two-grains", stream().with(first, &grain(0, 8192)), BadData),
    ]
}

/// The last grain in the last sectors of the file, saying that it goes on.
fn late_grain() -> Sparse {
    let file = stream_from(STREAM_DIRECTORY).cut(at(47));
    file.with(at(47), &grain(4096, 4096)).le32(at(47) + 8, 600).le32(at(STREAM_TABLES[1]), 47)
}

/// A grain's stream with one bit of its Adler-32 changed.
fn flipped(grain: &[u8]) -> Vec<u8> {
    let mut stream = grain[12..].to_vec();
    if let Some(last) = stream.last_mut() {
        *last ^= 1;
    }
    stream
}

/// A stream as VMware's programs write it while they read `disk`: each grain table behind its 512 grains, the directory behind
/// the last table, its place in the footer.
pub fn stream_optimized(disk: &[u8]) -> Vec<u8> {
    const GRAIN_BYTES: usize = 64 << 10;
    let head = stream_head(disk.len().div_ceil(512) as u64);
    let mut file = head.read(ByteRange { start: 0, end: at(FIRST_GRAIN) });
    let sector = |file: &Vec<u8>| u32::try_from(file.len() / 512).unwrap_or_default();
    let mut directory = Vec::new();
    for (n, part) in disk.chunks(512 * GRAIN_BYTES).enumerate() {
        let mut table = Vec::new();
        for (lba, grain) in (n as u64 * 512 * 128..).step_by(128).zip(part.chunks(GRAIN_BYTES)) {
            if grain.iter().all(|b| *b == 0) {
                table.extend(0_u32.to_le_bytes());
                continue;
            }
            table.extend(sector(&file).to_le_bytes());
            file.extend(compressed(lba, grain));
            file.resize(file.len().next_multiple_of(512), 0);
        }
        table.resize(2048, 0);
        if table.iter().all(|b| *b == 0) {
            directory.extend(0_u32.to_le_bytes());
            continue;
        }
        file.extend(marker(4, 1));
        directory.extend(sector(&file).to_le_bytes());
        file.extend(table);
    }
    directory.resize(directory.len().next_multiple_of(512), 0);
    file.extend(marker(directory.len() as u64 / 512, 2));
    let place = sector(&file);
    file.extend(directory);
    file.extend(marker(1, 3));
    file.extend(stream_footer(head, u64::from(place)));
    file.resize(file.len() + 512, 0);
    file
}

/// All that lies in front of the first grain, of a disk of so many sectors in grains of 64 KiB.
pub(crate) fn stream_head(sectors: u64) -> Sparse {
    let text = text("streamOptimized").replace(&SECTORS.to_string(), &sectors.to_string());
    let head = header(0x3_0001, 1, AT_END).le64(CAPACITY, sectors).le64(GRAIN, 128);
    head.with(TEXT, text.as_bytes()).with(at(FIRST_GRAIN) - 1, &[0])
}

/// The footer that says where the directory is.
pub(crate) fn stream_footer(head: Sparse, directory: u64) -> Vec<u8> {
    head.le64(DIRECTORY, directory).read(ByteRange { start: 0, end: 512 })
}

/// A sector that says what the next `sectors` hold.
fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    Sparse::zeros(512).le64(0, sectors).le32(12, kind).read(ByteRange { start: 0, end: 512 })
}
