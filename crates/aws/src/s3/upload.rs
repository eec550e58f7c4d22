//! A body on its way to S3: counted and checksummed as it passes, never held.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use http_body::{Frame, SizeHint};
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::Body;

/// What passed through, once it has.
#[derive(Debug, Clone, Default)]
pub(super) struct Passed(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    failure: Option<Failure>,
    crc64nvme: Option<u64>,
}

impl Passed {
    /// Why the body could not be sent, if that was the body's own failure.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.seen().failure.take()
    }

    /// CRC64NVME of the whole body, once all of it has been sent.
    pub(super) fn crc64nvme(&self) -> Option<u64> {
        self.seen().crc64nvme
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `body` for the SDK, which sends it once and never again.
pub(super) fn stream(body: Body, len: u64) -> (ByteStream, Passed) {
    let passed = Passed::default();
    let mut sized = Sized {
        // The SDK wants bodies that are `Sync`; the lock is never taken.
        body: Mutex::new(body),
        len,
        left: len,
        digest: Digest::new(CrcAlgorithm::Crc64Nvme),
        passed: passed.clone(),
    };
    sized.note_end();
    (ByteStream::from_body_1_x(sized), passed)
}

struct Sized {
    body: Mutex<Body>,
    len: u64,
    left: u64,
    digest: Digest,
    passed: Passed,
}

impl Sized {
    fn note_end(&mut self) {
        if self.left == 0 {
            self.passed.seen().crc64nvme = Some(self.digest.finalize());
        }
    }

    fn fail(&self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.passed.seen().failure = Some(failure.clone());
        Poll::Ready(Some(Err(failure)))
    }
}

impl http_body::Body for Sized {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let next = {
            let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
            body.as_mut().poll_next(cx)
        };
        let (sent, len) = (self.len - self.left, self.len);
        match next {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(chunk))) => {
                let Some(left) = u64::try_from(chunk.len()).ok().and_then(|n| self.left.checked_sub(n))
                else {
                    let message = format!("a body of {len} bytes holds more");
                    return self.fail(Failure::new(FailureCode::Internal, message));
                };
                self.digest.update(&chunk);
                self.left = left;
                self.note_end();
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Poll::Ready(Some(Err(failure))) => self.fail(failure),
            Poll::Ready(None) => {
                self.fail(Failure::transient(format!("a body of {len} bytes ended after {sent}")))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
