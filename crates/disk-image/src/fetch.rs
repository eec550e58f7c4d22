//! From a window of the virtual disk to reads of the file and back to bytes.
//!
//! Goal: few requests, hardly a byte more than is needed, every compressed unit decoded once in a window.
//!
//! The extents of the window are sorted by their place in the file and joined into reads: across gaps of at most
//! [`MAX_GAP`] (a gap costs less than a request), up to [`MAX_SPAN`] (so a failed request repeats little, and memory has a bound).

use std::ops::Range;

use crate::{
    decode::{Decoder, MAX_UNIT},
    error::{Code, Error, Result},
    extent::{Extent, Stored},
    regions::ByteRange,
};

/// Bytes read in vain rather than making another request.
pub const MAX_GAP: u64 = 256 << 10;
/// Bytes of one read at most.
pub const MAX_SPAN: u64 = 8 << 20;

/// How to fill a window of the virtual disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    reads: Vec<Read>,
    zeros: Vec<Range<usize>>,
}

/// One read of the file and what it fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    range: ByteRange,
    pieces: Vec<Piece>,
}

/// An extent and where in the window it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    at: usize,
    extent: Extent,
}

impl Fetch {
    /// Plans the window of `len` bytes from `start` of the disk. `extents`, in virtual order, must cover it; what lies outside is ignored.
    ///
    /// # Errors
    /// [`Code::BadMap`] where they don't cover it, or one is not sound.
    pub fn plan(start: u64, len: usize, extents: impl IntoIterator<Item = Extent>) -> Result<Self> {
        let end = start.checked_add(len as u64).ok_or_else(|| uncovered(start))?;
        let mut window: Vec<Extent> = Vec::new();
        let mut at = start;
        for extent in extents {
            let Some(part) = extent.cut(start, end) else { continue };
            if part.start != at {
                return Err(uncovered(at));
            }
            at = part.end();
            // Pieces of one unit come together again, so that it is decoded once.
            if !window.last_mut().is_some_and(|last| last.join(&part)) {
                window.push(part);
            }
        }
        if at != end {
            return Err(uncovered(at));
        }
        let (mut pieces, mut zeros) = (Vec::new(), Vec::new());
        for extent in window {
            let at = usize::try_from(extent.start - start).map_err(|_| uncovered(start))?;
            let len = usize::try_from(extent.len).map_err(|_| uncovered(start))?;
            match extent.stored {
                Stored::Zero => zeros.push(at..at + len),
                Stored::Raw { .. } => pieces.push(Piece { at, extent }),
                Stored::Deflate { skip, unit, .. }
                | Stored::Grain { skip, unit, .. }
                | Stored::Zstd { skip, unit, .. } => {
                    let stored = extent.source().map_or(0, |(_, len)| len);
                    let fits = u64::from(skip) + extent.len <= u64::from(unit) && stored <= MAX_SPAN;
                    if unit > MAX_UNIT || !fits {
                        return Err(Error::refused(
                            Code::BadMap,
                            format!(
                                "a compressed unit of {unit} bytes, {stored} stored, at disk offset {}",
                                extent.start
                            ),
                        ));
                    }
                    pieces.push(Piece { at, extent });
                }
            }
        }
        pieces.sort_by_key(|p| p.extent.source());
        Ok(Self { reads: join(pieces)?, zeros })
    }

    /// The reads, in the order of the file. Each may be done and decoded on its own, in any order.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// The parts of the window that are zeros by the tables, in order. No read touches them: a window that is not fresh must be cleared there.
    pub fn zeros(&self) -> &[Range<usize>] {
        &self.zeros
    }

    /// Whether nothing is stored in the whole window.
    pub fn is_zero(&self) -> bool {
        self.reads.is_empty()
    }

    /// Bytes that the reads fetch together.
    pub fn fetched(&self) -> u64 {
        self.reads.iter().map(|r| r.range.len()).sum()
    }
}

impl Read {
    /// What to fetch.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// Where nothing is to be decoded: which bytes of the file belong where in the window, in the order of the file. They can be put
    /// there as they arrive, without a buffer between; what lies between them is not needed.
    pub fn verbatim(&self) -> Option<impl Iterator<Item = (ByteRange, Range<usize>)> + '_> {
        let raw = |piece: &Piece| match piece.extent.stored {
            Stored::Raw { offset } => ByteRange::at(offset, piece.extent.len)
                .zip(usize::try_from(piece.extent.len).ok())
                .map(|(range, len)| (range, piece.at..piece.at + len)),
            _ => None,
        };
        let all = self.pieces.iter().all(|piece| raw(piece).is_some());
        all.then(|| self.pieces.iter().filter_map(raw))
    }

    /// Puts the fetched bytes of [`range`](Self::range) where they belong in the window.
    ///
    /// # Errors
    /// [`Code::Truncated`] where `bytes` are not as many as asked for, [`Code::BadData`] where they can't be decoded.
    pub fn decode(&self, bytes: &[u8], window: &mut [u8], decoder: &mut Decoder) -> Result<()> {
        if bytes.len() as u64 != self.range.len() {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "{} bytes at offset {} were asked for, {} came",
                    self.range.len(),
                    self.range.start,
                    bytes.len()
                ),
            ));
        }
        for Piece { at, extent } in &self.pieces {
            let source = extent.source().and_then(|(offset, len)| {
                let from = usize::try_from(offset.checked_sub(self.range.start)?).ok()?;
                bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
            });
            let target =
                usize::try_from(extent.len).ok().and_then(|len| window.get_mut(*at..at.checked_add(len)?));
            let Some((source, target)) = source.zip(target) else {
                return Err(uncovered(extent.start));
            };
            decoder.decode(extent, source, target)?;
        }
        Ok(())
    }
}

impl Piece {
    /// Its first `len` bytes and the rest, where it is raw and longer; a compressed unit stays whole.
    fn split(self, len: u64) -> Result<(Self, Option<Self>)> {
        let extent = self.extent;
        if !matches!(extent.stored, Stored::Raw { .. }) || extent.len <= len {
            return Ok((self, None));
        }
        let mid = extent.start + len;
        let parts = extent.cut(extent.start, mid).zip(extent.cut(mid, extent.end()));
        let ((head, rest), len) = parts.zip(usize::try_from(len).ok()).ok_or_else(|| uncovered(mid))?;
        Ok((Self { at: self.at, extent: head }, Some(Self { at: self.at + len, extent: rest })))
    }
}

/// Pieces sorted by their place in the file, as reads. Raw bytes are cut where a read is full, so that the reads of a dense file
/// all have the full span.
fn join(pieces: Vec<Piece>) -> Result<Vec<Read>> {
    let mut reads: Vec<Read> = Vec::new();
    for piece in pieces {
        let mut rest = Some(piece);
        while let Some(piece) = rest.take() {
            let (offset, _) = piece.extent.source().unwrap_or_default();
            let near = reads.last_mut().filter(|read| {
                offset <= read.range.end.saturating_add(MAX_GAP)
                    && offset < read.range.start.saturating_add(MAX_SPAN)
            });
            let limit = near.as_ref().map_or(offset, |read| read.range.start).saturating_add(MAX_SPAN);
            let (head, tail) = piece.split(limit - offset)?;
            rest = tail;
            let len = head.extent.source().map_or(0, |(_, len)| len);
            let range = ByteRange::at(offset, len).ok_or_else(|| uncovered(head.extent.start))?;
            match near.filter(|_| range.end <= limit) {
                Some(read) => {
                    read.range.end = read.range.end.max(range.end);
                    read.pieces.push(head);
                }
                None => reads.push(Read { range, pieces: vec![head] }),
            }
        }
    }
    Ok(reads)
}

fn uncovered(at: u64) -> Error {
    Error::refused(Code::BadMap, format!("the extents don't say what is at disk offset {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn raw(start: u64, len: u64, offset: u64) -> Extent {
        Extent { start, len, stored: Stored::Raw { offset } }
    }

    fn unit(start: u64, len: u64, skip: u32) -> Extent {
        Extent { start, len, stored: Stored::Deflate { offset: 9, len: 100, skip, unit: 65536 } }
    }

    fn ranges(fetch: &Fetch) -> Vec<(u64, u64)> {
        fetch.reads().iter().map(|r| (r.range().start, r.range().end)).collect()
    }

    #[test]
    fn reads_join_over_small_gaps_whatever_the_order_on_the_disk() {
        let extents = [
            raw(0, 64 * KIB, 10 * MIB + 320 * KIB),
            Extent { start: 64 * KIB, len: 64 * KIB, stored: Stored::Zero },
            raw(128 * KIB, 64 * KIB, 10 * MIB),
            raw(192 * KIB, 64 * KIB, 11 * MIB),
        ];
        let fetch = Fetch::plan(0, 256 << 10, extents).unwrap();
        // MAX_GAP between the first two, more before the third.
        assert_eq!(ranges(&fetch), [(10 * MIB, 10 * MIB + 384 * KIB), (11 * MIB, 11 * MIB + 64 * KIB)]);
        assert_eq!(fetch.zeros(), std::slice::from_ref(&(65536..131_072)));
        let parts: Vec<_> = fetch.reads()[0].verbatim().unwrap().map(|(from, to)| (from.start, to)).collect();
        assert_eq!(parts, [(10 * MIB, 131_072..196_608), (10 * MIB + 320 * KIB, 0..65536)]);
        assert_eq!(fetch.fetched(), 448 * KIB);
    }

    #[test]
    fn raw_bytes_are_cut_at_the_span_and_every_byte_is_read_once() {
        let fetch = Fetch::plan(5, 64 << 20, [raw(0, 100 * MIB, 7)]).unwrap();
        let reads = ranges(&fetch);
        assert_eq!(reads.len(), 8);
        assert_eq!((reads[0], reads[7]), ((12, 12 + 8 * MIB), (12 + 56 * MIB, 12 + 64 * MIB)));
        assert!(reads.iter().all(|(start, end)| end - start == MAX_SPAN));
    }

    #[test]
    fn a_unit_in_pieces_is_one_piece_again() {
        let fetch = Fetch::plan(100, 60_000, [unit(0, 30_000, 0), unit(30_000, 35_536, 30_000)]).unwrap();
        assert_eq!(fetch.reads().len(), 1);
        assert_eq!(fetch.reads()[0].pieces.len(), 1);
        assert!(fetch.reads()[0].verbatim().is_none());
    }

    #[test]
    fn holes_and_impossible_units_are_refused() {
        let plan =
            |extents: &[Extent]| Fetch::plan(0, 65536, extents.iter().copied()).map_err(|e| e.to_string());
        assert!(plan(&[raw(0, 65535, 0)]).unwrap_err().contains("65535"));
        assert!(plan(&[raw(1, 65536, 0)]).is_err());
        assert!(plan(&[raw(0, 10, 0), raw(20, 70_000, 0)]).is_err());
        assert!(plan(&[raw(0, 65536, u64::MAX - 3)]).is_err());
        assert!(plan(&[unit(0, 65536, 1)]).is_err());
        assert!(plan(&[unit(0, 65536, 0)]).is_ok());
        let large = Stored::Deflate { offset: 0, len: u32::MAX, skip: 0, unit: 65536 };
        assert!(plan(&[Extent { start: 0, len: 65536, stored: large }]).is_err());
    }

    #[test]
    fn a_short_read_is_an_error() {
        let fetch = Fetch::plan(0, 10, [raw(0, 10, 0)]).unwrap();
        let mut window = [0; 10];
        let error = fetch.reads()[0].decode(&[1; 9], &mut window, &mut Decoder::new());
        assert!(matches!(error, Err(Error::Refused(r)) if r.code == Code::Truncated));
        fetch.reads()[0].decode(&[1; 10], &mut window, &mut Decoder::new()).unwrap();
        assert_eq!(window, [1; 10]);
    }
}
