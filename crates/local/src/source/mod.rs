//! An HTTP server of disk images for tests, on a loopback port.
//!
//! Every way in which a source may differ or misbehave is a field of
//! [`Source`], set for each path; what was asked is kept to be counted. Nothing
//! here depends on time: a slow server is one that holds its body at a byte
//! until the test releases it. Content is generated or read in blocks, never
//! held whole. Dropping the server ends it and its connections.

mod answer;
mod body;
mod content;
mod glance;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub use content::Content;

/// What one path serves and how.
#[derive(Debug, Clone)]
pub struct Source {
    /// The bytes.
    pub content: Content,
    /// `Range` support.
    pub ranges: RangeSupport,
    /// `ETag`; a strong one also makes `If-Match` work.
    pub etag: EntityTag,
    /// Sends `Content-Length`; without it bodies are chunked.
    pub content_length: bool,
    /// Breaks bodies off.
    pub cut: Option<Cut>,
    /// Bodies stop before this offset of the content until
    /// [`SourceServer::release`].
    pub hold_at: Option<u64>,
    /// Replaces content and `ETag` from a request on.
    pub change: Option<Revision>,
    /// Gives other bytes to some requests, under the same name and version.
    pub lie: Option<Lie>,
    /// Answers this status with an empty body instead, to so many requests.
    pub status: Option<(u16, u64)>,
    /// Answers 302 to this `Location`.
    pub redirect: Option<String>,
    /// Answers 401 without this `X-Auth-Token`.
    pub token: Option<String>,
    /// Answers 401 without this `Authorization`.
    pub bearer: Option<Bearer>,
}

/// A token that a registry wants, and how it says so.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// The token.
    pub token: String,
    /// `WWW-Authenticate` of the answer to whoever hasn't got it.
    pub challenge: String,
}

/// How `Range` is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSupport {
    /// Served with 206, announced by `Accept-Ranges: bytes`.
    Yes,
    /// Ignored: 200 and the whole.
    Ignored,
    /// Announced in `Accept-Ranges`, yet ignored.
    Pretended,
    /// 400, as Glance answers where its store reads from the start only.
    Refused,
}

/// The `ETag` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTag {
    /// `"value"`.
    Strong(String),
    /// `W/"value"`.
    Weak(String),
    /// No header.
    None,
}

/// Bodies that break: the connection closes before the announced end.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Bytes of the body that are still sent; a slow reader may get fewer.
    pub after_bytes: u64,
    /// So many GET requests with a body are cut, then no more.
    pub requests: u64,
}

/// A source that is replaced while it is read.
#[derive(Debug, Clone)]
pub struct Revision {
    /// So many GET requests still see the first content.
    pub after_requests: u64,
    /// Served from then on.
    pub content: Content,
    /// Sent from then on.
    pub etag: EntityTag,
}

/// Other bytes, as many as the content has, for those who read much at once: whoever looks at headers sees the content,
/// whoever copies gets the other.
#[derive(Debug, Clone)]
pub struct Lie {
    /// Bodies of more bytes than that are of the other content.
    pub beyond: u64,
    /// The other content.
    pub content: Content,
}

impl Source {
    /// A well-behaved server of `content`: ranges, a strong `ETag`, lengths.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Self {
            content,
            ranges: RangeSupport::Yes,
            etag: EntityTag::Strong("first".to_owned()),
            content_length: true,
            cut: None,
            hold_at: None,
            change: None,
            lie: None,
            status: None,
            redirect: None,
            token: None,
            bearer: None,
        }
    }
}

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// `GET`, `HEAD`.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// `Range`, if there was one this server can read.
    pub range: Option<AskedRange>,
    /// `If-Match`.
    pub if_match: Option<String>,
    /// `X-Auth-Token`.
    pub token: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Accept`.
    pub accept: Option<String>,
    /// Status of the answer.
    pub status: u16,
}

/// One `bytes=` range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedRange {
    /// `first-last`.
    Closed {
        /// First byte.
        first: u64,
        /// Last byte, inclusive.
        last: u64,
    },
    /// `first-`.
    From {
        /// First byte.
        first: u64,
    },
    /// `-length`.
    Suffix {
        /// Bytes from the end.
        length: u64,
    },
}

#[derive(Debug, Default)]
struct Ledger {
    requests: Vec<SeenRequest>,
    gets: HashMap<String, u64>,
    cut: HashMap<String, u64>,
    refused: HashMap<String, u64>,
    body_bytes: u64,
    connections: u64,
    open: usize,
    most_open: usize,
    bodies: usize,
    most_bodies: usize,
}

#[derive(Debug)]
struct Shared {
    sources: Mutex<HashMap<String, Source>>,
    ledger: Mutex<Ledger>,
    released: watch::Sender<bool>,
}

/// A poisoned lock only means that another test thread panicked: the counts
/// are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. Needs a Tokio runtime while it lives.
#[derive(Debug)]
pub struct SourceServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: AbortHandle,
}

impl SourceServer {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// The port can't be had.
    pub async fn start() -> std::io::Result<Self> {
        Self::at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Listens there.
    ///
    /// # Errors
    /// The port can't be had.
    pub async fn at(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            sources: Mutex::default(),
            ledger: Mutex::default(),
            released: watch::Sender::new(false),
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, accept })
    }

    /// Serves `source` at `path` (with its leading slash) and returns the URL.
    pub fn serve(&self, path: &str, source: Source) -> String {
        lock(&self.shared.sources).insert(path.to_owned(), source);
        self.url(path)
    }

    /// URL of a path on this server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets held bodies go on, those of later requests too.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Every request so far, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.shared.ledger).requests.clone()
    }

    /// Bytes of bodies handed to connections so far.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        lock(&self.shared.ledger).body_bytes
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        lock(&self.shared.ledger).connections
    }

    /// Connections that were open at the same time, at most.
    #[must_use]
    pub fn most_open_connections(&self) -> usize {
        lock(&self.shared.ledger).most_open
    }

    /// Bodies that are on their way now.
    #[must_use]
    pub fn bodies_now(&self) -> usize {
        lock(&self.shared.ledger).bodies
    }

    /// Bodies that were on their way at the same time, at most.
    #[must_use]
    pub fn most_bodies_at_once(&self) -> usize {
        lock(&self.shared.ledger).most_bodies
    }
}

impl Drop for SourceServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Owned here, so that ending this task ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _open = OpenConnection::count(&shared);
    let service = service_fn(|request| answer::answer(Arc::clone(&shared), request));
    // A client that leaves, or a body that was cut on purpose, ends up here as an error.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

struct OpenConnection<'a>(&'a Shared);

impl<'a> OpenConnection<'a> {
    fn count(shared: &'a Shared) -> Self {
        let mut ledger = lock(&shared.ledger);
        ledger.connections += 1;
        ledger.open += 1;
        ledger.most_open = ledger.most_open.max(ledger.open);
        Self(shared)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        lock(&self.0.ledger).open -= 1;
    }
}
