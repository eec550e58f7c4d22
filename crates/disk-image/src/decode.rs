//! Stored bytes to disk bytes.
//!
//! Threat model: compressed bytes are an attacker's. Output never grows past the unit's length, memory is one unit of scratch beside
//! the codecs' fixed state (zstd frames are decoded in one shot, so a frame's claimed window allocates nothing), and a
//! stream that gives fewer bytes than its unit is an error, never zeros.

use zstd::zstd_safe;

use crate::{
    error::{Code, Error, Result},
    extent::{Extent, Stored},
    fields::{le32, le64},
};

/// Largest compressed unit, bytes: qcow2's largest cluster.
pub const MAX_UNIT: u32 = 2 << 20;
/// Sector and length before a streamOptimized VMDK's zlib stream.
const GRAIN_MARKER: usize = 12;

/// The codecs, made once and used for many units.
pub struct Decoder {
    deflate: libdeflater::Decompressor,
    zstd: zstd_safe::DCtx<'static>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("scratch", &self.scratch.len()).finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Fresh codecs.
    pub fn new() -> Self {
        Self {
            deflate: libdeflater::Decompressor::new(),
            zstd: zstd_safe::DCtx::create(),
            scratch: Vec::new(),
        }
    }

    /// Fills `target`, an extent's bytes of the disk, from `source`, its bytes of the file.
    pub(crate) fn decode(&mut self, extent: &Extent, source: &[u8], target: &mut [u8]) -> Result<()> {
        let (skip, unit) = match extent.stored {
            Stored::Zero => {
                target.fill(0);
                return Ok(());
            }
            Stored::Raw { .. } => {
                if source.len() != target.len() {
                    return Err(bad(extent, "has another length than the disk's bytes"));
                }
                target.copy_from_slice(source);
                return Ok(());
            }
            Stored::Deflate { skip, unit, .. }
            | Stored::Grain { skip, unit, .. }
            | Stored::Zstd { skip, unit, .. } => (skip as usize, unit.min(MAX_UNIT) as usize),
        };
        if skip == 0 && target.len() == unit {
            let written = self.unit(extent, source, target)?;
            return if written == unit {
                Ok(())
            } else {
                Err(bad(extent, "decodes to fewer bytes than its unit"))
            };
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(unit, 0);
        let written = self.unit(extent, source, &mut scratch);
        let needed = skip + target.len();
        let copied = written.and_then(|written| match scratch.get(skip..needed) {
            Some(part) if needed <= written => {
                target.copy_from_slice(part);
                Ok(())
            }
            _ => Err(bad(extent, "decodes to fewer bytes than the disk needs")),
        });
        self.scratch = scratch;
        copied
    }

    /// Decodes one unit; how many bytes it gave.
    fn unit(&mut self, extent: &Extent, source: &[u8], out: &mut [u8]) -> Result<usize> {
        match extent.stored {
            Stored::Deflate { .. } => self
                .deflate
                .deflate_decompress(source, out)
                .map_err(|e| bad(extent, &format!("is not a deflate stream of its unit ({e})"))),
            Stored::Grain { skip, .. } => {
                let stream = grain(extent, skip, source)?;
                self.deflate
                    .zlib_decompress(stream, out)
                    .map_err(|e| bad(extent, &format!("is not a zlib stream of its grain ({e})")))
            }
            Stored::Zstd { .. } => self.zstd(extent, source, out),
            Stored::Zero | Stored::Raw { .. } => Err(bad(extent, "is not compressed")),
        }
    }

    /// Frames until the unit is full (QEMU allows several); what follows is a sector's padding.
    fn zstd(&mut self, extent: &Extent, mut source: &[u8], out: &mut [u8]) -> Result<usize> {
        let failed = |code| {
            bad(extent, &format!("is not a zstd frame of its unit ({})", zstd_safe::get_error_name(code)))
        };
        let mut written = 0;
        while written < out.len() && !source.is_empty() {
            let frame = zstd_safe::find_frame_compressed_size(source).map_err(failed)?;
            let Some((frame, rest)) = source.split_at_checked(frame) else {
                return Err(bad(extent, "is cut off"));
            };
            written += self.zstd.decompress(&mut out[written..], frame).map_err(failed)?;
            source = rest;
        }
        Ok(written)
    }
}

/// The zlib stream behind a marker that says the right sector and a length that fits.
fn grain<'a>(extent: &Extent, skip: u32, source: &'a [u8]) -> Result<&'a [u8]> {
    let (sector, len) = (le64(source, 0)?, le32(source, 8)?);
    let expected = extent.start.saturating_sub(u64::from(skip)) / 512;
    if sector != expected {
        return Err(bad(extent, &format!("is marked as sector {sector}, not {expected}")));
    }
    source
        .get(GRAIN_MARKER..)
        .and_then(|rest| rest.get(..len as usize))
        .ok_or_else(|| bad(extent, &format!("is marked as {len} bytes long, more than are there")))
}

fn bad(extent: &Extent, what: &str) -> Error {
    let (offset, _) = extent.source().unwrap_or_default();
    Error::refused(
        Code::BadData,
        format!("what is stored at offset {offset} for disk offset {} {what}", extent.start),
    )
}
