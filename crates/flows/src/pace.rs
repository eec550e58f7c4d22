//! Bodies that don't keep a store waiting.
//!
//! S3 closes a connection on which nothing comes for about 20 s (`RequestTimeout`), and its SDK hands on no fewer than 64 KiB.
//! So a source that falls silent, or nearly so, would look like a store out of reach. Here it is told as what it is, before
//! that: by the body, as a passing fault of its source.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::try_unfold;
use image_tasks_domain::Failure;
use tokio::time::{Instant, Sleep, sleep};

use crate::bounds::{LEAST_AT_ONCE, PATIENCE};
use crate::ports::Body;

/// A body, and how much it may still keep its reader waiting.
struct Paced {
    body: Body,
    /// Set once for many chunks: a timer that is set anew wakes a thread. It is never late, since the time at which a body is
    /// too slow only moves on.
    alarm: Pin<Box<Sleep>>,
    left: Duration,
    /// Bytes since `left` was [`PATIENCE`].
    came: u64,
}

/// `body`, which fails where [`LEAST_AT_ONCE`] bytes keep their reader waiting for longer than [`PATIENCE`]. Time in which
/// nobody reads doesn't count.
pub(crate) fn paced(body: Body) -> Body {
    let paced = Paced { body, alarm: Box::pin(sleep(PATIENCE)), left: PATIENCE, came: 0 };
    Box::pin(try_unfold(paced, |mut paced| async move {
        let asked = Instant::now();
        let Some(chunk) = poll_fn(|context| paced.poll_chunk(context, asked)).await? else { return Ok(None) };
        paced.came = paced.came.saturating_add(chunk.len() as u64);
        paced.left = paced.left.saturating_sub(asked.elapsed());
        if paced.came >= LEAST_AT_ONCE {
            paced = Paced { left: PATIENCE, came: 0, ..paced };
        }
        Ok(Some((chunk, paced)))
    }))
}

impl Paced {
    fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
        asked: Instant,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        if let Poll::Ready(chunk) = self.body.poll_next_unpin(context) {
            return Poll::Ready(chunk.transpose());
        }
        loop {
            ready!(self.alarm.as_mut().poll(context));
            let due = asked + self.left;
            if Instant::now() >= due {
                return Poll::Ready(Err(silent(self.came)));
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

fn silent(came: u64) -> Failure {
    let waited = PATIENCE.as_secs();
    Failure::transient(match came {
        0 => format!("the source fell silent: nothing came for {waited} seconds"),
        _ => format!("the source is too slow: {came} bytes came in {waited} seconds"),
    })
}

#[cfg(test)]
mod tests {
    use futures::{TryStreamExt as _, stream};

    use super::*;

    /// Chunks of so many bytes, each after so many seconds.
    fn body(chunks: &[(u64, usize)]) -> Body {
        Box::pin(stream::iter(chunks.to_vec()).then(|(seconds, len)| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(Bytes::from(vec![1; len]))
        }))
    }

    async fn read(body: Body) -> Result<usize, Failure> {
        paced(body).try_fold(0, async |all, chunk| Ok(all + chunk.len())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_may_pause_and_may_not_fall_silent() {
        let enough = usize::try_from(LEAST_AT_ONCE).unwrap();
        let pauses = [(14, enough), (14, enough / 2), (0, enough / 2), (14, 1)];
        assert_eq!(read(body(&pauses)).await.unwrap(), 2 * enough + 1);
        let silent = read(body(&[(1, enough), (16, 1)])).await.unwrap_err();
        assert_eq!(silent.to_string(), "Transient: the source fell silent: nothing came for 15 seconds");
        let trickle = read(body(&[(1, 10); 1000])).await.unwrap_err();
        assert_eq!(trickle.to_string(), "Transient: the source is too slow: 150 bytes came in 15 seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_slow_is_no_fault_of_the_source() {
        let mut slowly_read = paced(body(&[(1, 1), (1, 1), (1, 1)]));
        while slowly_read.try_next().await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}
