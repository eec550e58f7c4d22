//! The parts of a multipart upload: which are still to be made, making them in the time there is, and the object from all of them.
//!
//! Invariants:
//! - A part that the upload holds at its planned size is not made again: a repeated call does what is left.
//! - The object is made of exactly the parts planned, by a request that refuses to overwrite.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::StreamExt as _;
use image_tasks_domain::transfer::{Batch, PartRange, TransferPlan};

use crate::deadline::Deadline;
use crate::digests::combined;
use crate::error::{Step, Stop};
use crate::ports::{ObjectError, ObjectRef, Objects, StoredPart, UploadId};

/// An upload whose parts follow a plan.
pub(crate) struct Upload<'a> {
    pub(crate) objects: &'a dyn Objects,
    pub(crate) at: &'a ObjectRef,
    pub(crate) id: &'a UploadId,
    pub(crate) plan: &'a TransferPlan,
}

impl Upload<'_> {
    /// The parts of a batch that aren't there yet, by number.
    pub(crate) async fn missing(&self, batch: Batch) -> Step<BTreeMap<u32, PartRange>> {
        let held = self.objects.parts(self.at, self.id).await?;
        let held: BTreeMap<u32, u64> = held.into_iter().map(|part| (part.number, part.size)).collect();
        let mut missing = BTreeMap::new();
        for number in batch.first..=batch.last {
            let part = self.plan.part(number);
            let part = part.ok_or_else(|| Stop::internal(format!("part {number} is not in the plan")))?;
            if held.get(&number) != Some(&part.len) {
                missing.insert(number, part);
            }
        }
        Ok(missing)
    }

    /// Makes the parts an object, unless an earlier call did. `check` is given the CRC64NVME of the whole first.
    pub(crate) async fn complete(&self, check: impl FnOnce(u64) -> Step<()>) -> Step<()> {
        if self.objects.head(self.at).await?.is_some() {
            return Ok(());
        }
        let parts = self.objects.parts(self.at, self.id).await?;
        self.sound(&parts)?;
        let crc = combined(&parts);
        check(crc)?;
        match self.objects.complete(self.at, self.id, &parts, crc, true).await {
            // An earlier call's answer was lost, or one runs at the same time.
            Ok(_) | Err(ObjectError::Precondition(_)) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn sound(&self, parts: &[StoredPart]) -> Step<()> {
        let count = usize::try_from(self.plan.parts()).unwrap_or(usize::MAX);
        let planned = |part: &StoredPart| self.plan.part(part.number).is_some_and(|p| p.len == part.size);
        if parts.len() == count && parts.iter().all(planned) {
            return Ok(());
        }
        Err(Stop::internal(format!("{} of {count} parts are there", parts.len())))
    }
}

/// Makes numbered pieces side by side until the time is up; what is left then. `too_slow` says that not one was made.
pub(crate) async fn make<F: Future<Output = Step<()>>>(
    mut left: BTreeSet<u32>,
    at_once: usize,
    deadline: Deadline,
    piece: impl Fn(u32) -> F,
    too_slow: impl FnOnce() -> Stop,
) -> Step<Option<Batch>> {
    let at_first = left.len();
    let piece = &piece;
    let mut makes = futures::stream::iter(left.clone())
        .map(|number| async move { piece(number).await.map(|()| number) })
        .buffer_unordered(at_once);
    loop {
        // Checked first, so that work which always has something ready can't carry us past the end.
        tokio::select! {
            biased;
            () = deadline.reached() => break,
            made = makes.next() => match made {
                Some(number) => left.remove(&number?),
                None => break,
            },
        };
    }
    match (left.first(), left.last()) {
        (Some(_), Some(_)) if left.len() == at_first => Err(too_slow()),
        (Some(first), Some(last)) => Ok(Some(Batch { first: *first, last: *last })),
        _ => Ok(None),
    }
}
