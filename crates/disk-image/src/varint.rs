//! Integers of 7 bits a byte, least significant first (LEB128), for the sidecar formats.

pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    loop {
        let [low, ..] = n.to_le_bytes();
        n >>= 7;
        if n == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// The integer in front of `bytes`, which then begins behind it; `None` where it is cut off or has more than 64 bits.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        n |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// Small distances either way as small integers.
pub(crate) const fn zigzag(from: u64, to: u64) -> u64 {
    if to >= from { (to - from) << 1 } else { (from - to) << 1 | 1 }
}

/// Undoes [`zigzag`].
pub(crate) const fn unzigzag(from: u64, n: u64) -> Option<u64> {
    if n & 1 == 0 { from.checked_add(n >> 1) } else { from.checked_sub(n >> 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_and_broken_ones_do_not() {
        for n in [0, 1, 127, 128, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, n);
            assert_eq!(take(&mut &bytes[..]), Some(n));
            assert_eq!(take(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take(&mut &[0xff; 11][..]), None);
        for (a, b) in [(5, 9), (9, 5), (0, 1 << 62), (1 << 62, 0)] {
            assert_eq!(unzigzag(a, zigzag(a, b)), Some(b));
        }
    }
}
