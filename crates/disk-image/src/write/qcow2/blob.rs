//! Map: a range of the virtual disk becomes a blob and its index.

use bytes::Bytes;

use super::{BlobIndex, Geometry, Result, WriteError, codec::Encoder, packer::Packer};
use crate::write::rope::Rope;
use crate::zero::is_zero;

/// Turns a range of the virtual disk, written in order, into a blob.
///
/// Blob bytes are appended to the caller's buffer as they come, at most about as many as were written. It holds a few tens of
/// clusters, and 24 bytes for each cluster stored.
pub struct BlobWriter {
    geometry: Geometry,
    start: u64,
    /// Next byte of the virtual disk.
    position: u64,
    /// The open cluster: `zeros` bytes of zeros, then `partial`.
    zeros: usize,
    partial: Vec<u8>,
    encoder: Encoder,
    packer: Packer,
}

impl BlobWriter {
    /// Begins at byte `start` of the virtual disk, a multiple of the cluster size.
    ///
    /// # Errors
    /// [`WriteError::Range`].
    pub fn new(geometry: Geometry, start: u64) -> Result<Self> {
        if start > geometry.size() || !start.is_multiple_of(geometry.cluster()) {
            return Err(WriteError::Range(format!("a blob can't begin at byte {start}")));
        }
        let cluster = 1 << geometry.cluster_bits();
        let encoder = Encoder::new(geometry.codec(), cluster)
            .map_err(|e| WriteError::TooLarge(format!("no memory for the encoder: {e}")))?;
        let packer = Packer::new(cluster);
        let partial = Vec::with_capacity(cluster);
        Ok(Self { geometry, start, position: start, zeros: 0, partial, encoder, packer })
    }

    /// Where on the virtual disk the next byte goes.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the disk, whole clusters of them, that can be taken with the blob still no longer than `most` bytes and of no
    /// more than `clusters` clusters. The blob may only end at a cluster's end.
    pub fn room(&self, most: u64, clusters: u64) -> u64 {
        let left = most.saturating_sub(self.packer.longest());
        // What is lost to alignment: see `packer`.
        let left = if self.encoder.is_plain() {
            left
        } else {
            left.saturating_sub(self.geometry.cluster()) / 33 * 32
        };
        let clusters = clusters.saturating_sub(self.packer.clusters());
        (left >> self.geometry.cluster_bits()).min(clusters) << self.geometry.cluster_bits()
    }

    /// Takes the next bytes of the disk, any number of them. Without compression they are not copied where they are whole clusters
    /// and most of their buffer.
    ///
    /// # Errors
    /// [`WriteError::Range`] past the disk's end; nothing was taken then.
    pub fn write(&mut self, window: &Bytes, out: &mut Rope) -> Result<()> {
        self.advance(window.len() as u64)?;
        let mut at = 0;
        while let Some(bytes) = window.get(at..).filter(|bytes| !bytes.is_empty()) {
            at += if self.filled() > 0 || bytes.len() < self.cluster() {
                self.fill(bytes, out)
            } else if self.encoder.is_plain() {
                self.store_run(window, at, out)
            } else {
                let cluster = bytes.get(..self.cluster()).unwrap_or_default();
                self.position += self.geometry.cluster();
                self.store(cluster, out);
                cluster.len()
            };
        }
        Ok(())
    }

    /// Takes bytes into the open cluster; how many.
    fn fill(&mut self, bytes: &[u8], out: &mut Rope) -> usize {
        let (now, _) = bytes.split_at(bytes.len().min(self.cluster() - self.filled()));
        if self.partial.is_empty() && is_zero(now) {
            self.zeros += now.len();
        } else {
            self.materialise();
            self.partial.extend_from_slice(now);
        }
        self.position += now.len() as u64;
        self.close_if_full(out);
        now.len()
    }

    /// Stores whole clusters of the window as they are, up to the next one of zeros, or skips that; how many bytes.
    fn store_run(&mut self, window: &Bytes, at: usize, out: &mut Rope) -> usize {
        let clusters = window.get(at..).unwrap_or_default().chunks_exact(self.cluster());
        let run = clusters.take_while(|cluster| !is_zero(cluster)).count() * self.cluster();
        let first = self.position >> self.geometry.cluster_bits();
        if run > 0 {
            self.packer.plain_run(first, window.slice(at..at + run), window.len(), out);
        }
        let len = run.max(self.cluster());
        self.position += len as u64;
        len
    }

    /// Takes `len` zero bytes of the disk, at the cost of at most two clusters.
    ///
    /// # Errors
    /// [`WriteError::Range`] past the disk's end; nothing was taken then.
    pub fn zeros(&mut self, mut len: u64, out: &mut Rope) -> Result<()> {
        self.advance(len)?;
        while len > 0 {
            let whole = if self.filled() == 0 { len - len % self.geometry.cluster() } else { 0 };
            if whole > 0 {
                self.position += whole;
                len -= whole;
                continue;
            }
            let room = self.cluster() - self.filled();
            let now = usize::try_from(len).unwrap_or(usize::MAX).min(room);
            if self.partial.is_empty() {
                self.zeros += now;
            } else {
                self.partial.resize(self.partial.len() + now, 0);
            }
            self.position += now as u64;
            len -= now as u64;
            self.close_if_full(out);
        }
        Ok(())
    }

    /// Ends the blob here: at any multiple of the cluster size (another blob may go on from there), or at the disk's end.
    ///
    /// # Errors
    /// [`WriteError::Range`] in the middle of a cluster.
    pub fn finish(mut self, out: &mut Rope) -> Result<BlobIndex> {
        if self.filled() > 0 {
            if self.position != self.geometry.size() {
                return Err(WriteError::Range(format!("a blob can't end at byte {}", self.position)));
            }
            if !self.partial.is_empty() {
                self.partial.resize(self.cluster(), 0);
                self.close_if_full(out);
            }
        }
        let bits = self.geometry.cluster_bits();
        let (first, end) = (self.start >> bits, self.position.div_ceil(self.geometry.cluster()));
        let (entries, len) = self.packer.finish(out);
        BlobIndex::new(bits, first..end, len, &entries)
    }

    const fn cluster(&self) -> usize {
        1 << self.geometry.cluster_bits()
    }

    const fn filled(&self) -> usize {
        self.zeros + self.partial.len()
    }

    fn advance(&self, len: u64) -> Result<()> {
        match self.position.checked_add(len) {
            Some(end) if end <= self.geometry.size() => Ok(()),
            _ => Err(WriteError::Range(format!(
                "{len} bytes at {} of a disk of {}",
                self.position,
                self.geometry.size()
            ))),
        }
    }

    /// Puts the open cluster's zeros where bytes can follow them.
    fn materialise(&mut self) {
        self.partial.resize(self.partial.len() + self.zeros, 0);
        self.zeros = 0;
    }

    fn close_if_full(&mut self, out: &mut Rope) {
        if self.filled() < self.cluster() {
            return;
        }
        if self.zeros == 0 {
            let mut cluster = std::mem::take(&mut self.partial);
            self.store(&cluster, out);
            cluster.clear();
            self.partial = cluster;
        }
        self.zeros = 0;
    }

    /// Stores the cluster that ends at the position.
    fn store(&mut self, cluster: &[u8], out: &mut Rope) {
        if is_zero(cluster) {
            return;
        }
        let number = (self.position - 1) >> self.geometry.cluster_bits();
        match self.encoder.encode(cluster) {
            Some(bytes) => self.packer.compressed(number, bytes, out),
            None => self.packer.plain(number, cluster, out),
        }
    }
}
