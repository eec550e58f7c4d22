//! What programs write around one and the same disk: other titles, blanks, names, sizes and remarks.

use super::{FOOTER, OVERHEAD, SECTORS, TEXT, at, monolithic, stream, text, with_line, with_text};
use crate::Sparse;

const TITLE: &str = "# Disk DescriptorFile";

type Case = (&'static str, Sparse);

pub(super) fn sound() -> Vec<Case> {
    let by = |title: &str| with_text(TITLE, title);
    let mut all = vec![
        ("vmdk-title-of-a-converter", by("# Description file created by VMDK stream converter")),
        ("vmdk-title-of-image-warehouse", by("# Description file created by Image Warehouse")),
        ("vmdk-title-of-four-words", by("# Disk Descriptor File")),
        ("vmdk-title-without-a-blank", by("#Disk DescriptorFile")),
        ("vmdk-title-of-nothing", by("# ")),
        ("vmdk-comments-between", with_line("# Believe this is random\n\n  # and this")),
        ("vmdk-blanks-around-values", spaced()),
        ("vmdk-lines-of-windows", rewritten(|text| text.replace('\n', "\r\n"))),
        ("vmdk-last-line-not-ended", rewritten(|text| text.trim_end().to_owned())),
        ("vmdk-database-keys-twice", with_line("ddb.adapterType = \"lsilogic\"\nddb.adapterType=\"ide\"")),
        // VirtualBox: the text has the disk's size, the header whole grains.
        ("vmdk-size-in-whole-grains", with_text(&SECTORS.to_string(), &(SECTORS - 5).to_string())),
        ("vmdk-footer-of-other-overhead", stream().le64(at(FOOTER) + OVERHEAD, 0)),
    ];
    all.extend(NAMES.iter().map(|(case, name)| (*case, with_text("disk.vmdk", name))));
    all
}

/// What the file was called while it was made.
const NAMES: &[(&str, &str)] = &[
    ("vmdk-named-by-a-time", "disk-2024-05-01T10:00:00.vmdk"),
    ("vmdk-named-as-hidden", ".tmp.vmdk.part"),
    ("vmdk-named-with-blanks", "My VM (1) [x]&y.vmdk"),
    ("vmdk-named-in-german", "b\u{fc}cher.vmdk"),
    ("vmdk-named-in-japanese", "\u{30c7}\u{30a3}\u{30b9}\u{30af}.vmdk"),
    ("vmdk-named-in-a-folder", "disks/vm.vmdk"),
    ("vmdk-named-in-the-folder-above", "../disks/vm.vmdk"),
    ("vmdk-named-by-its-path", "/var/tmp/out/vm.vmdk"),
    ("vmdk-named-on-a-drive", "C:\\VMs\\vm.vmdk"),
    ("vmdk-named-on-a-share", "\\\\server\\share\\vm.vmdk"),
];

fn rewritten(change: impl Fn(&str) -> String) -> Sparse {
    let whole = text("monolithicSparse");
    monolithic().with(TEXT, &[0; 1024]).with(TEXT, change(&whole).as_bytes())
}

/// Blanks on both sides of each `=`, and at the line's end. QEMU wants none in front of the `=` of a CID.
fn spaced() -> Sparse {
    let blanks = |text: &str| text.replace(" = ", "=").replace('=', " =\t").replace('\n', " \n");
    rewritten(|text| blanks(text).replace("CID =\t", "CID="))
}
