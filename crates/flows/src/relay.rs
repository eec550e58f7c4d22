//! A relay: workers that hash one object's chunks in turns. A hash is serial, but reading is not: while one worker
//! hashes its chunk, the others read theirs.
//!
//! Of `workers` items, item *k* hashes the chunks *k*, *k + workers*, ... It reads its next chunk into memory, waits
//! for the state that the worker before it leaves, hashes, and leaves its own state for the one behind it.
//!
//! Invariants:
//! - A state is what the hashes of an object's first chunks are, whoever made it. It is saved once, and never changes.
//!   So twins, late starts and calls that are made again do no harm, they only waste time.
//! - Nobody holds bytes while nothing moves: without a turn within [`HASH_PATIENCE`] a worker drops its chunk and gives
//!   up its place. What it waits for may be a worker that could not be started for want of places.
//! - A call finds out by itself how far the relay is. What it is told says only whose turn it takes.

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, sleep};

use crate::bounds::{HASH_KEPT, HASH_PATIENCE, NEAR_FOR, STATES_AT_ONCE, TURN_FAR, TURN_NEAR};
use crate::deadline::Deadline;
use crate::error::{Flow, Stop};

/// What a relay is run over. Chunks are numbered from 1.
pub(crate) trait Track {
    /// The bytes of a chunk.
    type Chunk;
    /// What the hashes are behind a chunk.
    type State;

    /// Whether the state behind a chunk is there.
    async fn is_hashed(&self, chunk: u32) -> Flow<bool>;
    /// The state behind a chunk, if it is there.
    async fn state(&self, chunk: u32) -> Flow<Option<Self::State>>;
    /// Reads a chunk.
    async fn read(&self, chunk: u32) -> Flow<Self::Chunk>;
    /// Hashes a chunk behind the state of the one before it, and saves the state that then is. Whether nobody else
    /// had.
    async fn hash(&self, chunk: u32, bytes: Self::Chunk, before: Option<Self::State>) -> Flow<bool>;
    /// Removes a state that nobody needs any more.
    async fn remove(&self, chunk: u32) -> Flow<()>;
}

/// Who takes turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runners {
    /// Chunks in all.
    pub(crate) chunks: u32,
    /// Workers.
    pub(crate) workers: u32,
}

/// What comes of waiting.
enum Turn<S> {
    Come(Option<S>),
    Lost,
}

impl Runners {
    /// Takes every turn of the worker whose next chunk is given, until the time is up or no turn comes; its next
    /// chunk then.
    pub(crate) async fn run<T: Track>(self, track: &T, next: u32, deadline: Deadline) -> Flow<Option<u32>> {
        let mut next = self.behind(next, self.reached(track, next).await?);
        let mut has_read = false;
        while next <= self.chunks {
            let bytes = tokio::select! {
                // First, so that reads which have always something ready can't carry us past the end.
                biased;
                () = deadline.reached() => {
                    let none = || Stop::internal("not a chunk of the stored object could be read in one call");
                    return if has_read { Ok(Some(next)) } else { Err(none()) };
                }
                bytes = track.read(next) => bytes?,
            };
            has_read = true;
            let turn = tokio::select! {
                biased;
                turn = turn(track, next) => turn?,
                () = deadline.reached() => Turn::Lost,
            };
            let Turn::Come(before) = turn else { return Ok(Some(next)) };
            // Brought to its end whatever the time: it takes a few seconds of those that are kept for the answer, and
            // the others would wait until this worker has read its chunk again.
            let is_first = track.hash(next, bytes, before).await?;
            if let Some(old) = next.checked_sub(2 * self.workers).filter(|old| !old.is_multiple_of(HASH_KEPT))
            {
                track.remove(old).await?;
            }
            // A twin is as far as this one, or further.
            let reached = if is_first { next } else { self.reached(track, next).await? };
            next = self.behind(next, reached);
        }
        Ok(None)
    }

    /// This worker's first chunk from `next` on that isn't reached.
    fn behind(self, next: u32, reached: u32) -> u32 {
        let turns = (reached + 1).saturating_sub(next).div_ceil(self.workers);
        next.saturating_add(turns.saturating_mul(self.workers))
    }

    /// The last chunk that is known to be hashed; what lies before `from` isn't looked at.
    async fn reached<T: Track>(self, track: &T, from: u32) -> Flow<u32> {
        // States that are kept are there up to some number, and none behind it.
        let (mut kept, mut end) = (from / HASH_KEPT, self.chunks / HASH_KEPT);
        while kept < end {
            let middle = (kept + end).div_ceil(2);
            if track.is_hashed(middle * HASH_KEPT).await? {
                kept = middle;
            } else {
                end = middle - 1;
            }
        }
        let near = (kept * HASH_KEPT).max(from)..=self.chunks.min((kept + 1) * HASH_KEPT - 1);
        futures::stream::iter(near)
            .map(|chunk| async move { Ok(if track.is_hashed(chunk).await? { chunk } else { 0 }) })
            .buffer_unordered(STATES_AT_ONCE)
            .try_fold(0, |last, chunk| async move { Ok(last.max(chunk)) })
            .await
    }
}

/// Waits for the state before a chunk. It is near once the state before that is there: the chunk before is being
/// hashed.
async fn turn<T: Track>(track: &T, chunk: u32) -> Flow<Turn<T::State>> {
    if chunk == 1 {
        return Ok(Turn::Come(None));
    }
    let begun = Instant::now();
    let mut near = None;
    let mut state = track.state(chunk - 1).await?;
    loop {
        if state.is_some() {
            return Ok(Turn::Come(state));
        }
        if begun.elapsed() >= HASH_PATIENCE {
            return Ok(Turn::Lost);
        }
        if near.is_none() && (chunk == 2 || track.is_hashed(chunk - 2).await?) {
            near = Some(Instant::now());
        }
        let is_near = near.is_some_and(|since| since.elapsed() < NEAR_FOR);
        sleep(if is_near { TURN_NEAR } else { TURN_FAR }).await;
        if near.is_some() {
            state = track.state(chunk - 1).await?;
        }
    }
}

#[cfg(test)]
mod simulation;
