//! Ranges of an image's bytes, side by side.
//!
//! Facts: SEMANTICS.md, "Download an image": the service answers 302 to a URL that is good for up to an hour to begin a
//! request with. S3 answers 403 to one that has ended, and 412 to an `If-Match` that doesn't hold.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use reqwest::header::{CONTENT_RANGE, ETAG, IF_MATCH, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::{Partial, Wanted};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::service::{Call, PAUSES_OF_BYTES, Service, causes};

/// Fetches all that is missing, so many ranges at once.
pub(super) async fn fetch_missing(
    service: &Service,
    wanted: &Wanted,
    partial: &mut Partial,
    parallel: usize,
    progress: &Progress,
) -> Result<(), Failure> {
    let missing = partial.missing();
    let Some(((first, first_range), others)) = missing.split_first() else { return Ok(()) };
    let link = Link { service, image: &wanted.image, url: Mutex::new(None) };
    let fetch = |range: Range<u64>, etag: Option<String>, file: Arc<File>| {
        let link = &link;
        async move {
            Part { client: service.client(), range, etag, file, size: wanted.size }
                .fetch(link, progress)
                .await
        }
    };
    // One alone at first, unless an earlier run did that: all others must be of the same version of the bytes.
    let mut others = others;
    if partial.etag().is_none() {
        let etag = fetch(first_range.clone(), None, Arc::clone(partial.file())).await?;
        partial.set_etag(etag);
        partial.finish(*first)?;
    } else {
        others = &missing;
    }
    let etag = partial.etag().map(str::to_owned);
    let file = Arc::clone(partial.file());
    let parts = others.iter().cloned().map(|(n, range)| {
        let fetched = fetch(range, etag.clone(), Arc::clone(&file));
        async move { fetched.await.map(|_| n) }
    });
    let mut parts = stream::iter(parts).buffer_unordered(parallel);
    while let Some(part) = parts.next().await {
        partial.finish(part?)?;
    }
    Ok(())
}

/// Where the bytes are. The URL is a permission of its own, so it is in no message.
struct Link<'a> {
    service: &'a Service,
    image: &'a str,
    url: Mutex<Option<Url>>,
}

impl Link<'_> {
    /// A URL other than the one that was refused.
    async fn other_than(&self, refused: Option<&Url>) -> Result<Url, Failure> {
        let mut known = self.url.lock().await;
        if let Some(url) = known.as_ref().filter(|url| Some(*url) != refused) {
            return Ok(url.clone());
        }
        let answer = self.service.ask(&Call::get(format!("/v2/images/{}/file", self.image))).await?;
        let url = answer.location().and_then(|location| Url::parse(location).ok());
        let url = url.ok_or_else(|| {
            let told = format!("the service answered {} and no address of the bytes", answer.status());
            Failure::Unreachable(told)
        })?;
        *known = Some(url.clone());
        Ok(url)
    }
}

struct Part<'a> {
    client: &'a Client,
    range: Range<u64>,
    etag: Option<String>,
    file: Arc<File>,
    size: u64,
}

/// Why a try failed.
enum Why {
    /// The next may not.
    Again(String),
    /// The URL isn't good any more.
    Refused(String),
    Never(Failure),
}

impl Part<'_> {
    /// Fetches it, again where the connection breaks; returns the bytes' `ETag`.
    async fn fetch(mut self, link: &Link<'_>, progress: &Progress) -> Result<Option<String>, Failure> {
        let mut pauses = PAUSES_OF_BYTES.iter();
        let mut refused = None;
        loop {
            let url = link.other_than(refused.as_ref()).await?;
            let start = self.range.start;
            let why = match self.once(url.clone(), progress).await {
                Ok(etag) => return Ok(etag),
                Err(Why::Never(failure)) => return Err(failure),
                Err(Why::Again(why)) => why,
                Err(Why::Refused(why)) => {
                    refused = Some(url);
                    why
                }
            };
            if self.range.start > start {
                // It came on: patience starts anew, and so does the range, behind what is there.
                pauses = PAUSES_OF_BYTES.iter();
            }
            let Some(pause) = pauses.next() else {
                let told = format!("the bytes from {} on don't come: {why}", self.range.start);
                return Err(Failure::Unreachable(told));
            };
            tokio::time::sleep(*pause).await;
        }
    }

    /// One request. What it brings is written, even where it breaks off.
    async fn once(&mut self, url: Url, progress: &Progress) -> Result<Option<String>, Why> {
        let again = |error: reqwest::Error| Why::Again(causes(&error.without_url()));
        let (start, end) = (self.range.start, self.range.end);
        let mut request =
            self.client.get(url).header(RANGE, format!("bytes={start}-{}", end.saturating_sub(1)));
        if let Some(etag) = &self.etag {
            request = request.header(IF_MATCH, etag);
        }
        let answer = request.send().await.map_err(again)?;
        self.check(&answer)?;
        let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        self.etag.clone_from(&etag);
        let mut bytes = answer.bytes_stream();
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(again)?;
            let length = chunk.len() as u64;
            if length > self.range.end - self.range.start {
                return Err(Why::Again("more bytes came than were asked for".to_owned()));
            }
            // Into the page cache: short enough for a thread of the runtime.
            self.file.write_all_at(&chunk, self.range.start).map_err(|error| {
                Why::Never(Failure::Here(format!("the partial file can't be written: {error}")))
            })?;
            self.range.start += length;
            progress.more(length);
        }
        if self.range.is_empty() { Ok(etag) } else { Err(Why::Again("the connection broke off".to_owned())) }
    }

    fn check(&self, answer: &Response) -> Result<(), Why> {
        let status = answer.status();
        let told = format!("its server answered {status}");
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let Range { start, end } = self.range;
                let expected = format!("bytes {start}-{}/{}", end.saturating_sub(1), self.size);
                let found = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                if found == Some(&expected) {
                    return Ok(());
                }
                let told = format!("the server of the bytes has other ranges: {found:?}, not {expected}");
                Err(Why::Never(Failure::Here(told)))
            }
            StatusCode::PRECONDITION_FAILED => {
                let told = "the image's bytes were replaced meanwhile: remove the partial file and try again";
                Err(Why::Never(Failure::Here(told.to_owned())))
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => {
                Err(Why::Refused(told))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Why::Again(told))
            }
            _ => Err(Why::Never(Failure::Here(format!("the bytes can't be had: {told}")))),
        }
    }
}
