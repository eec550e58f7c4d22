//! OVAs, packed by the fixtures (QEMU writes none), against `qemu-img convert -O raw` of the disk inside.

use std::{fs::File, path::Path};

use crate::support::{assert_reads_are_few, assert_window, open, qemu_img, sample, to_raw};
use disk_image::{ByteRange, Code, Format, Layout, Limits, Regions, drive::drive};
use disk_image_fixtures::{ova, stream_optimized};

fn disk(dir: &Path, subformat: &str, seed: u64) -> std::path::PathBuf {
    let (raw, image) = (dir.join("disk.raw"), dir.join(format!("{subformat}.vmdk")));
    sample(&raw, (40 << 20) + 512, seed);
    let options = format!("subformat={subformat}");
    qemu_img(&["convert", "-O", "vmdk", "-o", &options, raw.to_str().unwrap(), image.to_str().unwrap()]);
    image
}

#[test]
fn the_disk_inside_is_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    for subformat in ["streamOptimized", "monolithicSparse"] {
        let image = disk(dir.path(), subformat, 1);
        let archive = dir.path().join("vm.ova");
        ova(&[("vm-disk1.vmdk", &std::fs::read(&image).unwrap())]).write_to(&archive).unwrap();
        let mut opened = open(&archive, Format::Ova).unwrap();
        assert_reads_are_few(&mut opened);
        let oracle = File::open(to_raw(&image, "vmdk")).unwrap();
        assert_eq!(opened.layout.virtual_size(), oracle.metadata().unwrap().len());
        for (start, len) in opened.windows(5_000_011) {
            assert_window(&mut opened, &oracle, start, len, &archive);
        }
    }
}

/// A descriptor of `disk.vmdk`.
fn descriptor(disk: &[u8]) -> String {
    let text = ova(&[("disk.vmdk", disk)]).read(ByteRange { start: 512, end: 4096 });
    String::from_utf8(text.into_iter().take_while(|b| *b != 0).collect()).unwrap()
}

/// The oracle's own archives.
#[test]
fn every_dialect_of_tar_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path(), "streamOptimized", 3);
    let oracle = to_raw(&image, "vmdk");
    let long = format!("vm with {} in its name", "blanks ".repeat(17));
    for name in ["vm", long.as_str()] {
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let bytes = std::fs::read(&image).unwrap();
        let xml = descriptor(&bytes);
        let href = format!("href=\"{}.vmdk\"", name.replace(' ', "%20"));
        std::fs::write(folder.join(format!("{name}.ovf")), xml.replace("href=\"disk.vmdk\"", &href)).unwrap();
        std::fs::write(folder.join(format!("{name}.vmdk")), bytes).unwrap();
        for format in ["v7", "ustar", "oldgnu", "gnu", "posix"] {
            if name.len() > 90 && ["v7", "ustar"].contains(&format) {
                continue;
            }
            for (from, what) in [(dir.path(), "folder"), (folder.as_path(), ".")] {
                let archive = dir.path().join("vm.ova");
                let mut tar = std::process::Command::new("tar");
                tar.args(["--format", format, "-C"]).arg(from).arg("-cf").arg(&archive).arg(what);
                assert!(tar.status().unwrap().success());
                let mut opened = open(&archive, Format::Ova).unwrap_or_else(|e| panic!("{format}: {e}"));
                let oracle = File::open(&oracle).unwrap();
                for (start, len) in opened.windows(16 << 20) {
                    assert_window(&mut opened, &oracle, start, len, &archive);
                }
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// More than fits in eleven octal digits: by GNU's size in base 256, and by pax's.
#[test]
fn members_beyond_8_gib_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 3 << 20, 4);
    // Bytes that no grain has, behind the directory; the footer has to come last.
    let small = stream_optimized(&std::fs::read(&raw).unwrap());
    let (disk, footer) = small.split_at(small.len() - 1536);
    let large = dir.path().join("disk.vmdk");
    std::fs::write(&large, disk).unwrap();
    let size = (9 << 30) + 1536;
    let file = File::options().write(true).open(&large).unwrap();
    file.set_len(size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, footer, size - 1536).unwrap();
    let xml =
        descriptor(&small).replace(&format!("ovf:size=\"{}\"", small.len()), &format!("ovf:size=\"{size}\""));
    std::fs::write(dir.path().join("vm.ovf"), xml).unwrap();
    let oracle = File::open(&raw).unwrap();
    for format in ["gnu", "posix"] {
        // A sparse file of the file system, read and written as what it holds: only the ends of it are real.
        let archive = dir.path().join(format!("{format}.ova"));
        let header = tar_header(format, dir.path());
        assert_eq!(header.len() % 512, 0);
        let out = File::create(&archive).unwrap();
        let write =
            |bytes: &[u8], at: u64| std::os::unix::fs::FileExt::write_all_at(&out, bytes, at).unwrap();
        let at = header.len() as u64;
        write(&header, 0);
        write(disk, at);
        write(footer, at + size - 1536);
        out.set_len(at + size + 1024).unwrap();
        let mut opened = open(&archive, Format::Ova).unwrap_or_else(|e| panic!("{format}: {e}"));
        for (start, len) in opened.windows(16 << 20) {
            assert_window(&mut opened, &oracle, start, len, &archive);
        }
    }
}

/// What `tar` writes up to the first byte of `disk.vmdk`, the descriptor in front of it.
fn tar_header(format: &str, dir: &Path) -> Vec<u8> {
    use std::io::Read as _;
    let mut tar = std::process::Command::new("tar");
    tar.args(["--format", format, "-C"]).arg(dir).args(["-c", "vm.ovf", "disk.vmdk"]);
    let mut child =
        tar.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut bytes = vec![0; 16 << 10];
    child.stdout.take().unwrap().read_exact(&mut bytes).unwrap();
    let _ = child.kill();
    child.wait().unwrap();
    let at = bytes.windows(4).position(|w| w == b"KDMV").unwrap();
    bytes.truncate(at);
    bytes
}

#[test]
fn of_several_disks_all_are_opened_or_the_one_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disks =
        ["streamOptimized", "monolithicSparse"].map(|s| std::fs::read(disk(dir.path(), s, 2)).unwrap());
    let archive = ova(&[("a.vmdk", &disks[0]), ("b.vmdk", &disks[1])]);
    let find = |name: Option<&str>| {
        let mut source = &archive;
        let mut regions = Regions::new(archive.len());
        drive(&mut source, &mut regions, |r| Layout::open_ova(r, name, &Limits::default()))
    };
    match find(Some("c.vmdk")) {
        Err(disk_image::drive::DriveError::Refused(refusal)) => {
            assert_eq!(refusal.code, Code::BadArchive);
            assert!(refusal.message.contains("\"a.vmdk\", \"b.vmdk\""), "{}", refusal.message);
        }
        other => panic!("{other:?}"),
    }
    let size = (40 << 20) + 512;
    for (name, disks) in
        [(Some("a.vmdk"), &["a.vmdk"][..]), (Some("b.vmdk"), &["b.vmdk"]), (None, &["a.vmdk", "b.vmdk"])]
    {
        let layout = find(name).unwrap();
        assert_eq!((layout.disks(), layout.virtual_size()), (disks.to_vec(), size * disks.len() as u64));
        let (mut source, mut end) = (&archive, 0);
        disk_image::drive::walk(&mut source, &layout, |extent| {
            assert_eq!(extent.start, end);
            end = extent.end();
            Ok(())
        })
        .unwrap();
        assert_eq!(end, layout.virtual_size());
    }
}

/// GNU tar's sparse files, whose holes are not in the archive: the oracle unpacks them.
#[test]
fn a_sparse_raw_disk_is_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let file = File::create(&raw).unwrap();
    // More pieces than a header has room for, and more than one block of them.
    for n in 0..60_u64 {
        let bytes = vec![u8::try_from(n + 1).unwrap(); 5000];
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, n * 200_000).unwrap();
    }
    file.set_len(20 << 20).unwrap();
    let archive = dir.path().join("disk.tar");
    let mut tar = std::process::Command::new("tar");
    tar.args(["--format=oldgnu", "-S", "-C"]).arg(dir.path()).arg("-cf").arg(&archive).arg("disk.raw");
    assert!(tar.status().unwrap().success());
    assert!(archive.metadata().unwrap().len() < 2 << 20);
    let mut opened = open(&archive, Format::Ova).unwrap();
    assert!(opened.layout.is_mere_archive());
    assert_eq!(opened.layout.virtual_size(), 20 << 20);
    let oracle = File::open(&raw).unwrap();
    for (start, len) in opened.windows(3_000_017) {
        assert_window(&mut opened, &oracle, start, len, &archive);
    }
}

/// Disks of all formats that QEMU writes, named by a descriptor.
#[test]
fn disks_of_every_format_are_read_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    sample(&raw, 10 << 20, 5);
    let oracle = File::open(&raw).unwrap();
    for (format, options) in [
        ("qcow2", "compat=1.1"),
        ("vpc", "force_size=on"),
        ("vhdx", "subformat=dynamic"),
        ("vdi", "static=off"),
    ] {
        let image = dir.path().join(format);
        let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, from, to]);
        let archive = dir.path().join("vm.ova");
        ova(&[("3a2b", &std::fs::read(&image).unwrap())]).write_to(&archive).unwrap();
        let mut opened = open(&archive, Format::Ova).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert_eq!(opened.layout.virtual_size(), 10 << 20);
        for (start, len) in opened.windows(3_000_017) {
            assert_window(&mut opened, &oracle, start, len, &archive);
        }
    }
}
