//! How far a task is, in bytes and in words.
//!
//! Invariant: each meter's total is set before its count begins and counts only
//! rise, so percentage and message only ever rise.

use serde::{Deserialize, Serialize};

/// The three things that happen to an image's bytes, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A source without ranges, or compressed, is spooled.
    Staged,
    /// Parts are copied or converted to their final place.
    Copied,
    /// The stored object is hashed.
    Hashed,
}

/// Bytes done of a total; a total of 0 is not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Meter {
    fn share(self, of: u64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        let share = u128::from(self.done.min(self.total)) * u128::from(of) / u128::from(self.total);
        u64::try_from(share).unwrap_or(of)
    }
}

/// Progress of a task in `processing`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Whether the source is spooled first.
    pub stages: bool,
    /// Spooling.
    pub staged: Meter,
    /// Copying or converting.
    pub copied: Meter,
    /// Hashing.
    pub hashed: Meter,
}

impl Progress {
    /// 0 to 99; 100 is an end state's.
    pub fn percent(&self) -> u8 {
        // What is to be hashed is known together with what is to be copied, so the shares never change under a count.
        let (staged, copied, hashed) = match (self.stages, self.hashed.total > 0) {
            (true, _) => (33, 33, 33),
            (false, true) => (0, 50, 49),
            (false, false) => (0, 99, 0),
        };
        let sum = self.staged.share(staged) + self.copied.share(copied) + self.hashed.share(hashed);
        u8::try_from(sum.min(99)).unwrap_or(99)
    }

    /// A line a person can read; empty before the first byte.
    pub fn message(&self) -> String {
        let (verb, meter) = if self.hashed.done > 0 {
            ("hashed", self.hashed)
        } else if self.copied.done > 0 {
            ("copied", self.copied)
        } else if self.staged.done > 0 {
            ("fetched", self.staged)
        } else {
            return String::new();
        };
        if meter.total == 0 {
            return format!("{verb} {}", size(meter.done));
        }
        format!("{verb} {} of {}, {}%", size(meter.done.min(meter.total)), size(meter.total), self.percent())
    }
}

/// Bytes with a binary unit and one decimal.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let power = (bytes.ilog2() / 10).clamp(1, 6);
    let unit = 1u128 << (10 * power);
    let tenths = (u128::from(bytes) * 10) / unit;
    let name = UNITS.get(power as usize - 1).copied().unwrap_or("EiB");
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_percent_rise_through_the_steps() {
        let gib = 1 << 30;
        let mut p = Progress { stages: true, ..Progress::default() };
        let mut last = 0;
        assert_eq!(p.message(), "");
        p.staged = Meter { done: gib, total: 0 };
        assert_eq!((p.message().as_str(), p.percent()), ("fetched 1.0 GiB", 0));
        p.staged.total = gib;
        for done in [0, gib / 3, gib, 5 * gib, 9 * gib] {
            p.copied = Meter { done, total: 5 * gib };
            assert!(p.percent() >= last);
            last = p.percent();
        }
        assert_eq!(p.message(), "copied 5.0 GiB of 5.0 GiB, 66%");
        p.hashed = Meter { done: 5 * gib, total: 5 * gib };
        assert_eq!(p.percent(), 99);
    }

    #[test]
    fn work_without_hashes_is_all_copying() {
        let mut p = Progress { copied: Meter { done: 1, total: 2 }, ..Progress::default() };
        assert_eq!(p.percent(), 49);
        p.copied.done = 2;
        assert_eq!(p.percent(), 99);
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(1 << 40), "1.0 TiB");
        assert_eq!(size(u64::MAX), "15.9 EiB");
    }
}
