//! Deterministic content: a seed and an offset give the byte.
//!
//! The words are SplitMix64 outputs of their index, so any range is made
//! without the bytes before it, nothing compresses, and no two blocks of a
//! gigabyte are alike: a part written at the wrong place shows.

/// Fills `buffer` with the content at `offset`.
pub fn fill(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let word = word(seed, at / 8).to_le_bytes();
        let skip = (at % 8) as usize;
        let take = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        now.copy_from_slice(&word[skip..skip + take]);
        at += take as u64;
        rest = later;
    }
}

/// A range of the content as a vector.
#[must_use]
pub fn bytes(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    fill(seed, offset, &mut buffer);
    buffer
}

/// The `index`-th output of SplitMix64 (Steele, Lea, Flood: "Fast splittable
/// pseudorandom number generators", OOPSLA 2014) from state `seed`.
fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_word_is_the_published_one() {
        // SplitMix64 seeded with 0 starts with 0xe220a8397b1dcdaf.
        assert_eq!(bytes(0, 0, 8), 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }

    #[test]
    fn any_range_equals_that_range_of_the_whole() {
        let whole = bytes(7, 0, 100);
        for start in 0..40 {
            for end in start..=100 {
                assert_eq!(bytes(7, start as u64, end - start), whole[start..end], "{start}..{end}");
            }
        }
    }
}
