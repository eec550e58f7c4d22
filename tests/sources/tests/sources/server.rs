//! A server that does with each request what a row of the table says.
//!
//! It speaks in bytes, since an HTTP library would not say most of what is said here. Each answer is the last of its
//! connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request.
#[derive(Debug)]
pub(crate) struct Asked {
    /// How many this server was asked before.
    pub number: u64,
    pub path: String,
    /// First and last byte.
    pub range: Option<(usize, usize)>,
    /// The server's own address.
    pub host: SocketAddr,
}

impl Asked {
    /// Whether it is for the first byte, by which a source is looked at.
    pub(crate) fn is_look(&self) -> bool {
        self.range == Some((0, 0))
    }

    /// Whether it is for what becomes the image, and not for what tells its format.
    pub(crate) fn is_copy(&self, len: usize) -> bool {
        self.range.is_none_or(|(first, last)| last - first + 1 == len)
    }
}

/// What is done with it, one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Says nothing for so long.
    Pause(Duration),
    /// Says nothing more, and keeps the connection.
    Hang,
    /// Ends the connection by RST.
    Reset,
}

pub(crate) type Reply = Vec<Step>;
pub(crate) type Behaves = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// Begins to serve.
pub(crate) async fn serve(behaves: Behaves) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let host = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (behaves, count) = (Arc::clone(&behaves), Arc::clone(&count));
            // A client that leaves ends it early.
            tokio::spawn(async move { answer(stream, host, &behaves, &count).await.ok() });
        }
    });
    host
}

async fn answer(
    mut stream: TcpStream,
    host: SocketAddr,
    behaves: &Behaves,
    count: &AtomicU64,
) -> std::io::Result<()> {
    let mut head = vec![stream.read_u8().await?];
    // A TLS handshake (RFC 8446, section 5.1) is to a server of HTTP a bad request.
    if head == [22] {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await?;
        return stream.shutdown().await;
    }
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let asked = parse(&String::from_utf8_lossy(&head), host, count.fetch_add(1, Ordering::SeqCst));
    for step in behaves(&asked) {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Hang => drop(stream.read_u8().await),
            Step::Reset => return stream.set_zero_linger(),
        }
    }
    stream.shutdown().await
}

fn parse(head: &str, host: SocketAddr, number: u64) -> Asked {
    let lower = head.to_lowercase();
    let range = lower.lines().find_map(|line| line.strip_prefix("range: bytes=")).map(|range| {
        let (first, last) = range.split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    });
    Asked { number, path: head.split(' ').nth(1).unwrap().to_owned(), range, host }
}

/// An answer with these header lines, and the length of its body.
pub(crate) fn answer_of(status: &str, headers: &str, body: &[u8]) -> Reply {
    answer_as(status, &format!("Content-Length: {}\n{headers}", body.len()), body)
}

/// An answer with these header lines and no other.
pub(crate) fn answer_as(status: &str, headers: &str, body: &[u8]) -> Reply {
    let headers: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    vec![Step::Send(bytes)]
}

/// What a good server answers, with a validator or whatever else its headers are.
pub(crate) fn serves(asked: &Asked, bytes: &[u8], headers: &str) -> Reply {
    let Some((first, last)) = asked.range else { return answer_of("200 OK", headers, bytes) };
    let last = last.min(bytes.len().saturating_sub(1));
    if first >= bytes.len() {
        return answer_of(
            "416 Range Not Satisfiable",
            &format!("Content-Range: bytes */{}", bytes.len()),
            b"",
        );
    }
    let range = format!("Content-Range: bytes {first}-{last}/{}\n{headers}", bytes.len());
    answer_of("206 Partial Content", &range, &bytes[first..=last])
}

/// What a good server without ranges answers.
pub(crate) fn serves_whole(bytes: &[u8], headers: &str) -> Reply {
    answer_of("200 OK", headers, bytes)
}
