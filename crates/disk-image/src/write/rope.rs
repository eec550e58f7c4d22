//! A rope: bytes on their way into a part, in pieces of the buffers that they are in.
//!
//! Goal: what is stored as it is goes out as a slice of the buffer it came in, not as a copy; what is made here is gathered in blocks,
//! so that nothing grows by being moved.
//!
//! A slice holds its whole buffer in memory. Who shares one must use a good part of it, see [`share`](Rope::share).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes of a block.
const BLOCK: usize = 256 << 10;

/// A stream's bytes, or some of them, in order.
#[derive(Debug, Clone, Default)]
pub struct Rope {
    done: VecDeque<Bytes>,
    block: BytesMut,
    len: usize,
}

impl Rope {
    /// Bytes in all.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy.
    pub fn copy(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.block.capacity() == self.block.len() {
                self.seal();
                self.block = BytesMut::with_capacity(BLOCK);
            }
            let room = self.block.capacity() - self.block.len();
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.block.extend_from_slice(now);
            bytes = rest;
        }
    }

    /// Appends zeros.
    pub fn zeros(&mut self, mut len: usize) {
        const ZEROS: [u8; 4096] = [0; 4096];
        while len > 0 {
            let now = len.min(ZEROS.len());
            self.copy(ZEROS.get(..now).unwrap_or_default());
            len -= now;
        }
    }

    /// Appends bytes of a buffer of `of` bytes: as a slice if that is at least half of the buffer, so that no more than twice the bytes
    /// in here are held for them; else as a copy.
    pub fn share(&mut self, bytes: Bytes, of: usize) {
        if bytes.len() < of.div_ceil(2) {
            self.copy(&bytes);
        } else if !bytes.is_empty() {
            self.seal();
            self.len += bytes.len();
            self.done.push_back(bytes);
        }
    }

    /// Moves all of another's to the end of this one.
    pub fn append(&mut self, other: &mut Self) {
        self.seal();
        other.seal();
        self.len += std::mem::take(&mut other.len);
        self.done.append(&mut other.done);
    }

    /// Takes the first `at` bytes out, or all if there are fewer.
    pub fn split_to(&mut self, at: usize) -> Self {
        self.seal();
        let mut head = Self::default();
        while let Some(mut piece) = self.done.pop_front() {
            let room = at - head.len;
            if piece.len() > room {
                head.done.push_back(piece.split_to(room));
                head.len += room;
                self.done.push_front(piece);
                break;
            }
            head.len += piece.len();
            head.done.push_back(piece);
        }
        head.done.retain(|piece| !piece.is_empty());
        self.len -= head.len;
        head
    }

    fn seal(&mut self) {
        if !self.block.is_empty() {
            self.done.push_back(self.block.split().freeze());
        }
    }
}

/// As it is: a buffer of its own.
impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        let mut rope = Self::default();
        let of = bytes.len();
        rope.share(bytes, of);
        rope
    }
}

impl IntoIterator for Rope {
    type Item = Bytes;
    type IntoIter = std::collections::vec_deque::IntoIter<Bytes>;

    fn into_iter(mut self) -> Self::IntoIter {
        self.seal();
        self.done.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(rope: &Rope) -> Vec<u8> {
        rope.clone().into_iter().flatten().collect()
    }

    #[test]
    fn bytes_keep_their_order_however_they_come_and_are_cut() {
        let buffer = Bytes::from((0..100_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
        let (mut rope, mut expected) = (Rope::default(), Vec::new());
        for n in 0..20 {
            rope.copy(&buffer[n..n * 5000]);
            rope.share(buffer.slice(n..60_000), buffer.len());
            rope.share(buffer.slice(n..n + 9), buffer.len());
            rope.zeros(n * 1000);
            expected.extend_from_slice(&buffer[n..n * 5000]);
            expected.extend_from_slice(&buffer[n..60_000]);
            expected.extend_from_slice(&buffer[n..n + 9]);
            expected.extend(vec![0; n * 1000]);
        }
        let mut other = rope.clone();
        rope.append(&mut other);
        expected.extend_from_within(..);
        assert!(other.is_empty() && flat(&other).is_empty());
        assert_eq!((rope.len(), &flat(&rope)), (expected.len(), &expected));
        let mut taken = Vec::new();
        for at in [0, 1, 59_999, 300_000, usize::MAX] {
            let head = rope.split_to(at);
            assert_eq!(head.len(), flat(&head).len());
            taken.extend(flat(&head));
            assert_eq!(rope.len(), expected.len() - taken.len());
            rope.copy(&[]);
        }
        assert!(taken == expected && rope.is_empty());
    }

    #[test]
    fn a_slice_is_no_copy_and_a_small_one_does_not_hold_its_buffer() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let mut rope = Rope::default();
        rope.share(buffer.slice(..1 << 19), buffer.len());
        rope.share(buffer.slice(..1 << 10), buffer.len());
        let found: Vec<Bytes> = rope.into_iter().collect();
        assert_eq!(found[0].as_ptr(), buffer.as_ptr());
        assert_ne!(found[1].as_ptr(), buffer.as_ptr());
    }
}
