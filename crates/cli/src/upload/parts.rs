//! Parts of a file, side by side, each to a URL of its own.
//!
//! Facts: SEMANTICS.md, "Upload a file of any size": a URL takes a part of exactly its length, lives for an hour or
//! less, and a hundred come with one answer at most. S3 answers a refused PUT before its body is sent, which may look
//! like a connection that breaks off: so each further try is made with a URL of its own.
//!
//! Memory: a block of a part in each of the connections, whatever the file's size.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crc_fast::Digest;
use futures::{StreamExt as _, stream};
use reqwest::header::{CONTENT_LENGTH, ETAG};
use reqwest::{Body, Client, Method, Response, StatusCode, Url};
use serde_json::json;

use super::file::{LocalFile, checksum, length_of};
use super::state::{Begun, Line, Sent, State};
use crate::failure::Failure;
use crate::output::text_of;
use crate::progress::Progress;
use crate::service::{Call, PAUSES_OF_BYTES, Service, causes};

/// URLs of one answer: those of the next parts.
const URLS: usize = 16;
/// A URL that has waited for so long isn't used: it lives for an hour at most, and less with short-lived credentials.
const FRESH: Duration = Duration::from_secs(600);
/// Between two looks at how far a part is.
const LOOK: Duration = Duration::from_millis(200);
/// A connection that takes nothing for so long is given up. The last look is at what the network still holds.
const LONGEST_STANDSTILL: Duration = Duration::from_secs(120);

impl Begun {
    fn parts(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.part_size.max(1))).unwrap_or(u32::MAX)
    }

    pub(super) fn range(&self, number: u32) -> Range<u64> {
        let start = u64::from(number.saturating_sub(1)).saturating_mul(self.part_size).min(self.size);
        start..start.saturating_add(self.part_size).min(self.size)
    }

    /// Parts that are yet to be sent.
    pub(super) fn missing(&self, sent: &BTreeMap<u32, Sent>) -> BTreeSet<u32> {
        (1..=self.parts()).filter(|number| !sent.contains_key(number)).collect()
    }
}

/// An upload that is under way.
pub(super) struct Sending<'a> {
    pub(super) service: &'a Service,
    pub(super) image: &'a str,
    pub(super) file: &'a LocalFile,
    pub(super) parallel: usize,
    pub(super) progress: &'a Progress,
}

impl Sending<'_> {
    /// Of the parts that were sent before, those whose bytes are the file's still; the others are yet to be sent.
    pub(super) async fn check_sent(&self, begun: &Begun, state: &mut State) -> Result<(), Failure> {
        let checks = state.sent.iter().map(|(number, sent)| {
            let (number, before) = (*number, sent.crc64nvme);
            async move { Ok((number, self.file.crc64nvme(begun.range(number)).await? == before)) }
        });
        let mut checks = stream::iter(checks.collect::<Vec<_>>()).buffer_unordered(self.parallel);
        while let Some(checked) = checks.next().await {
            if let (number, false) = checked? {
                state.sent.remove(&number);
            }
        }
        Ok(())
    }

    /// Sends all that is missing, so many parts at once.
    pub(super) async fn send_missing(&self, begun: &Begun, state: &mut State) -> Result<(), Failure> {
        let missing = begun.missing(&state.sent);
        let client = self.service.client_of_uploads()?;
        let urls = Urls { sending: self, begun, missing: &missing, known: tokio::sync::Mutex::default() };
        let parts = missing.iter().map(|number| {
            let part =
                Part { client: &client, file: self.file, range: begun.range(*number), number: *number };
            let (urls, progress) = (&urls, self.progress);
            async move { part.send(urls, progress).await.map(|sent| (part.number, sent)) }
        });
        let mut parts = stream::iter(parts).buffer_unordered(self.parallel);
        while let Some(part) = parts.next().await {
            let (number, Sent { etag, crc64nvme }) = part?;
            state.write(Line::Part { number, etag, crc64nvme })?;
        }
        Ok(())
    }
}

/// Where parts go. A URL is a permission of its own, so it is in no message.
struct Urls<'a> {
    sending: &'a Sending<'a>,
    begun: &'a Begun,
    missing: &'a BTreeSet<u32>,
    known: tokio::sync::Mutex<BTreeMap<u32, (Url, Instant)>>,
}

impl Urls<'_> {
    /// One for this part that was not used before.
    async fn take(&self, number: u32) -> Result<Url, Failure> {
        let mut known = self.known.lock().await;
        if let Some((url, since)) = known.remove(&number)
            && since.elapsed() < FRESH
        {
            return Ok(url);
        }
        let numbers: Vec<u32> = self.missing.range(number..).take(URLS).copied().collect();
        let body = json!({"upload_id": self.begun.upload_id, "part_numbers": numbers});
        let path = format!("/v2/images/{}/upload", self.sending.image);
        let call = Call::new(Method::POST, path).with_body("application/json", &body).repeatable();
        let (answer, now) = (self.sending.service.ask(&call).await?.json()?, Instant::now());
        for part in answer["parts"].as_array().into_iter().flatten() {
            let number = part["part_number"].as_u64().and_then(|number| u32::try_from(number).ok());
            if let (Some(number), Ok(url)) = (number, Url::parse(text_of(part, "url"))) {
                known.insert(number, (url, now));
            }
        }
        let none = || Failure::Unreachable(format!("the service gives no address for part {number}"));
        known.remove(&number).map(|(url, _)| url).ok_or_else(none)
    }
}

struct Part<'a> {
    client: &'a Client,
    file: &'a LocalFile,
    range: Range<u64>,
    number: u32,
}

/// Why a try failed.
enum Why {
    /// The next may not.
    Again(String),
    Never(Failure),
}

/// What went into the connection.
struct Passed {
    digest: Mutex<Digest>,
    bytes: AtomicU64,
    /// The file that can't be read is no fault of the connection.
    failed: Mutex<Option<io::Error>>,
}

impl Part<'_> {
    /// Sends it, again where that fails.
    async fn send(&self, urls: &Urls<'_>, progress: &Progress) -> Result<Sent, Failure> {
        let mut pauses = PAUSES_OF_BYTES.iter();
        loop {
            let url = urls.take(self.number).await?;
            let why = match self.once(url, progress).await {
                Ok(sent) => return Ok(sent),
                Err(Why::Never(failure)) => return Err(failure),
                Err(Why::Again(why)) => why,
            };
            let Some(pause) = pauses.next() else {
                let told = format!("part {} can't be sent: {why}. The same command goes on", self.number);
                return Err(Failure::Unreachable(told));
            };
            tokio::time::sleep(*pause).await;
        }
    }

    async fn once(&self, url: Url, progress: &Progress) -> Result<Sent, Why> {
        let passed = Arc::new(Passed {
            digest: Mutex::new(checksum()),
            bytes: AtomicU64::new(0),
            failed: Mutex::default(),
        });
        let shown = AtomicU64::new(0);
        let show = || {
            let passed = passed.bytes.load(Ordering::Relaxed);
            let before = shown.swap(passed, Ordering::Relaxed);
            progress.more(passed - before);
            passed > before
        };
        let request = self.client.put(url).header(CONTENT_LENGTH, self.range.end - self.range.start);
        let answer = request.body(self.body(Arc::clone(&passed))).send();
        let answer = tokio::select! {
            answer = answer => answer.map_err(|error| Why::Again(causes(&error.without_url()))),
            () = standstill(show) => Err(Why::Again("the connection takes nothing more".to_owned())),
        };
        show();
        let sent = answer.and_then(|answer| self.sent(&answer, &passed));
        if sent.is_err() {
            progress.less(shown.load(Ordering::Relaxed));
        }
        match passed.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => {
                let changed = self.file.check_unchanged().err();
                Err(Why::Never(changed.unwrap_or_else(|| self.file.unreadable(&error))))
            }
            None => sent,
        }
    }

    /// The part's bytes, read as the connection takes them.
    fn body(&self, passed: Arc<Passed>) -> Body {
        let (file, range) = (self.file.clone(), self.range.clone());
        let blocks = stream::try_unfold(range.start, move |at| {
            let (file, passed, rest) = (file.clone(), Arc::clone(&passed), at..range.end);
            async move {
                if rest.is_empty() {
                    return Ok(None);
                }
                let block = match file.read(at, length_of(rest)).await {
                    Ok(block) => block,
                    Err(error) => {
                        let kind = error.kind();
                        *passed.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return Err(io::Error::from(kind));
                    }
                };
                passed.digest.lock().unwrap_or_else(PoisonError::into_inner).update(&block);
                passed.bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
                let next = at + block.len() as u64;
                Ok(Some((Bytes::from(block), next)))
            }
        });
        Body::wrap_stream(blocks)
    }

    fn sent(&self, answer: &Response, passed: &Passed) -> Result<Sent, Why> {
        let status = answer.status();
        let told = format!("its server answered {status}");
        let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok());
        match (status, etag) {
            (StatusCode::OK, Some(etag)) => {
                if passed.bytes.load(Ordering::Relaxed) != self.range.end - self.range.start {
                    return Err(Why::Again("its server answered before all was sent".to_owned()));
                }
                let crc64nvme = passed.digest.lock().unwrap_or_else(PoisonError::into_inner).finalize();
                Ok(Sent { etag: etag.to_owned(), crc64nvme })
            }
            (StatusCode::NOT_FOUND, _) => {
                let told =
                    "image-tasks: the upload was given up or has expired; the same command begins anew";
                Err(Why::Never(Failure::Absent(told.to_owned())))
            }
            // A URL that has ended is one that is refused; and whatever a server or a proxy says of its own state.
            _ => Err(Why::Again(told)),
        }
    }
}

/// Ends when nothing has moved for long.
async fn standstill(moves: impl Fn() -> bool) {
    let mut since = Instant::now();
    while since.elapsed() < LONGEST_STANDSTILL {
        tokio::time::sleep(LOOK).await;
        if moves() {
            since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file_once() {
        let begun = |size| Begun { upload_id: String::new(), size, part_size: 4 };
        for (size, ranges) in [(1, "[0..1]"), (4, "[0..4]"), (9, "[0..4, 4..8, 8..9]")] {
            let begun = begun(size);
            let missing = begun.missing(&BTreeMap::new());
            let found: Vec<_> = missing.into_iter().map(|n| begun.range(n)).collect();
            assert_eq!(format!("{found:?}"), ranges);
        }
        let sent = Sent { etag: String::new(), crc64nvme: 0 };
        assert_eq!(begun(9).missing(&[(2, sent)].into()), [1, 3].into());
    }
}
