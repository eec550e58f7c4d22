//! Where an import's bytes come from: the user's source, or the object it was spooled to.
//!
//! Invariant: every read is of the version that was inspected.

use async_trait::async_trait;
use bytes::Bytes;
use disk_image::{ByteRange, Error, Regions};
use futures::StreamExt as _;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode, Secret};
use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::bounds::{FIRST_WAIT, PROBE_BYTES, TRIES};
use crate::error::{Step, Stop, refused};
use crate::ports::{
    Body, ObjectError, ObjectInfo, ObjectRef, Objects, Source, SourceInfo, SourcePin, Sources,
};

/// Where bytes come from, as it is kept in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The user's source, by range.
    Source {
        /// Where.
        location: SourceLocation,
        /// Which version.
        pin: SourcePin,
    },
    /// The spooled object.
    Staged(Staged),
}

/// An object of ours that lies ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) etag: String,
    pub(crate) size: u64,
}

impl From<ObjectInfo> for Staged {
    fn from(object: ObjectInfo) -> Self {
        Self { etag: object.etag, size: object.size }
    }
}

impl Origin {
    /// Opens it for reads by range.
    pub(crate) async fn open(
        &self,
        sources: &dyn Sources,
        token: Option<&Secret>,
        objects: &Arc<dyn Objects>,
        staged_at: ObjectRef,
    ) -> Step<Box<dyn Source>> {
        match self {
            Self::Source { location, pin } => Ok(open_pinned(sources, location, token, Some(pin)).await?),
            Self::Staged(staged) => {
                Ok(Box::new(StoredSource::new(Arc::clone(objects), staged_at, &staged.etag, staged.size)))
            }
        }
    }
}

/// Opens a source, again where the fault may pass.
pub(crate) async fn open_pinned(
    sources: &dyn Sources,
    location: &SourceLocation,
    token: Option<&Secret>,
    pin: Option<&SourcePin>,
) -> Result<Box<dyn Source>, Failure> {
    patiently(|| sources.open(location, token, pin)).await
}

/// What a call of the source's server gives, again where the fault may pass.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Failure>>>(
    call: impl Fn() -> F,
) -> Result<T, Failure> {
    let mut patience = Patience::default();
    loop {
        match call().await {
            Ok(done) => return Ok(done),
            Err(failure) => patience.after(failure).await?,
        }
    }
}

/// One version of an object of ours.
pub(crate) struct StoredSource {
    objects: Arc<dyn Objects>,
    at: ObjectRef,
    info: SourceInfo,
}

impl StoredSource {
    pub(crate) fn new(objects: Arc<dyn Objects>, at: ObjectRef, etag: &str, size: u64) -> Self {
        let pin = SourcePin { etag: Some(etag.to_owned()), ..SourcePin::default() };
        Self { objects, at, info: SourceInfo { size: Some(size), ranges: true, pin } }
    }
}

#[async_trait]
impl Source for StoredSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        self.objects.read(&self.at, self.info.pin.etag.as_deref(), range).await.map_err(|e| match e {
            ObjectError::Transient(what) => Failure::transient(what),
            ObjectError::Body(failure) => failure,
            other => crate::error::internal(other),
        })
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.read(ByteRange { start: 0, end: self.info.size.unwrap_or(0) }).await
    }
}

/// Tries left for one step, and the wait between them.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    tries: u32,
}

impl Patience {
    /// Returns when a read of the source may be tried again after this failure.
    ///
    /// # Errors
    /// The failure, if trying again can't help; `SourceUnreachable` once there have been [`TRIES`].
    pub(crate) async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.code != FailureCode::Transient {
            return Err(failure);
        }
        if self.wait().await {
            return Ok(());
        }
        let message = format!("{} (tried {TRIES} times)", failure.message);
        Err(Failure::new(FailureCode::SourceUnreachable, message))
    }

    /// The same for a step that reads the source and writes to a store. A store that stays out of
    /// reach is left to the state machine, which waits longer.
    pub(crate) async fn after_stop(&mut self, stop: Stop) -> Step<()> {
        match stop {
            Stop::Failed(failure) => Ok(self.after(failure).await?),
            Stop::Store(failure) => {
                if self.wait().await {
                    Ok(())
                } else {
                    Err(Stop::Store(failure))
                }
            }
            Stop::Ended => Err(Stop::Ended),
        }
    }

    async fn wait(&mut self) -> bool {
        self.tries += 1;
        if self.tries >= TRIES {
            return false;
        }
        tokio::time::sleep(FIRST_WAIT * 2u32.saturating_pow(self.tries - 1)).await;
        true
    }
}

/// The chunks of exactly that range, again where it breaks off.
pub(crate) async fn read_chunks(source: &dyn Source, range: ByteRange) -> Result<Vec<Bytes>, Failure> {
    patiently(|| try_read(source, range)).await
}

async fn try_read(source: &dyn Source, range: ByteRange) -> Result<Vec<Bytes>, Failure> {
    let mut body = source.read(range).await?;
    let (mut chunks, mut seen) = (Vec::new(), 0u64);
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        seen = seen.saturating_add(chunk.len() as u64);
        // An adapter that gives more than was asked for must not fill our memory.
        if seen > range.len() {
            break;
        }
        chunks.push(chunk);
    }
    if seen != range.len() {
        return Err(Failure::transient(format!(
            "the source broke off: {} bytes at offset {} were asked for, {seen} came",
            range.len(),
            range.start
        )));
    }
    Ok(chunks)
}

/// Runs a step of a parser over a source, fetching what it needs, holding at most [`PROBE_BYTES`].
pub(crate) async fn drive<T>(
    source: &dyn Source,
    regions: &mut Regions,
    mut step: impl FnMut(&Regions) -> disk_image::Result<T>,
) -> Step<T> {
    loop {
        match step(regions) {
            Ok(done) => return Ok(done),
            Err(Error::Refused(refusal)) => return Err(refusal.into()),
            Err(Error::Need(ranges)) => fetch(source, regions, &ranges).await?,
        }
    }
}

/// Adds those ranges of the source to the regions.
pub(crate) async fn fetch(source: &dyn Source, regions: &mut Regions, ranges: &[ByteRange]) -> Step<()> {
    let asked: u64 = ranges.iter().map(|r| r.len()).sum();
    if asked.saturating_add(regions.held() as u64) > PROBE_BYTES as u64 {
        let refusal = disk_image::Refusal {
            code: disk_image::Code::TableTooLarge,
            message: format!("the image's headers take more than {PROBE_BYTES} bytes"),
        };
        return Err(Stop::Failed(refused(refusal)));
    }
    for range in ranges {
        let chunks = read_chunks(source, *range).await?;
        regions.insert(range.start, chunks.concat());
    }
    Ok(())
}
