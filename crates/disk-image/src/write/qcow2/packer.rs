//! Where clusters go in a blob.
//!
//! Compressed clusters follow one another to the byte; a plain one must begin at a multiple of the cluster size. A plain cluster
//! that comes while a host cluster is half full of compressed ones therefore waits, until they happen to end near a boundary, or
//! too many wait. So memory is bounded (2 MiB with clusters of 64 KiB), the compressed bytes go out at once, and what is lost to
//! alignment is at most 1/32 of the plain clusters and the blob's last cluster.

use bytes::Bytes;

use super::index::Entry;
use crate::write::rope::Rope;

/// Plain clusters that may wait.
const MAX_WAITING: usize = 32;
/// Refcounts have 16 bits.
const MAX_REFCOUNT: u32 = 65_535;

/// Lays out one blob.
pub(super) struct Packer {
    cluster: usize,
    /// Bytes yielded so far.
    len: u64,
    /// Compressed clusters that touch the open host cluster.
    sharing: u32,
    /// Plain clusters that wait, one after the other, and their entries' places in `entries`.
    waiting: Rope,
    waiting_entries: Vec<usize>,
    entries: Vec<Entry>,
}

impl Packer {
    pub(super) fn new(cluster: usize) -> Self {
        Self {
            cluster,
            len: 0,
            sharing: 0,
            waiting: Rope::default(),
            waiting_entries: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Clusters of the disk that it holds.
    pub(super) const fn clusters(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Bytes of the blob, if it ended here.
    pub(super) fn longest(&self) -> u64 {
        self.len + (self.gap() + self.waiting.len()) as u64
    }

    /// Takes a compressed cluster.
    pub(super) fn compressed(&mut self, cluster: u64, bytes: &[u8], out: &mut Rope) {
        if self.sharing == MAX_REFCOUNT {
            self.align(out);
        }
        let room = self.room();
        self.sharing = if bytes.len() > room || room == self.cluster { 1 } else { self.sharing + 1 };
        self.entries.push(Entry::compressed(cluster, self.len, bytes.len()));
        self.append(bytes, out);
        if !self.waiting.is_empty() && self.gap() <= self.cluster / MAX_WAITING {
            self.align(out);
        }
    }

    /// Takes a cluster stored as it is.
    pub(super) fn plain(&mut self, cluster: u64, bytes: &[u8], out: &mut Rope) {
        self.entries.push(Entry::plain(cluster, self.len));
        if self.gap() == 0 {
            self.append(bytes, out);
            return;
        }
        self.waiting_entries.push(self.entries.len() - 1);
        self.waiting.copy(bytes);
        if self.waiting_entries.len() >= MAX_WAITING {
            self.align(out);
        }
    }

    /// Takes clusters, from `first` on, that are a slice of a buffer of `of` bytes, in a blob that has only such.
    pub(super) fn plain_run(&mut self, first: u64, clusters: Bytes, of: usize, out: &mut Rope) {
        let run = (clusters.len() / self.cluster) as u64;
        let (from, cluster) = (self.len, self.cluster as u64);
        self.entries.extend((0..run).map(|n| Entry::plain(first + n, from + n * cluster)));
        self.len += clusters.len() as u64;
        out.share(clusters, of);
    }

    /// Ends the blob: its entries in the disk's order, and its length, whole clusters.
    pub(super) fn finish(mut self, out: &mut Rope) -> (Vec<Entry>, u64) {
        self.align(out);
        (self.entries, self.len)
    }

    /// Fills up the open host cluster and lets what waits go after it.
    fn align(&mut self, out: &mut Rope) {
        let gap = self.gap();
        out.zeros(gap);
        self.len += gap as u64;
        self.sharing = 0;
        let mut at = self.len;
        for i in self.waiting_entries.drain(..) {
            if let Some(entry) = self.entries.get_mut(i) {
                entry.offset = at;
            }
            at += self.cluster as u64;
        }
        out.append(&mut self.waiting);
        self.len = at;
    }

    fn append(&mut self, bytes: &[u8], out: &mut Rope) {
        out.copy(bytes);
        self.len += bytes.len() as u64;
    }

    /// Bytes free in the open host cluster; a whole cluster where none is open.
    fn room(&self) -> usize {
        match self.gap() {
            0 => self.cluster,
            gap => gap,
        }
    }

    /// Bytes up to the next multiple of the cluster size.
    fn gap(&self) -> usize {
        // Fits: a remainder of a division by a usize.
        #[expect(clippy::cast_possible_truncation, reason = "below the cluster size")]
        let used = (self.len % self.cluster as u64) as usize;
        if used == 0 { 0 } else { self.cluster - used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::qcow2::BlobIndex;

    /// In clusters of 2 MiB, more compressed ones could share a cluster than a refcount holds.
    #[test]
    fn refcounts_do_not_overflow() {
        let clusters = 2 * u64::from(MAX_REFCOUNT) + 10;
        let mut packer = Packer::new(1 << 21);
        let mut out = Rope::default();
        for cluster in 0..clusters {
            packer.compressed(cluster, &[1; 17], &mut out);
        }
        let (entries, len) = packer.finish(&mut out);
        assert_eq!(out.len() as u64, len);
        let index = BlobIndex::new(21, 0..clusters, len, &entries).unwrap();
        assert_eq!(index.refcounts().unwrap(), [65_535, 65_535, 10]);
        let crowded = Entry::compressed(clusters, 5, 17);
        let entries = [entries, vec![crowded]].concat();
        let index = BlobIndex::new(21, 0..clusters + 1, len, &entries).unwrap();
        assert!(index.refcounts().is_err());
    }

    #[test]
    fn compressed_clusters_go_out_at_once_and_few_plain_ones_wait() {
        let mut packer = Packer::new(512);
        let mut out = Rope::default();
        packer.plain(0, &[1; 512], &mut out);
        assert_eq!(out.len(), 512);
        packer.compressed(1, &[2; 300], &mut out);
        for cluster in 2..1 + MAX_WAITING as u64 {
            packer.plain(cluster, &[3; 512], &mut out);
        }
        assert_eq!(out.len(), 812);
        packer.plain(40, &[3; 512], &mut out);
        assert_eq!(out.len(), 1024 + 32 * 512);
        // Ends 6 bytes before a boundary: near enough for one that waits.
        packer.compressed(41, &[4; 100], &mut out);
        packer.plain(42, &[5; 512], &mut out);
        packer.compressed(43, &[6; 406], &mut out);
        assert_eq!(out.len(), 1024 + 34 * 512);
        let (entries, len) = packer.finish(&mut out);
        assert_eq!(len, out.len() as u64);
        let out: Vec<u8> = out.into_iter().flatten().collect();
        for entry in entries {
            let stored = &out[usize::try_from(entry.offset).unwrap()..];
            let (byte, n) = match (entry.cluster, entry.len) {
                (0, 0) => (1, 512),
                (1, 300) => (2, 300),
                (41, 100) => (4, 100),
                (42, 0) => (5, 512),
                (43, 406) => (6, 406),
                (_, 0) => (3, 512),
                other => panic!("{other:?}"),
            };
            assert!(stored[..n].iter().all(|b| *b == byte), "{entry:?}");
        }
    }
}
