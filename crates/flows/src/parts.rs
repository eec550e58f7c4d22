//! The parts of a multipart upload: which are still to be made, making them in the time there is, and the object from all of them.
//!
//! Invariants:
//! - A part that the upload holds at its planned size is not made again: a repeated call does what is left.
//! - The object is made of exactly the parts planned, by a request that refuses to overwrite.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;

use futures::StreamExt as _;
use image_tasks_domain::transfer::{Batch, PartRange, TransferPlan};

use crate::deadline::Deadline;
use crate::digests::combined;
use crate::error::{Step, Stop};
use crate::origin::Patience;
use crate::ports::{Body, ObjectError, ObjectRef, Objects, StoredPart, UploadId};

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
        check(combined(&parts))?;
        complete(self.objects, self.at, self.id, &parts).await
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

/// Makes the parts an object.
pub(crate) async fn complete(
    objects: &dyn Objects,
    at: &ObjectRef,
    upload: &UploadId,
    parts: &[StoredPart],
) -> Step<()> {
    match objects.complete(at, upload, parts, combined(parts), true).await {
        // An earlier call's answer was lost, or one runs at the same time.
        Ok(_) | Err(ObjectError::Precondition(_)) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Where parts go whose lengths no plan names.
pub(crate) struct Destination<'a> {
    pub(crate) store: &'a dyn Objects,
    pub(crate) at: &'a ObjectRef,
    pub(crate) upload: &'a UploadId,
    /// What a refusal means there.
    pub(crate) refused: &'a (dyn Fn(ObjectError) -> Stop + Send + Sync),
}

impl Destination<'_> {
    /// Uploads a part, again where a fault may pass.
    pub(crate) async fn put(&self, number: u32, len: u64, body: impl Fn() -> Body) -> Step<()> {
        let mut patience = Patience::default();
        loop {
            match self.store.upload_part(self.at, self.upload, number, len, body()).await {
                Ok(part) if part.size == len => return Ok(()),
                Ok(_) => {
                    return Err(Stop::internal("the store holds a part of another size than it was given"));
                }
                Err(e) => patience.after_stop((self.refused)(e)).await?,
            }
        }
    }
}

/// The parts that an upload must hold.
pub(crate) struct Expected {
    /// Numbers and the bytes that they have together.
    pub(crate) spans: Vec<(Range<u32>, u64)>,
}

impl Expected {
    pub(crate) fn check(&self, parts: &[StoredPart]) -> Step<()> {
        let mut counted = 0;
        for (numbers, bytes) in &self.spans {
            let of_span: Vec<u64> =
                parts.iter().filter(|part| numbers.contains(&part.number)).map(|part| part.size).collect();
            if of_span.iter().sum::<u64>() != *bytes {
                return Err(Stop::internal(format!("parts {numbers:?} are not {bytes} bytes")));
            }
            counted += of_span.len();
        }
        if counted != parts.len() {
            return Err(Stop::internal("there are parts that nobody planned"));
        }
        Ok(())
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
