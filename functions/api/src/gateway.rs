//! Between API Gateway's HTTP API, as `lambda_http` reads it, and the API's plain `http` values.
//!
//! Threat model: path, query, headers and body are the client's. API Gateway hands the path over decoded, so it may
//! hold any character, and `lambda_http` panics, which is a 500, where the parts don't make a URI. None of them may
//! keep a request from its 4xx. `requestContext` is API Gateway's own word.

use bytes::Bytes;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Request, Response};
use image_tasks_api::{IamPrincipal, RequestId};
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequestContext;
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Body, LambdaEvent, RequestExt as _};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// What can't stand in a URI's query (RFC 3986, section 3.4). A percent sign can: the text may hold escapes.
const NOT_IN_A_QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
const NOT_IN_A_PATH: &AsciiSet = &NOT_IN_A_QUERY.add(b'?');

/// The event with path, query, host and scheme such that they make a URI.
pub(crate) fn in_uri_form(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    if let LambdaRequest::ApiGatewayV2(request) = &mut event.payload {
        request.raw_path = request.raw_path.as_deref().map(path);
        request.raw_query_string =
            request.raw_query_string.as_deref().map(|query| escaped(query, NOT_IN_A_QUERY));
        let usable = |headers: &HeaderMap, name: &str, is: fn(&str) -> bool| {
            headers.get(name).is_none_or(|value| value.to_str().is_ok_and(is))
        };
        if !usable(&request.headers, HOST.as_str(), |host| host.parse::<Authority>().is_ok()) {
            request.headers.remove(HOST);
        }
        if !usable(&request.headers, FORWARDED_PROTO, |scheme| matches!(scheme, "http" | "https")) {
            request.headers.remove(FORWARDED_PROTO);
        }
    }
    event
}

/// The request as the API takes it. In its extensions: the IAM principal, if API Gateway found one, and the invocation's id,
/// which Lambda's own log lines and API Gateway's access log have too.
pub(crate) fn plain(request: lambda_http::Request) -> Request<Bytes> {
    let id = request.lambda_context_ref().and_then(|context| RequestId::parse(&context.request_id));
    let (mut parts, body) = request.into_parts();
    if let Some(id) = id {
        parts.extensions.insert(id);
    }
    let body = match body {
        Body::Text(text) => text.into(),
        Body::Binary(bytes) => bytes.into(),
        // No other kind comes from API Gateway.
        _ => Bytes::new(),
    };
    if let Some(RequestContext::ApiGatewayV2(context)) = parts.extensions.remove()
        && let Some(principal) = principal(context)
    {
        parts.extensions.insert(principal);
    }
    Request::from_parts(parts, body)
}

fn principal(context: ApiGatewayV2httpRequestContext) -> Option<IamPrincipal> {
    let iam = context.authorizer?.iam?;
    Some(IamPrincipal { account_id: iam.account_id?, arn: iam.user_arn? })
}

/// The API's answer. Its bodies are JSON, so they are text.
pub(crate) fn answer(response: Response<Bytes>) -> Response<Body> {
    response.map(|body| Body::Text(String::from_utf8_lossy(&body).into_owned()))
}

fn path(raw: &str) -> String {
    let path = escaped(raw, NOT_IN_A_PATH);
    if path.starts_with('/') { path } else { format!("/{path}") }
}

fn escaped(text: &str, not_in: &'static AsciiSet) -> String {
    utf8_percent_encode(text, not_in).to_string()
}

#[cfg(test)]
mod tests {
    use lambda_http::Context;
    use serde_json::{Value, json};

    use super::*;

    fn request(event: &Value) -> Request<Bytes> {
        let payload = serde_json::from_str(&event.to_string()).unwrap();
        let event = in_uri_form(LambdaEvent::new(payload, Context::default()));
        plain(event.payload.into())
    }

    fn event(path: &str, query: &str, body: Value, base64: bool) -> Value {
        json!({
            "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query,
            "headers": {"host": "api.example", "x-forwarded-proto": "https", "accept": "a,b"},
            "requestContext": {
                "accountId": "1", "stage": "$default", "apiId": "a", "requestId": "r", "timeEpoch": 1,
                "http": {"method": "POST", "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
                "authorizer": {"iam": {"accountId": "123456789012", "userArn": "arn:aws:iam::123456789012:user/a", "callerId": "x"}},
            },
            "body": body, "isBase64Encoded": base64,
        })
    }

    #[test]
    fn events_become_requests() {
        let got = request(&event("/v2/tasks", "limit=1&x=a%26b", json!("{}"), false));
        assert_eq!(got.method(), http::Method::POST);
        assert_eq!(got.uri().path_and_query().unwrap(), "/v2/tasks?limit=1&x=a%26b");
        assert_eq!(
            (got.body().as_ref(), got.headers()["accept"].as_bytes()),
            (b"{}".as_ref(), b"a,b".as_ref())
        );
        let principal = got.extensions().get::<IamPrincipal>().unwrap();
        assert_eq!(principal.account_id, "123456789012");
        assert_eq!(principal.arn, "arn:aws:iam::123456789012:user/a");
        let got = request(&event("", "", json!("e30="), true));
        assert_eq!((got.uri().path(), got.uri().query(), got.body().as_ref()), ("/", None, b"{}".as_ref()));
        assert_eq!(request(&event("/", "", Value::Null, false)).body(), "");
    }

    #[test]
    fn without_an_authorizer_nobody_is_known() {
        let mut event = event("/", "", Value::Null, false);
        event["requestContext"]["authorizer"] = Value::Null;
        assert!(request(&event).extensions().get::<IamPrincipal>().is_none());
    }

    #[test]
    fn a_request_is_known_by_its_invocation() {
        let id = "7f6a2bd0-3c3e-4a1f-9a57-0d6b3f0e8f11";
        for (id, is_known) in [(id, true), ("", false), ("a\r\nb", false)] {
            let mut context = Context::default();
            context.request_id = id.to_owned();
            let event: LambdaRequest =
                serde_json::from_str(&event("/", "", Value::Null, false).to_string()).unwrap();
            let request = plain(lambda_http::Request::from(event).with_lambda_context(context));
            assert_eq!(request.extensions().get::<RequestId>().is_some(), is_known, "{id:?}");
        }
    }

    #[test]
    fn any_path_and_query_become_a_uri() {
        for odd in ["/v2/tasks/a b", "/\u{0}<>\"{}|\\^`#?[]", "/é\u{1F4A9}", "//x", "no-slash", "/%zz", "/%"]
        {
            let got = request(&event(odd, odd, Value::Null, false));
            assert!(got.uri().path().starts_with('/'), "{odd}");
            assert!(got.uri().query().is_some(), "{odd}");
        }
    }

    #[test]
    fn any_host_and_scheme_leave_a_request() {
        for (name, odd) in [
            ("host", "a b"),
            ("host", "["),
            ("host", ""),
            ("x-forwarded-proto", "a b"),
            ("x-forwarded-proto", ""),
        ] {
            let mut event = event("/v2/tasks", "", Value::Null, false);
            event["headers"][name] = odd.into();
            assert_eq!(request(&event).uri().path(), "/v2/tasks", "{name}: {odd}");
        }
    }

    #[test]
    fn answers_are_text() {
        let response = Response::builder().status(201).body(Bytes::from("{}")).unwrap();
        let answer = answer(response);
        assert_eq!((answer.status().as_u16(), answer.into_body()), (201, Body::Text("{}".into())));
    }
}
