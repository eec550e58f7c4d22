//! Names of disk formats, as Glance spells them.

use serde::{Deserialize, Serialize};

/// A disk format that can be declared for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Bytes of the disk as they are.
    Raw,
    /// QEMU copy on write, versions 2 and 3.
    Qcow2,
    /// VMware sparse extent: monolithicSparse or streamOptimized.
    Vmdk,
    /// Microsoft VHD, fixed or dynamic; `vpc` to QEMU.
    #[serde(alias = "vpc")]
    Vhd,
    /// Microsoft VHDX.
    Vhdx,
    /// VirtualBox disk image.
    Vdi,
    /// ISO 9660.
    Iso,
    /// Amazon machine image: opaque, read as raw.
    Ami,
    /// Amazon ramdisk image: opaque, read as raw.
    Ari,
    /// Amazon kernel image: opaque, read as raw.
    Aki,
    /// Open virtual appliance: a tar with a descriptor and disks. A container in Glance's terms.
    Ova,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::Raw,
        Self::Qcow2,
        Self::Vmdk,
        Self::Vhd,
        Self::Vhdx,
        Self::Vdi,
        Self::Iso,
        Self::Ami,
        Self::Ari,
        Self::Aki,
        Self::Ova,
    ];

    /// Glance's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Iso => "iso",
            Self::Ami => "ami",
            Self::Ari => "ari",
            Self::Aki => "aki",
            Self::Ova => "ova",
        }
    }

    /// The format of a name; `vpc` is QEMU's name for `vhd`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "vpc" => Some(Self::Vhd),
            _ => Self::ALL.into_iter().find(|f| f.name() == name),
        }
    }

    /// What an image's bytes are, by Glance's `disk_format` and `container_format`.
    pub fn of_image(disk_format: Option<&str>, container_format: Option<&str>) -> Option<Self> {
        if container_format == Some(Self::Ova.name()) {
            return Some(Self::Ova);
        }
        disk_format.and_then(Self::from_name)
    }

    /// Whether the format has no structure of its own: any bytes are valid, so it must be declared.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Raw | Self::Ami | Self::Ari | Self::Aki)
    }

    /// Whether it is handed to a guest's boot as it is: a kernel or a ramdisk, which unpack themselves.
    pub const fn is_boot_file(self) -> bool {
        matches!(self, Self::Ari | Self::Aki)
    }

    /// Whether a file of this format is its disk, byte for byte.
    pub const fn is_verbatim(self) -> bool {
        self.is_opaque() || matches!(self, Self::Iso)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A compressed stream around an image. It has no random access: a sequential
/// pass unpacks it into staging, and what comes out is inspected again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz file format.
    Xz,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
    /// Frames of LZ4, but for the legacy ones, whose end can't be told from a cut.
    Lz4,
}

impl Compression {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lz4 => "lz4",
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_qemus_name_of_vhd_is_taken() {
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
        assert_eq!(Format::from_name("vpc"), Some(Format::Vhd));
        assert_eq!(Format::from_name("RAW"), None);
    }
}
