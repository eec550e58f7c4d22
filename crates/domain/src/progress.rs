//! How far a task is, in bytes and in words.
//!
//! Invariant: each meter's total is told before its count begins and counts only
//! rise, so percentage and message only ever rise.
//!
//! Progress is told at best effort: a worker that dies takes with it what it had not told yet, and no task fails
//! because its progress could not be written.

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

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 3] = [Self::Staged, Self::Copied, Self::Hashed];
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
    /// Whether the source's server is busy, and is waited for.
    pub waits: bool,
    /// Spooling.
    pub staged: Meter,
    /// Copying or converting.
    pub copied: Meter,
    /// Hashing.
    pub hashed: Meter,
}

impl Progress {
    /// The meter of a step.
    pub const fn meter(&self, step: Step) -> &Meter {
        match step {
            Step::Staged => &self.staged,
            Step::Copied => &self.copied,
            Step::Hashed => &self.hashed,
        }
    }

    /// The meter of a step, to be changed.
    pub const fn meter_mut(&mut self, step: Step) -> &mut Meter {
        match step {
            Step::Staged => &mut self.staged,
            Step::Copied => &mut self.copied,
            Step::Hashed => &mut self.hashed,
        }
    }

    /// Takes in what a worker tells.
    pub fn take(&mut self, report: &Report) {
        self.stages |= report.stages;
        self.waits = report.waits.unwrap_or(self.waits);
        for step in Step::ALL {
            let meter = self.meter_mut(step);
            meter.done = meter.done.saturating_add(report.done(step));
            meter.total = report.total(step).unwrap_or(meter.total);
        }
    }

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
        match (self.moved(), self.waits) {
            (moved, false) => moved,
            (moved, true) if moved.is_empty() => WAITS.to_owned(),
            (moved, true) => format!("{moved}; {WAITS}"),
        }
    }

    fn moved(&self) -> String {
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

/// What is said of a source that answers 429 or 503.
const WAITS: &str = "waiting for the source, whose server is busy";

/// What a worker has to tell of a task's progress: totals that have become known, and bytes done since it last told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// The source is spooled first; `false` says nothing.
    pub stages: bool,
    /// Whether the source is waited for, if that has changed.
    pub waits: Option<bool>,
    totals: [Option<u64>; 3],
    done: [u64; 3],
}

impl Report {
    /// The source is spooled first.
    #[must_use]
    pub const fn with_staging(mut self) -> Self {
        self.stages = true;
        self
    }

    /// The source's server is busy, or not any longer.
    #[must_use]
    pub const fn with_waits(mut self, waits: bool) -> Self {
        self.waits = Some(waits);
        self
    }

    /// The total of a step's meter is known now.
    #[must_use]
    pub const fn with_total(mut self, step: Step, total: u64) -> Self {
        self.totals[step as usize] = Some(total);
        self
    }

    /// So many bytes were done.
    #[must_use]
    pub const fn with_done(mut self, step: Step, bytes: u64) -> Self {
        self.done[step as usize] = self.done[step as usize].saturating_add(bytes);
        self
    }

    /// The total of a step's meter, if it has become known.
    pub const fn total(&self, step: Step) -> Option<u64> {
        self.totals[step as usize]
    }

    /// Bytes done of a step.
    pub const fn done(&self, step: Step) -> u64 {
        self.done[step as usize]
    }

    /// Adds what was to be told later.
    pub fn add(&mut self, later: &Self) {
        self.stages |= later.stages;
        self.waits = later.waits.or(self.waits);
        for step in Step::ALL {
            *self = self.with_done(step, later.done(step));
            if let Some(total) = later.total(step) {
                *self = self.with_total(step, total);
            }
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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
    fn a_busy_source_is_told_until_it_answers() {
        let mut p = Progress::default();
        p.take(&Report::default().with_waits(true));
        assert_eq!(p.message(), "waiting for the source, whose server is busy");
        p.take(&Report::default().with_done(Step::Copied, 1 << 20));
        assert_eq!(p.message(), "copied 1.0 MiB; waiting for the source, whose server is busy");
        p.take(&Report::default().with_waits(false));
        assert_eq!(p.message(), "copied 1.0 MiB");
    }

    #[test]
    fn work_without_hashes_is_all_copying() {
        let mut p = Progress { copied: Meter { done: 1, total: 2 }, ..Progress::default() };
        assert_eq!(p.percent(), 49);
        p.copied.done = 2;
        assert_eq!(p.percent(), 99);
    }

    #[test]
    fn what_is_told_later_is_told_whole() {
        let mut report = Report::default().with_total(Step::Copied, 10).with_done(Step::Copied, 3);
        let later = Report::default().with_staging().with_done(Step::Copied, 4);
        report.add(&later.with_total(Step::Hashed, 7).with_total(Step::Copied, 9));
        let mut progress = Progress { copied: Meter { done: 1, total: 0 }, ..Progress::default() };
        progress.take(&report);
        let meter = |done, total| Meter { done, total };
        let expected = Progress {
            stages: true,
            waits: false,
            staged: meter(0, 0),
            copied: meter(8, 9),
            hashed: meter(0, 7),
        };
        assert_eq!(progress, expected);
        progress.take(&Report::default());
        assert_eq!((progress, Report::default().is_empty()), (expected, true));
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
