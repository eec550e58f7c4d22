//! OVAs as programs pack them: dialects of tar, folders, what macOS adds, names in the descriptor's spelling.

use super::{Archive, KIND, MAGIC, PREFIX, SIZE, descriptor, disk, with_descriptor};
use crate::Sparse;

type Case = (&'static str, Sparse);

pub(super) fn sound() -> Vec<Case> {
    let mut all = named();
    all.extend(packed());
    all
}

/// A descriptor that spells the disk's name so, and a member that is called so.
fn spelt(href: &str, member: &str) -> Sparse {
    let xml = descriptor(&["a.vmdk"]).replace("ovf:href=\"a.vmdk\"", &format!("ovf:href=\"{href}\""));
    with_descriptor(&xml).member(member, &disk()).end()
}

fn named() -> Vec<Case> {
    let unsized_disk = descriptor(&["a.vmdk"]).replace(&format!(" ovf:size=\"{}\"", disk().len()), "");
    vec![
        ("ova-name-in-percents", spelt("My%20VM-disk1.vmdk", "My VM-disk1.vmdk")),
        ("ova-name-of-percents", spelt("100%25-disk1.vmdk", "100%25-disk1.vmdk")),
        ("ova-name-with-a-percent", spelt("100%-disk1.vmdk", "100%-disk1.vmdk")),
        ("ova-name-in-entities", spelt("R&amp;D &#x2013; &quot;1&quot;.vmdk", "R&D \u{2013} \"1\".vmdk")),
        ("ova-name-in-utf-8", spelt("b%C3%BCcher.vmdk", "b\u{fc}cher.vmdk")),
        ("ova-size-not-told", with_descriptor(&unsized_disk).member("a.vmdk", &disk()).end()),
    ]
}

/// A header in front of the next member.
fn ahead(archive: Archive, kind: &'static [u8; 1], bytes: &[u8]) -> Archive {
    archive.changed("././@LongLink", bytes, |header| header.with(KIND, kind))
}

/// `<length> <key>=<value>\n`, the length with its own digits.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let len =
        (1..=3).map(|digits| rest.len() + digits).find(|len| len.to_string().len() + rest.len() == *len);
    format!("{}{rest}", len.unwrap_or_default())
}

fn packed() -> Vec<Case> {
    let xml = descriptor(&["a.vmdk"]);
    let begun = || with_descriptor(&xml);
    let folder = |archive: Archive, name: &str| archive.changed(name, b"", |h| h.with(KIND, b"5"));
    let long = format!("{}.vmdk", "x".repeat(150));
    let of_long = || with_descriptor(&descriptor(&[long.as_str()]));
    let in_folder =
        |archive: Archive| archive.member("vm/vm.ovf", xml.as_bytes()).member("vm/a.vmdk", &disk());
    let apples = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ";
    let len = disk().len().to_string();
    let times = record("mtime", "1700000000.123456789") + &record("SCHILY.xattr.user.a", "path=/etc/shadow");
    let all = |magic: &'static [u8]| {
        let change = move |header: Sparse| header.with(MAGIC, magic);
        Archive::new().changed("vm.ovf", xml.as_bytes(), change).changed("a.vmdk", &disk(), change).end()
    };
    vec![
        ("ova-v7", all(&[0; 8])),
        ("ova-gnu", all(b"ustar  \0")),
        ("ova-in-a-folder", in_folder(folder(Archive::new(), "vm/")).end()),
        ("ova-in-a-folder-not-listed", in_folder(Archive::new()).end()),
        (
            "ova-with-an-empty-folder",
            folder(folder(Archive::new(), "./").member("vm.ovf", xml.as_bytes()), "x")
                .member("a.vmdk", &disk())
                .end(),
        ),
        (
            "ova-of-prefixes",
            Archive::new()
                .changed("vm.ovf", xml.as_bytes(), |h| h.with(PREFIX, b"long/folder"))
                .changed("a.vmdk", &disk(), |h| h.with(PREFIX, b"long/folder"))
                .end(),
        ),
        (
            "ova-by-macos",
            Archive::new()
                .member("._vm.ovf", apples)
                .member("vm.ovf", xml.as_bytes())
                .member("./._a.vmdk", apples)
                .member("a.vmdk", &disk())
                .member(".DS_Store", b"\0\0\0\x01Bud1")
                .end(),
        ),
        ("ova-pax-times", ahead(begun(), b"x", times.as_bytes()).member("a.vmdk", &disk()).end()),
        (
            "ova-pax-comment",
            ahead(Archive::new(), b"g", record("comment", "by hand").as_bytes())
                .member("vm.ovf", xml.as_bytes())
                .member("a.vmdk", &disk())
                .end(),
        ),
        (
            "ova-pax-name",
            ahead(of_long(), b"x", record("path", &long).as_bytes()).member("cut", &disk()).end(),
        ),
        ("ova-gnu-name", ahead(of_long(), b"L", format!("{long}\0").as_bytes()).member("cut", &disk()).end()),
        (
            "ova-pax-size",
            ahead(begun(), b"x", record("size", &len).as_bytes())
                .changed("a.vmdk", &disk(), |h| h.with(SIZE, b"00000000000\0"))
                .end(),
        ),
    ]
}
