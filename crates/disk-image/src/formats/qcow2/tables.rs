//! The qcow2 map: L1, L2, and the refcount table's own place.
//!
//! In memory at a time: 1 MiB of the L1 or refcount table, the L2 tables that were asked for at once, and the claims.

use super::Qcow2Layout;
use crate::{
    claims::Claims,
    error::{Code, Error, Result},
    extent::Stored,
    fields::be64,
    regions::{ByteRange, Regions},
    walk::{MAX_NEEDS, READ_AHEAD, Stretch, Tables, joined},
};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
const SUBCLUSTERS: u32 = 32;
/// Bytes of the L1 or refcount table read at once.
const PIECE: u64 = 1 << 20;
/// Bytes of an L2 table turned into extents in one step.
const L2_PIECE: u64 = 64 << 10;

/// Reads the map of a [`Qcow2Layout`].
#[derive(Debug)]
pub(crate) struct Qcow2Tables {
    layout: Qcow2Layout,
    file_size: u64,
    claims: Claims,
    /// Next byte of the refcount table.
    refcount_at: u64,
    /// Next L1 entry, and where in its L2 table (bytes).
    l1_at: u64,
    l2_at: u64,
    /// Entries of the L1 table from `l1_from`.
    l1: Vec<u64>,
    l1_from: u64,
    claimed_header: bool,
}

impl Qcow2Tables {
    pub(super) fn new(layout: Qcow2Layout, file_size: u64) -> Self {
        let claims = Claims::new(file_size);
        Self {
            layout,
            file_size,
            claims,
            refcount_at: 0,
            l1_at: 0,
            l2_at: 0,
            l1: Vec::new(),
            l1_from: 0,
            claimed_header: false,
        }
    }

    fn claim_header(&mut self) -> Result<()> {
        let l = &self.layout;
        self.claims.claim(0, l.cluster(), "qcow2 header")?;
        // Whole clusters, as they are allocated; also what the disk needs only once somebody grows it.
        let l1_bytes = (u64::from(l.l1_size) * 8).next_multiple_of(l.cluster());
        self.claims.claim(l.l1_offset, l1_bytes, "qcow2 L1 table")?;
        self.claims.claim(l.refcount_table_offset, self.refcount_bytes(), "qcow2 refcount table")?;
        self.claimed_header = true;
        Ok(())
    }

    fn refcount_bytes(&self) -> u64 {
        u64::from(self.layout.refcount_table_clusters) << self.layout.cluster_bits
    }

    /// Claims the refcount blocks that the next piece of the refcount table names. Their contents don't
    /// matter to a reader; that they aren't the disk's data does.
    fn refcount_step(&mut self, regions: &Regions) -> Result<()> {
        let len = PIECE.min(self.refcount_bytes() - self.refcount_at);
        let table = regions.read(self.layout.refcount_table_offset + self.refcount_at, to_usize(len))?;
        for at in (0..table.len()).step_by(8) {
            let block = be64(table, at)?;
            if block != 0 {
                self.check_table("refcount block", block)?;
                self.claims.claim(block, self.layout.cluster(), "qcow2 refcount block")?;
            }
        }
        self.refcount_at += len;
        Ok(())
    }

    /// A cluster that holds metadata: aligned, wholly inside the file.
    fn check_table(&self, what: &str, offset: u64) -> Result<()> {
        let cluster = self.layout.cluster();
        if !offset.is_multiple_of(cluster) {
            return Err(bad(format!("{what} at offset {offset}, not at a cluster's start")));
        }
        if offset.checked_add(cluster).is_none_or(|end| end > self.file_size) {
            return Err(Error::refused(
                Code::OutOfBounds,
                format!("qcow2: {what} at offset {offset}, but the file has {} bytes", self.file_size),
            ));
        }
        Ok(())
    }

    /// Entry `l1_at`, reading the next piece of the table where needed.
    fn l1_entry(&mut self, regions: &Regions) -> Result<u64> {
        let index = self.l1_at - self.l1_from;
        if let Some(entry) = self.l1.get(to_usize(index)) {
            return Ok(*entry);
        }
        let count = (PIECE / 8).min(self.layout.l1_entries - self.l1_at);
        let table = regions.read(self.layout.l1_offset + self.l1_at * 8, to_usize(count * 8))?;
        self.l1 = (0..table.len()).step_by(8).map(|at| be64(table, at)).collect::<Result<_>>()?;
        self.l1_from = self.l1_at;
        self.l1.first().copied().ok_or_else(|| bad("the L1 table is empty".into()))
    }

    /// The pieces from the current one on, in virtual order, as many as are held at once; those near each other as one
    /// range. What lies outside of the file is left to the check that refuses it.
    fn pieces_ahead(&self, table: u64, len: u64) -> Vec<ByteRange> {
        let cluster = self.layout.cluster();
        let pieces =
            |table: u64, from: u64| (from..cluster).step_by(to_usize(len)).map(move |at| (table, at));
        let after = self.l1.iter().skip(to_usize(self.l1_at - self.l1_from) + 1);
        let tables = after.map(|entry| entry & OFFSET).filter(|table| *table != 0);
        let all = pieces(table, self.l2_at).chain(tables.flat_map(|table| pieces(table, 0)));
        let inside = all
            .filter_map(|(table, at)| ByteRange::at(table.checked_add(at)?, len))
            .filter(|range| range.end <= self.file_size);
        joined(inside.take(MAX_NEEDS.min(to_usize(READ_AHEAD / len))).collect())
    }

    fn l2_step(&mut self, regions: &Regions, table: u64, out: &mut Stretch) -> Result<()> {
        let len = L2_PIECE.min(self.layout.cluster());
        let piece = match regions.read(table + self.l2_at, to_usize(len)) {
            Err(Error::Need(_)) => return Err(Error::Need(self.pieces_ahead(table, len))),
            read => read?,
        };
        if self.l2_at == 0 {
            self.claims.claim(table, self.layout.cluster(), "qcow2 L2 table")?;
        }
        let step = to_usize(self.layout.entry_bytes());
        let table_span = self.layout.l2_span();
        let first = self.l1_at * table_span + self.l2_at / self.layout.entry_bytes() * self.layout.cluster();
        let mut behind = Stretch::default();
        for (n, at) in (0..piece.len()).step_by(step).enumerate() {
            let virtual_at = first + ((n as u64) << self.layout.cluster_bits);
            let entry = be64(piece, at)?;
            let bitmap = if self.layout.extended_l2 { Some(be64(piece, at + 8)?) } else { None };
            // Behind the disk's end nothing is read until somebody grows the disk; it must be sound all the same.
            let out = if virtual_at < self.layout.virtual_size { &mut *out } else { &mut behind };
            self.cluster(virtual_at, entry, bitmap, out)?;
        }
        self.l2_at += len;
        if self.l2_at == self.layout.cluster() {
            self.l2_at = 0;
            self.l1_at += 1;
        }
        Ok(())
    }

    fn cluster(&mut self, virtual_at: u64, entry: u64, bitmap: Option<u64>, out: &mut Stretch) -> Result<()> {
        let cluster = self.layout.cluster();
        if entry & COMPRESSED != 0 {
            if bitmap.is_some_and(|bitmap| bitmap != 0) {
                return Err(bad(format!(
                    "the compressed cluster of disk offset {virtual_at} has subclusters"
                )));
            }
            let stored = self.compressed(virtual_at, entry)?;
            out.push(cluster, stored);
            return Ok(());
        }
        let offset = entry & OFFSET;
        if entry & !(OFFSET | COPIED | ZERO) != 0 {
            return Err(bad(format!("reserved bits set in the L2 entry of disk offset {virtual_at}")));
        }
        let zero = entry & ZERO != 0;
        if zero && (self.layout.version == 2 || bitmap.is_some()) {
            return Err(bad(format!(
                "zero flag in the L2 entry of disk offset {virtual_at}, where it isn't defined"
            )));
        }
        if !offset.is_multiple_of(cluster) {
            return Err(bad(format!(
                "the cluster of disk offset {virtual_at} is at {offset}, not at a cluster's start"
            )));
        }
        if offset != 0 {
            self.claims.claim(offset, cluster, "qcow2 data cluster")?;
        } else if entry & COPIED != 0 {
            // Offset 0 is a place in an external data file only.
            return Err(bad(format!("the L2 entry of disk offset {virtual_at} has flags but no cluster")));
        }
        match bitmap {
            Some(bitmap) => self.subclusters(virtual_at, offset, bitmap, out)?,
            None if zero || offset == 0 => out.push(cluster, Stored::Zero),
            None => out.push(cluster, Stored::Raw { offset }),
        }
        Ok(())
    }

    fn subclusters(&self, virtual_at: u64, offset: u64, bitmap: u64, out: &mut Stretch) -> Result<()> {
        let allocated = bitmap & 0xffff_ffff;
        if allocated & (bitmap >> 32) != 0 {
            return Err(bad(format!("a subcluster of disk offset {virtual_at} is both allocated and zero")));
        }
        if allocated != 0 && offset == 0 {
            return Err(bad(format!("disk offset {virtual_at} has subclusters but no cluster")));
        }
        let size = self.layout.cluster() / u64::from(SUBCLUSTERS);
        for n in 0..SUBCLUSTERS {
            let stored = if allocated >> n & 1 == 1 {
                Stored::Raw { offset: offset + u64::from(n) * size }
            } else {
                Stored::Zero
            };
            out.push(size, stored);
        }
        Ok(())
    }

    /// Offset and sector count share 62 bits; the count is of sectors beyond the first.
    fn compressed(&mut self, virtual_at: u64, entry: u64) -> Result<Stored> {
        let offset_bits = 62 - (self.layout.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & !(COMPRESSED | COPIED)) >> offset_bits;
        if entry & COPIED != 0 || offset >> 56 != 0 {
            return Err(bad(format!("reserved bits set in the L2 entry of disk offset {virtual_at}")));
        }
        let end = (offset / 512 + 1 + sectors) * 512;
        // A file may end within the last sector, whose rest isn't used.
        let end = if end > self.file_size && end - self.file_size < 512 { self.file_size } else { end };
        let len = end.checked_sub(offset).and_then(|len| u32::try_from(len).ok()).filter(|len| *len > 0);
        let Some(len) = len.filter(|_| end <= self.file_size) else {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "qcow2: the compressed cluster of disk offset {virtual_at} is at {offset} to {end}, but the file has {} bytes",
                    self.file_size
                ),
            ));
        };
        self.claims.claim_packed(offset, u64::from(len), "qcow2 compressed cluster")?;
        let unit = 1u32 << self.layout.cluster_bits;
        Ok(match self.layout.zstd {
            true => Stored::Zstd { offset, len, skip: 0, unit },
            false => Stored::Deflate { offset, len, skip: 0, unit },
        })
    }
}

impl Tables for Qcow2Tables {
    fn step(&mut self, regions: &Regions, out: &mut Stretch) -> Result<()> {
        if !self.claimed_header {
            self.claim_header()?;
        }
        while self.refcount_at < self.refcount_bytes() {
            self.refcount_step(regions)?;
        }
        if self.l1_at >= self.layout.l1_entries {
            return Ok(());
        }
        let entry = self.l1_entry(regions)?;
        if entry & !(OFFSET | COPIED) != 0 {
            return Err(bad(format!("reserved bits set in L1 entry {}", self.l1_at)));
        }
        let table = entry & OFFSET;
        if table == 0 && entry != 0 {
            // To a reader there is no table; a writer takes the image's header for one.
            return Err(bad(format!("L1 entry {} has flags but no table", self.l1_at)));
        }
        if table == 0 {
            out.push(self.layout.l2_span(), Stored::Zero);
            self.l1_at += 1;
            return Ok(());
        }
        self.check_table(&format!("the L2 table of L1 entry {}", self.l1_at), table)?;
        self.l2_step(regions, table, out)
    }
}

fn to_usize(n: u64) -> usize {
    // Lengths of pieces, at most 1 MiB, and entries in one.
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn bad(message: String) -> Error {
    Error::refused(Code::BadTable, format!("qcow2: {message}"))
}
