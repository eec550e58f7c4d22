//! Spooling: a source that can't be read by range, or that is compressed, becomes an object of ours that can.
//!
//! The whole source has to come within one invocation, since such a stream can't be resumed. Its hashes are made on the way,
//! so an image that is stored as spooled isn't read again to be hashed.

use bytes::Bytes;
use futures::StreamExt as _;
use image_tasks_domain::progress::Step;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode};
use tokio::sync::mpsc;

use super::Pinned;
use super::mirrors::{anywhere, is_of_place};
use super::press::{Pressed, press};
use super::remote::Remote;
use super::writer::ObjectWriter;
use crate::bounds::{QUEUE, REPORT_EVERY};
use crate::error::{Flow, Stop};
use crate::job::{Job, RemoteAsk, SpoolOrder, Spooled};
use crate::ports::{Body, SourceInfo, SourcePin};
use crate::recipe::maps::Attempt;
use crate::retry::retry;
use crate::stores::Stores;

impl Remote {
    /// Spools a job's source as ordered; and how many bytes came.
    pub(crate) async fn spool(
        &self,
        stores: &Stores,
        job: &Job,
        ask: &RemoteAsk,
        order: SpoolOrder,
    ) -> Flow<(Spooled, u64)> {
        let attempt = Attempt::new(stores, job.id(), self.policy.cut.stage_part);
        let mut places = places(ask, order).into_iter().peekable();
        let (object, pressed) = loop {
            let place = places.next().ok_or_else(|| Stop::internal("a source without a place"))?;
            match retry(|| self.try_spool(stores, attempt, job, ask, &place)).await {
                Err(Stop::Failed(failure)) if places.peek().is_some() && is_of_place(&failure) => {
                    tracing::info!(task_id = %job.id(), reason = %failure, "the next place is tried");
                }
                spooled => break spooled?,
            }
        };
        ask.given_hashes().check(&pressed.source)?;
        let allocation = attempt.put("spooled.allocation", pressed.allocation.encode()).await?;
        Ok((Spooled { object, hashes: pressed.unpacked, allocation }, pressed.came))
    }

    async fn try_spool(
        &self,
        stores: &Stores,
        attempt: Attempt<'_>,
        job: &Job,
        ask: &RemoteAsk,
        (location, pin): &(SourceLocation, SourcePin),
    ) -> Flow<(Pinned, Pressed)> {
        let source = self.open(stores, job.id(), ask, (location, Some(pin))).await?;
        let body = source.stream().await?;
        let (chunks_in, input) = mpsc::channel(QUEUE);
        let (output, mut chunks_out) = mpsc::channel(QUEUE);
        let (most, unpack) = (self.policy.max_image_bytes, ask.unpacking());
        let sha256 = ask.given_hashes().sha256.is_some();
        let pressing = tokio::task::spawn_blocking(move || press(input, &output, most, unpack, sha256));
        let mut writer = attempt.writer("spooled");
        let write = async {
            while let Some(chunk) = chunks_out.recv().await {
                writer.write(chunk).await?;
            }
            Ok::<_, Stop>(())
        };
        let fed = tokio::try_join!(feed(stores, job, body, pin.size, chunks_in), write);
        let pressed = match fed {
            Ok(_) => pressing.await.map_err(Stop::internal).and_then(|pressed| Ok(pressed?)),
            Err(stop) => Err(stop),
        };
        finish(writer, pressed).await
    }
}

/// Where the source is asked for, in this order: what was looked at; then, since a spool begins anew, whoever has it.
fn places(ask: &RemoteAsk, order: SpoolOrder) -> Vec<(SourceLocation, SourcePin)> {
    let SpoolOrder { info: SourceInfo { size, pin, .. }, location } = order;
    let pin = SourcePin { size: pin.size.or(size), ..pin };
    let (first, other) = (location.unwrap_or_else(|| ask.input.source.clone()), anywhere(&pin));
    let mut others: Vec<_> = ask.input.locations().filter(|place| **place != first).cloned().collect();
    if pin.mirror.is_some() {
        others.insert(0, first.clone());
    }
    let others = others.into_iter().map(|place| (place, other.clone()));
    std::iter::once((first, pin)).chain(others).collect()
}

async fn finish(writer: ObjectWriter, pressed: Flow<Pressed>) -> Flow<(Pinned, Pressed)> {
    match pressed {
        Ok(pressed) => Ok((writer.finish().await?, pressed)),
        Err(stop) => {
            writer.give_up().await;
            Err(stop)
        }
    }
}

/// Hands the source's bytes on, and the fact that they broke off.
async fn feed(
    stores: &Stores,
    job: &Job,
    mut body: Body,
    size: Option<u64>,
    to: mpsc::Sender<Result<Bytes, Failure>>,
) -> Flow<()> {
    let (mut seen, mut reported) = (0u64, 0u64);
    while let Some(chunk) = body.next().await {
        seen = seen.saturating_add(chunk.as_ref().map_or(0, |c| c.len() as u64));
        // Gone when the bytes can't be used; its own result says why.
        if to.send(chunk).await.is_err() {
            return Ok(());
        }
        if seen - reported >= REPORT_EVERY {
            stores.advance(job.id(), Step::Staged, seen - reported).await?;
            reported = seen;
        }
    }
    if size.is_some_and(|size| size != seen) {
        let message = format!("the source said {} bytes and sent {seen}", size.unwrap_or(0));
        // Also gone already where the bytes before it can't be used.
        let _ = to.send(Err(Failure::new(FailureCode::Transient, message))).await;
    }
    if seen > reported {
        stores.advance(job.id(), Step::Staged, seen - reported).await?;
    }
    Ok(())
}
