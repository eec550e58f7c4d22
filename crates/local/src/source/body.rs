//! A body read block by block, which can be held or cut.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::watch;

use super::content::Opened;
use super::{Shared, lock};

const BLOCK: u64 = 64 * 1024;

pub(super) type SourceBody = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;

pub(super) fn empty() -> SourceBody {
    StreamBody::new(stream::empty().boxed())
}

/// What a body sends and where it stops.
#[derive(Debug)]
pub(super) struct Plan {
    pub content: Opened,
    /// Offsets of the content, as announced to the client.
    pub range: Range<u64>,
    /// Offset at which the connection breaks.
    pub cut_at: Option<u64>,
    /// Offset before which the body waits for the release.
    pub hold_at: Option<u64>,
}

struct Sending {
    plan: Plan,
    at: u64,
    shared: Arc<Shared>,
    released: watch::Receiver<bool>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        lock(&self.shared.ledger).bodies -= 1;
    }
}

pub(super) fn start(plan: Plan, shared: Arc<Shared>) -> SourceBody {
    {
        let mut ledger = lock(&shared.ledger);
        ledger.bodies += 1;
        ledger.most_bodies = ledger.most_bodies.max(ledger.bodies);
    }
    let released = shared.released.subscribe();
    let sending = Sending { at: plan.range.start, plan, shared, released };
    StreamBody::new(stream::unfold(sending, next).boxed())
}

async fn next(mut sending: Sending) -> Option<(io::Result<Frame<Bytes>>, Sending)> {
    if sending.plan.cut_at.is_some_and(|cut| sending.at >= cut) {
        // A pause lets hyper flush what it holds, the answer's head for one: at
        // an error it drops the connection and its buffer.
        tokio::task::yield_now().await;
        let cut = io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose");
        return Some((Err(cut), sending));
    }
    if sending.at >= sending.plan.range.end {
        return None;
    }
    let mut end = (sending.at + BLOCK).min(sending.plan.range.end);
    if let Some(cut) = sending.plan.cut_at {
        end = end.min(cut);
    }
    match sending.plan.hold_at {
        Some(hold) if sending.at < hold => end = end.min(hold),
        // The sender lives in `shared`, so waiting can only end by the release.
        Some(hold) if sending.at == hold => drop(sending.released.wait_for(|released| *released).await),
        _ => {}
    }
    let length = usize::try_from(end - sending.at).unwrap_or(0);
    let block = sending.plan.content.read(sending.at, length);
    if let Ok(block) = &block {
        sending.at = end;
        lock(&sending.shared.ledger).body_bytes += block.len() as u64;
    }
    Some((block.map(Frame::data), sending))
}
