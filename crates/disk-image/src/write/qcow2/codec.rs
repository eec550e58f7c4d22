//! Compression of single clusters.

use serde::{Deserialize, Serialize};

/// libdeflate's level: smaller than QEMU's own zlib at several times its speed (see `benches/write_qcow2.rs`).
const DEFLATE_LEVEL: i32 = 1;
/// One below zstd's default, which QEMU uses: 0.7% larger at 1.3 times the speed.
const ZSTD_LEVEL: i32 = 2;

/// How the clusters of an image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    None,
    /// Raw deflate; every reader of qcow2 knows it.
    Zlib,
    /// zstd; QEMU 5.1 and later.
    Zstd,
}

/// Compresses clusters, keeping its buffers.
pub(super) struct Encoder {
    kind: Kind,
    scratch: Vec<u8>,
}

enum Kind {
    None,
    Zlib(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    /// For clusters of `cluster` bytes.
    ///
    /// Deflate streams use distances up to 32 KiB though QEMU inflates with a window of 4 KiB (`windowBits` -12). That is sound:
    /// a window is only for what was output by an *earlier* call of `inflate`, a reader takes a cluster in one, and for raw streams
    /// zlib never checks distances against it. The tests hold it against QEMU.
    pub(super) fn new(codec: Codec, cluster: usize) -> std::io::Result<Self> {
        let kind = match codec {
            Codec::None => Kind::None,
            Codec::Zlib => Kind::Zlib(libdeflater::Compressor::new(
                libdeflater::CompressionLvl::new(DEFLATE_LEVEL).unwrap_or_default(),
            )),
            Codec::Zstd => Kind::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        // What saves less than 1/64 isn't worth a reader's time.
        let most = if codec == Codec::None { 0 } else { cluster - cluster / 64 };
        Ok(Self { kind, scratch: vec![0; most] })
    }

    /// Whether no cluster is ever compressed.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::None)
    }

    /// The compressed bytes, or `None` if the cluster is better stored as it is.
    pub(super) fn encode(&mut self, cluster: &[u8]) -> Option<&[u8]> {
        let scratch = self.scratch.as_mut_slice();
        let len = match &mut self.kind {
            Kind::None => return None,
            Kind::Zlib(c) => c.deflate_compress(cluster, scratch).ok()?,
            Kind::Zstd(c) => c.compress_to_buffer(cluster, scratch).ok()?,
        };
        self.scratch.get(..len)
    }
}
