//! Unpacking and hashing of a stream, and finding its zeros, on a thread of its own.
//!
//! Threat model: the bytes are an attacker's. What comes out is bounded by the quota while it comes, not at the end; a
//! decoder's memory is bounded before it starts; a stream that ends early is an error.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use disk_image::inspect::HEAD;
use disk_image::{AllocationMap, AllocationScanner, Compression};
use image_tasks_domain::progress::size as shown;
use image_tasks_domain::{Failure, FailureCode, ImageHashes};
use tokio::sync::mpsc;

use super::layer::Disk;
use super::unpack::{Ahead, advice, unpacked};
use crate::bounds::CHUNK;
use crate::digests::{Found, Hasher};

/// What went through.
pub(crate) struct Pressed {
    /// Bytes that came in.
    pub(crate) came: u64,
    /// Hashes of what came in.
    pub(crate) source: Found,
    /// Hashes of what came out.
    pub(crate) unpacked: ImageHashes,
    /// Where what came out holds data.
    pub(crate) allocation: AllocationMap,
}

/// What is done to the bytes that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unpacking {
    /// Nothing.
    Nothing,
    /// A compressed stream is unpacked.
    Stream,
    /// That, and the disk is taken out of the layer that comes then.
    Layer,
}

/// Hashes what comes, unpacks it if it is a compressed stream and is to be unpacked, hashes that, and sends it on.
pub(crate) fn press(
    input: mpsc::Receiver<Result<Bytes, Failure>>,
    output: &mpsc::Sender<Bytes>,
    most: u64,
    unpacking: Unpacking,
    sha256: bool,
) -> Result<Pressed, Failure> {
    let failure = Arc::new(Mutex::new(None));
    let hasher = Arc::new(Mutex::new(Hasher::new(sha256)));
    let reader =
        Chunks { input, now: Bytes::new(), failure: Arc::clone(&failure), hasher: Arc::clone(&hasher) };
    let mut output = Output { to: output, most, total: 0, scanner: AllocationScanner::default() };
    let result = pass(reader, &mut output, unpacking);
    // The source's own failure comes before what the decoder made of it.
    if let Some(failure) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(failure);
    }
    let unpacked = result?;
    let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (came, source) = (hasher.bytes(), hasher.found());
    let unpacked = unpacked.unwrap_or_else(|| source.hashes.clone());
    Ok(Pressed { came, unpacked, source, allocation: output.scanner.finish() })
}

/// Where what comes out goes.
struct Output<'a> {
    to: &'a mpsc::Sender<Bytes>,
    most: u64,
    total: u64,
    scanner: AllocationScanner,
}

/// The hashes of what came out, where that isn't what came in.
fn pass(
    reader: Chunks,
    output: &mut Output<'_>,
    unpacking: Unpacking,
) -> Result<Option<ImageHashes>, Failure> {
    let mut whole = Ahead::new(reader);
    let broken = |e: io::Error| Failure::transient(e.to_string());
    // As much as an inspection sees, so that both take it for the same.
    let head = whole.peek(usize::try_from(HEAD).unwrap_or(CHUNK)).map_err(broken)?;
    let compression = Compression::of(head).filter(|_| unpacking != Unpacking::Nothing);
    if compression.is_none() && unpacking != Unpacking::Layer {
        copy(whole, output, None).map_err(|e| told(e, None))?;
        return Ok(None);
    }
    let mut hasher = Hasher::new(false);
    let stream: io::Result<Box<dyn Read>> = match compression {
        Some(compression) => unpacked(compression, whole),
        None => Ok(Box::new(whole)),
    };
    let copied = stream.and_then(|stream| match unpacking {
        Unpacking::Layer => copy(Disk::new(stream), output, Some(&mut hasher)),
        Unpacking::Stream | Unpacking::Nothing => copy(stream, output, Some(&mut hasher)),
    });
    copied.map_err(|e| told(e, compression))?;
    Ok(Some(hasher.found().hashes))
}

/// A failure that passes through a decoder's `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct Carried(pub(super) Failure);

fn copy(mut from: impl Read, output: &mut Output<'_>, mut hasher: Option<&mut Hasher>) -> io::Result<()> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut from).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        output.total = output.total.saturating_add(read as u64);
        if output.total > output.most {
            let message = format!("the source has more than {}, the quota", shown(output.most));
            return Err(io::Error::other(Carried(Failure::new(FailureCode::SourceTooLarge, message))));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        output.scanner.update(&chunk);
        // The receiver goes when the step is over for another reason.
        if output.to.blocking_send(Bytes::from(chunk)).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

fn told(error: io::Error, compression: Option<Compression>) -> Failure {
    match (error.downcast::<Carried>(), compression) {
        (Ok(Carried(failure)), _) => failure,
        (Err(error), Some(compression)) => Failure::new(
            FailureCode::BadData,
            format!("the source's {compression} stream can't be unpacked: {}", advice(compression, &error)),
        ),
        (Err(error), None) => Failure::transient(error.to_string()),
    }
}

/// The source's chunks as a reader.
struct Chunks {
    input: mpsc::Receiver<Result<Bytes, Failure>>,
    now: Bytes,
    failure: Arc<Mutex<Option<Failure>>>,
    hasher: Arc<Mutex<Hasher>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.input.blocking_recv() {
                Some(Ok(chunk)) => {
                    self.hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&chunk);
                    self.now = chunk;
                }
                Some(Err(failure)) => {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                    return Err(io::Error::other("the source failed"));
                }
                None => return Ok(0),
            }
        }
        let now = self.now.split_to(self.now.len().min(buffer.len()));
        buffer.get_mut(..now.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(&now);
        Ok(now.len())
    }
}
