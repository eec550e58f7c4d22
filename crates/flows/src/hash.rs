//! MD5 and SHA-512 of a stored object, and where it holds data, by a chain of invocations.
//!
//! Invariant: the two hashes and the allocation map have seen exactly the first `offset` bytes of one version, in order.
//!
//! Chunks that a conversion knows to be zeros are hashed without being read; where a disk is stored as it is, nobody knows, and
//! its zeros are found here (`benches/hash.rs`: 1% of the time). Reads run ahead of the hashes, and the two hashes run on a thread each: both are bound by one core
//! (RustCrypto: MD5 549, SHA-512 481 MB per CPU-second), so side by side they cost the time of one.

use std::sync::Arc;

use bytes::Bytes;
use disk_image::{AllocationMap, AllocationScanner, ByteRange};
use futures::StreamExt as _;
use image_tasks_domain::progress::{Report, Step};
use image_tasks_domain::{ImageHashes, Task, TaskId};
use md5::{Digest, Md5};
use sha2::Sha512;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bounds::{HASH_AHEAD, HASH_CHUNK, HASH_QUEUE, REPORT_EVERY};
use crate::deadline::Deadline;
use crate::digests::ChainState;
use crate::error::{Flow, Stop};
use crate::job::Plan;
use crate::ports::{ObjectError, Objects};
use crate::recipe::{Recipe, maps};
use crate::retry::retry;
use crate::source::Pinned;
use crate::stores::Stores;

/// Chunks of one read, in order.
type Chunks = Arc<Vec<Bytes>>;

/// A hash on its own thread.
struct Lane<H> {
    chunks: mpsc::Sender<Chunks>,
    end: JoinHandle<H>,
}

impl<H: Digest + Send + 'static> Lane<H> {
    fn start(mut hash: H) -> Self {
        let (chunks, mut next) = mpsc::channel::<Chunks>(HASH_QUEUE);
        let end = tokio::task::spawn_blocking(move || {
            while let Some(chunks) = next.blocking_recv() {
                for chunk in chunks.iter() {
                    hash.update(chunk);
                }
            }
            hash
        });
        Self { chunks, end }
    }

    async fn update(&self, chunks: &Chunks) -> Flow<()> {
        self.chunks.send(Arc::clone(chunks)).await.map_err(Stop::internal)
    }

    /// The hash, once it has seen all chunks.
    async fn end(self) -> Flow<H> {
        drop(self.chunks);
        self.end.await.map_err(Stop::internal)
    }
}

/// What an object's bytes told.
pub(crate) struct Seen {
    pub(crate) hashes: ImageHashes,
    /// Where they hold data, if that had to be found.
    pub(crate) allocation: Option<AllocationMap>,
}

impl Stores {
    /// Where earlier invocations got to.
    pub(crate) async fn hashes_begun(&self, id: TaskId) -> Flow<Option<ChainState>> {
        self.load(&self.settings.hash(id)).await
    }

    /// Hashes an object from where an earlier invocation stopped; `None` where the time did not reach to its end.
    pub(crate) async fn hash(
        &self,
        task: &Task,
        plan: &Plan,
        object: &Pinned,
        begun: Option<ChainState>,
        deadline: Deadline,
    ) -> Flow<Option<Seen>> {
        let id = task.id;
        // An ended task's progress doesn't change any more.
        let told = !task.status.is_end();
        // What a conversion's map calls zeros is zeros in the object, which was made by it.
        let allocation = match (&plan.recipe, &plan.allocation) {
            (Recipe::Raw { .. }, Some(map)) => Some(maps::allocation(&self.objects, map).await?),
            _ => None,
        };
        if told && plan.recipe.object_size().is_none() {
            // Only now is it known how much there is to hash.
            self.expect(id, &Report::default().with_total(Step::Hashed, object.size));
        }
        let zeros = Bytes::from(vec![0; usize::try_from(HASH_CHUNK).unwrap_or(0)]);
        let mut scanner = plan.finds_zeros().then(AllocationScanner::default);
        let (start, md5, sha512) = match begun {
            Some(state) if state.etag == object.etag => {
                let unreadable = || Stop::internal("a state of the hashes that can't be read");
                let (md5, sha512) = state.resume().ok_or_else(unreadable)?;
                if scanner.is_some() {
                    scanner = Some(AllocationScanner::resume(state.allocation().ok_or_else(unreadable)?));
                }
                (state.offset, md5, sha512)
            }
            _ => (0, Md5::new(), Sha512::new()),
        };
        let (md5, sha512) = (Lane::start(md5), Lane::start(sha512));
        let mut reads = futures::stream::iter(ranges(start, object.size))
            .map(|range| {
                // What the allocation map calls zeros is zeros in the stored object, which was made by it.
                let known = allocation.as_ref().is_some_and(|map| map.is_zero(range.start..range.end));
                let zeros = zeros.slice(..usize::try_from(range.len()).unwrap_or(0));
                async move {
                    let chunks = if known {
                        Arc::new(vec![zeros])
                    } else {
                        read(&*self.objects, object, range).await?
                    };
                    Ok::<_, Stop>((range, chunks))
                }
            })
            .buffered(HASH_AHEAD);
        let (mut offset, mut reported) = (start, start);
        loop {
            tokio::select! {
                biased;
                () = deadline.reached() => break,
                next = reads.next() => {
                    let Some(next) = next else { break };
                    let (range, chunks) = next?;
                    md5.update(&chunks).await?;
                    sha512.update(&chunks).await?;
                    if let Some(scanner) = &mut scanner {
                        chunks.iter().for_each(|chunk| scanner.update(chunk));
                    }
                    offset = range.end;
                    if told && offset - reported >= REPORT_EVERY {
                        self.advance(id, Step::Hashed, offset - reported).await?;
                        reported = offset;
                    }
                },
            }
        }
        let (md5, sha512) = (md5.end().await?, sha512.end().await?);
        let allocation = scanner.map(AllocationScanner::finish);
        if offset == object.size {
            let hashes =
                ImageHashes { md5: hex::encode(md5.finalize()), sha512: hex::encode(sha512.finalize()) };
            return Ok(Some(Seen { hashes, allocation }));
        }
        if offset == start {
            return Err(Stop::internal("not a byte of the stored object could be hashed in one call"));
        }
        let state = ChainState::save(&object.etag, offset, (&md5, &sha512), allocation.as_ref());
        self.save(&self.settings.hash(id), &state).await?;
        if told {
            self.advance(id, Step::Hashed, offset - reported).await?;
            // After the save: where the task has ended meanwhile, this stops, and what was saved is removed.
            self.unended(id).await?;
        }
        Ok(None)
    }
}

/// `start..size` in steps of a chunk.
fn ranges(start: u64, size: u64) -> impl Iterator<Item = ByteRange> {
    let mut at = start;
    std::iter::from_fn(move || {
        let range = ByteRange { start: at, end: size.min(at.saturating_add(HASH_CHUNK)) };
        at = range.end;
        (!range.is_empty()).then_some(range)
    })
}

async fn read(objects: &dyn Objects, object: &Pinned, range: ByteRange) -> Flow<Chunks> {
    retry(async || Ok(Arc::new(try_read(objects, object, range).await?))).await
}

async fn try_read(
    objects: &dyn Objects,
    object: &Pinned,
    range: ByteRange,
) -> Result<Vec<Bytes>, ObjectError> {
    let mut body = objects.read(&object.at, Some(&object.etag), range).await?;
    let (mut chunks, mut seen) = (Vec::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|failure| ObjectError::Transient(failure.to_string().into()))?;
        seen += chunk.len() as u64;
        chunks.push(chunk);
    }
    if seen == range.len() {
        Ok(chunks)
    } else {
        Err(ObjectError::Transient(format!("a read broke off at {seen}").into()))
    }
}
