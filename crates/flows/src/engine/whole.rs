//! A small object, made in one request.

use std::sync::{Arc, Mutex, PoisonError};

use super::Engine;
use crate::digests::{hashed, scanned};
use crate::error::{Flow, Stop};
use crate::hash::Seen;
use crate::job::Plan;
use crate::ports::ObjectError;
use crate::recipe::parts::SourceBytes;
use crate::recipe::{Site, Whole};
use crate::retry::retry;
use crate::sink::CopyInto;
use crate::sink::upload::contended;

impl Engine {
    /// Makes a small object in one request; what its bytes told, unless an earlier call has made it.
    pub(super) async fn make_whole(&self, site: &Site<'_>, plan: &Plan) -> Flow<Option<Seen>> {
        let sink = &site.job.sink;
        let store = sink.beginning(&plan.metadata);
        match plan.recipe.whole(site).await? {
            Whole::Copy(from) => {
                let copy = retry(async || {
                    match store.copy(sink.at(), &from.at, &from.etag, true).await {
                        Ok(_) => Ok(()),
                        // Of the object that is there, or of the version that isn't?
                        Err(e @ ObjectError::Precondition(_)) => match sink.made().await? {
                            Some(_) => Ok(()),
                            None => Err(site.not_copied(e, CopyInto::Whole).await),
                        },
                        Err(e) => Err(site.not_copied(e, CopyInto::Whole).await),
                    }
                });
                copy.await.map(|()| None)
            }
            Whole::Bytes(bytes, size) => retry(|| self.put_seen(site, plan, &bytes, size)).await,
        }
    }

    async fn put_seen(
        &self,
        site: &Site<'_>,
        plan: &Plan,
        bytes: &SourceBytes,
        size: u64,
    ) -> Flow<Option<Seen>> {
        let sink = &site.job.sink;
        let (mut body, hasher) = hashed(bytes.body(0..size).await?, plan.sha256);
        let mut scanner = None;
        if plan.finds_zeros() {
            let (watched, found) = scanned(body);
            (body, scanner) = (watched, Some(found));
        }
        let stored = match sink.beginning(&plan.metadata).put_stream(sink.at(), size, body, true).await {
            Ok(stored) => stored,
            Err(ObjectError::Precondition(_)) => {
                return sink.made().await?.map(|_| None).ok_or_else(contended);
            }
            Err(e) => return Err(sink.refused(e)),
        };
        let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if stored.size != size || stored.crc64nvme.is_some_and(|crc| crc != hasher.crc64nvme()) {
            return Err(Stop::internal("the store holds other bytes than it was given"));
        }
        let allocation = scanner.map(|scanner| taken(&scanner).finish());
        Ok(Some(Seen { found: hasher.found(), allocation }))
    }
}

fn taken<T: Default>(shared: &Arc<Mutex<T>>) -> T {
    std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner))
}
