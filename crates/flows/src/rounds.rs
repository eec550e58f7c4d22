//! A round: numbered pieces of work, made side by side until the time of the call is up.

use std::collections::BTreeSet;
use std::future::Future;

use futures::StreamExt as _;
use image_tasks_domain::transfer::Batch;

use crate::deadline::Deadline;
use crate::error::{Flow, Stop};

/// Makes numbered pieces side by side until the time is up; what is left then. `too_slow` says that not one was made.
pub(crate) async fn make<F: Future<Output = Flow<()>>>(
    mut left: BTreeSet<u32>,
    at_once: usize,
    deadline: Deadline,
    piece: impl Fn(u32) -> F,
    too_slow: impl FnOnce() -> Stop,
) -> Flow<Option<Batch>> {
    let at_first = left.len();
    let piece = &piece;
    let mut makes = futures::stream::iter(left.clone())
        .map(|number| async move { piece(number).await.map(|()| number) })
        .buffer_unordered(at_once);
    loop {
        // Checked first, so that work which always has something ready can't carry us past the end.
        tokio::select! {
            biased;
            () = deadline.reached() => break,
            made = makes.next() => match made {
                Some(number) => left.remove(&number?),
                None => break,
            },
        };
    }
    match (left.first(), left.last()) {
        (Some(_), Some(_)) if left.len() == at_first => Err(too_slow()),
        (Some(first), Some(last)) => Ok(Some(Batch { first: *first, last: *last })),
        _ => Ok(None),
    }
}
