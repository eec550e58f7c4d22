//! OVAs, boxes and archives of a disk, packed by GNU tar: its own unpacking and QEMU are the oracles.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk_image::{ByteRange, Format};
use image_tasks_flows::bounds::Cut;
use sha2::Digest as _;

use super::{Input, NOTHING, Said, TO_RAW, by_qemu, disk, from, kept, qemu_img, refused, stored};
use crate::import::{gzip, xz};
use crate::sources::Script;
use crate::world::{World, hex};

/// Blocks of a file system.
const HOLE: usize = 4096;

/// A folder whose files become an archive.
struct Folder<'a> {
    path: PathBuf,
    dir: &'a Path,
}

impl<'a> Folder<'a> {
    fn new(dir: &'a Path) -> Self {
        let path = dir.join("packed");
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self { path, dir }
    }

    fn with(self, name: &str, bytes: &[u8]) -> Self {
        let path = self.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Holes are left out: tar takes only a file that has some for sparse.
        let file = std::fs::File::create(path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (n, block) in bytes.chunks(HOLE).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
            file.write_all_at(block, (n * HOLE) as u64).unwrap();
        }
        self
    }

    /// A descriptor of these files, each a disk.
    fn described(self, name: &str, disks: &[&str]) -> Self {
        let files: String =
            disks.iter().map(|d| format!("<File ovf:id=\"{d}\" ovf:href=\"{d}\"/>")).collect();
        let listed: String =
            disks.iter().map(|d| format!("<Disk ovf:diskId=\"d-{d}\" ovf:fileRef=\"{d}\"/>")).collect();
        let xml = format!(
            "<?xml version=\"1.0\"?><Envelope xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\
             <References>{files}</References><DiskSection>{listed}</DiskSection></Envelope>"
        );
        self.with(name, xml.as_bytes())
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path.join(name)).unwrap()
    }

    /// The archive, its members in the order of their names.
    fn tar(&self, arguments: &str) -> Vec<u8> {
        let to = self.dir.join("archive.tar");
        let mut tar = Command::new("tar");
        tar.args(arguments.split_whitespace())
            .arg("--sort=name")
            .arg("-C")
            .arg(&self.path)
            .arg("-cf")
            .arg(&to)
            .arg(".");
        assert!(tar.status().unwrap().success(), "{arguments}");
        std::fs::read(to).unwrap()
    }
}

struct Images {
    raw: Vec<u8>,
    vmdk: Vec<u8>,
    other: Vec<u8>,
    qcow2: Vec<u8>,
    vhd: Vec<u8>,
}

impl Images {
    fn new(dir: &Path) -> Self {
        let raw = dir.join("disk.raw");
        let image = dir.join("image");
        let write = |disk: &[u8], format: &str, options: &str| {
            std::fs::write(&raw, disk).unwrap();
            let (from, to) = (raw.to_str().unwrap(), image.to_str().unwrap());
            qemu_img(&["convert", "-f", "raw", "-O", format, "-o", options, from, to]);
            assert!(by_qemu(&image, format).unwrap() == disk, "{format}");
            std::fs::read(&image).unwrap()
        };
        let disk = disk();
        Self {
            vmdk: write(&disk, "vmdk", "subformat=streamOptimized"),
            other: write(&[8; 66_048], "vmdk", "subformat=monolithicSparse"),
            qcow2: write(&disk, "qcow2", "compat=1.1"),
            vhd: write(&disk, "vpc", "force_size=on"),
            raw: disk,
        }
    }
}

pub(super) fn inputs(dir: &Path) -> Vec<Input> {
    let images = Images::new(dir);
    let mut all = Vec::new();
    let raw = || ("raw", images.raw.clone());
    let ova = |disk: &[u8]| Folder::new(dir).described("vm.ovf", &["vm-disk1"]).with("vm-disk1", disk);
    let usual = ova(&images.vmdk).tar("--format=ustar");
    all.push(kept("an OVA", &usual, NOTHING, "vmdk"));
    all.push(kept("an OVA", &usual, from("ova"), "vmdk"));
    all.push(kept("an OVA", &usual, Said { container: Some("ova"), ..NOTHING }, "vmdk"));
    for dialect in ["v7", "ustar", "oldgnu", "gnu", "posix"] {
        let tar = ova(&images.vmdk).tar(&format!("--format={dialect}"));
        all.push(stored(format!("an OVA, packed by tar --format={dialect}"), tar, TO_RAW, raw()));
    }
    for (name, format, disk) in [("a qcow2", "qcow2", &images.qcow2), ("a VHD", "vhd", &images.vhd)] {
        let tar = ova(disk).tar("--format=gnu");
        all.push(stored(format!("an OVA of {name}"), tar.clone(), TO_RAW, raw()));
        all.push(kept(format!("an OVA of {name}"), &tar, NOTHING, format));
    }
    let packed = ova(&gzip(&images.vmdk)).tar("--format=gnu");
    all.push(refused("an OVA of a VMDK in gzip", packed, TO_RAW, "UnsupportedFormat"));
    let unnamed = ova(&images.raw).tar("--format=gnu");
    all.push(refused("an OVA of a raw disk", unnamed, TO_RAW, "UnknownFormat"));
    let named = Folder::new(dir).described("vm.ovf", &["disk.raw"]).with("disk.raw", &images.raw);
    all.push(stored("an OVA of a raw disk that is named .raw", named.tar("--format=gnu"), TO_RAW, raw()));
    all.push(stored("an OVA in xz", xz(&usual), TO_RAW, raw()));
    all.push(refused("an OVA", usual.clone(), from("raw"), "FormatMismatch"));
    all.push(refused("an OVA", usual.clone(), from("vmdk"), "FormatMismatch"));
    all.push(refused("an OVA without its end", usual[..usual.len() - 70_000].to_vec(), NOTHING, "Truncated"));
    all.push(refused("a VMDK", images.vmdk.clone(), from("ova"), "FormatMismatch"));
    all.extend(several(dir, &images));
    all.extend(manifests(dir, &images));
    all.extend(without_descriptor(dir, &images));
    all.extend(fixtures(dir));
    all
}

fn several(dir: &Path, images: &Images) -> Vec<Input> {
    let two = Folder::new(dir)
        .described("vm.ovf", &["a.vmdk", "b.vmdk"])
        .with("a.vmdk", &images.vmdk)
        .with("b.vmdk", &images.other)
        .tar("--format=gnu");
    let named = |member| Said { member: Some(member), ..TO_RAW };
    let file = "an OVA of two disks";
    vec![
        kept(file, &two, NOTHING, "vmdk"),
        kept(file, &two, Said { container: Some("ova"), ..NOTHING }, "vmdk"),
        refused(file, two.clone(), TO_RAW, "BadArchive"),
        stored(file, two.clone(), named("a.vmdk"), ("raw", images.raw.clone())),
        stored(file, two.clone(), named("b.vmdk"), ("raw", vec![8; 66_048])),
        refused(file, two.clone(), named("c.vmdk"), "BadArchive"),
        refused(file, two.clone(), Said { member: Some("a.vmdk"), ..NOTHING }, "UnsupportedFormat"),
        refused(file, two, Said { container: Some("ova"), ..TO_RAW }, "BadArchive"),
    ]
}

fn manifests(dir: &Path, images: &Images) -> Vec<Input> {
    let begun = || Folder::new(dir).described("vm.ovf", &["a.vmdk"]).with("a.vmdk", &images.vmdk);
    type Sum = fn(&[u8]) -> String;
    let sums: [(&str, Sum); 4] = [
        ("SHA1", |bytes| hex(&sha1::Sha1::digest(bytes))),
        ("SHA256", |bytes| hex(&sha2::Sha256::digest(bytes))),
        ("SHA384", |bytes| hex(&sha2::Sha384::digest(bytes))),
        ("SHA512", |bytes| hex(&sha2::Sha512::digest(bytes))),
    ];
    let mut all = Vec::new();
    for (name, sum) in sums {
        let folder = begun();
        let line = |file: &str| format!("{name}({file})= {}\r\n", sum(&folder.read(file)));
        let of_disk = line("a.vmdk");
        let manifest = line("vm.ovf") + &of_disk;
        let tar = folder.with("vm.mf", manifest.as_bytes()).tar("--format=gnu");
        all.push(kept(format!("an OVA with a manifest of {name}"), &tar, NOTHING, "vmdk"));
        all.push(stored(
            format!("an OVA with a manifest of {name}"),
            tar,
            TO_RAW,
            ("raw", images.raw.clone()),
        ));
        let other = manifest.replace(&of_disk, &format!("{name}(a.vmdk)= {}\n", sum(b"")));
        let tar = begun().with("vm.mf", other.as_bytes()).tar("--format=gnu");
        let file = format!("an OVA whose manifest has another {name} of the disk");
        all.push(refused(file.clone(), tar.clone(), NOTHING, "ChecksumMismatch"));
        all.push(refused(file, tar, TO_RAW, "ChecksumMismatch"));
    }
    for (file, manifest) in [
        ("an OVA whose manifest has MD5", "MD5(a.vmdk)= d41d8cd98f00b204e9800998ecf8427e\n".to_owned()),
        ("an OVA whose manifest lists what isn't there", format!("SHA1(b.vmdk)= {}\n", "0".repeat(40))),
        ("an OVA whose manifest is none", "hello\n".to_owned()),
    ] {
        let tar = begun().with("vm.mf", manifest.as_bytes()).tar("--format=gnu");
        all.push(refused(file, tar, NOTHING, "BadArchive"));
    }
    let padding = vec![1; 1 << 20];
    let large = begun().with("vm.mf", b"SHA1(a.vmdk)= 0\n").with("z", &padding);
    // Read to its end before its size is looked at.
    all.push(refused(
        "an OVA whose manifest has a short digest",
        large.tar("--format=gnu"),
        NOTHING,
        "BadArchive",
    ));
    all
}

/// As clouds and Vagrant pack a disk.
fn without_descriptor(dir: &Path, images: &Images) -> Vec<Input> {
    let raw = || ("raw", images.raw.clone());
    let member = |member| Said { member: Some(member), ..TO_RAW };
    let google = Folder::new(dir).with("disk.raw", &images.raw);
    let mut all = Vec::new();
    for way in
        ["--format=oldgnu -S --hole-detection=raw", "--format=oldgnu", "--format=gnu", "--format=posix"]
    {
        let tar = google.tar(way);
        let file = format!("disk.raw in a tar ({way}) in gzip, as for Google Cloud");
        all.push(stored(file.clone(), gzip(&tar), TO_RAW, raw()));
        all.push(refused(file, gzip(&tar), from("raw"), "FormatMismatch"));
    }
    let tar = google.tar("--format=oldgnu -S --hole-detection=raw");
    all.push(stored("disk.raw in a tar", tar.clone(), Said { from: Some("ova"), ..TO_RAW }, raw()));
    all.push(refused("disk.raw in a tar", tar.clone(), NOTHING, "BadArchive"));
    all.push(refused("disk.raw in a tar", tar, Said { container: Some("ova"), ..NOTHING }, "BadArchive"));
    let posix = google.tar("--format=posix -S --hole-detection=raw");
    all.push(refused("disk.raw in a tar (--format=posix -S)", posix, TO_RAW, "BadArchive"));
    let box_of = |disk: &[u8]| {
        let begun = Folder::new(dir).with("metadata.json", b"{}").with("Vagrantfile", b"");
        gzip(&begun.with("box.img", disk).tar("--format=gnu"))
    };
    all.push(stored("a Vagrant box of libvirt", box_of(&images.qcow2), TO_RAW, raw()));
    all.push(refused("a Vagrant box of libvirt", box_of(&images.qcow2), NOTHING, "BadArchive"));
    all.push(refused("a Vagrant box of libvirt", box_of(&images.qcow2), from("qcow2"), "FormatMismatch"));
    let virtual_box = Folder::new(dir).described("box.ovf", &["box-disk001.vmdk"]);
    let virtual_box = virtual_box.with("box-disk001.vmdk", &images.vmdk).with("Vagrantfile", b"x");
    let tar = virtual_box.with("metadata.json", b"{\"provider\":\"virtualbox\"}").tar("--format=gnu");
    all.push(stored("a Vagrant box of VirtualBox", gzip(&tar), TO_RAW, raw()));
    all.push(stored("a Vagrant box of VirtualBox", gzip(&tar), NOTHING, ("vmdk", tar)));
    let any =
        Folder::new(dir).with("a/disk.qcow2", &images.qcow2).with("a/README", b"hello").tar("--format=gnu");
    all.push(stored("a tar of any files", any.clone(), member("disk.qcow2"), raw()));
    all.push(refused("a tar of any files", any.clone(), TO_RAW, "BadArchive"));
    all.push(refused("a tar of any files", any.clone(), member("README"), "UnknownFormat"));
    all.push(refused("a tar of any files", any, member("disk.raw"), "BadArchive"));
    all
}

/// OVAs as programs spell and pack them, whose disk is the archive's largest file.
fn fixtures(dir: &Path) -> Vec<Input> {
    let mut all = Vec::new();
    for sound in disk_image_fixtures::sound().into_iter().filter(|sound| sound.format == Format::Ova) {
        let bytes = sound.file.read(ByteRange { start: 0, end: sound.file.len() });
        let folder = Folder::new(dir);
        let archive = dir.join("archive.tar");
        std::fs::write(&archive, &bytes).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&archive).arg("-C").arg(&folder.path).stderr(std::process::Stdio::null());
        if !tar.status().unwrap().success() {
            continue;
        }
        let disk = largest(&folder.path).unwrap();
        let format = match sound.name.strip_prefix("ova-of-") {
            Some("vhd") => "vpc",
            Some(format) => format,
            None => "vmdk",
        };
        if let Some(oracle) = by_qemu(&disk, format).filter(|oracle| oracle.len() <= 8 << 20) {
            all.push(stored(sound.name, bytes, TO_RAW, ("raw", oracle)));
        }
    }
    all
}

fn largest(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter_map(|path| if path.is_dir() { largest(&path) } else { Some(path) });
    files.max_by_key(|path| path.metadata().unwrap().len())
}

/// What would take too long to be read again isn't checked, and that is told.
#[tokio::test(start_paused = true)]
async fn a_manifest_of_a_large_ova_is_remarked_on() {
    let dir = tempfile::tempdir().unwrap();
    let vmdk = Images::new(dir.path()).vmdk;
    let folder = Folder::new(dir.path()).described("vm.ovf", &["a.vmdk"]).with("a.vmdk", &vmdk);
    let manifest = format!("SHA1(a.vmdk)= {}\n", "0".repeat(40));
    let ova = folder.with("vm.mf", manifest.as_bytes()).tar("--format=gnu");
    for (most, expected) in [
        (ova.len() as u64 - 1, "The ova was not checked against its manifest, as it has more than "),
        (ova.len() as u64, "ChecksumMismatch: the ova's manifest lists SHA-1 0000"),
    ] {
        let cut = Cut { manifest_most: most, ..Cut::default() };
        let world = World::new(Script::of(ova.clone()), NOTHING.input(), cut).await;
        world.run().await;
        let message = world.task().await.message;
        assert!(message.starts_with(expected), "{message}");
    }
}
