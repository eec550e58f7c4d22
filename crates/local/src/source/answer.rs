//! From a request and a [`Source`] to an answer, after RFC 9110 (range
//! requests section 14, `If-Match` section 13.1.1).

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode, response};
use hyper::body::Incoming;

use super::body::{self, Plan, SourceBody};
use super::{AskedRange, EntityTag, Ledger, RangeSupport, SeenRequest, Shared, Source, lock};

const TOKEN: header::HeaderName = header::HeaderName::from_static("x-auth-token");

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<SourceBody>, Infallible> {
    let path = request.uri().path().to_owned();
    let asked = text(request.headers(), &header::RANGE).as_deref().and_then(parse_range);
    let if_match = text(request.headers(), &header::IF_MATCH);
    let token = text(request.headers(), &TOKEN);
    let authorization = text(request.headers(), &header::AUTHORIZATION);
    let accept = text(request.headers(), &header::ACCEPT);
    let answer = lock(&shared.sources)
        .get(&path)
        .cloned()
        .map_or(Ok(plain(StatusCode::NOT_FOUND)), |source| {
            respond(&shared, &source, &request, asked, if_match.as_deref())
        })
        // A file that is gone or shorter than it was: the test's own mistake, seen as a 500.
        .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR));
    lock(&shared.ledger).requests.push(SeenRequest {
        method: request.method().to_string(),
        path,
        range: asked,
        if_match,
        token,
        authorization,
        accept,
        status: answer.status().as_u16(),
    });
    Ok(answer)
}

fn respond(
    shared: &Arc<Shared>,
    source: &Source,
    request: &Request<Incoming>,
    asked: Option<AskedRange>,
    if_match: Option<&str>,
) -> io::Result<Response<SourceBody>> {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED));
    }
    if source.token.is_some() && source.token != text(request.headers(), &TOKEN) {
        return Ok(plain(StatusCode::UNAUTHORIZED));
    }
    if let Some(bearer) = &source.bearer
        && text(request.headers(), &header::AUTHORIZATION) != Some(format!("Bearer {}", bearer.token))
    {
        let builder = Response::builder().status(401).header(header::WWW_AUTHENTICATE, &bearer.challenge);
        return Ok(build(builder, body::empty()));
    }
    if source.ranges == RangeSupport::Refused && asked.is_some() {
        return Ok(plain(StatusCode::BAD_REQUEST));
    }
    if let Some(target) = &source.redirect {
        return Ok(build(Response::builder().status(302).header(header::LOCATION, target), body::empty()));
    }
    let get = request.method() == Method::GET;
    let turn = Turn::take(&mut lock(&shared.ledger), path, source, get);
    if let Some(status) = turn.refused {
        return Ok(plain(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)));
    }
    let (content, etag) = match &source.change {
        Some(revision) if turn.changed => (&revision.content, &revision.etag),
        _ => (&source.content, &source.etag),
    };
    if !matches(if_match, etag) {
        return Ok(plain(StatusCode::PRECONDITION_FAILED));
    }
    let length = content.length()?;
    let range = match asked.filter(|_| source.ranges == RangeSupport::Yes) {
        None => None,
        Some(asked) => match resolve(asked, length) {
            Some(range) => Some(range),
            None => {
                let builder = Response::builder()
                    .status(StatusCode::RANGE_NOT_SATISFIABLE)
                    .header(header::CONTENT_RANGE, format!("bytes */{length}"));
                return Ok(build(builder, body::empty()));
            }
        },
    };
    let mut builder = Response::builder().header(header::CONTENT_TYPE, "application/octet-stream");
    if matches!(source.ranges, RangeSupport::Yes | RangeSupport::Pretended) {
        builder = builder.header(header::ACCEPT_RANGES, "bytes");
    }
    if let Some(value) = header_value(etag) {
        builder = builder.header(header::ETAG, value);
    }
    if let Some(range) = &range {
        builder = builder
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1));
    }
    let range = range.unwrap_or(0..length);
    if source.content_length {
        builder = builder.header(header::CONTENT_LENGTH, range.end - range.start);
    }
    if !get {
        return Ok(build(builder, body::empty()));
    }
    let lie = source.lie.as_ref().filter(|lie| range.end - range.start > lie.beyond);
    let content = lie.map_or(content, |lie| &lie.content);
    let cut = source.cut.filter(|_| turn.cut);
    let plan = Plan {
        content: content.open()?,
        cut_at: cut.map(|cut| range.start.saturating_add(cut.after_bytes)).filter(|at| *at < range.end),
        hold_at: source.hold_at.filter(|at| range.contains(at)),
        range,
    };
    Ok(build(builder, body::start(plan, Arc::clone(shared))))
}

/// What this request's place in the row of requests for its path means.
struct Turn {
    refused: Option<u16>,
    changed: bool,
    cut: bool,
}

impl Turn {
    fn take(ledger: &mut Ledger, path: &str, source: &Source, get: bool) -> Self {
        let mut turn = Self { refused: None, changed: false, cut: false };
        if let Some((status, times)) = source.status {
            let so_far = ledger.refused.entry(path.to_owned()).or_default();
            if *so_far < times {
                *so_far += 1;
                turn.refused = Some(status);
                return turn;
            }
        }
        let gets = ledger.gets.entry(path.to_owned()).or_default();
        turn.changed = source.change.as_ref().is_some_and(|revision| *gets >= revision.after_requests);
        if get {
            *gets += 1;
            let cut = ledger.cut.entry(path.to_owned()).or_default();
            turn.cut = source.cut.is_some_and(|wanted| *cut < wanted.requests);
            *cut += u64::from(turn.cut);
        }
        turn
    }
}

/// `If-Match` compares strongly: a weak tag never matches.
fn matches(if_match: Option<&str>, etag: &EntityTag) -> bool {
    let Some(wanted) = if_match else { return true };
    match etag {
        EntityTag::Strong(value) => {
            wanted.trim() == "*" || wanted.split(',').any(|one| one.trim() == format!("\"{value}\""))
        }
        EntityTag::Weak(_) | EntityTag::None => wanted.trim() == "*",
    }
}

fn header_value(etag: &EntityTag) -> Option<String> {
    match etag {
        EntityTag::Strong(value) => Some(format!("\"{value}\"")),
        EntityTag::Weak(value) => Some(format!("W/\"{value}\"")),
        EntityTag::None => None,
    }
}

/// One range; several, or another unit, are ignored as RFC 9110 allows.
fn parse_range(value: &str) -> Option<AskedRange> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", length) => Some(AskedRange::Suffix { length: length.parse().ok()? }),
        (first, "") => Some(AskedRange::From { first: first.parse().ok()? }),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(AskedRange::Closed { first, last })
        }
    }
}

fn resolve(asked: AskedRange, length: u64) -> Option<Range<u64>> {
    let range = match asked {
        AskedRange::Closed { first, last } => first..last.saturating_add(1).min(length),
        AskedRange::From { first } => first..length,
        AskedRange::Suffix { length: wanted } => length.saturating_sub(wanted)..length,
    };
    (!range.is_empty()).then_some(range)
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn plain(status: StatusCode) -> Response<SourceBody> {
    build(Response::builder().status(status).header(header::CONTENT_LENGTH, 0), body::empty())
}

/// A header that doesn't parse is the test's own mistake: seen as a 500.
fn build(builder: response::Builder, body: SourceBody) -> Response<SourceBody> {
    builder.body(body).unwrap_or_else(|_| {
        let mut answer = Response::new(body::empty());
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
}
