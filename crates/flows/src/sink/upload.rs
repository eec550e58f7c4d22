//! A multipart upload: parts that are put or copied into it, and the object from all of them.
//!
//! Invariants:
//! - A part that the upload holds at its planned size is not made again: a repeated call does what is left.
//! - The object is made of exactly the parts planned, by a request that refuses to overwrite.

use std::collections::BTreeMap;
use std::future::Future;

use image_tasks_domain::Failure;

use crate::digests::combined;
use crate::error::{Flow, Stop};
use crate::ports::{Body, CopiedRange, ObjectError, ObjectInfo, StoredPart, UploadId};
use crate::recipe::parts::Part;
use crate::retry::retry;
use crate::sink::Sink;

/// An upload under way.
#[derive(Clone, Copy)]
pub(crate) struct Upload<'a> {
    pub(crate) sink: &'a Sink,
    pub(crate) id: &'a UploadId,
}

impl Upload<'_> {
    /// Bytes of the parts that it holds, by number.
    pub(crate) async fn held(&self) -> Flow<BTreeMap<u32, u64>> {
        Ok(self.parts().await?.into_iter().map(|part| (part.number, part.size)).collect())
    }

    async fn parts(&self) -> Flow<Vec<StoredPart>> {
        let parts = self.sink.store().parts(self.sink.at(), self.id).await;
        parts.map_err(|e| self.sink.refused_part(e))
    }

    /// Uploads a part, again where a fault may pass.
    pub(crate) async fn put<F: Future<Output = Flow<Body>>>(
        &self,
        number: u32,
        len: u64,
        body: impl Fn() -> F,
    ) -> Flow<()> {
        let part = retry(async || {
            let body = body().await?;
            let part = self.sink.store().upload_part(self.sink.at(), self.id, number, len, body).await;
            part.map_err(|e| self.sink.refused_part(e))
        });
        whole(&part.await?, len)
    }

    /// Has the store copy a part, again where a fault may pass. `refused` says why it didn't.
    pub(crate) async fn copy<F: Future<Output = Stop>>(
        &self,
        number: u32,
        from: CopiedRange<'_>,
        refused: impl Fn(ObjectError) -> F,
    ) -> Flow<()> {
        let part =
            retry(async || match self.sink.store().copy_part(self.sink.at(), self.id, number, from).await {
                Ok(part) => Ok(part),
                Err(e) => Err(refused(e).await),
            });
        whole(&part.await?, from.range.len())
    }

    /// Makes the parts an object, unless an earlier call did; none where some are missing. `check` is given the CRC64NVME of
    /// the whole first.
    pub(crate) async fn seal(
        &self,
        planned: &[Part],
        check: impl FnOnce(u64) -> Flow<()>,
    ) -> Flow<Option<ObjectInfo>> {
        let parts = self.parts().await?;
        let held: BTreeMap<u32, u64> = parts.iter().map(|part| (part.number, part.size)).collect();
        if planned.iter().any(|part| held.get(&part.number) != Some(&part.len())) {
            return Ok(None);
        }
        if held.len() != planned.len() {
            return Err(Stop::internal("there are parts that nobody planned"));
        }
        let crc = combined(&parts);
        check(crc)?;
        let (store, at) = (self.sink.store(), self.sink.at());
        let completed = retry(async || match store.complete(at, self.id, &parts, crc, true).await {
            Err(e @ ObjectError::Transient(_)) => Err(e.into()),
            completed => Ok(completed),
        });
        match completed.await? {
            Ok(object) => Ok(Some(object)),
            // Whoever writes there may need a moment more.
            Err(ObjectError::Conflict(what)) => {
                tracing::warn!(%what, "an upload can't be completed");
                let made = match retry(async || self.sink.made().await?.ok_or_else(contended)).await {
                    Ok(object) => Ok(object),
                    Err(_) => self.sink.made().await?.ok_or_else(|| self.sink.conflicted()),
                };
                made.map(Some)
            }
            // An earlier call's answer was lost, or one beside this was quicker, or somebody else's object is there by now.
            Err(e @ (ObjectError::Precondition(_) | ObjectError::NotFound(_))) => {
                let made = self.sink.made().await?.ok_or_else(|| match e {
                    ObjectError::Precondition(_) => contended(),
                    other => self.sink.refused_part(other),
                });
                made.map(Some)
            }
            Err(e) => Err(self.sink.refused_part(e)),
        }
    }
}

/// Whether a stored part is as long as what was sent.
pub(crate) fn whole(part: &StoredPart, len: u64) -> Flow<()> {
    if part.size == len {
        return Ok(());
    }
    Err(Stop::internal("the store holds a part of another size than it was given"))
}

/// S3 refuses a write while another to that name is under way (S3 user guide, "Conditional requests").
pub(crate) fn contended() -> Stop {
    Stop::Store(Failure::transient("another write to that name was under way"))
}
