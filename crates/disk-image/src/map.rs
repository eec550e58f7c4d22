//! The range map: a layout's extents as a sidecar object, cut so that a worker loads only its part.
//!
//! Goal: an image's own tables are read once, by the planner. A worker reads the sidecar's index once, then one run of
//! segments for each stretch of the disk, whatever the image's size. Memory is bounded by those segments and an index of
//! at most 1 MiB.
//!
//! Bytes, integers little-endian:
//! ```text
//! segment*                       each describes SPAN bytes of the disk, in order; a segment of zeros has no bytes
//! index entry*, 16 bytes each    u64 offset of the segment, u32 its length, u32 its number of extents
//! trailer, 48 bytes              "IT-MAP-1", u64 virtual size, u64 source file's size, u64 SPAN, u64 offset of the index, u64 segments
//! ```
//! A segment is a run of extents, each a tag byte and LEB128 integers:
//! ```text
//! tag bits 0-2   0 zero, 1 raw, 2 deflate, 3 grain, 4 zstd
//! tag bit 3      the length is the previous extent's, and not written
//! tag bit 4      (compressed) skip is 0 and the unit is the length: neither is written
//! then           length unless bit 3; for all but zero: zigzag distance from the previous extent's end in the file;
//!                for compressed: length in the file, then skip and unit unless bit 4
//! ```
//! "Previous" begins as length 0 and file offset 0 in each segment, so each can be read alone.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    decode::MAX_UNIT,
    error::{Code, Error, Result},
    extent::{Extent, Stored},
    fields::{le32, le64},
    regions::Regions,
    varint,
};

const MAGIC: &[u8; 8] = b"IT-MAP-1";
const TRAILER: u64 = 48;
const ENTRY: u64 = 16;
/// Smallest span of a segment: a few kilobytes of extents for usual clusters.
const MIN_SPAN: u64 = 16 << 20;
/// Most segments: an index of 1 MiB.
const MAX_SEGMENTS: u64 = 1 << 16;

const SAME_LEN: u8 = 1 << 3;
const WHOLE_UNIT: u8 = 1 << 4;

/// Writes a range map while a layout is walked.
#[derive(Debug)]
pub struct MapWriter {
    map: ExtentMap,
    at: u64,
    ready: Vec<u8>,
    flushed: u64,
    index: Vec<u8>,
    segment: Segment,
}

/// The segment being written.
#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    count: u32,
    all_zero: bool,
    last_len: u64,
    last_end: u64,
}

/// Where things are in a range map: small enough for a plan, or read from the map's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentMap {
    /// Bytes of the virtual disk.
    pub virtual_size: u64,
    /// Bytes of the file that the extents point into.
    pub file_size: u64,
    span: u64,
    index_offset: u64,
    segments: u64,
}

impl MapWriter {
    /// For a disk and the file it is in.
    pub fn new(virtual_size: u64, file_size: u64) -> Self {
        let span = virtual_size.div_ceil(MAX_SEGMENTS).max(MIN_SPAN).next_power_of_two();
        let segments = virtual_size.div_ceil(span);
        Self {
            map: ExtentMap { virtual_size, file_size, span, index_offset: 0, segments },
            at: 0,
            ready: Vec::new(),
            flushed: 0,
            index: Vec::new(),
            segment: Segment { all_zero: true, ..Segment::default() },
        }
    }

    /// Adds the next extent of the walk.
    ///
    /// # Errors
    /// [`Code::BadMap`] where it doesn't follow the one before or leaves the disk.
    pub fn push(&mut self, extent: &Extent) -> Result<()> {
        if extent.start != self.at || extent.len == 0 || extent.end() > self.map.virtual_size {
            return Err(broken(format!("an extent of disk offset {} after {}", extent.start, self.at)));
        }
        while self.at < extent.end() {
            let border = (self.at / self.map.span + 1) * self.map.span;
            let Some(part) = extent.cut(self.at, border) else { break };
            self.segment.push(&part);
            self.at = part.end();
            if self.at == border {
                self.end_segment();
            }
        }
        Ok(())
    }

    fn end_segment(&mut self) {
        let segment = std::mem::replace(&mut self.segment, Segment { all_zero: true, ..Segment::default() });
        let bytes = if segment.all_zero { Vec::new() } else { segment.bytes };
        let offset = self.flushed + self.ready.len() as u64;
        self.index.extend(offset.to_le_bytes());
        // A segment's span bounds its extents; a length that doesn't fit shows when it is read.
        self.index.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.index.extend(segment.count.to_le_bytes());
        self.ready.extend(bytes);
    }

    /// Takes the bytes that are ready to be stored, in order.
    pub fn take(&mut self) -> Vec<u8> {
        self.flushed += self.ready.len() as u64;
        std::mem::take(&mut self.ready)
    }

    /// The last bytes to store and the map's own place.
    ///
    /// # Errors
    /// [`Code::BadMap`] where the extents did not reach the disk's end.
    pub fn finish(mut self) -> Result<(Vec<u8>, ExtentMap)> {
        if self.at != self.map.virtual_size {
            return Err(broken(format!("it ends at {} of {}", self.at, self.map.virtual_size)));
        }
        if !self.at.is_multiple_of(self.map.span) {
            self.end_segment();
        }
        self.map.index_offset = self.flushed + self.ready.len() as u64;
        self.ready.append(&mut self.index);
        self.ready.extend(MAGIC);
        let m = &self.map;
        for n in [m.virtual_size, m.file_size, m.span, m.index_offset, m.segments] {
            self.ready.extend(n.to_le_bytes());
        }
        Ok((self.ready, self.map))
    }
}

impl Segment {
    fn push(&mut self, extent: &Extent) {
        let (kind, unit) = match extent.stored {
            Stored::Zero => (0, None),
            Stored::Raw { .. } => (1, None),
            Stored::Deflate { skip, unit, .. } => (2, Some((skip, unit))),
            Stored::Grain { skip, unit, .. } => (3, Some((skip, unit))),
            Stored::Zstd { skip, unit, .. } => (4, Some((skip, unit))),
        };
        let same_len = extent.len == self.last_len;
        let whole = unit.is_some_and(|(skip, unit)| skip == 0 && u64::from(unit) == extent.len);
        let tag = kind | if same_len { SAME_LEN } else { 0 } | if whole { WHOLE_UNIT } else { 0 };
        self.bytes.push(tag);
        if !same_len {
            varint::put(&mut self.bytes, extent.len);
        }
        if let Some((offset, len)) = extent.source() {
            varint::put(&mut self.bytes, varint::zigzag(self.last_end, offset));
            if let Some((skip, unit)) = unit {
                varint::put(&mut self.bytes, len);
                if !whole {
                    varint::put(&mut self.bytes, skip.into());
                    varint::put(&mut self.bytes, unit.into());
                }
            }
            self.last_end = offset.saturating_add(len);
            self.all_zero = false;
        }
        self.last_len = extent.len;
        self.count = self.count.saturating_add(1);
    }
}

impl ExtentMap {
    /// Reads the trailer of a stored map.
    ///
    /// # Errors
    /// [`Error::Need`], or [`Code::BadMap`] where it is none.
    pub fn open(regions: &Regions) -> Result<Self> {
        let at = regions.size().checked_sub(TRAILER).ok_or_else(|| broken("it is too short".into()))?;
        let trailer = regions.read(at, 48)?;
        if !trailer.starts_with(MAGIC) {
            return Err(broken("it has no trailer".into()));
        }
        let map = Self {
            virtual_size: le64(trailer, 8)?,
            file_size: le64(trailer, 16)?,
            span: le64(trailer, 24)?,
            index_offset: le64(trailer, 32)?,
            segments: le64(trailer, 40)?,
        };
        let sound = map.span.is_power_of_two()
            && map.segments <= MAX_SEGMENTS
            && map.virtual_size.div_ceil(map.span) == map.segments
            && map.index_offset.checked_add(map.segments * ENTRY) == Some(at);
        if sound { Ok(map) } else { Err(broken("its trailer contradicts itself".into())) }
    }

    /// Asks for the whole index, at most 1 MiB. Who reads several ranges keeps it, and then needs only the segments.
    ///
    /// # Errors
    /// [`Error::Need`], or [`Code::BadMap`].
    pub fn need_index(&self, regions: &Regions) -> Result<()> {
        let len = self.segments.checked_mul(ENTRY).and_then(|len| usize::try_from(len).ok());
        let len = len.ok_or_else(|| broken("too many segments".into()))?;
        regions.read(self.index_offset, len).map(|_| ())
    }

    /// The extents of `range` of the disk, cut to it. Needs the index entries first, then the segments, each as one range.
    ///
    /// # Errors
    /// [`Error::Need`], or [`Code::BadMap`].
    pub fn extents(&self, regions: &Regions, range: Range<u64>) -> Result<Vec<Extent>> {
        let range = range.start..range.end.min(self.virtual_size);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let (first, last) = (range.start / self.span, (range.end - 1) / self.span);
        let count =
            usize::try_from((last - first + 1) * ENTRY).map_err(|_| broken("too many segments".into()))?;
        let index = regions.read(self.index_offset + first * ENTRY, count)?;
        let entries: Vec<_> = index
            .chunks_exact(16)
            .map(|e| Ok((le64(e, 0)?, le32(e, 8)?, le32(e, 12)?)))
            .collect::<Result<_>>()?;
        self.need(regions, &entries)?;
        let mut extents: Vec<Extent> = Vec::new();
        for (n, (offset, len, count)) in (first..).zip(entries) {
            let start = n * self.span;
            let end = (start + self.span).min(self.virtual_size);
            if len == 0 {
                let zero = Extent { start, len: end - start, stored: Stored::Zero };
                push_cut(&mut extents, &zero, &range);
                continue;
            }
            let bytes = regions.read(offset, len as usize)?;
            self.segment(bytes, count, start..end, |extent| push_cut(&mut extents, &extent, &range))?;
        }
        Ok(extents)
    }

    /// All segments at once: they follow each other.
    fn need(&self, regions: &Regions, entries: &[(u64, u32, u32)]) -> Result<()> {
        let mut stored = entries.iter().filter(|(_, len, _)| *len > 0);
        let Some(first) = stored.next() else { return Ok(()) };
        let (start, (from, len, _)) = (first.0, stored.next_back().unwrap_or(first));
        let end = from.checked_add(u64::from(*len)).filter(|end| *end > start && *end <= self.index_offset);
        let Some(end) = end else { return Err(broken("a segment lies outside".into())) };
        let len = usize::try_from(end - start).map_err(|_| broken("too many segments".into()))?;
        regions.read(start, len).map(|_| ())
    }

    fn segment(
        &self,
        mut bytes: &[u8],
        count: u32,
        on: Range<u64>,
        mut each: impl FnMut(Extent),
    ) -> Result<()> {
        let (mut at, mut last_len, mut last_end) = (on.start, 0, 0);
        for _ in 0..count {
            let extent = take(&mut bytes, at, &mut last_len, &mut last_end)
                .filter(|e| e.len > 0 && e.len <= on.end - at && last_end <= self.file_size)
                .ok_or_else(|| broken(format!("the extent of disk offset {at} is not sound")))?;
            at = extent.end();
            each(extent);
        }
        if at != on.end || !bytes.is_empty() {
            return Err(broken(format!("the segment of disk offset {} ends at {at}", on.start)));
        }
        Ok(())
    }
}

/// The next extent of a segment.
fn take(bytes: &mut &[u8], start: u64, last_len: &mut u64, last_end: &mut u64) -> Option<Extent> {
    let (&tag, rest) = bytes.split_first()?;
    *bytes = rest;
    let len = if tag & SAME_LEN != 0 { *last_len } else { varint::take(bytes)? };
    *last_len = len;
    let kind = tag & 7;
    if kind == 0 {
        return Some(Extent { start, len, stored: Stored::Zero });
    }
    let offset = varint::unzigzag(*last_end, varint::take(bytes)?)?;
    if kind == 1 {
        *last_end = offset.checked_add(len)?;
        return Some(Extent { start, len, stored: Stored::Raw { offset } });
    }
    let stored_len = u32::try_from(varint::take(bytes)?).ok()?;
    let (skip, unit) = if tag & WHOLE_UNIT != 0 {
        (0, u32::try_from(len).ok()?)
    } else {
        (u32::try_from(varint::take(bytes)?).ok()?, u32::try_from(varint::take(bytes)?).ok()?)
    };
    if unit > MAX_UNIT || u64::from(skip).checked_add(len)? > u64::from(unit) {
        return None;
    }
    *last_end = offset.checked_add(stored_len.into())?;
    let stored = match kind {
        2 => Stored::Deflate { offset, len: stored_len, skip, unit },
        3 => Stored::Grain { offset, len: stored_len, skip, unit },
        4 => Stored::Zstd { offset, len: stored_len, skip, unit },
        _ => return None,
    };
    Some(Extent { start, len, stored })
}

fn push_cut(extents: &mut Vec<Extent>, extent: &Extent, range: &Range<u64>) {
    if let Some(part) = extent.cut(range.start, range.end)
        && !extents.last_mut().is_some_and(|last| last.join(&part))
    {
        extents.push(part);
    }
}

fn broken(what: String) -> Error {
    Error::refused(Code::BadMap, format!("range map: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn extents() -> Vec<Extent> {
        let mut at = 0;
        let mut add = |len, stored| {
            at += len;
            Extent { start: at - len, len, stored }
        };
        vec![
            add(3 * MIB, Stored::Raw { offset: 70 * MIB }),
            add(40 * MIB, Stored::Zero),
            add(MIB, Stored::Deflate { offset: 7, len: 100, skip: 0, unit: 1 << 20 }),
            add(MIB, Stored::Zstd { offset: 107, len: 1, skip: 0, unit: 1 << 20 }),
            add(2 * MIB, Stored::Grain { offset: 9000, len: 5, skip: 0, unit: 2 << 20 }),
            add(512, Stored::Deflate { offset: 8, len: 100, skip: 1024, unit: 4096 }),
        ]
    }

    fn written(extents: &[Extent]) -> (Regions, ExtentMap) {
        let size = extents.last().map_or(0, Extent::end);
        let mut writer = MapWriter::new(size, 80 * MIB);
        let mut bytes = Vec::new();
        for extent in extents {
            writer.push(extent).unwrap();
            bytes.extend(writer.take());
        }
        let (rest, map) = writer.finish().unwrap();
        bytes.extend(rest);
        let mut regions = Regions::new(bytes.len() as u64);
        regions.insert(0, bytes);
        (regions, map)
    }

    #[test]
    fn any_range_comes_back_as_it_was_cut() {
        let extents = extents();
        let (regions, map) = written(&extents);
        assert_eq!(ExtentMap::open(&regions).unwrap(), map);
        assert_eq!(map.extents(&regions, 0..u64::MAX).unwrap(), extents);
        for start in (0..48 * MIB).step_by(700_001) {
            let end = start + 5 * MIB;
            let cut: Vec<_> = extents.iter().filter_map(|e| e.cut(start, end)).collect();
            assert_eq!(map.extents(&regions, start..end).unwrap(), cut, "{start}");
        }
    }

    #[test]
    fn a_worker_loads_only_its_slice() {
        let extents: Vec<_> = (0..32768u64)
            .map(|n| Extent {
                start: n << 16,
                len: 1 << 16,
                stored: Stored::Deflate { offset: n * 1000, len: 1536, skip: 0, unit: 1 << 16 },
            })
            .collect();
        let (all, map) = written(&extents);
        assert!(all.size() < 32768 * 7, "{} bytes for 32768 clusters", all.size());
        let mut regions = Regions::new(all.size());
        let (mut rounds, mut loaded) = (0, 0);
        let range = 640 * MIB..704 * MIB;
        let found = loop {
            match map.extents(&regions, range.clone()) {
                Err(Error::Need(needs)) => {
                    rounds += needs.len();
                    for need in needs {
                        let bytes = all.read(need.start, usize::try_from(need.len()).unwrap()).unwrap();
                        loaded += bytes.len();
                        regions.insert(need.start, bytes.to_vec());
                    }
                }
                found => break found.unwrap(),
            }
        };
        assert_eq!((found.len(), rounds), (1024, 2));
        assert!(loaded < 8 << 10, "{loaded}");
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let (regions, map) = written(&extents());
        let size = usize::try_from(regions.size()).unwrap();
        let bytes = regions.read(0, size).unwrap().to_vec();
        let mut refused = 0;
        for at in 0..size {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let mut regions = Regions::new(bytes.len() as u64);
                regions.insert(0, damaged);
                // What can't be told from another sound map still covers the disk and stays in the file.
                match ExtentMap::open(&regions).and_then(|map| map.extents(&regions, 0..u64::MAX)) {
                    Ok(found) => {
                        assert!(
                            found.iter().all(|e| e
                                .source()
                                .is_none_or(|(o, l)| o + l <= 80 * MIB || at >= size - 48))
                        );
                        assert_eq!(found.iter().map(|e| e.len).sum::<u64>(), map.virtual_size);
                    }
                    Err(Error::Refused(refusal)) => {
                        refused += 1;
                        assert!(matches!(refusal.code, Code::BadMap | Code::OutOfBounds));
                    }
                    Err(Error::Need(_)) => panic!("all bytes are there"),
                }
            }
        }
        assert!(refused > size * 4);
    }

    #[test]
    fn a_map_with_a_hole_is_not_written() {
        let mut writer = MapWriter::new(10, 10);
        assert!(writer.push(&Extent { start: 1, len: 1, stored: Stored::Zero }).is_err());
        writer.push(&Extent { start: 0, len: 9, stored: Stored::Zero }).unwrap();
        assert!(writer.push(&Extent { start: 9, len: 2, stored: Stored::Zero }).is_err());
        assert!(writer.finish().is_err());
    }
}
