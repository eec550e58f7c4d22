//! A round: numbered pieces of work, made side by side until the time of the call is up.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use image_tasks_domain::transfer::Batch;

use crate::deadline::Deadline;
use crate::error::{Flow, Stop};

/// How far a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// It is made.
    Made,
    /// The time was too short for all of it. What was made of it is kept.
    Begun,
    /// The time was too short for any of it.
    Untouched,
}

/// Makes numbered pieces side by side until the time is up; what is left then. Where nothing was made, `idle` says whether
/// that is a failure.
pub(crate) async fn make<F: Future<Output = Flow<Piece>>>(
    mut left: BTreeSet<u32>,
    at_once: usize,
    deadline: Deadline,
    piece: impl Fn(u32) -> F,
    idle: impl AsyncFnOnce() -> Flow<()>,
) -> Flow<Option<Batch>> {
    let (piece, is_late) = (&piece, &AtomicBool::new(false));
    let mut is_slow = true;
    let mut makes = futures::stream::iter(left.clone())
        .map(|number| async move {
            // A piece that found the time too short is the last to be begun.
            let late = is_late.load(Ordering::Relaxed);
            let made = if late { Piece::Untouched } else { piece(number).await? };
            is_late.fetch_or(made != Piece::Made, Ordering::Relaxed);
            Ok::<_, Stop>((number, made))
        })
        .buffer_unordered(at_once);
    loop {
        // Checked first, so that work which always has something ready can't carry us past the end.
        tokio::select! {
            biased;
            () = deadline.reached() => break,
            made = makes.next() => match made {
                Some(made) => {
                    let (number, made) = made?;
                    is_slow &= made == Piece::Untouched;
                    if made == Piece::Made {
                        left.remove(&number);
                    }
                }
                None => break,
            },
        };
    }
    match (left.first(), left.last()) {
        (Some(first), Some(last)) => {
            if is_slow {
                idle().await?;
            }
            Ok(Some(Batch { first: *first, last: *last }))
        }
        _ => Ok(None),
    }
}
