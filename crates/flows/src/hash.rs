//! MD5 and SHA-512 of a stored object, SHA-256 where a user gave one, and where it holds data: by one call, or in a
//! [relay](crate::relay).
//!
//! Invariant: the hashes and the allocation map have seen exactly the first `offset` bytes of one version, in
//! order.
//!
//! What a conversion knows to be zeros is hashed without being read; where a disk is stored as it is, nobody knows,
//! and its zeros are found here (`benches/hash.rs`: 1% of the time). Reads run ahead of the hashes, and the
//! hashes run on a thread each: all are bound by one core (RustCrypto: MD5 549, SHA-512 481 MB per CPU-second).

use std::ops::ControlFlow;

use bytes::Bytes;
use disk_image::{AllocationMap, AllocationScanner, ByteRange};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use image_tasks_domain::Task;
use image_tasks_domain::progress::{Report, Step};
use md5::{Digest, Md5};
use sha2::{Sha256, Sha512};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bounds::{HASH_AHEAD, HASH_HERE, HASH_QUEUE, HASH_READ, REPORT_EVERY, Relay};
use crate::deadline::Deadline;
use crate::digests::{ChainState, Digests, Found};
use crate::error::{Flow, Stop};
use crate::events::{Next, Round};
use crate::job::Plan;
use crate::ports::{ObjectError, ObjectRef, Objects};
use crate::recipe::{Recipe, maps};
use crate::relay::{Runners, Track};
use crate::retry::retry;
use crate::source::Pinned;
use crate::stores::Stores;

/// The bytes of a read, in the pieces that a network made of them, or in one.
type Read = Vec<Bytes>;

/// A hash, on its own thread where that pays.
enum Lane<H> {
    Here(H),
    Thread { reads: mpsc::Sender<Read>, end: JoinHandle<H> },
}

impl<H: Digest + Send + 'static> Lane<H> {
    fn start(mut hash: H, bytes: u64) -> Self {
        if bytes <= HASH_HERE {
            return Self::Here(hash);
        }
        let (reads, mut next) = mpsc::channel::<Read>(HASH_QUEUE);
        let end = tokio::task::spawn_blocking(move || {
            while let Some(read) = next.blocking_recv() {
                read.iter().for_each(|bytes| hash.update(bytes));
            }
            hash
        });
        Self::Thread { reads, end }
    }

    async fn update(&mut self, read: &Read) -> Flow<()> {
        match self {
            Self::Here(hash) => {
                read.iter().for_each(|bytes| hash.update(bytes));
                Ok(())
            }
            Self::Thread { reads, .. } => reads.send(read.clone()).await.map_err(Stop::internal),
        }
    }

    /// The hash, once it has seen all bytes.
    async fn end(self) -> Flow<H> {
        match self {
            Self::Here(hash) => Ok(hash),
            Self::Thread { reads, end } => {
                drop(reads);
                end.await.map_err(Stop::internal)
            }
        }
    }
}

/// All that sees an object's bytes.
struct Lanes {
    md5: Lane<Md5>,
    sha512: Lane<Sha512>,
    sha256: Option<Lane<Sha256>>,
    scanner: Option<AllocationScanner>,
}

impl Lanes {
    /// For so many bytes.
    fn start(digests: Digests, scanner: Option<AllocationScanner>, bytes: u64) -> Self {
        let Digests { md5, sha512, sha256 } = digests;
        let sha256 = sha256.map(|sha256| Lane::start(sha256, bytes));
        Self { md5: Lane::start(md5, bytes), sha512: Lane::start(sha512, bytes), sha256, scanner }
    }

    async fn update(&mut self, read: &Read) -> Flow<()> {
        self.md5.update(read).await?;
        self.sha512.update(read).await?;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(read).await?;
        }
        if let Some(scanner) = &mut self.scanner {
            read.iter().for_each(|bytes| scanner.update(bytes));
        }
        Ok(())
    }

    async fn end(self) -> Flow<(Digests, Option<AllocationMap>)> {
        let (md5, sha512) = (self.md5.end().await?, self.sha512.end().await?);
        let sha256 = match self.sha256 {
            Some(lane) => Some(lane.end().await?),
            None => None,
        };
        Ok((Digests { md5, sha512, sha256 }, self.scanner.map(AllocationScanner::finish)))
    }
}

/// What an object's bytes told.
pub(crate) struct Seen {
    pub(crate) found: Found,
    /// Where they hold data, if that had to be found.
    pub(crate) allocation: Option<AllocationMap>,
}

impl Seen {
    fn of((digests, allocation): (Digests, Option<AllocationMap>)) -> Self {
        Self { found: digests.found(), allocation }
    }
}

/// The states of one version of an object. Another version, or another cut, has none of them.
pub(crate) struct States<'a> {
    stores: &'a Stores,
    task: &'a Task,
    plan: &'a Plan,
    object: &'a Pinned,
    relay: Relay,
    /// What they are of.
    name: String,
}

impl<'a> States<'a> {
    pub(crate) fn of(
        stores: &'a Stores,
        task: &'a Task,
        plan: &'a Plan,
        object: &'a Pinned,
        relay: Relay,
    ) -> Self {
        let ObjectRef { bucket, key } = &object.at;
        let of = format!("{bucket}\n{key}\n{}\n{}", object.etag, relay.chunk);
        let name = hex::encode(&Sha256::digest(of)[..16]);
        Self { stores, task, plan, object, relay, name }
    }

    fn runners(&self) -> Flow<Runners> {
        let chunks = u32::try_from(self.object.size.div_ceil(self.relay.chunk)).map_err(Stop::internal)?;
        Ok(Runners { chunks, workers: self.relay.workers })
    }

    fn at(&self, chunk: u32) -> ObjectRef {
        self.stores.settings.hash(self.task.id, &self.name, chunk)
    }

    fn range(&self, chunk: u32) -> ByteRange {
        let edge = |chunks: u32| self.object.size.min(u64::from(chunks).saturating_mul(self.relay.chunk));
        ByteRange { start: edge(chunk.saturating_sub(1)), end: edge(chunk) }
    }

    async fn load(&self, chunk: u32) -> Flow<Option<ChainState>> {
        let (at, end) = (self.at(chunk), self.range(chunk).end);
        let state: Option<ChainState> = retry(|| self.stores.load(&at)).await?;
        Ok(state.filter(|state| state.etag == self.object.etag && state.offset == end))
    }

    /// What a relay that has come to its end has found.
    pub(crate) async fn last(&self) -> Flow<Option<Seen>> {
        let Some(state) = self.load(self.runners()?.chunks).await? else { return Ok(None) };
        let digests = state.resume().ok_or_else(unreadable)?;
        Ok(Some(Seen::of((digests, self.allocation(&state)?))))
    }

    fn allocation(&self, state: &ChainState) -> Flow<Option<AllocationMap>> {
        match self.plan.finds_zeros() {
            true => state.allocation().map(Some).ok_or_else(unreadable),
            false => Ok(None),
        }
    }

    /// Hashes a small object; a large one is for a relay, and one that is too slow for one call: the round comes first then.
    pub(crate) async fn make(self, deadline: Deadline) -> Flow<ControlFlow<Next, Seen>> {
        if !self.task.status.is_end() && self.plan.recipe.object_size().is_none() {
            // Only now is it known how much there is to hash.
            let total = Report::default().with_total(Step::Hashed, self.object.size);
            self.stores.expect(self.task.id, &total).await;
        }
        let Runners { chunks, workers } = self.runners()?;
        if self.object.size <= self.relay.inline
            && let Some(seen) = self.hasher().await?.whole(deadline).await?
        {
            return Ok(ControlFlow::Continue(seen));
        }
        Ok(ControlFlow::Break(Round::relay(workers, chunks)))
    }

    pub(crate) async fn hasher(self) -> Flow<Hasher<'a>> {
        // What a conversion's map calls zeros is zeros in the object, which was made by it.
        let known = match (&self.plan.recipe, &self.plan.allocation) {
            (Recipe::Raw { .. }, Some(map)) => Some(maps::allocation(&self.stores.objects, map).await?),
            _ => None,
        };
        let zeros = Bytes::from(vec![0; usize::try_from(HASH_READ).map_err(Stop::internal)?]);
        Ok(Hasher { states: self, known, zeros })
    }
}

/// Hashes an object.
pub(crate) struct Hasher<'a> {
    states: States<'a>,
    known: Option<AllocationMap>,
    zeros: Bytes,
}

impl Hasher<'_> {
    /// Takes turns in a relay; the worker's next chunk where that has to be given up.
    pub(crate) async fn relay(&self, next: u32, deadline: Deadline) -> Flow<Option<u32>> {
        self.states.runners()?.run(self, next, deadline).await
    }

    /// All bytes in this call; none where its time is too short.
    async fn whole(&self, deadline: Deadline) -> Flow<Option<Seen>> {
        let States { object, plan, .. } = self.states;
        let scanner = plan.finds_zeros().then(AllocationScanner::default);
        let mut lanes = Lanes::start(Digests::new(plan.sha256), scanner, object.size);
        let mut reads = std::pin::pin!(self.reads(ByteRange { start: 0, end: object.size }, false));
        let mut unreported = 0;
        loop {
            tokio::select! {
                biased;
                () = deadline.reached() => return Ok(None),
                next = reads.try_next() => {
                    let Some(read) = next? else { break };
                    lanes.update(&read).await?;
                    unreported += read.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
                    if unreported >= REPORT_EVERY {
                        self.report(unreported).await?;
                        unreported = 0;
                    }
                },
            }
        }
        Ok(Some(Seen::of(lanes.end().await?)))
    }

    /// A range in reads. What is kept for long is to be packed: what a network gives holds on to more than it shows. It costs a
    /// copy.
    fn reads(&self, range: ByteRange, packed: bool) -> impl Stream<Item = Flow<Read>> + Send + '_ {
        let starts = (range.start..range.end).step_by(usize::try_from(HASH_READ).unwrap_or(usize::MAX));
        let ranges = starts.map(move |start| ByteRange { start, end: range.end.min(start + HASH_READ) });
        futures::stream::iter(ranges.map(move |range| self.read(range, packed))).buffered(HASH_AHEAD)
    }

    async fn read(&self, range: ByteRange, packed: bool) -> Flow<Read> {
        if self.known.as_ref().is_some_and(|map| map.is_zero(range.start..range.end)) {
            return Ok(vec![self.zeros.slice(..usize::try_from(range.len()).map_err(Stop::internal)?)]);
        }
        let States { stores, object, .. } = self.states;
        retry(async || Ok(read(&*stores.objects, object, range, packed).await?)).await
    }

    /// An ended task's progress doesn't change any more.
    async fn report(&self, bytes: u64) -> Flow<()> {
        let States { stores, task, .. } = self.states;
        if !task.status.is_end() {
            stores.advance(task.id, Step::Hashed, bytes).await?;
        }
        Ok(())
    }
}

impl Track for Hasher<'_> {
    type Chunk = Vec<Read>;
    type State = ChainState;

    async fn is_hashed(&self, chunk: u32) -> Flow<bool> {
        let at = self.states.at(chunk);
        Ok(retry(async || Ok(self.states.stores.objects.head(&at).await?)).await?.is_some())
    }

    async fn state(&self, chunk: u32) -> Flow<Option<ChainState>> {
        self.states.load(chunk).await
    }

    async fn read(&self, chunk: u32) -> Flow<Vec<Read>> {
        self.reads(self.states.range(chunk), true).try_collect().await
    }

    async fn hash(&self, chunk: u32, reads: Vec<Read>, before: Option<ChainState>) -> Flow<bool> {
        let States { stores, task, plan, object, .. } = self.states;
        let (digests, map) = match &before {
            Some(state) => (state.resume().ok_or_else(unreadable)?, self.states.allocation(state)?),
            None => (Digests::new(plan.sha256), None),
        };
        let scanner = map.map_or_else(AllocationScanner::default, AllocationScanner::resume);
        let scanner = plan.finds_zeros().then_some(scanner);
        let mut lanes = Lanes::start(digests, scanner, self.states.range(chunk).len());
        // Each is freed once it is hashed.
        for read in reads {
            lanes.update(&read).await?;
        }
        let (digests, map) = lanes.end().await?;
        let range = self.states.range(chunk);
        let state = ChainState::save(&object.etag, range.end, &digests, map.as_ref());
        let at = self.states.at(chunk);
        let other = retry(|| stores.save_once(&at, &state)).await?;
        if other.as_ref().is_some_and(|other| *other != state) {
            return Err(Stop::internal("two workers have hashed the same bytes to different states"));
        }
        // After the save: where the task has ended meanwhile, this stops, and what was saved is removed.
        stores.hashes_wanted(task.id).await?;
        self.report(range.len()).await?;
        Ok(other.is_none())
    }

    async fn remove(&self, chunk: u32) -> Flow<()> {
        Ok(self.states.stores.objects.delete(&self.states.at(chunk)).await?)
    }
}

fn unreadable() -> Stop {
    Stop::internal("a state of the hashes that can't be read")
}

async fn read(
    objects: &dyn Objects,
    object: &Pinned,
    range: ByteRange,
    packed: bool,
) -> Result<Read, ObjectError> {
    let mut body = objects.read(&object.at, Some(&object.etag), range).await?;
    let len = usize::try_from(range.len()).map_err(|e| ObjectError::Fault(e.to_string().into()))?;
    let mut pack = Vec::with_capacity(if packed { len } else { 0 });
    let (mut read, mut came) = (Read::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|failure| ObjectError::Transient(failure.to_string().into()))?;
        came += chunk.len();
        if packed {
            pack.extend_from_slice(&chunk);
        } else {
            read.push(chunk);
        }
    }
    if packed {
        read.push(pack.into());
    }
    if came == len {
        Ok(read)
    } else {
        Err(ObjectError::Transient(format!("a read broke off at {came}").into()))
    }
}
