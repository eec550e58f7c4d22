//! A file of checksums that a user names: read once, before the task is at work, and what it tells of the source is kept.
//!
//! Threat model: server and file are hostile. What it tells is as good as a hash that the user gives, no better.
//!
//! Invariant: all phases go by the hash that was kept, whatever the server answers later.

use futures::StreamExt as _;
use image_tasks_domain::source::SourceLocation;
use image_tasks_domain::sums::{self, MAX_SUMS, SourceHash, SumsRefused};
use image_tasks_domain::{Failure, FailureCode, ImportInput, TaskId};

use super::remote::Remote;
use crate::error::{Flow, Stop};
use crate::retry::retry_source;
use crate::stores::Stores;

impl Remote {
    /// Reads the file that an import names, if it names one, and keeps the source's hash.
    pub(crate) async fn keep_sums(&self, stores: &Stores, id: TaskId, input: &ImportInput) -> Flow<()> {
        let Some(from) = &input.checksums_from else { return Ok(()) };
        let file = retry_source(|| self.file_of_sums(from)).await?;
        let hash = sums::find(&file, &input.source).map_err(|refused| unusable(from, &refused))?;
        check_given(input, from, &hash)?;
        stores.save_once(&stores.settings.sums(id), &hash).await.map(drop)
    }

    async fn file_of_sums(&self, from: &SourceLocation) -> Result<Vec<u8>, Failure> {
        self.small_file(from, MAX_SUMS, &|| unusable(from, &SumsRefused::TooLong)).await
    }

    /// A file that is small if it is what it is said to be.
    pub(super) async fn small_file(
        &self,
        from: &SourceLocation,
        most: usize,
        too_long: &(dyn Fn() -> Failure + Sync),
    ) -> Result<Vec<u8>, Failure> {
        let source = self.sources.open(from, None, None).await?;
        if source.info().size.is_some_and(|size| size > most as u64) {
            return Err(too_long());
        }
        let (mut file, mut body) = (Vec::new(), source.stream().await?);
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if file.len().saturating_add(chunk.len()) > most {
                return Err(too_long());
            }
            file.extend_from_slice(&chunk);
        }
        Ok(file)
    }
}

/// The hash that was kept, where the import names a file.
pub(crate) async fn kept(stores: &Stores, id: TaskId, input: &ImportInput) -> Flow<Option<SourceHash>> {
    if input.checksums_from.is_none() {
        return Ok(None);
    }
    // None while the task is at work: somebody has just ended it.
    stores.load(&stores.settings.sums(id)).await?.map(Some).ok_or(Stop::Ended)
}

fn unusable(from: &SourceLocation, refused: &SumsRefused) -> Failure {
    Failure::new(FailureCode::SourceInvalid, format!("{from} {refused}"))
}

/// Both say the same, where both are given. Of two algorithms both are checked.
fn check_given(input: &ImportInput, from: &SourceLocation, hash: &SourceHash) -> Result<(), Failure> {
    let (told, given) = match hash {
        SourceHash::Sha256(told) => (told, &input.sha256),
        SourceHash::Sha512(told) => (told, &input.sha512),
    };
    match given {
        Some(given) if given != told => {
            let message = format!("os_hash_value is {given} as given, but {from} tells {told} of the source");
            Err(Failure::new(FailureCode::ChecksumMismatch, message))
        }
        Some(_) | None => Ok(()),
    }
}
