//! What a person sees: one line for each thing that happened, with the time
//! since the start.

use std::io::Write;
use std::time::Instant;

/// Standard output. Lines are lost silently when nobody reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    start: Instant,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// A line of progress.
    pub(super) fn line(&self, text: impl AsRef<str>) {
        self.text(&format!("[{:6.1} s] {}\n", self.start.elapsed().as_secs_f64(), text.as_ref()));
    }

    /// Text as it is.
    pub(super) fn text(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _closed_pipe = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
