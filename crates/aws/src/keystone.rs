//! Keystone: what a token is good for.
//!
//! A token is validated by itself: Keystone's default policy lets it (`identity:validate_token`, `rule:token_subject`),
//! so no account of ours and no secret is needed.
//!
//! Facts: Identity API v3, "Validate and show information for token". `nocatalog` leaves out what nobody reads here.
//! The header `OpenStack-Identity-Access-Rules` isn't sent: Keystone then refuses tokens of application credentials
//! with access rules, which nobody would hold against the request here.

use std::time::Duration;

use async_trait::async_trait;
use image_tasks_domain::ports::{StoreError, StoreResult, Tokens};
use image_tasks_domain::{KeystoneToken, Secret};
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use serde_json::Value;

use crate::small_answer::{SmallAnswers, fault};

/// How long Keystone may take for an answer; it is asked twice at most. It needs some milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// A Keystone.
#[derive(Debug, Clone)]
pub struct Keystone {
    answers: SmallAnswers,
    tokens: Url,
}

impl Keystone {
    /// The one at this URL, without `/v3`.
    ///
    /// # Errors
    /// Where it is no URL, or TLS can't be set up.
    pub fn new(url: &str, patience: Duration) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let tokens = Url::parse(&format!("{url}/v3/auth/tokens?nocatalog"))?;
        Ok(Self { answers: SmallAnswers::new(patience)?, tokens })
    }
}

#[async_trait]
impl Tokens for Keystone {
    async fn validate(&self, token: &Secret) -> StoreResult<Option<KeystoneToken>> {
        let mut value = HeaderValue::from_str(token.expose())
            .map_err(|_| fault("a token that is no header's value".to_owned()))?;
        value.set_sensitive(true);
        let mut request = Request::new(Method::GET, self.tokens.clone());
        request.headers_mut().insert("x-auth-token", value.clone());
        request.headers_mut().insert("x-subject-token", value);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.answers.ask(request).await?;
        let unusable = |why: &str| -> StoreError { fault(format!("{} answered {why}", self.tokens)) };
        match answer.status {
            StatusCode::OK => match KeystoneToken::parse(&answer.body) {
                Ok(token) => Ok(Some(token)),
                Err(why) => Err(unusable(&format!("what is no token: {why}"))),
            },
            StatusCode::UNAUTHORIZED => Ok(None),
            // It found no such token: one with access rules, or one that ended while it was looked at.
            StatusCode::NOT_FOUND if names_a_token(&answer.body) => Ok(None),
            StatusCode::FORBIDDEN => Err(unusable("403: its policy doesn't let a token validate itself")),
            other => Err(unusable(&other.to_string())),
        }
    }
}

/// Whether a 404 is about the token, and not about the path, which a wrong `KeystoneUrl` would have.
fn names_a_token(body: &[u8]) -> bool {
    let answer: Option<Value> = serde_json::from_slice(body).ok();
    answer.is_some_and(|body| body["error"]["message"].as_str().is_some_and(|told| told.contains("token")))
}
