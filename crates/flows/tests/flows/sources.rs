//! Sources that behave as a script says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk_image::ByteRange;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode, Secret};
use image_tasks_flows::ports::*;

use crate::faults::Faults;

/// How a source behaves.
#[derive(Debug)]
pub(crate) struct Script {
    pub bytes: Bytes,
    pub ranges: bool,
    /// Whether it says how long it is.
    pub sized: bool,
    /// Empty: it sends none.
    pub etag: String,
    /// What it gives its bytes for; none: to anybody.
    pub token: Option<String>,
    /// Bodies that break off in the middle before one comes whole.
    pub breaks: AtomicU64,
    /// Its version changes after so many reads.
    pub changes_after: Option<u64>,
    /// Time between two chunks.
    pub pace: Duration,
    pub reads: AtomicU64,
    pub bytes_read: AtomicU64,
}

impl Script {
    pub(crate) fn of(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            ranges: true,
            sized: true,
            etag: "\"v1\"".into(),
            token: None,
            breaks: AtomicU64::new(0),
            changes_after: None,
            pace: Duration::ZERO,
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    fn etag(&self) -> Option<String> {
        let changed = self.changes_after.is_some_and(|after| self.reads.load(Ordering::SeqCst) >= after);
        let etag = if changed { "\"changed\"".into() } else { self.etag.clone() };
        Some(etag).filter(|etag| !etag.is_empty())
    }

    fn body(&self, range: std::ops::Range<usize>) -> Body {
        const CHUNK: usize = 700;
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.bytes_read.fetch_add(range.len() as u64, Ordering::SeqCst);
        let breaks =
            self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let end = if breaks { range.start + range.len() / 2 } else { range.end };
        let (bytes, pace) = (self.bytes.clone(), self.pace);
        let chunks = (range.start..end).step_by(CHUNK).map(move |at| bytes.slice(at..end.min(at + CHUNK)));
        let broken = breaks.then(|| Err(Failure::transient("the connection was reset")));
        let chunks = chunks.map(Ok).chain(broken);
        Box::pin(futures::StreamExt::then(futures::stream::iter(chunks), move |chunk| async move {
            if !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            chunk
        }))
    }
}

pub(crate) struct ScriptedSources {
    pub faults: Arc<Faults>,
    pub scripts: Mutex<BTreeMap<String, Arc<Script>>>,
}

/// What isn't said contradicts nothing.
fn differs<T: PartialEq>(now: &Option<T>, then: &Option<T>) -> bool {
    now.as_ref().zip(then.as_ref()).is_some_and(|(now, then)| now != then)
}

struct Opened {
    faults: Arc<Faults>,
    script: Arc<Script>,
    info: SourceInfo,
}

#[async_trait]
impl Sources for ScriptedSources {
    async fn open(
        &self,
        location: &SourceLocation,
        token: Option<&Secret>,
        pin: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        self.faults
            .around(async {
                let script = self.scripts.lock().unwrap().get(&location.to_string()).cloned();
                let script = script.ok_or_else(|| {
                    Failure::new(FailureCode::SourceNotFound, format!("{location} answered 404"))
                })?;
                if script.token.as_deref() != token.map(Secret::expose) {
                    return Err(Failure::new(FailureCode::SourceDenied, "the source answered 401"));
                }
                let size = script.sized.then_some(script.bytes.len() as u64);
                let now = SourcePin { etag: script.etag(), last_modified: None, size };
                if pin.is_some_and(|pin| differs(&now.etag, &pin.etag) || differs(&now.size, &pin.size)) {
                    return Err(Failure::new(FailureCode::SourceChanged, "the source changed"));
                }
                let pin = now;
                let info = SourceInfo { size, ranges: script.ranges && script.sized, pin };
                let opened: Box<dyn Source> =
                    Box::new(Opened { faults: Arc::clone(&self.faults), script, info });
                Ok(opened)
            })
            .await
    }
}

impl Opened {
    fn check(&self) -> Result<(), Failure> {
        if self.info.pin.etag == self.script.etag() {
            Ok(())
        } else {
            Err(Failure::new(FailureCode::SourceChanged, "the source changed"))
        }
    }
}

#[async_trait]
impl Source for Opened {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        assert!(self.info.ranges && !range.is_empty(), "{range:?}");
        self.faults
            .around(async {
                self.check()?;
                let bounds = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                assert!(bounds.end <= self.script.bytes.len(), "{range:?}");
                Ok(self.script.body(bounds))
            })
            .await
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.faults
            .around(async {
                self.check()?;
                Ok(self.script.body(0..self.script.bytes.len()))
            })
            .await
    }
}
