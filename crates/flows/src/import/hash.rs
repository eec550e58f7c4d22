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
use image_tasks_domain::progress::{Meter, Progress, Step as Meters};
use image_tasks_domain::{ImageId, Task, TaskId};
use md5::{Digest, Md5};
use sha2::Sha512;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Importer;
use super::saved::{Form, Planned};
use crate::bounds::{HASH_AHEAD, HASH_CHUNK, HASH_QUEUE, REPORT_EVERY};
use crate::deadline::Deadline;
use crate::digests::{ChainState, Digests, hex};
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::ports::{ObjectError, ObjectInfo, ObjectRef, Objects};

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

    async fn update(&self, chunks: &Chunks) -> Step<()> {
        self.chunks.send(Arc::clone(chunks)).await.map_err(Stop::internal)
    }

    /// The hash, once it has seen all chunks.
    async fn end(self) -> Step<H> {
        drop(self.chunks);
        self.end.await.map_err(Stop::internal)
    }
}

/// What an object's bytes told.
pub(super) struct Seen {
    pub(super) digests: Digests,
    /// Where they hold data, if that had to be found.
    pub(super) allocation: Option<AllocationMap>,
}

impl Importer {
    /// Hashes an object from where an earlier invocation stopped; `None` where the time did not reach to its end.
    pub(super) async fn hash(
        &self,
        task: &Task,
        image: ImageId,
        planned: &Planned,
        object: &ObjectInfo,
        deadline: Deadline,
    ) -> Step<Option<Seen>> {
        let (id, at) = (task.id, self.settings.image(image));
        // An ended task's progress doesn't change any more.
        let told = !task.status.is_end();
        let allocation = match &planned.form {
            Form::Raw { allocation, .. } => {
                Some(self.allocation(self.settings.allocation(image), allocation).await?)
            }
            Form::AsIs { .. } => None,
            Form::Qcow2 { .. } if !told => None,
            Form::Qcow2 { .. } => {
                // Only now is it known how much there is to hash.
                let hashed = Meter { done: 0, total: object.size };
                self.tasks.set_work(id, &Progress { hashed, ..task.progress }).await?;
                None
            }
        };
        let zeros = Bytes::from(vec![0; usize::try_from(HASH_CHUNK).unwrap_or(0)]);
        let mut scanner = planned.is_verbatim().then(AllocationScanner::default);
        let (start, md5, sha512) = match self.hash_state(id).await? {
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
                let at = &at;
                async move {
                    let chunks = if known {
                        Arc::new(vec![zeros])
                    } else {
                        read(&*self.objects, at, &object.etag, range).await?
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
                        self.tasks.advance(id, Meters::Hashed, offset - reported).await?;
                        reported = offset;
                    }
                },
            }
        }
        let (md5, sha512) = (md5.end().await?, sha512.end().await?);
        let allocation = scanner.map(AllocationScanner::finish);
        if offset == object.size {
            let digests = Digests { md5: hex(&md5.finalize()), sha512: hex(&sha512.finalize()) };
            return Ok(Some(Seen { digests, allocation }));
        }
        if offset == start {
            return Err(Stop::internal("not a byte of the stored object could be hashed in one call"));
        }
        let state = ChainState::save(&object.etag, offset, (&md5, &sha512), allocation.as_ref());
        let bytes = serde_json::to_vec(&state).map_err(Stop::internal)?;
        self.objects.put(&self.settings.hash(id), Bytes::from(bytes)).await?;
        if told {
            // After the save: where the task has ended meanwhile, this stops, and what was saved is removed.
            self.tasks.advance(id, Meters::Hashed, offset - reported).await?;
        }
        Ok(None)
    }

    async fn hash_state(&self, id: TaskId) -> Step<Option<ChainState>> {
        let Some(bytes) = self.objects.get(&self.settings.hash(id)).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(Stop::internal)
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

async fn read(objects: &dyn Objects, at: &ObjectRef, etag: &str, range: ByteRange) -> Step<Chunks> {
    let mut patience = Patience::default();
    loop {
        match try_read(objects, at, etag, range).await {
            Ok(chunks) => return Ok(Arc::new(chunks)),
            Err(e) => patience.after_stop(e.into()).await?,
        }
    }
}

async fn try_read(
    objects: &dyn Objects,
    at: &ObjectRef,
    etag: &str,
    range: ByteRange,
) -> Result<Vec<Bytes>, ObjectError> {
    let mut body = objects.read(at, Some(etag), range).await?;
    let (mut chunks, mut seen) = (Vec::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|failure| ObjectError::Transient(failure.to_string()))?;
        seen += chunk.len() as u64;
        chunks.push(chunk);
    }
    if seen == range.len() {
        Ok(chunks)
    } else {
        Err(ObjectError::Transient(format!("a read broke off at {seen}")))
    }
}
