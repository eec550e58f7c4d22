//! A small Keystone v3, so that stock clients find the local stack as they find any cloud: they log in with a name and
//! a password, and read in a catalog where the Images API is.
//!
//! Its tokens are development tokens, which the API believes by itself: nobody asks this Keystone whether one is
//! valid but clients. It knows the people of [`image_tasks_local::GRANTS`], and only looks: nothing here can be changed.

mod documents;
mod token;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use image_tasks_local::{DOMAIN, GRANTS, Grant, PROJECTS};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::server;
use documents::Catalog;
use token::{Token, granted};

/// More than a request for a token ever has.
const MAX_BODY: usize = 64 << 10;

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// A status with what it tells, or a document.
type Answer = Result<Value, (StatusCode, String)>;

/// Serves at `listener` until the task is aborted. `images` are names and endpoints of the regions.
pub(super) fn serve(listener: TcpListener, keystone: &str, images: &[(String, String)]) -> JoinHandle<()> {
    let catalog = Catalog::new(keystone, images);
    server::serve(listener, move |request| {
        let catalog = catalog.clone();
        async move { answer(&catalog, request).await }
    })
}

async fn answer(catalog: &Catalog, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return refusal(
            catalog,
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("A body has at most {MAX_BODY} bytes"),
        );
    };
    respond(catalog, &head, &body.to_bytes())
}

fn respond(catalog: &Catalog, head: &Parts, body: &[u8]) -> Response<Full<Bytes>> {
    let path = head.uri.path().trim_end_matches('/');
    let answer = match (&head.method, path) {
        (&Method::GET, "") => return json_of(StatusCode::MULTIPLE_CHOICES, &catalog.versions()),
        (&Method::GET, "/v3") => Ok(catalog.version()),
        (&Method::POST, "/v3/auth/tokens") => return issue(catalog, body),
        (&Method::GET | &Method::HEAD, "/v3/auth/tokens") => return validate(catalog, &head.headers),
        (&Method::GET, path) => said_by(&head.headers, AUTH_TOKEN)
            .ok_or_else(|| {
                (StatusCode::UNAUTHORIZED, "The request you have made requires authentication.".into())
            })
            .and_then(|token| look(catalog, &token, path, head.uri.query().unwrap_or_default())),
        (method, path) => Err((
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} {path} isn't offered: this Keystone only looks"),
        )),
    };
    match answer {
        Ok(document) => json_of(StatusCode::OK, &document),
        Err((status, told)) => refusal(catalog, status, &told),
    }
}

/// POST /v3/auth/tokens.
fn issue(catalog: &Catalog, body: &[u8]) -> Response<Full<Bytes>> {
    let asked = match serde_json::from_slice::<Value>(body) {
        Ok(asked) => asked,
        Err(error) => {
            return refusal(catalog, StatusCode::BAD_REQUEST, &format!("The body is no JSON: {error}"));
        }
    };
    match granted(&asked["auth"]) {
        Ok((token, methods)) => with_token(StatusCode::CREATED, catalog, &token, &methods),
        Err(told) => refusal(catalog, StatusCode::UNAUTHORIZED, &told),
    }
}

/// GET /v3/auth/tokens.
fn validate(catalog: &Catalog, headers: &HeaderMap) -> Response<Full<Bytes>> {
    match (said_by(headers, AUTH_TOKEN), said_by(headers, SUBJECT_TOKEN)) {
        (None, _) => refusal(catalog, StatusCode::UNAUTHORIZED, "X-Auth-Token is missing or no token"),
        (_, None) => refusal(catalog, StatusCode::NOT_FOUND, "X-Subject-Token is missing or no token"),
        (_, Some(token)) => with_token(StatusCode::OK, catalog, &token, &["password".to_owned()]),
    }
}

/// GET of what needs a token.
fn look(catalog: &Catalog, token: &Token, path: &str, query: &str) -> Answer {
    let name =
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "name").map(|(_, name)| name);
    let named = |one: &str| name.as_deref().is_none_or(|name| name == one);
    let parts: Vec<&str> = path.trim_start_matches("/v3/").split('/').collect();
    match parts.as_slice() {
        ["auth", "catalog"] => Ok(catalog.list("catalog", catalog.services())),
        ["auth", "projects"] => {
            let own = GRANTS.iter().filter(|grant| grant.user == token.user).map(|grant| grant.project);
            Ok(catalog.list("projects", own.map(|name| catalog.project(name)).collect()))
        }
        ["projects"] => {
            let found = PROJECTS.iter().filter(|project| named(project));
            Ok(catalog.list("projects", found.map(|name| catalog.project(name)).collect()))
        }
        ["projects", id] if PROJECTS.contains(id) => Ok(json!({"project": catalog.project(id)})),
        ["users"] => {
            let found = Grant::firsts().filter(|grant| named(grant.user));
            Ok(catalog.list("users", found.map(|grant| catalog.user(grant)).collect()))
        }
        ["users", id] => match Grant::of(id) {
            Some(grant) => Ok(json!({"user": catalog.user(grant)})),
            None => none(path),
        },
        ["domains"] => {
            let found = if named(DOMAIN.1) { vec![catalog.domain()] } else { Vec::new() };
            Ok(catalog.list("domains", found))
        }
        ["domains", id] if *id == DOMAIN.0 => Ok(json!({"domain": catalog.domain()})),
        _ => none(path),
    }
}

fn none(path: &str) -> Answer {
    Err((StatusCode::NOT_FOUND, format!("Could not find {path}")))
}

fn said_by(headers: &HeaderMap, name: HeaderName) -> Option<Token> {
    Token::read(headers.get(name)?.to_str().ok()?)
}

fn with_token(
    status: StatusCode,
    catalog: &Catalog,
    token: &Token,
    methods: &[String],
) -> Response<Full<Bytes>> {
    let mut response = json_of(status, &catalog.token(token, methods));
    if let Ok(value) = HeaderValue::from_str(&token.to_string()) {
        response.headers_mut().insert(SUBJECT_TOKEN, value);
    }
    response
}

fn refusal(catalog: &Catalog, status: StatusCode, told: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({"error": {"code": status.as_u16(), "title": title, "message": told}});
    let mut response = json_of(status, &body);
    if status == StatusCode::UNAUTHORIZED
        && let Ok(value) = HeaderValue::from_str(&catalog.challenge())
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

fn json_of(status: StatusCode, document: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("X-Auth-Token"));
    response
}

#[cfg(test)]
mod tests;
