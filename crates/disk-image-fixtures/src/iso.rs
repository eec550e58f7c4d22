//! ISO 9660 volumes.

use disk_image::{Code, Format};

use crate::{Hostile, Sound, Sparse};

const PRIMARY: u64 = 16 * 2048;
const BLOCKS: u32 = 20;

/// A volume of 20 sectors with nothing in it.
pub(crate) fn volume() -> Sparse {
    Sparse::zeros(u64::from(BLOCKS) * 2048)
        .with(PRIMARY, b"\x01CD001\x01")
        .le32(PRIMARY + 80, BLOCKS)
        .be32(PRIMARY + 84, BLOCKS)
        .le16(PRIMARY + 128, 2048)
        .be16(PRIMARY + 130, 2048)
        .with(PRIMARY + 2048, b"\xffCD001\x01")
}

/// With a boot record in front, as nearly every installer has it.
pub(crate) fn hybrid() -> Sparse {
    volume().with(510, &[0x55, 0xaa])
}

pub(crate) fn sound() -> Vec<Sound> {
    vec![
        Sound { name: "iso", format: Format::Iso, file: volume() },
        Sound { name: "iso-hybrid", format: Format::Iso, file: hybrid() },
    ]
}

pub(crate) fn hostile() -> Vec<Hostile> {
    let larger = |blocks: u32| volume().le32(PRIMARY + 80, blocks).be32(PRIMARY + 84, blocks);
    [
        ("iso-truncated", volume().cut(19 * 2048 + 1), Code::Truncated),
        ("iso-volume-larger-than-file", larger(BLOCKS + 1), Code::Truncated),
        ("iso-volume-of-8-tib", larger(u32::MAX), Code::Truncated),
        ("iso-sizes-differ", volume().le32(PRIMARY + 80, 1), Code::BadHeader),
        ("iso-block-sizes-differ", volume().le16(PRIMARY + 128, 1024), Code::BadHeader),
        ("iso-block-of-nothing", volume().le16(PRIMARY + 128, 0).be16(PRIMARY + 130, 0), Code::BadHeader),
        ("iso-no-primary-descriptor", volume().with(PRIMARY, &[0xff]), Code::BadHeader),
        (
            "iso-descriptors-stop",
            volume().with(PRIMARY, &[2]).with(PRIMARY + 2049, b"XXXXX"),
            Code::BadHeader,
        ),
        ("iso-cut-in-descriptor", volume().cut(PRIMARY + 100), Code::OutOfBounds),
    ]
    .into_iter()
    .map(|(name, file, code)| Hostile::new(name, Format::Iso, file, code))
    .collect()
}
