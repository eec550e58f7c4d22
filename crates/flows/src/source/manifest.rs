//! Whether an OVA's files are what its manifest lists.
//!
//! Goal: an appliance that was damaged on its way fails, as VMware's and VirtualBox's own imports do. A conversion reads a disk
//! in any order and not all of it, so the files are read once more, in order. That is only done of what is spooled: of it each
//! read gives the same bytes.
//!
//! A manifest proves nothing of who packed the OVA, so one that is too large to be read again within a call is taken with a
//! remark.

use disk_image::{Algorithm, ByteRange, Format, Layout, Listed, Regions};
use futures::StreamExt as _;
use image_tasks_domain::progress::size as shown;
use image_tasks_domain::{Failure, FailureCode};
use sha1::Digest;

use super::read::drive;
use super::remote::Remote;
use crate::error::{Flow, Stop};
use crate::job::RemoteAsk;
use crate::ports::Source;
use crate::retry::retry;

/// What a manifest asks for.
pub(super) enum Manifest {
    /// That the source be spooled first.
    Spool,
    /// Nothing more; and what is to be remarked.
    Known(Option<String>),
}

impl Remote {
    /// Checks an OVA that is spooled. A copy of a Glance's image has the hashes of its record.
    pub(super) async fn check_manifest(
        &self,
        source: &dyn Source,
        layout: &Layout,
        ask: &RemoteAsk,
        is_spooled: bool,
    ) -> Flow<Manifest> {
        if layout.format() != Format::Ova || ask.record.is_some() {
            return Ok(Manifest::Known(None));
        }
        let mut regions = Regions::new(layout.file_size());
        let listed = drive(source, &mut regions, disk_image::manifest).await?;
        let most = self.policy.cut.manifest_most;
        if listed.is_empty() {
            return Ok(Manifest::Known(None));
        }
        if layout.file_size() > most {
            return Ok(Manifest::Known(Some(format!(
                "The ova was not checked against its manifest, as it has more than {}; give os_hash_value to be certain.",
                shown(most)
            ))));
        }
        if !is_spooled {
            return Ok(Manifest::Spool);
        }
        for file in &listed {
            let found = match file.algorithm {
                Algorithm::Sha1 => digest::<sha1::Sha1>(source, file.range).await?,
                Algorithm::Sha256 => digest::<sha2::Sha256>(source, file.range).await?,
                Algorithm::Sha384 => digest::<sha2::Sha384>(source, file.range).await?,
                Algorithm::Sha512 => digest::<sha2::Sha512>(source, file.range).await?,
            };
            if found != file.digest {
                return Err(differs(file, &found));
            }
        }
        Ok(Manifest::Known(None))
    }
}

fn differs(file: &Listed, found: &str) -> Stop {
    let message = format!(
        "the ova's manifest lists {} {} of \"{}\", which has {found}; fetch the ova again, or pack it without the \
         manifest (.mf) if the file was changed on purpose",
        file.algorithm.name(),
        file.digest,
        file.name.escape_default()
    );
    Stop::failed(FailureCode::ChecksumMismatch, message)
}

/// The digest of a range, whose bytes pass one by one chunk.
async fn digest<D: Digest + Send>(source: &dyn Source, range: ByteRange) -> Flow<String> {
    if range.is_empty() {
        return Ok(hex::encode(D::digest(b"")));
    }
    retry(async || {
        let mut digest = D::new();
        let mut seen = 0;
        let mut body = source.read(range).await.map_err(of_ours)?;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(of_ours)?;
            seen += chunk.len() as u64;
            digest.update(&chunk);
        }
        if seen != range.len() {
            return Err(Stop::Store(Failure::transient("a spool broke off")));
        }
        Ok(hex::encode(digest.finalize()))
    })
    .await
}

/// A spool is out of reach, which may pass, or is another one.
fn of_ours(failure: Failure) -> Stop {
    if failure.code == FailureCode::Transient { Stop::Store(failure) } else { Stop::Failed(failure) }
}
