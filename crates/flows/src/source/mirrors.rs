//! Several places of the same bytes, one after the other: where a hash that the user gave proves the whole.
//!
//! Without such a hash bytes of two servers are never mixed: nobody could tell whether they are of one version.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use disk_image::ByteRange;
use futures::StreamExt as _;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::{Failure, FailureCode, Login};

use super::patient::{Patient, Waits};
use crate::ports::{Body, Source, SourceInfo, SourcePin, Sources};

/// Whether a failure is of the place that was asked, so that another place of the same bytes may have them.
pub(crate) fn is_of_place(failure: &Failure) -> bool {
    matches!(
        failure.code,
        FailureCode::Transient
            | FailureCode::SourceUnreachable
            | FailureCode::SourceNotFound
            | FailureCode::SourceDenied
            | FailureCode::SourceForbidden
            | FailureCode::SourceInvalid
    )
}

/// What is known of the bytes whatever server sends them.
pub(crate) fn anywhere(pin: &SourcePin) -> SourcePin {
    SourcePin { size: pin.size, ..SourcePin::default() }
}

/// Reads each range where it can be had: a place that fails is left for the next one.
pub(crate) struct Mirrors {
    sources: Arc<dyn Sources>,
    places: Vec<SourceLocation>,
    login: Option<Login>,
    waits: Waits,
    info: SourceInfo,
    now: Arc<Mutex<Now>>,
}

struct Now {
    source: Option<Arc<dyn Source>>,
    /// Which place is opened next.
    next: usize,
}

impl Now {
    fn leave(&mut self, source: &Arc<dyn Source>) {
        if self.source.as_ref().is_some_and(|now| Arc::ptr_eq(now, source)) {
            self.source = None;
        }
    }
}

fn lock(now: &Mutex<Now>) -> MutexGuard<'_, Now> {
    now.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirrors {
    /// Begins with a source that is open, of that version, if there is one.
    pub(crate) fn new(
        sources: Arc<dyn Sources>,
        places: Vec<SourceLocation>,
        (login, waits): (Option<Login>, Waits),
        pin: &SourcePin,
        first: Option<Box<dyn Source>>,
    ) -> Self {
        let info = SourceInfo { size: pin.size, ranges: true, pin: pin.clone() };
        let now = Now { source: first.map(Arc::from), next: 0 };
        Self { sources, places, login, waits, info, now: Arc::new(Mutex::new(now)) }
    }

    async fn source(&self) -> Result<Arc<dyn Source>, Failure> {
        let place = {
            let mut now = lock(&self.now);
            if let Some(source) = &now.source {
                return Ok(Arc::clone(source));
            }
            let place = now.next % self.places.len().max(1);
            now.next = place + 1;
            place
        };
        let place =
            self.places.get(place).ok_or_else(|| crate::error::internal("a source without a place"))?;
        let source = self.sources.open(place, self.login.as_ref(), Some(&anywhere(&self.info.pin))).await?;
        if !source.info().ranges {
            return Err(Failure::transient(format!("{place} has no ranges")));
        }
        let source: Arc<dyn Source> = Arc::new(Patient::new(source, self.waits.clone()));
        lock(&self.now).source = Some(Arc::clone(&source));
        Ok(source)
    }
}

#[async_trait]
impl Source for Mirrors {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        // Whoever asks again gets the next place.
        let passing = |failure: Failure| {
            if is_of_place(&failure) { Failure::transient(failure.message) } else { failure }
        };
        let source = self.source().await.map_err(passing)?;
        match source.read(range).await {
            Ok(body) => {
                let now = Arc::clone(&self.now);
                Ok(Box::pin(body.inspect(move |chunk| {
                    if chunk.is_err() {
                        lock(&now).leave(&source);
                    }
                })))
            }
            Err(failure) => {
                if is_of_place(&failure) {
                    lock(&self.now).leave(&source);
                }
                Err(passing(failure))
            }
        }
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.read(ByteRange { start: 0, end: self.info.size.unwrap_or(0) }).await
    }
}
