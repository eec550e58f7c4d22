//! The service, over HTTP.
//!
//! Invariants:
//! - This is the one place that sends a request again. Whatever it is, where the service says "later" (429, 503); where
//!   no answer came, only if a repeat does nothing twice.
//! - A 401 means one new login, where there can be one.
//! - No redirect is followed: a credential reaches the service alone.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Method, Request, StatusCode, Url};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::failure::Failure;
use crate::identity::{Credential, Session};

/// Before each further try.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Before each further try of a piece of an image's bytes, by whoever moves it.
pub(crate) const PAUSES_OF_BYTES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(30),
];
/// The longest `Retry-After` that is obeyed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For one answer: API Gateway gives up after 30 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client for all that is asked here: no redirects, patient for a minute with a body that stands still.
pub(crate) fn client(authorities: Option<&[u8]>) -> Result<Client, Failure> {
    built(authorities, |builder| builder.read_timeout(Duration::from_secs(60)))
}

fn built(
    authorities: Option<&[u8]>,
    patience: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> Result<Client, Failure> {
    let unusable = |error: reqwest::Error| Failure::Usage(format!("TLS can't be set up: {}", causes(&error)));
    let mut builder = Client::builder()
        .user_agent(concat!("image-tasks-cli/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(Duration::from_secs(10));
    if let Some(pem) = authorities {
        builder = builder.tls_certs_merge(Certificate::from_pem_bundle(pem).map_err(unusable)?);
    }
    patience(builder).build().map_err(unusable)
}

/// An error of an HTTP library and what caused it, in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let told = deeper.to_string();
        if !text.contains(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = deeper.source();
    }
    text
}

/// A request that is yet to be sent.
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Option<(&'static str, Bytes)>,
    idempotency_key: Option<String>,
    repeatable: bool,
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, idempotency_key: None, repeatable: false }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn with_body(mut self, media_type: &'static str, body: &Value) -> Self {
        self.body = Some((media_type, body.to_string().into()));
        self
    }

    pub(crate) fn with_idempotency_key(mut self, key: String) -> Self {
        self.idempotency_key = Some(key);
        self
    }

    /// A POST that does nothing twice, as the service's documents say.
    pub(crate) fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    /// Whether a second one does nothing that the first didn't.
    fn may_repeat(&self) -> bool {
        self.repeatable || self.idempotency_key.is_some() || matches!(self.method, Method::GET | Method::PUT)
    }
}

/// An answer that is no refusal.
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|_| Failure::Unreachable(format!("the service answered {} and no JSON", self.status)))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn location(&self) -> Option<&str> {
        self.headers.get(LOCATION)?.to_str().ok()
    }
}

/// The service, asked as somebody.
pub(crate) struct Service {
    client: Client,
    endpoint: String,
    authorities: Option<Vec<u8>>,
    credential: Mutex<Credential>,
}

impl Service {
    pub(crate) fn new(session: Session) -> Result<Self, Failure> {
        let client = client(session.authorities.as_deref())?;
        let Session { endpoint, credential, authorities } = session;
        Ok(Self { client, endpoint, authorities, credential: Mutex::new(credential) })
    }

    /// The client, for what lies elsewhere: it sends no credential by itself.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Such a client that waits for an answer as long as its body takes to send; whoever sends looks that it moves.
    pub(crate) fn client_of_uploads(&self) -> Result<Client, Failure> {
        built(self.authorities.as_deref(), |builder| builder)
    }

    /// Its address, without `/v2`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A document, if there is one.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        match self.get(path).await {
            Err(Failure::Absent(_)) => Ok(None),
            found => found.map(Some),
        }
    }

    /// A document.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(&Call::get(path)).await?.json()
    }

    /// Sends it, and reads the answer. A refusal is a failure with the service's words.
    pub(crate) async fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        let mut pauses = PAUSES.iter().copied();
        let mut renewed = false;
        loop {
            let (why, wait) = match self.once(call).await? {
                Ok(answer)
                    if answer.status == StatusCode::UNAUTHORIZED && !renewed && self.renew().await? =>
                {
                    renewed = true;
                    continue;
                }
                Ok(answer)
                    if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS =>
                {
                    let words = self.words(call, &answer);
                    let absent = answer.status == StatusCode::NOT_FOUND;
                    return Err(if absent { Failure::Absent(words) } else { Failure::Told(words) });
                }
                Ok(answer) if !answer.status.is_client_error() && !answer.status.is_server_error() => {
                    return Ok(answer);
                }
                Ok(answer) => {
                    let why = Failure::Unreachable(self.words(call, &answer));
                    let again = match answer.status.as_u16() {
                        429 | 503 => true,
                        502 | 504 => call.may_repeat(),
                        _ => false,
                    };
                    if !again {
                        return Err(why);
                    }
                    (why, retry_after(&answer.headers))
                }
                Err(error) => {
                    let why = format!("{} can't be reached: {}", self.endpoint, causes(&error.without_url()));
                    if !call.may_repeat() {
                        return Err(Failure::Unreachable(why));
                    }
                    (Failure::Unreachable(why), None)
                }
            };
            let Some(pause) = pauses.next() else { return Err(why) };
            tokio::time::sleep(wait.unwrap_or(pause).clamp(pause, LONGEST_PAUSE)).await;
        }
    }

    /// The outer failure is of the request, the inner one of the network.
    async fn once(&self, call: &Call) -> Result<Result<Answer, reqwest::Error>, Failure> {
        let request = self.request(call).await?;
        let answer = match self.client.execute(request).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(answer.bytes().await.map(|body| Answer { status, headers, body }))
    }

    async fn request(&self, call: &Call) -> Result<Request, Failure> {
        let url = Url::parse(&format!("{}{}", self.endpoint, call.path))
            .map_err(|_| Failure::Usage(format!("{} is no path of the service", call.path)))?;
        let mut request = Request::new(call.method.clone(), url);
        *request.timeout_mut() = Some(PATIENCE);
        if let Some((media_type, body)) = &call.body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            *request.body_mut() = Some(body.clone().into());
        }
        if let Some(key) = &call.idempotency_key {
            let key = HeaderValue::from_str(key).map_err(|_| {
                Failure::Usage("--idempotency-key must be visible ASCII characters".to_owned())
            })?;
            request.headers_mut().insert("idempotency-key", key);
        }
        let credential = self.credential.lock().await;
        let token = match &*credential {
            Credential::Token(token) => Some(token),
            Credential::Login(login) => Some(login.token()?),
            Credential::Signature { signer, token } => {
                signer.sign(&mut request).await?;
                token.as_ref()
            }
        };
        if let Some(token) = token {
            request.headers_mut().insert("x-auth-token", token.header()?);
        }
        Ok(request)
    }

    /// Whether there is a new token.
    async fn renew(&self) -> Result<bool, Failure> {
        match &mut *self.credential.lock().await {
            Credential::Login(login) => {
                // Where the service is, is known from the first login.
                let _endpoint = login.renew(&self.client).await?;
                Ok(true)
            }
            Credential::Token(_) | Credential::Signature { .. } => Ok(false),
        }
    }

    /// What a refusal says: the service's message, or API Gateway's, or else the status.
    fn words(&self, call: &Call, answer: &Answer) -> String {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let told = [&body["error"]["message"], &body["message"], &body["Message"]];
        let status = || format!("{} {}{} answered {}", call.method, self.endpoint, call.path, answer.status);
        match told.into_iter().find_map(Value::as_str) {
            // API Gateway's own words are one or two: "Forbidden".
            Some(short) if body["error"].is_null() => format!("{}: {short}", status()),
            Some(told) => told.to_owned(),
            None => status(),
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_nothing_twice_is_repeated_unanswered() {
        assert!(Call::get("/v2/tasks").may_repeat());
        assert!(!Call::new(Method::POST, "/v2/tasks").may_repeat());
        assert!(Call::new(Method::POST, "/v2/tasks").with_idempotency_key("k".to_owned()).may_repeat());
        assert!(!Call::new(Method::DELETE, "/v2/images/x").may_repeat());
    }
}
