//! When an invocation must have answered.

use std::time::Duration;

use image_tasks_domain::ports::Clock;
use tokio::time::Instant;

use crate::bounds::TIME_TO_ANSWER;

/// The moment at which an invocation stops work, saves and answers.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// From now on, that long.
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now() + duration)
    }

    /// For an invocation that ends at `ends_at` (Lambda's deadline, milliseconds since the epoch): as much earlier as an answer takes.
    pub fn of_invocation(ends_at: u64, clock: &dyn Clock) -> Self {
        // The clock's seconds are cut off, so the time left is never thought longer than it is by adding one.
        let now = u64::try_from(clock.now().epoch()).unwrap_or(0).saturating_add(1).saturating_mul(1000);
        Self::after(Duration::from_millis(ends_at.saturating_sub(now)).saturating_sub(TIME_TO_ANSWER))
    }

    /// As much earlier.
    pub(crate) fn earlier(self, by: Duration) -> Self {
        Self(self.0.checked_sub(by).unwrap_or_else(Instant::now))
    }

    /// The time until then.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Returns then.
    pub(crate) async fn reached(self) {
        tokio::time::sleep_until(self.0).await;
    }
}
