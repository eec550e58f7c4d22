//! Disk images as QEMU writes them, and as other programs do.

use std::path::Path;

use disk_image::{ByteRange, Format};

use super::{Input, NOTHING, Said, TO_RAW, by_qemu, disk, from, kept, qemu_img, refused, stored};

/// A format of QEMU, its name here, and options.
const WRITTEN: [(&str, &str, &str); 17] = [
    ("qcow2", "qcow2", "compat=0.10"),
    ("qcow2", "qcow2", "compat=1.1"),
    ("qcow2", "qcow2", "cluster_size=512"),
    ("qcow2", "qcow2", "extended_l2=on,cluster_size=64k"),
    ("qcow2", "qcow2", "compression_type=zlib"),
    ("qcow2", "qcow2", "compression_type=zstd"),
    ("qcow2", "qcow2", "preallocation=metadata"),
    ("vmdk", "vmdk", "subformat=monolithicSparse"),
    ("vmdk", "vmdk", "subformat=monolithicSparse,compat6=on"),
    ("vmdk", "vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    ("vmdk", "vmdk", "subformat=streamOptimized"),
    ("vmdk", "vmdk", "subformat=streamOptimized,adapter_type=lsilogic,hwversion=13"),
    ("vpc", "vhd", "subformat=dynamic,force_size=on"),
    ("vpc", "vhd", "subformat=fixed,force_size=on"),
    ("vhdx", "vhdx", "subformat=dynamic"),
    ("vhdx", "vhdx", "subformat=fixed"),
    ("vdi", "vdi", "static=off"),
];

pub(super) fn inputs(dir: &Path) -> Vec<Input> {
    let raw = dir.join("disk.raw");
    std::fs::write(&raw, disk()).unwrap();
    let write = |format: &str, options: &str, name: &str| {
        let to = dir.join(name);
        let (from, to) = (raw.to_str().unwrap(), to.to_str().unwrap());
        let mut arguments = vec!["convert", "-f", "raw", "-O", format, "-o", options, from, to];
        if options.starts_with("compression_type") {
            arguments.push("-c");
        }
        qemu_img(&arguments);
        std::path::PathBuf::from(to)
    };
    let mut all = Vec::new();
    for (qemu, format, options) in WRITTEN {
        let image = write(qemu, options, "image");
        let bytes = std::fs::read(&image).unwrap();
        let oracle = by_qemu(&image, qemu).unwrap();
        let file = format!("{qemu} of QEMU, {options}");
        all.push(kept(file.clone(), &bytes, NOTHING, format));
        all.push(stored(file, bytes, Said { from: Some(format), ..TO_RAW }, ("raw", oracle)));
    }
    all.extend(other_writers(dir));
    all.extend(of_several_files(dir, write));
    let image = write("qcow2", "compat=1.1", "image");
    let (image, overlay) = (image.to_str().unwrap(), dir.join("overlay"));
    qemu_img(&["create", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay.to_str().unwrap()]);
    all.push(refused("qcow2 with a backing file", std::fs::read(overlay).unwrap(), NOTHING, "BackingFile"));
    let bytes = std::fs::read(image).unwrap();
    all.push(refused("a qcow2", bytes.clone(), from("raw"), "FormatMismatch"));
    all.push(refused("a qcow2", bytes.clone(), from("vmdk"), "FormatMismatch"));
    all.push(refused("a qcow2", bytes, Said { disk: Some("iso"), ..NOTHING }, "UnsupportedFormat"));
    all
}

/// Images of which the sound fixtures are made: names, comments, footers and orders that other programs write.
fn other_writers(dir: &Path) -> Vec<Input> {
    let mut all = Vec::new();
    let image = dir.join("other");
    for sound in disk_image_fixtures::sound() {
        if sound.format.is_verbatim() || sound.format == Format::Ova || sound.file.len() > 1 << 20 {
            continue;
        }
        let bytes = sound.file.read(ByteRange { start: 0, end: sound.file.len() });
        std::fs::write(&image, &bytes).unwrap();
        let qemu = if sound.format == Format::Vhd { "vpc" } else { sound.format.name() };
        if let Some(oracle) = by_qemu(&image, qemu).filter(|oracle| oracle.len() <= 8 << 20) {
            all.push(stored(sound.name, bytes, TO_RAW, ("raw", oracle)));
        }
    }
    all
}

/// Parts of a disk in several files.
fn of_several_files(dir: &Path, write: impl Fn(&str, &str, &str) -> std::path::PathBuf) -> Vec<Input> {
    let mut all = Vec::new();
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    write("vmdk", "subformat=monolithicFlat", "flat.vmdk");
    write("vmdk", "subformat=twoGbMaxExtentSparse", "split.vmdk");
    for said in [NOTHING, from("vmdk"), TO_RAW] {
        all.push(refused("the descriptor of a flat VMDK", read("flat.vmdk"), said, "ExternalData"));
        all.push(refused("the descriptor of a split VMDK", read("split.vmdk"), said, "ExternalData"));
        all.push(refused("a part of a split VMDK", read("split-s001.vmdk"), said, "BadHeader"));
    }
    let flat = read("flat-flat.vmdk");
    all.push(refused("the -flat file of a flat VMDK", flat.clone(), from("vmdk"), "FormatMismatch"));
    all.push(kept("the -flat file of a flat VMDK", &flat, from("raw"), "raw"));
    all
}
