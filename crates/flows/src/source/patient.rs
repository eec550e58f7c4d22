//! A source that is left alone for as long as its server asks.
//!
//! A server that has too much to do answers 429 or 503, and often says when to come back. Some let one address have one
//! or two connections. Neither is a fault: a refused request waits, and each refusal takes one from the requests that are
//! sent side by side, until one is left.
//!
//! Invariant: waiting ends. Where the task hasn't moved a byte for as long as the operator lets it wait, its source is out
//! of reach. A worker whose turn doesn't come because others get theirs goes on waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use disk_image::ByteRange;
use futures::StreamExt as _;
use image_tasks_domain::{Failure, FailureCode, TaskId};
use tokio::sync::Semaphore;

use crate::bounds::{BUSY_WAIT, BUSY_WAIT_MOST, TABLES_AT_ONCE};
use crate::ports::{Body, Source, SourceInfo};
use crate::stores::Stores;

/// A task whose source may be busy.
#[derive(Clone)]
pub(crate) struct Waits {
    pub(crate) stores: Stores,
    pub(crate) id: TaskId,
    /// Longest wait without a byte of progress.
    pub(crate) most: Duration,
}

impl Waits {
    /// What a call gives once its server has time for it. `refused` is told of each answer that it hasn't.
    pub(crate) async fn out<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        mut call: impl FnMut() -> F,
        refused: impl Fn(),
    ) -> Result<T, Failure> {
        // Nobody comes back at the very moment that all others do.
        let pauses = ExponentialBuilder::default().with_min_delay(BUSY_WAIT).with_max_delay(BUSY_WAIT_MOST);
        let mut pauses = pauses.without_max_times().with_jitter().build();
        let mut waited = Duration::ZERO;
        let mut is_told = false;
        loop {
            let failure = match call().await {
                Err(failure) if failure.busy.is_some() => failure,
                answered => {
                    if is_told {
                        self.stores.tell_waits(self.id, false).await;
                    }
                    return answered;
                }
            };
            refused();
            let asked = failure.busy.unwrap_or_default();
            let most = self.most.as_secs();
            if asked > self.most {
                let told =
                    format!("asks to come back in {} seconds; at most {most} are waited", asked.as_secs());
                return Err(unreachable(&failure, &told));
            }
            let wait = asked + pauses.next().unwrap_or(BUSY_WAIT_MOST);
            if waited + wait > self.most {
                if !self.stores.has_moved(self.id).await {
                    let told =
                        format!("has done so for {} seconds; at most {most} are waited", waited.as_secs());
                    return Err(unreachable(&failure, &told));
                }
                waited = Duration::ZERO;
            }
            if !is_told {
                is_told = true;
                self.stores.tell_waits(self.id, true).await;
            }
            tokio::time::sleep(wait).await;
            waited += wait;
        }
    }
}

fn unreachable(failure: &Failure, told: &str) -> Failure {
    let message = format!("{}, and {told}: ask again when the server has less to do", failure.message);
    Failure::new(FailureCode::SourceUnreachable, message)
}

/// A source whose server may be busy.
pub(crate) struct Patient {
    source: Box<dyn Source>,
    waits: Waits,
    at_once: Arc<Semaphore>,
    /// How many requests may be under way.
    most: AtomicUsize,
}

impl Patient {
    pub(crate) fn new(source: Box<dyn Source>, waits: Waits) -> Self {
        let at_once = Arc::new(Semaphore::new(TABLES_AT_ONCE));
        Self { source, waits, at_once, most: AtomicUsize::new(TABLES_AT_ONCE) }
    }

    /// One request less, but not none.
    fn slow_down(&self) {
        let less = |most: usize| most.checked_sub(1).filter(|most| *most > 0);
        if self.most.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            self.at_once.forget_permits(1);
        }
    }

    async fn ask<F: Future<Output = Result<Body, Failure>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<Body, Failure> {
        let ask = async || {
            // A closed semaphore would say that the source is gone; nobody closes it.
            let permit = Arc::clone(&self.at_once).acquire_owned().await;
            let permit = permit.map_err(crate::error::internal)?;
            let body = request().await?;
            // The connection is in use until the last byte has come.
            Ok(body.inspect(move |_| _ = &permit).boxed())
        };
        self.waits.out(ask, || self.slow_down()).await
    }
}

#[async_trait]
impl Source for Patient {
    fn info(&self) -> &SourceInfo {
        self.source.info()
    }

    async fn read(&self, range: ByteRange) -> Result<Body, Failure> {
        self.ask(|| self.source.read(range)).await
    }

    async fn stream(&self) -> Result<Body, Failure> {
        self.ask(|| self.source.stream()).await
    }

    fn is_ours(&self) -> bool {
        self.source.is_ours()
    }
}
