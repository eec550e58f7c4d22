//! What firmware finds on disks as installers make them, on broken ones, and on those of real tools.

use std::{fs, path::Path, process::Command};

use disk_image::{
    Boot, ByteRange, Firmware, Machine, Regions, boot,
    boot::Table,
    drive::{MAX_OPEN_BYTES, ReadAt, drive},
};
use disk_image_fixtures::{
    Counting, Sparse,
    bootable::{boot_by_uefi, bootable_disk},
    partitioned::{
        BASIC_DATA, BIOS_BOOT, EFI_SYSTEM, Fat, Partition, ROOT_AARCH64, ROOT_X86_64, efi_system, gpt,
        program, record, with_code,
    },
    seal_gpt,
};

use crate::support::Numbers;

const MIB: u64 = 1 << 20;
const ARM: Machine = Machine::Aarch64;
const X86: Machine = Machine::X86_64;

fn look<R: ReadAt>(source: R, reach: u64) -> (Boot, Counting<R>) {
    let mut source = Counting::new(source);
    let mut regions = Regions::new(source.size());
    let found = drive(&mut source, &mut regions, |regions| boot(regions, reach)).unwrap();
    (found, source)
}

fn efi(machines: &[Machine]) -> Partition {
    Partition::new(EFI_SYSTEM, MIB, efi_system(machines))
}

fn on_gpt(partitions: &[Partition]) -> Sparse {
    gpt(64 * MIB, 512, partitions)
}

/// A FAT with these files on a GPT.
fn with_files(fat: Fat, files: &[(&[u8; 11], Vec<u8>)]) -> Sparse {
    let files = files.iter().map(|(name, bytes)| (**name, bytes.clone())).collect();
    on_gpt(&[Partition::new(EFI_SYSTEM, MIB, Fat { files, ..fat }.volume())])
}

/// As [`on_gpt`], without the partitions: a master boot record alone.
fn on_mbr(status: u8, kind: u8, content: &[u8]) -> Sparse {
    record(Sparse::zeros(64 * MIB).with(MIB, content), 0, (status, kind), 2048, 20_000)
}

/// What is concluded: firmware and machine.
type Told = (Option<Firmware>, Option<Machine>);

struct Case {
    name: &'static str,
    disk: Sparse,
    table: Table,
    bios: bool,
    uefi: &'static [Machine],
    told: Told,
}

impl Case {
    fn new(
        name: &'static str,
        disk: Sparse,
        table: Table,
        (bios, uefi): (bool, &'static [Machine]),
        told: Told,
    ) -> Self {
        Self { name, disk, table, bios, uefi, told }
    }
}

/// Every disk, and what firmware finds on it.
fn cases() -> Vec<Case> {
    const BIOS: Option<Firmware> = Some(Firmware::Bios);
    const UEFI: Option<Firmware> = Some(Firmware::Uefi);
    const GPT: Table = Table::Gpt(512);
    const NOTHING: Told = (None, None);
    let x64 = || efi_system(&[X86]);
    let grub = || Partition::new(BIOS_BOOT, 32 * MIB, vec![1; 512]);
    let root = |kind| Partition::new(kind, 40 * MIB, vec![1; 512]);
    let legacy = Partition { attributes: 4, ..root(BASIC_DATA) };
    let loader = |machine| vec![(b"BOOTX64 EFI", program(machine))];
    let iso = || Sparse::zeros(MIB).with(0x8001, b"CD001");
    let broken = |at: u64| on_gpt(&[efi(&[X86])]).with(at, &[0x77]);
    let unprotected = on_gpt(&[efi(&[X86])]).with(450, &[0]);
    let wide = Partition::new(
        EFI_SYSTEM,
        MIB,
        Fat { sector: 4096, files: vec![(*b"BOOTAA64EFI", program(0xaa64))], ..Fat::new(12) }.volume(),
    );
    let many = Fat { others: 40, ..Fat::new(12) };
    let far = |bytes: Vec<u8>| with_files(many.clone(), &[(b"BOOTX64 EFI", bytes)]);
    let wide_clusters = Fat { per_cluster: 8, others: 100, ..Fat::new(16) };
    let bits = |bits| with_files(Fat::new(bits), &[(b"BOOTX64 EFI", program(0x8664))]);
    vec![
        Case::new("nothing", Sparse::zeros(0), Table::None, (false, &[]), NOTHING),
        Case::new("one byte", Sparse::zeros(1), Table::None, (false, &[]), NOTHING),
        Case::new("zeros", Sparse::zeros(64 * MIB), Table::None, (false, &[]), NOTHING),
        Case::new("a boot sector alone", bootable_disk(MIB), Table::None, (true, &[]), (BIOS, None)),
        Case::new(
            "a signature without code",
            Sparse::zeros(MIB).with(510, b"\x55\xaa"),
            Table::None,
            (false, &[]),
            NOTHING,
        ),
        Case::new("mbr, active", with_code(on_mbr(0x80, 0x83, b"")), Table::Mbr, (true, &[]), (BIOS, None)),
        Case::new(
            "mbr, grub",
            with_code(on_mbr(0, 0x83, b"")).with(512, b"G"),
            Table::Mbr,
            (true, &[]),
            (BIOS, None),
        ),
        Case::new("mbr of data", with_code(on_mbr(0, 0x83, b"")), Table::Mbr, (false, &[]), NOTHING),
        Case::new("mbr, no code", on_mbr(0x80, 0x83, b""), Table::Mbr, (false, &[]), NOTHING),
        Case::new("mbr, efi", on_mbr(0, 0xef, &x64()), Table::Mbr, (false, &[X86]), (UEFI, Some(X86))),
        Case::new(
            "mbr, both",
            with_code(on_mbr(0x80, 0x0c, &x64())),
            Table::Mbr,
            (true, &[X86]),
            (None, Some(X86)),
        ),
        Case::new("gpt, uefi", on_gpt(&[efi(&[X86])]), GPT, (false, &[X86]), (UEFI, Some(X86))),
        Case::new(
            "gpt, arm",
            on_gpt(&[efi(&[ARM]), root(ROOT_AARCH64)]),
            GPT,
            (false, &[ARM]),
            (UEFI, Some(ARM)),
        ),
        Case::new("gpt, both machines", on_gpt(&[efi(&[X86, ARM])]), GPT, (false, &[X86, ARM]), (UEFI, None)),
        Case::new(
            "gpt, both",
            with_code(on_gpt(&[grub(), efi(&[X86])])),
            GPT,
            (true, &[X86]),
            (None, Some(X86)),
        ),
        Case::new(
            "gpt, grub",
            with_code(on_gpt(&[grub(), root(ROOT_X86_64)])),
            GPT,
            (true, &[]),
            (BIOS, Some(X86)),
        ),
        Case::new("gpt, grub's place alone", on_gpt(&[grub()]), GPT, (false, &[]), NOTHING),
        Case::new("gpt, syslinux", with_code(on_gpt(&[legacy])), GPT, (true, &[]), (BIOS, None)),
        Case::new(
            "gpt, windows",
            with_code(on_gpt(&[efi(&[X86]), root(BASIC_DATA)])),
            GPT,
            (false, &[X86]),
            (UEFI, Some(X86)),
        ),
        Case::new(
            "gpt, two roots",
            on_gpt(&[root(ROOT_AARCH64), Partition::new(ROOT_X86_64, 50 * MIB, vec![1])]),
            GPT,
            (false, &[]),
            NOTHING,
        ),
        Case::new(
            "gpt of 4096",
            gpt(64 * MIB, 4096, &[wide]),
            Table::Gpt(4096),
            (false, &[ARM]),
            (UEFI, Some(ARM)),
        ),
        Case::new("gpt without its record", unprotected, Table::None, (false, &[]), NOTHING),
        Case::new("gpt, header broken", broken(512 + 40), Table::Mbr, (false, &[]), NOTHING),
        Case::new("gpt, entry broken", broken(1024 + 32), Table::Mbr, (false, &[]), NOTHING),
        Case::new("fat of 32 bits", bits(32), GPT, (false, &[X86]), (UEFI, Some(X86))),
        Case::new("fat of 16 bits", bits(16), GPT, (false, &[X86]), (UEFI, Some(X86))),
        Case::new("long directories", far(program(0x8664)), GPT, (false, &[X86]), (UEFI, Some(X86))),
        Case::new(
            "large clusters",
            with_files(wide_clusters, &loader(0x8664)),
            GPT,
            (false, &[X86]),
            (UEFI, Some(X86)),
        ),
        Case::new(
            "a loader for another machine",
            with_files(Fat::new(12), &loader(0xaa64)),
            GPT,
            (false, &[]),
            NOTHING,
        ),
        Case::new("a text for a loader", far(b"MZ is only a text".to_vec()), GPT, (false, &[]), NOTHING),
        Case::new("an empty loader", far(Vec::new()), GPT, (false, &[]), NOTHING),
        Case::new("no loader", with_files(Fat::new(12), &[]), GPT, (false, &[]), NOTHING),
        Case::new(
            "no table, fat",
            Sparse::zeros(MIB).with(0, &x64()),
            Table::None,
            (false, &[X86]),
            (UEFI, Some(X86)),
        ),
        Case::new("iso", iso(), Table::None, (false, &[]), NOTHING),
        Case::new(
            "iso, hybrid",
            with_code(record(iso(), 0, (0, 0x17), 0, 99)),
            Table::Mbr,
            (true, &[]),
            (BIOS, None),
        ),
    ]
}

#[test]
fn what_firmware_finds_is_told_by_a_few_reads() {
    for case in cases() {
        let Case { name, disk, table, bios, uefi, told } = &case;
        let (found, source) = look(disk, u64::MAX);
        assert_eq!(
            (found.table, found.bios, found.uefi.as_slice()),
            (*table, *bios, *uefi),
            "{name}: {found:?}"
        );
        assert_eq!((found.firmware(), found.machine()), *told, "{name}: {found:?}");
        assert!(found.complete, "{name}");
        let (reads, bytes) = (source.reads.len(), source.bytes());
        assert!(reads <= 7 && bytes <= 160 << 10, "{name}: {reads} reads of {bytes} bytes");
    }
}

#[test]
fn what_lies_beyond_the_reach_leaves_the_question_open() {
    let grub = Partition::new(BIOS_BOOT, MIB, vec![1; 512]);
    let far = Partition::new(EFI_SYSTEM, 32 * MIB, efi_system(&[X86]));
    let disk = with_code(on_gpt(&[grub, far]));
    let (whole, _) = look(&disk, u64::MAX);
    assert_eq!((whole.firmware(), whole.machine(), whole.complete), (None, Some(X86), true));
    for reach in [16 * MIB, 32 * MIB, 32 * MIB + 512] {
        let (found, source) = look(&disk, reach);
        assert!(source.reads.iter().all(|read| read.end <= reach));
        assert_eq!(
            (found.bios, found.firmware(), found.machine(), found.complete),
            (true, None, None, false)
        );
    }
    // Two volumes are looked into.
    let volume = |n: u64| Partition::new(EFI_SYSTEM, n * MIB, efi_system(&[]));
    let (found, _) = look(&on_gpt(&[volume(1), volume(2), volume(3)]), u64::MAX);
    assert!(!found.complete);
}

#[test]
fn a_chain_without_end_is_left() {
    let others = Fat { others: 15, ..Fat::new(32) }.volume();
    let disk = on_gpt(&[Partition::new(EFI_SYSTEM, MIB, others)]);
    let volume = disk.read(ByteRange { start: MIB, end: MIB + 4096 });
    let field = |at: usize| u64::from(u32::from_le_bytes(volume[at..at + 4].try_into().unwrap()));
    // The root's first cluster says that it goes on in itself.
    let cluster = field(44);
    let disk = disk.le32(MIB + 512 + 4 * cluster, u32::try_from(cluster).unwrap());
    let (found, source) = look(&disk, u64::MAX);
    assert_eq!((found.firmware(), found.complete), (None, false));
    assert!(source.reads.len() < 10);
}

#[test]
fn no_mutation_breaks_the_search() {
    struct Mutated<'a>(&'a [u8], u64, Vec<(u64, Vec<u8>)>);
    impl ReadAt for &Mutated<'_> {
        fn size(&self) -> u64 {
            self.1
        }

        fn read_range(&mut self, range: ByteRange) -> std::io::Result<Vec<u8>> {
            let mut bytes = (&*self.0).read_range(range)?;
            for (at, patch) in &self.2 {
                for (at, byte) in (*at..).zip(patch) {
                    if (range.start..range.end).contains(&at) {
                        bytes[usize::try_from(at - range.start).unwrap()] = *byte;
                    }
                }
            }
            Ok(bytes)
        }
    }
    let (mut same, mut other) = (0, 0);
    for (seed, case) in (1..).zip(cases().iter().filter(|case| case.disk.len() > 512)) {
        let bytes = case.disk.read(ByteRange { start: 0, end: case.disk.len().min(4 * MIB) });
        let (sound, seen) = look(bytes.as_slice(), u64::MAX);
        let mut numbers = Numbers::new(seed);
        for _ in 0..200 {
            let patches = (0..=numbers.below(3)).map(|_| {
                let read = seen.reads[usize::try_from(numbers.below(seen.reads.len() as u64)).unwrap()];
                let at = read.start + numbers.below(read.len().min(600));
                let value = match numbers.below(4) {
                    0 => u32::MAX,
                    1 => 1 << numbers.below(32),
                    2 => 0,
                    _ => u32::try_from(numbers.next() >> 32).unwrap(),
                };
                (at, value.to_le_bytes().to_vec())
            });
            let patches = patches.collect();
            let whole = bytes.len() as u64;
            let size = if numbers.below(10) == 0 { 1 + numbers.below(whole) } else { whole };
            let mut disk = Mutated(&bytes, size, patches);
            let seals = seal_gpt(&mut &disk).unwrap();
            disk.2.extend(seals);
            let (found, source) = look(&disk, size);
            assert!(source.bytes() <= MAX_OPEN_BYTES as u64 && source.reads.len() <= 200, "{}", case.name);
            *(if found == sound { &mut same } else { &mut other }) += 1;
        }
    }
    assert!(same > 500 && other > 500, "{same} the same, {other} not");
}

#[test]
fn what_is_told_to_start_by_uefi_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk");
    let disk = with_files(Fat { others: 40, ..Fat::new(12) }, &[(b"BOOTX64 EFI", program(0x8664))]);
    let (found, _) = look(&disk, u64::MAX);
    assert_eq!(found.firmware(), Some(Firmware::Uefi));
    disk.write_to(&file).unwrap();
    if let Some(booted) = boot_by_uefi(&file, "raw").unwrap() {
        assert_eq!(booted, Ok(()));
    }
}

/// Runs a tool; whether it is installed.
fn runs(program: &str, args: &[&str]) -> bool {
    let path = std::env::join_paths(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]).unwrap();
    match Command::new(program).args(args).env("PATH", path).env("MTOOLS_SKIP_CHECK", "1").output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{program} {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            true
        }
        Err(_) => false,
    }
}

/// Debian: gdisk, dosfstools, mtools.
#[test]
fn disks_of_real_tools() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (disk, fat, loader) = (at("disk"), at("fat"), at("loader"));
    fs::write(&loader, program(0x8664)).unwrap();
    for (bits, mib) in [("12", 4), ("16", 16), ("32", 64)] {
        Sparse::zeros(mib * MIB).write_to(Path::new(&fat)).unwrap();
        Sparse::zeros((mib + 2) * MIB).write_to(Path::new(&disk)).unwrap();
        let sectors = format!("2048:{}", mib * 2048 + 2047);
        let made = runs("mkfs.fat", &["-F", bits, &fat])
            && runs("mmd", &["-i", &fat, "::/EFI", "::/EFI/BOOT"])
            && runs("mcopy", &["-i", &fat, &loader, "::/EFI/BOOT/bootx64.efi"])
            && runs("sgdisk", &["-a", "1", "-n", &format!("1:{sectors}"), "-t", "1:ef00", &disk]);
        if !made {
            eprintln!("SKIPPED: gdisk, dosfstools and mtools are not all installed");
            return;
        }
        let (found, _) = look(fs::read(&fat).unwrap().as_slice(), u64::MAX);
        assert_eq!((found.table, found.bios, &found.uefi[..]), (Table::None, false, &[X86][..]), "fat{bits}");
        let mut bytes = fs::read(&disk).unwrap();
        let volume = fs::read(&fat).unwrap();
        bytes[1 << 20..(1 << 20) + volume.len()].copy_from_slice(&volume);
        let (found, _) = look(bytes.as_slice(), u64::MAX);
        assert_eq!(
            (found.table, found.bios, &found.uefi[..]),
            (Table::Gpt(512), false, &[X86][..]),
            "fat{bits}"
        );
    }
}

/// Debian: grub-rescue-pc, ipxe, memtest86+. All are for a BIOS; two start by UEFI as well.
#[test]
fn disks_of_real_distributors() {
    for (path, table, bios, uefi) in [
        ("grub-rescue/grub-rescue-cdrom.iso", Table::Mbr, true, &[][..]),
        ("grub-rescue/grub-rescue-floppy.img", Table::Mbr, true, &[]),
        ("ipxe/ipxe.iso", Table::Mbr, true, &[]),
        ("memtest86+/memtest86+x64.iso", Table::Mbr, true, &[X86]),
        ("memtest86+/memtest86+ia32.iso", Table::Mbr, true, &[]),
    ] {
        match fs::read(Path::new("/usr/lib").join(path)) {
            Ok(bytes) => {
                let (found, _) = look(bytes.as_slice(), u64::MAX);
                assert_eq!((found.table, found.bios, &found.uefi[..]), (table, bios, uefi), "{path}");
            }
            Err(_) => eprintln!("SKIPPED: /usr/lib/{path} is not installed"),
        }
    }
}
