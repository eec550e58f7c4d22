//! Files that are the disk itself, as far as somebody says so.

use super::{Becomes, Input, NOTHING, Said, TO_RAW, disk, from, kept, refused, stored};

const OPAQUE: [&str; 4] = ["raw", "ami", "ari", "aki"];
const STRUCTURED: [&str; 6] = ["qcow2", "vmdk", "vhd", "vhdx", "vdi", "ova"];

pub(super) fn inputs() -> Vec<Input> {
    let mut all = Vec::new();
    all.push(refused("a raw disk", disk(), NOTHING, "UnknownFormat"));
    for format in OPAQUE {
        all.push(kept("a raw disk", &disk(), from(format), format));
        all.push(kept("a raw disk", &disk(), Said { disk: Some(format), ..NOTHING }, format));
    }
    for format in STRUCTURED {
        all.push(refused("a raw disk", disk(), from(format), "FormatMismatch"));
    }
    all.push(refused("a raw disk", disk(), from("iso"), "FormatMismatch"));
    all.push(refused("a raw disk", disk(), Said { disk: Some("qcow2"), ..NOTHING }, "UnknownFormat"));
    all.push(refused("a raw disk", disk(), Said { container: Some("ova"), ..from("raw") }, "FormatMismatch"));
    all.push(kept("no bytes", &[], from("raw"), "raw"));
    all.push(refused("no bytes", Vec::new(), NOTHING, "UnknownFormat"));
    all.push(kept("a sector of zeros", &[0; 512], from("raw"), "raw"));
    all.extend(texts());
    all.extend(discs());
    all
}

/// What a server sends instead of a file.
fn texts() -> Vec<Input> {
    const PAGE: &str = "The source begins like a web page, but was declared to be a raw disk; ";
    const TEXT: &str = "The source begins like a text, but was declared to be a raw disk; ";
    let page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n".to_vec();
    let json = b"{\"error\": {\"code\": 403, \"message\": \"Forbidden\"}}\n".to_vec();
    let xml = b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_vec();
    let mut all = Vec::new();
    for (file, bytes, remark) in
        [("a web page", page, PAGE), ("a text in JSON", json, TEXT), ("a text in XML", xml, TEXT)]
    {
        all.push(refused(file, bytes.clone(), NOTHING, "UnknownFormat"));
        for said in [from("raw"), TO_RAW] {
            let becomes = Becomes::Stored("raw", bytes.clone(), Some(remark));
            all.push(Input { file: file.to_owned(), bytes: bytes.clone(), said, becomes });
        }
    }
    all
}

fn discs() -> Vec<Input> {
    let mut all = Vec::new();
    let iso = disk_image_fixtures::sound();
    for image in iso.iter().filter(|image| image.format == disk_image::Format::Iso) {
        let bytes = image.file.read(disk_image::ByteRange { start: 0, end: image.file.len() });
        let file = if image.name == "iso" { "an ISO 9660 disc" } else { "a hybrid ISO" };
        for (said, format) in [
            (NOTHING, "iso"),
            (from("iso"), "iso"),
            (from("raw"), "raw"),
            (TO_RAW, "raw"),
            (Said { disk: Some("raw"), ..from("iso") }, "raw"),
            (Said { disk: Some("iso"), ..NOTHING }, "iso"),
        ] {
            all.push(kept(file, &bytes, said, format));
        }
        all.push(stored(
            format!("{file} in gzip"),
            crate::import::gzip(&bytes),
            NOTHING,
            ("iso", bytes.clone()),
        ));
        let mut cut = bytes.clone();
        cut.truncate(bytes.len() - 2048);
        all.push(refused(format!("{file} without its last sector"), cut, from("iso"), "Truncated"));
        let mut two = bytes;
        two[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        for said in [NOTHING, from("iso"), from("raw"), TO_RAW] {
            all.push(refused(format!("{file} with a qcow2's header"), two.clone(), said, "Polyglot"));
        }
    }
    let mut udf = vec![0; 100_000];
    udf[0x8001..0x8006].copy_from_slice(b"BEA01");
    all.push(refused("a UDF disc", udf.clone(), NOTHING, "UnsupportedFormat"));
    all.push(kept("a UDF disc", &udf, from("raw"), "raw"));
    all.push(kept("a UDF disc", &udf, TO_RAW, "raw"));
    all
}
