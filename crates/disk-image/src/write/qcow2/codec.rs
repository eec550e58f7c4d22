//! Compression of single clusters.

use serde::{Deserialize, Serialize};

/// libdeflate's level: smaller than QEMU's own zlib at several times its speed (see `benches/write_qcow2.rs`).
const DEFLATE_LEVEL: i32 = 1;
/// One below zstd's default, which QEMU uses: 0.7% larger at 1.3 times the speed.
const ZSTD_LEVEL: i32 = 2;
/// The level of zstd that says whether deflate is worth trying on what looks random: deflate takes longest where it finds nothing
/// (0.2 GB/s of noise, which zstd gives up at 9), and files in images are often compressed already. Repeats of noise within a
/// cluster are lost by that, as they are to zstd.
const JUDGE_LEVEL: i32 = 1;
/// [`looks_random`] takes this many bytes of each 4096.
const SAMPLE: usize = 256;

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
    Zlib { deflate: libdeflater::Compressor, judge: zstd::bulk::Compressor<'static> },
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
            Codec::Zlib => Kind::Zlib {
                deflate: libdeflater::Compressor::new(
                    libdeflater::CompressionLvl::new(DEFLATE_LEVEL).unwrap_or_default(),
                ),
                judge: zstd::bulk::Compressor::new(JUDGE_LEVEL)?,
            },
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
            Kind::Zlib { deflate, judge } => {
                if looks_random(cluster) {
                    judge.compress_to_buffer(cluster, scratch).ok()?;
                }
                deflate.deflate_compress(cluster, scratch).ok()?
            }
            Kind::Zstd(c) => c.compress_to_buffer(cluster, scratch).ok()?,
        };
        self.scratch.get(..len)
    }
}

/// Whether a sample holds all bytes about equally often, as noise and compressed files do: its sum of squared counts is within a
/// quarter of what chance makes of equal odds, n²/256 + n.
fn looks_random(cluster: &[u8]) -> bool {
    let mut counts = [0u64; 256];
    for byte in cluster.chunks(4096).flat_map(|page| page.iter().take(SAMPLE)) {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let n: u64 = counts.iter().sum();
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    squares * 4 <= (n * n / 256 + n) * 5
}

#[cfg(test)]
mod tests {
    use proptest::prelude::Rng as _;
    use proptest::test_runner::{RngAlgorithm, TestRng};

    use super::*;

    #[test]
    fn what_looks_random_is_compressed_all_the_same_where_it_can_be() {
        for cluster in [4096, 65_536, 2 << 20] {
            let mut encoder = Encoder::new(Codec::Zlib, cluster).unwrap();
            let mut noise = vec![0; cluster];
            TestRng::deterministic_rng(RngAlgorithm::XorShift).fill_bytes(&mut noise);
            assert!(looks_random(&noise) && encoder.encode(&noise).is_none(), "{cluster}");
            let mut pages = noise.clone();
            pages.chunks_mut(4096).for_each(|page| page.iter_mut().skip(SAMPLE).for_each(|byte| *byte %= 16));
            assert!(looks_random(&pages) && encoder.encode(&pages).is_some(), "{cluster}");
            let prose: Vec<u8> = noise.iter().map(|byte| b'a' + byte % 16).collect();
            assert!(!looks_random(&prose) && encoder.encode(&prose).is_some(), "{cluster}");
        }
    }
}
