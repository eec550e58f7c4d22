//! How far something is: a bar in a terminal, else a line for each change.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::output::{Output, plain, size, text_of};

/// Between two pictures of the bar.
const TICK: Duration = Duration::from_millis(200);

/// Shows a task, or bytes that come.
pub(crate) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    /// How the bar looks when it isn't taken away.
    style: ProgressStyle,
    /// Where there is no bar.
    bytes: Bytes,
    last: String,
    pace: Pace,
}

/// Bytes as lines tell them: one for each tenth.
#[derive(Debug, Default)]
struct Bytes {
    total: u64,
    done: AtomicU64,
    /// Tenths that were told.
    told: AtomicU64,
}

impl Bytes {
    fn tenths(&self) -> u64 {
        let tenths = u128::from(self.done.load(Ordering::Relaxed)) * 10 / u128::from(self.total.max(1));
        u64::try_from(tenths).unwrap_or(u64::MAX).min(10)
    }

    /// What there is to tell after so many more.
    fn more(&self, bytes: u64) -> Option<String> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let tenths = self.tenths();
        let before = self.told.fetch_max(tenths, Ordering::Relaxed);
        (tenths > before).then(|| format!("{}% of {}", tenths * 10, size(self.total)))
    }
}

impl Progress {
    /// Of a task, in percent.
    pub(crate) fn of_task(output: Output) -> Self {
        Self::with_bar(output, 100, "{spinner} [{bar:28}] {percent:>3}% {elapsed} {msg}")
    }

    /// Of so many bytes.
    pub(crate) fn of_bytes(output: Output, total: u64) -> Self {
        let template = "{spinner} [{bar:28}] {percent:>3}% {binary_bytes} of {binary_total_bytes} \
                        {binary_bytes_per_sec} ETA {eta} {msg}";
        Self::with_bar(output, total, template)
    }

    fn with_bar(output: Output, total: u64, template: &str) -> Self {
        let style = ProgressStyle::with_template(template)
            .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
        let bar = (!output.quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total).with_style(style.clone());
            bar.enable_steady_tick(TICK);
            bar
        });
        let bytes = Bytes { total, ..Bytes::default() };
        Self { output, bar, style, bytes, last: String::new(), pace: Pace::default() }
    }

    /// The task as it is now.
    pub(crate) fn task(&mut self, task: &Value) {
        let percent = task["progress"].as_u64().unwrap_or_default();
        let (status, message) = (text_of(task, "status"), text_of(task, "message"));
        let ended = matches!(status, "success" | "failure");
        let message = if message.is_empty() || ended { status } else { message };
        if let Some(bar) = &self.bar {
            let pace = self.pace.told(Instant::now(), percent, message);
            bar.set_position(percent);
            bar.set_message(format!("{}{pace}", plain(message)));
        } else {
            self.change(&format!("{} {percent}% {message}", text_of(task, "id")));
        }
    }

    /// So many more bytes have come, or gone.
    pub(crate) fn more(&self, bytes: u64) {
        match &self.bar {
            Some(bar) => bar.inc(bytes),
            None => {
                if let Some(line) = self.bytes.more(bytes).filter(|_| !self.output.quiet) {
                    self.output.note(&line);
                }
            }
        }
    }

    /// So many of them were in vain.
    pub(crate) fn less(&self, bytes: u64) {
        match &self.bar {
            Some(bar) => bar.dec(bytes),
            None => {
                self.bytes.done.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }

    /// Bytes that were there before don't count for the rate.
    pub(crate) fn begin_at(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.reset_eta();
        }
        self.bytes.done.store(bytes, Ordering::Relaxed);
        self.bytes.told.store(self.bytes.tenths(), Ordering::Relaxed);
    }

    /// A remark: beside the bar, or a line.
    pub(crate) fn say(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(plain(text)),
            None => self.change(text),
        }
    }

    /// Takes the bar away for a question, until [`resume`](Self::resume): its ticks would paint over it.
    pub(crate) fn suspend(&self, ask: impl FnOnce()) {
        match &self.bar {
            Some(bar) => {
                bar.disable_steady_tick();
                // `suspend` alone paints the bar again as soon as the question stands there, behind it.
                if let Ok(nothing) = ProgressStyle::with_template("") {
                    bar.set_style(nothing);
                }
                bar.suspend(ask);
            }
            None => ask(),
        }
    }

    /// The question has its answer.
    pub(crate) fn resume(&self) {
        if let Some(bar) = &self.bar {
            bar.set_style(self.style.clone());
            bar.enable_steady_tick(TICK);
        }
    }

    /// A line, unless it is the last one again.
    fn change(&mut self, line: &str) {
        if !self.output.quiet && line != self.last {
            self.output.note(line);
            line.clone_into(&mut self.last);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Rate and time to come, as far as the task's own words tell them.
#[derive(Debug, Default)]
struct Pace {
    first: Option<(Instant, u64)>,
    bytes: Option<(Instant, String, u64)>,
}

impl Pace {
    /// What there is to add to a message: ` (85.0 MiB/s, 40 s to go)`.
    fn told(&mut self, now: Instant, percent: u64, message: &str) -> String {
        let facts: Vec<_> =
            [self.rate(now, message), self.remaining(now, percent)].into_iter().flatten().collect();
        if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) }
    }

    fn rate(&mut self, now: Instant, message: &str) -> Option<String> {
        let (verb, done) = done_bytes(message)?;
        match &self.bytes {
            Some((since, of, first)) if of == verb => {
                let millis =
                    u64::try_from(now.duration_since(*since).as_millis()).ok().filter(|ms| *ms >= 2000)?;
                let bytes = done.checked_sub(*first).filter(|bytes| *bytes > 0)?;
                Some(format!("{}/s", size(bytes.saturating_mul(1000) / millis)))
            }
            _ => {
                self.bytes = Some((now, verb.to_owned(), done));
                None
            }
        }
    }

    fn remaining(&mut self, now: Instant, percent: u64) -> Option<String> {
        if percent == 0 || percent >= 100 {
            return None;
        }
        let (since, first) = *self.first.get_or_insert((now, percent));
        let gained = percent.checked_sub(first).filter(|gained| *gained > 0)?;
        let seconds = now.duration_since(since).as_secs().saturating_mul(100 - percent) / gained;
        Some(match seconds {
            0..120 => format!("{seconds} s to go"),
            120..7200 => format!("{} min to go", seconds / 60),
            _ => format!("{} h to go", seconds / 3600),
        })
    }
}

/// `copied 1.2 GiB of 4.0 GiB, 30%`: the verb, and the bytes that are done.
fn done_bytes(message: &str) -> Option<(&str, u64)> {
    const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut words = message.split(' ');
    let (verb, number, unit) = (words.next()?, words.next()?, words.next()?);
    let power = UNITS.iter().position(|name| *name == unit.trim_end_matches(','))?;
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let tenths: u64 = whole.parse::<u64>().ok()?.checked_mul(10)?.checked_add(tenth.parse().ok()?)?;
    Some((verb, tenths.checked_mul(1 << (10 * power))? / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_the_service_writes_them() {
        assert_eq!(done_bytes("copied 1.5 GiB of 4.0 GiB, 30%"), Some(("copied", 3 << 29)));
        assert_eq!(done_bytes("fetched 12 bytes"), Some(("fetched", 12)));
        for other in ["", "StartFailed: no", "copied all of it", "copied 9999999999999.0 EiB of"] {
            assert_eq!(done_bytes(other), None, "{other}");
        }
    }

    #[test]
    fn each_tenth_is_told_once() {
        let bytes = Bytes { total: 2 << 30, ..Bytes::default() };
        assert_eq!(bytes.more(1 << 20), None);
        assert_eq!(bytes.more(1 << 30).as_deref(), Some("50% of 2.0 GiB"));
        bytes.done.fetch_sub(1 << 29, Ordering::Relaxed);
        assert_eq!(bytes.more(1 << 29), None, "told before");
        assert_eq!(bytes.more(1 << 30).as_deref(), Some("100% of 2.0 GiB"));
        assert_eq!(Bytes::default().more(0), None);
    }

    #[test]
    fn rate_and_time_come_once_something_was_gained() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.told(start, 10, "copied 1.0 GiB of 4.0 GiB, 25%"), "");
        let later = start + Duration::from_secs(10);
        let told = pace.told(later, 30, "copied 2.0 GiB of 4.0 GiB, 50%");
        assert_eq!(told, " (102.3 MiB/s, 35 s to go)");
        // Another step begins its own count.
        assert_eq!(pace.told(later, 100, "hashed 1.0 GiB of 4.0 GiB, 25%"), "");
    }
}
