//! Callers by a token of Keystone.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use image_tasks_domain::keystone::MOST_TOKEN;
use image_tasks_domain::ports::{Clock, StoreError, Tokens};
use image_tasks_domain::{KeystoneToken, Secret};
use sha2::{Digest, Sha256};

use super::cache::Cache;

/// How long a refusal is kept: who repeats a bad token asks Keystone less, and a token that a slow replica of Keystone
/// doesn't know yet is taken soon.
const REFUSED: Duration = Duration::from_secs(5);
/// Answers that are kept. Each has some 300 bytes.
const MOST: usize = 1000;

/// Tokens as Keystone judges them.
///
/// Invariant: a token itself is kept nowhere. What is known of it lies under its SHA-256.
pub struct Keystone {
    tokens: Arc<dyn Tokens>,
    bound: Duration,
    challenge: String,
    cache: Cache<[u8; 32], Option<Arc<KeystoneToken>>>,
}

impl Keystone {
    /// Over a Keystone whose clients know it by this URL. `bound` is how long a token may be taken after Keystone was
    /// asked about it, which is how long a revoked one may live on.
    pub fn new(tokens: Arc<dyn Tokens>, clock: Arc<dyn Clock>, url: &str, bound: Duration) -> Self {
        let challenge = format!("Keystone uri=\"{url}\"");
        Self { tokens, bound, challenge, cache: Cache::new(clock, MOST) }
    }

    /// What `WWW-Authenticate` says: where tokens are made.
    pub(super) fn challenge(&self) -> &str {
        &self.challenge
    }

    /// What a token is good for; `None` where it isn't taken.
    pub(super) async fn token(&self, text: &str) -> Result<Option<Arc<KeystoneToken>>, Arc<StoreError>> {
        let Some(token) = Secret::new(text).filter(|_| text.len() <= MOST_TOKEN) else { return Ok(None) };
        let (tokens, bound) = (self.tokens.clone(), self.bound);
        let key = Sha256::digest(text).into();
        let question = self.cache.get(key, move |asked| {
            async move {
                match tokens.validate(&token).await.map_err(Arc::new)? {
                    // One that has ended by our clock is none, whatever Keystone still says.
                    Some(valid) if valid.expires_at <= asked => Ok((None, asked.plus(REFUSED.min(bound)))),
                    None => Ok((None, asked.plus(REFUSED.min(bound)))),
                    Some(valid) => {
                        let until = valid.expires_at.min(asked.plus(bound));
                        Ok((Some(Arc::new(valid)), until))
                    }
                }
            }
            .boxed()
        });
        question.await
    }
}
