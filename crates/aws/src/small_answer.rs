//! Small answers of services that the operator names, within seconds.
//!
//! Goal: a request of a user waits for these, so nothing here waits long or reads much. This is the one retry layer of
//! such calls: once more where nothing usable came, which is also what a connection needs that broke while the
//! function was frozen.
//!
//! Invariants:
//! - No redirect is followed and no proxy is used: what is sent, such as a token, reaches the named server alone.
//! - Errors hold the server's address and status, and nothing of what was sent.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use image_tasks_domain::ports::{StoreError, StoreResult};
use reqwest::redirect::Policy;
use reqwest::{Client, Request, StatusCode};

/// Most bytes of an answer. Honest ones have some thousand.
pub(crate) const MOST: usize = 256 << 10;

/// Asks and reads.
#[derive(Debug, Clone)]
pub(crate) struct SmallAnswers {
    client: Client,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct SmallAnswer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl SmallAnswers {
    /// Each try may take as long as `patience`, from the connection to the last byte.
    pub(crate) fn new(patience: Duration) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .user_agent(concat!("image-tasks/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .http1_only()
            .timeout(patience)
            .build()?;
        Ok(Self { client })
    }

    /// The answer; where none came, or 429 or 5xx, that to a second try.
    pub(crate) async fn ask(&self, request: Request) -> StoreResult<SmallAnswer> {
        let again = request.try_clone();
        match (self.once(request).await, again) {
            (Err(StoreError::Unavailable(_)), Some(again)) => self.once(again).await,
            (answer, _) => answer,
        }
    }

    async fn once(&self, request: Request) -> StoreResult<SmallAnswer> {
        let unavailable = |error: reqwest::Error| StoreError::Unavailable(Box::new(error));
        let server = request.url().origin().ascii_serialization();
        let answer = self.client.execute(request).await.map_err(unavailable)?;
        let status = answer.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(StoreError::Unavailable(format!("{server} answered {status}").into()));
        }
        let mut body = BytesMut::new();
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(unavailable)?;
            if body.len().saturating_add(chunk.len()) > MOST {
                return Err(fault(format!("{server} answered {status} with more than {MOST} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(SmallAnswer { status, body: body.freeze() })
    }
}

/// An answer that can't be used, or a request that can't be made; for operators.
pub(crate) fn fault(why: String) -> StoreError {
    StoreError::Fault(why.into())
}
