//! API Gateway's HTTP API events (payload format 2.0) as plain `http` values.
//!
//! Shapes: API Gateway developer guide, "Create AWS Lambda proxy integrations for HTTP APIs".
//!
//! Threat model: path, query, headers and body are the client's. API Gateway hands the path
//! decoded, so that it may hold any character; none of them may keep a request from its 4xx.
//! `requestContext` is API Gateway's own word.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response};
use image_tasks_api::IamPrincipal;
use serde::{Deserialize, Serialize};

/// A request as API Gateway hands it over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    #[serde(default)]
    raw_path: String,
    #[serde(default)]
    raw_query_string: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    request_context: Context,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Debug, Deserialize)]
struct Context {
    http: HttpContext,
    authorizer: Option<Authorizer>,
}

#[derive(Debug, Deserialize)]
struct HttpContext {
    method: String,
}

#[derive(Debug, Deserialize)]
struct Authorizer {
    iam: Option<Iam>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Iam {
    account_id: String,
    user_arn: String,
}

/// An event that API Gateway doesn't make.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadEvent {
    #[error("the event can't be made a request")]
    Request(#[from] http::Error),
    #[error("the event's body is not base64")]
    Body(#[from] base64::DecodeError),
}

impl Event {
    /// The request, with the IAM principal, if API Gateway found one, in its extensions.
    pub(crate) fn into_request(self) -> Result<Request<Bytes>, BadEvent> {
        let mut uri = in_uri(&self.raw_path, "/");
        if !self.raw_query_string.is_empty() {
            uri = format!("{uri}?{}", in_uri(&self.raw_query_string, "/?"));
        }
        let body = match self.body {
            None => Bytes::new(),
            Some(text) if self.is_base64_encoded => STANDARD.decode(text)?.into(),
            Some(text) => text.into(),
        };
        let method =
            Method::from_bytes(self.request_context.http.method.as_bytes()).map_err(http::Error::from)?;
        let mut request = Request::builder().method(method).uri(uri).body(body)?;
        for (name, value) in &self.headers {
            // What is no header can't have been one on the wire.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                request.headers_mut().append(name, value);
            }
        }
        if let Some(iam) = self.request_context.authorizer.and_then(|authorizer| authorizer.iam) {
            request.extensions_mut().insert(IamPrincipal { account_id: iam.account_id, arn: iam.user_arn });
        }
        Ok(request)
    }
}

/// `text` with every byte escaped that can't stand in a URI beside RFC 3986's unreserved
/// characters, sub-delimiters, `:`, `@`, `%` and `also`.
fn in_uri(text: &str, also: &str) -> String {
    let mut uri = String::with_capacity(text.len());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&byte);
        if plain || also.as_bytes().contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    if uri.starts_with('/') || also.contains('?') { uri } else { format!("/{uri}") }
}

/// An answer as API Gateway takes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    status_code: u16,
    headers: BTreeMap<String, String>,
    body: String,
    is_base64_encoded: bool,
}

impl From<Response<Bytes>> for Answer {
    /// Our bodies are JSON, so they are text.
    fn from(response: Response<Bytes>) -> Self {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value)));
        Self {
            status_code: response.status().as_u16(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(response.body()).into_owned(),
            is_base64_encoded: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(path: &str, query: &str, body: Value, base64: bool) -> Event {
        serde_json::from_value(json!({
            "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
            "headers": {"host": "api.example", "x-forwarded-proto": "https", "x auth": "no header", "accept": "a,b"},
            "requestContext": {
                "accountId": "1", "stage": "$default", "http": {"method": "POST", "path": path},
                "authorizer": {"iam": {"accountId": "123456789012", "userArn": "arn:aws:iam::123456789012:user/a", "callerId": "x"}},
            },
            "body": body, "isBase64Encoded": base64,
        }))
        .unwrap()
    }

    #[test]
    fn events_become_requests() {
        let request = event("/v2/tasks", "limit=1&x=a%26b", json!("{}"), false).into_request().unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string().as_str()),
            (&Method::POST, "/v2/tasks?limit=1&x=a%26b")
        );
        assert_eq!(request.body(), "{}");
        assert_eq!(request.headers().len(), 3);
        let principal = request.extensions().get::<IamPrincipal>().unwrap();
        assert_eq!(principal.account_id, "123456789012");
        let request = event("", "", json!("e30="), true).into_request().unwrap();
        assert_eq!((request.uri().path(), request.body().as_ref()), ("/", b"{}".as_ref()));
        assert_eq!(event("/", "", Value::Null, false).into_request().unwrap().body(), "");
    }

    #[test]
    fn any_path_and_query_become_a_uri() {
        for odd in ["/v2/tasks/a b", "/\u{0}<>\"{}|\\^`#?[]", "/é\u{1F4A9}", "//x", "no-slash", "/%zz", "/%"]
        {
            let request = event(odd, odd, Value::Null, false).into_request().unwrap();
            assert!(request.uri().path().starts_with('/'), "{odd}");
            assert!(request.uri().query().is_some(), "{odd}");
        }
    }

    #[test]
    fn answers_become_what_api_gateway_takes() {
        let response = Response::builder()
            .status(201)
            .header("location", "/v2/tasks/x")
            .body(Bytes::from("{}"))
            .unwrap();
        assert_eq!(
            serde_json::to_value(Answer::from(response)).unwrap(),
            json!({"statusCode": 201, "headers": {"location": "/v2/tasks/x"}, "body": "{}", "isBase64Encoded": false})
        );
    }
}
