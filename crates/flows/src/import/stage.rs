//! Phase `stage`: spool a source that can't be read by range, or that is compressed, to an object that can.
//!
//! The whole source has to come within one invocation, since such a stream can't be resumed. Its hashes are made on the way,
//! so an image that is stored as staged isn't read again to be hashed.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use image_tasks_domain::progress::{Meter, Progress, Step as Meters};
use image_tasks_domain::{Failure, FailureCode, TaskId};
use tokio::sync::mpsc;

use super::inspection::too_slow;
use super::press::{Pressed, press};
use super::saved::Saved;
use super::spool::Spool;
use super::{Importer, Job};
use crate::bounds::{QUEUE, REPORT_EVERY};
use crate::deadline::Deadline;
use crate::error::{Step, Stop};
use crate::events::Next;
use crate::origin::Patience;
use crate::ports::{Body, ObjectInfo, SourceInfo};

impl Importer {
    /// Spools the source.
    ///
    /// # Errors
    /// Why the task fails, or `Transient`: then again.
    pub async fn stage(&self, id: TaskId, deadline: Deadline) -> Result<Next, Failure> {
        match self.try_stage(id, deadline).await {
            Ok(next) => Ok(next),
            Err(stop) => self.stopped(id, stop).await.map(|()| Next::Plan),
        }
    }

    async fn try_stage(&self, id: TaskId, deadline: Deadline) -> Step<Next> {
        let job = self.at_work(id).await?;
        let info = match self.saved(id).await? {
            Some(Saved::Stage(info)) => info,
            // An earlier call did it.
            Some(Saved::Staged { .. } | Saved::Planned(_)) => return Ok(Next::Plan),
            None => return Err(Stop::Ended),
        };
        let (object, pressed) = tokio::select! {
            staged = self.spool_patiently(&job, &info) => staged?,
            () = deadline.reached() => {
                return Err(too_slow(
                    "the source can't be read by range or is compressed, and did not arrive in the time of one call",
                ));
            }
        };
        pressed.source.check(&job.asked.input)?;
        let at = self.settings.staged_allocation(id);
        let allocation = self.put_whole(&at, Bytes::from(pressed.allocation.encode())).await?;
        let (object, digests) = (object.into(), pressed.unpacked);
        self.save(id, &Saved::Staged { object, digests, allocation }).await?;
        self.set_staged(id, pressed.came).await?;
        Ok(Next::Plan)
    }

    /// The meter's total. Called after a save: where the task has ended meanwhile, it stops, and what was saved is removed.
    pub(super) async fn set_staged(&self, id: TaskId, total: u64) -> Step<()> {
        let staged = Meter { done: 0, total };
        Ok(self.tasks.set_work(id, &Progress { stages: true, staged, ..Progress::default() }).await?)
    }

    async fn spool_patiently(&self, job: &Job, info: &SourceInfo) -> Step<(ObjectInfo, Pressed)> {
        let mut patience = Patience::default();
        loop {
            // Of an earlier try, here or in a call that died.
            self.cleaner().staging(job.task.id).await?;
            match self.spool(job, info).await {
                Ok(done) => return Ok(done),
                Err(stop) => patience.after_stop(stop).await?,
            }
        }
    }

    async fn spool(&self, job: &Job, info: &SourceInfo) -> Step<(ObjectInfo, Pressed)> {
        let source = self.open_source(job.task.id, &job.asked, Some(&info.pin)).await?;
        let body = source.stream().await?;
        let (chunks_in, input) = mpsc::channel(QUEUE);
        let (output, mut chunks_out) = mpsc::channel(QUEUE);
        let (most, unpack) = (self.policy.max_image_bytes, job.asked.clone.is_none());
        let pressing = tokio::task::spawn_blocking(move || press(input, &output, most, unpack));
        let mut spool = Spool::new(
            Arc::clone(&self.objects),
            self.settings.staged(job.task.id),
            self.policy.cut.stage_part,
        );
        let write = async {
            while let Some(chunk) = chunks_out.recv().await {
                spool.write(chunk).await?;
            }
            Ok::<_, Stop>(())
        };
        tokio::try_join!(self.feed(job.task.id, body, info.size, chunks_in), write)?;
        let pressed = pressing.await.map_err(Stop::internal)??;
        Ok((spool.finish().await?, pressed))
    }

    /// Hands the source's bytes on, and the fact that they broke off.
    async fn feed(
        &self,
        id: TaskId,
        mut body: Body,
        size: Option<u64>,
        to: mpsc::Sender<Result<Bytes, Failure>>,
    ) -> Step<()> {
        let (mut seen, mut reported) = (0u64, 0u64);
        while let Some(chunk) = body.next().await {
            seen = seen.saturating_add(chunk.as_ref().map_or(0, |c| c.len() as u64));
            // Gone when the bytes can't be used; its own result says why.
            if to.send(chunk).await.is_err() {
                return Ok(());
            }
            if seen - reported >= REPORT_EVERY {
                self.tasks.advance(id, Meters::Staged, seen - reported).await?;
                reported = seen;
            }
        }
        if size.is_some_and(|size| size != seen) {
            let message = format!("the source said {} bytes and sent {seen}", size.unwrap_or(0));
            // Also gone already where the bytes before it can't be used.
            let _ = to.send(Err(Failure::new(FailureCode::Transient, message))).await;
        }
        if seen > reported {
            self.tasks.advance(id, Meters::Staged, seen - reported).await?;
        }
        Ok(())
    }
}
