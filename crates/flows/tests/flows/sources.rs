//! Sources that behave as a script says.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use disk_image::ByteRange;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode, Login};
use image_tasks_flows::ports::*;
use tokio::time::Instant;

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
    pub last_modified: Option<String>,
    /// The token, or the value of a header, that it gives its bytes for; none: to anybody.
    pub token: Option<String>,
    /// Bodies that break off in the middle before one comes whole.
    pub breaks: AtomicU64,
    /// Requests that it answers with 503 before it takes one.
    pub busy: AtomicU64,
    /// What it says then.
    pub retry_after: Duration,
    /// Bodies that it sends at once; it answers others with 503.
    pub connections: usize,
    pub bodies: Arc<()>,
    /// Requests that were answered with 503.
    pub refused: AtomicU64,
    /// It can't be read any more after so many reads.
    pub gone_after: Option<u64>,
    /// Its version changes after so many reads.
    pub changes_after: Option<u64>,
    /// Time between two chunks.
    pub pace: Duration,
    /// Other bytes that it gives as if they were its own.
    pub lie: Option<Lie>,
    pub reads: AtomicU64,
    pub bytes_read: AtomicU64,
    pub opens: AtomicU64,
    pub asked: Mutex<BTreeSet<(usize, usize)>>,
    pub since: OnceLock<Instant>,
}

/// As many other bytes, which a source gives to some reads.
#[derive(Debug, Clone)]
pub(crate) struct Lie {
    pub bytes: Bytes,
    /// Whether a read gets them.
    pub when: fn(&Asked) -> bool,
    /// How many reads look at the source before any is stored.
    pub looks: u64,
    /// It sends no ETag with them.
    pub hides_etag: bool,
}

/// A read, as a server that lies sees it.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Of those before it.
    pub number: u64,
    /// Whether it comes after those that look.
    pub stores: bool,
    pub range: Range<usize>,
    /// Whether it is of everything.
    pub whole: bool,
    /// Whether it reaches the end.
    pub last: bool,
    /// Whether the same was asked for before.
    pub again: bool,
    /// How many have opened the source before the one who asks.
    pub opener: u64,
    /// Since the source was opened for the first time.
    pub elapsed: Duration,
}

impl Script {
    pub(crate) fn of(bytes: impl Into<Bytes>) -> Self {
        Self {
            bytes: bytes.into(),
            ranges: true,
            sized: true,
            etag: "\"v1\"".into(),
            last_modified: None,
            token: None,
            breaks: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            retry_after: Duration::ZERO,
            connections: usize::MAX,
            bodies: Arc::default(),
            refused: AtomicU64::new(0),
            gone_after: None,
            changes_after: None,
            pace: Duration::ZERO,
            lie: None,
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            asked: Mutex::default(),
            since: OnceLock::new(),
        }
    }

    fn etag(&self) -> Option<String> {
        let changed = self.changes_after.is_some_and(|after| self.reads.load(Ordering::SeqCst) >= after);
        let etag = if changed { "\"changed\"".into() } else { self.etag.clone() };
        Some(etag).filter(|etag| !etag.is_empty())
    }

    /// Whether it has time for a request.
    fn has_time(&self) -> Result<(), Failure> {
        let busy = self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if busy || Arc::strong_count(&self.bodies) > self.connections {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Failure::busy("the source answered 503 Service Unavailable", self.retry_after));
        }
        Ok(())
    }

    /// Whether a read is answered with other bytes.
    fn lies(&self, opener: u64, range: &Range<usize>) -> Option<&Lie> {
        let again = !self.asked.lock().unwrap().insert((range.start, range.end));
        let lie = self.lie.as_ref()?;
        assert_eq!(lie.bytes.len(), self.bytes.len(), "a lie of another size is seen at once");
        let number = self.reads.load(Ordering::SeqCst);
        let last = range.end == self.bytes.len();
        let asked = Asked {
            number,
            stores: number >= lie.looks,
            range: range.clone(),
            whole: range.start == 0 && last,
            last,
            again,
            opener,
            elapsed: self.since.get().map_or(Duration::ZERO, Instant::elapsed),
        };
        (lie.when)(&asked).then_some(lie)
    }

    fn body(&self, bytes: &Bytes, range: Range<usize>) -> Body {
        const CHUNK: usize = 700;
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.bytes_read.fetch_add(range.len() as u64, Ordering::SeqCst);
        let breaks =
            self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let end = if breaks { range.start + range.len() / 2 } else { range.end };
        let (bytes, pace, under_way) = (bytes.clone(), self.pace, Arc::clone(&self.bodies));
        let chunks = (range.start..end).step_by(CHUNK).map(move |at| bytes.slice(at..end.min(at + CHUNK)));
        let broken = breaks.then(|| Err(Failure::transient("the connection was reset")));
        let chunks = chunks.map(Ok).chain(broken);
        Box::pin(futures::StreamExt::then(futures::stream::iter(chunks), move |chunk| {
            let _ = &under_way;
            async move {
                if !pace.is_zero() {
                    tokio::time::sleep(pace).await;
                }
                chunk
            }
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
    /// How many have opened the source before.
    opener: u64,
}

#[async_trait]
impl Sources for ScriptedSources {
    async fn open(
        &self,
        location: &SourceLocation,
        login: Option<&Login>,
        pin: Option<&SourcePin>,
    ) -> Result<Box<dyn Source>, Failure> {
        self.faults
            .around(async {
                let script = self.scripts.lock().unwrap().get(&location.to_string()).cloned();
                let script = script.ok_or_else(|| {
                    Failure::new(FailureCode::SourceNotFound, format!("{location} answered 404"))
                })?;
                script.has_time()?;
                let said = login.map(|login| match login {
                    Login::Token(token) => token.expose(),
                    Login::Headers(headers) => headers.expose().next().unwrap().1,
                });
                if script.token.as_deref() != said {
                    return Err(Failure::new(FailureCode::SourceDenied, "the source answered 401"));
                }
                let size = script.sized.then_some(script.bytes.len() as u64);
                let now = SourcePin {
                    etag: script.etag(),
                    last_modified: script.last_modified.clone(),
                    size,
                    mirror: None,
                };
                if pin.is_some_and(|pin| {
                    differs(&now.etag, &pin.etag)
                        || differs(&now.last_modified, &pin.last_modified)
                        || differs(&now.size, &pin.size)
                }) {
                    return Err(Failure::new(FailureCode::SourceChanged, "the source changed"));
                }
                let pin = now;
                let info = SourceInfo { size, ranges: script.ranges && script.sized, pin };
                script.since.get_or_init(Instant::now);
                let opener = script.opens.fetch_add(1, Ordering::SeqCst);
                let opened: Box<dyn Source> =
                    Box::new(Opened { faults: Arc::clone(&self.faults), script, info, opener });
                Ok(opened)
            })
            .await
    }
}

impl Opened {
    fn answer(&self, range: Range<usize>) -> Result<Body, Failure> {
        let script = &self.script;
        script.has_time()?;
        if script.gone_after.is_some_and(|after| script.reads.load(Ordering::SeqCst) >= after) {
            return Err(Failure::transient("the source can't be connected to"));
        }
        let lie = script.lies(self.opener, &range);
        let etag = script.etag().filter(|_| lie.is_none_or(|lie| !lie.hides_etag));
        if differs(&etag, &self.info.pin.etag) {
            return Err(Failure::new(FailureCode::SourceChanged, "the source changed"));
        }
        Ok(script.body(lie.map_or(&script.bytes, |lie| &lie.bytes), range))
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
                let bounds = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                assert!(bounds.end <= self.script.bytes.len(), "{range:?}");
                self.answer(bounds)
            })
            .await
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.faults.around(async { self.answer(0..self.script.bytes.len()) }).await
    }
}
