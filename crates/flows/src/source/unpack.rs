//! Decoders of compressed streams.
//!
//! Goal: what the formats' own tools unpack is unpacked alike: streams of several members or frames, and what people leave
//! behind the last one. Behind gzip's and bzip2's last member anything may follow (as firmware images have it), behind the
//! last frame of the others zeros.
//!
//! Threat model: a decoder's memory is bounded before it starts; a stream that ends early is an error.

use std::io::{self, BufRead, Read};

use bzip2::bufread::BzDecoder;
use disk_image::Compression;
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use zstd::stream::raw::{DParameter, Operation};

use crate::bounds::{DECODER_MEMORY, ZSTD_WINDOW_LOG};

/// Packed bytes that are held at once.
const BLOCK: usize = 32 << 10;

/// How a frame of LZ4 begins (LZ4 Frame Format 1.6.4).
const LZ4_FRAME: &[u8] = b"\x04\x22\x4d\x18";
/// What zstd and lz4 refuse themselves.
const BEHIND: &str = "bytes behind its last frame";

/// What a stream unpacks to.
pub(super) fn unpacked<R: Read + 'static>(
    compression: Compression,
    packed: Ahead<R>,
) -> io::Result<Box<dyn Read>> {
    Ok(match compression {
        Compression::Gzip => Box::new(Members::<GzDecoder<_>>::new(packed)),
        Compression::Bzip2 => Box::new(Members::<BzDecoder<_>>::new(packed)),
        Compression::Lz4 => Box::new(Lz4::Between(packed)),
        Compression::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(DECODER_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
        }
        Compression::Zstd => Box::new(Zstd::new(packed)?),
    })
}

/// What can be done about a decoder's error, where that is known.
pub(super) fn advice(compression: Compression, error: &io::Error) -> String {
    let told = error.to_string();
    let window = DECODER_MEMORY >> 20;
    match compression {
        Compression::Zstd if told.contains("too much memory") => format!(
            "its window is larger than {window} MiB, the most that is unpacked here; compress it with \
             --long={ZSTD_WINDOW_LOG} or less, or without --long"
        ),
        Compression::Xz if told.contains("memory limit") => format!(
            "its dictionary takes more than {window} MiB, the most that is unpacked here; compress it with \
             xz -9 or less"
        ),
        Compression::Gzip | Compression::Xz | Compression::Zstd | Compression::Bzip2 | Compression::Lz4 => {
            format!("{told}; try {compression} -t on the file, and send it again")
        }
    }
}

/// A reader whose next bytes can be seen before they are read.
pub(super) struct Ahead<R> {
    reader: R,
    held: Vec<u8>,
    at: usize,
}

impl<R: Read> Ahead<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, held: Vec::new(), at: 0 }
    }

    /// The next `most` bytes, fewer at the end.
    pub(super) fn peek(&mut self, most: usize) -> io::Result<&[u8]> {
        let there = self.held.len() - self.at;
        if there < most {
            self.held.drain(..self.at);
            self.at = 0;
            (&mut self.reader).take((most - there) as u64).read_to_end(&mut self.held)?;
        }
        let left = self.held.get(self.at..).unwrap_or_default();
        Ok(left.get(..most).unwrap_or(left))
    }

    /// Reads all that is left, and tells whether it is zeros.
    fn drain(&mut self) -> io::Result<bool> {
        let mut zeros = true;
        loop {
            let left = self.fill_buf()?;
            let len = left.len();
            zeros &= left.iter().all(|byte| *byte == 0);
            if len == 0 {
                return Ok(zeros);
            }
            self.consume(len);
        }
    }
}

impl<R: Read> BufRead for Ahead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.held.len() {
            self.at = 0;
            self.held.resize(BLOCK, 0);
            let read = self.reader.read(&mut self.held);
            self.held.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        Ok(self.held.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.at = self.at.saturating_add(len).min(self.held.len());
    }
}

impl<R: Read> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// A decoder of one member of a stream.
trait Member<R>: Read {
    const COMPRESSION: Compression;
    fn begin(packed: Ahead<R>) -> Self;
    /// What follows it.
    fn rest(self) -> Ahead<R>;
}

impl<R: Read> Member<R> for GzDecoder<Ahead<R>> {
    const COMPRESSION: Compression = Compression::Gzip;

    fn begin(packed: Ahead<R>) -> Self {
        Self::new(packed)
    }

    fn rest(self) -> Ahead<R> {
        self.into_inner()
    }
}

impl<R: Read> Member<R> for BzDecoder<Ahead<R>> {
    const COMPRESSION: Compression = Compression::Bzip2;

    fn begin(packed: Ahead<R>) -> Self {
        Self::new(packed)
    }

    fn rest(self) -> Ahead<R> {
        self.into_inner()
    }
}

/// Members, one behind the other. What follows the last one is read and left out, as `gzip -d` and `bzip2 -d` do.
struct Members<D>(Option<D>);

impl<D> Members<D> {
    fn new<R>(packed: Ahead<R>) -> Self
    where
        D: Member<R>,
    {
        Self(Some(D::begin(packed)))
    }
}

macro_rules! read_members {
    ($decoder:ident) => {
        impl<R: Read> Read for Members<$decoder<Ahead<R>>> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                read_member(&mut self.0, buffer)
            }
        }
    };
}

read_members!(GzDecoder);
read_members!(BzDecoder);

fn read_member<R: Read, D: Member<R>>(now: &mut Option<D>, buffer: &mut [u8]) -> io::Result<usize> {
    while let Some(mut member) = now.take() {
        let read = member.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            *now = Some(member);
            return Ok(read);
        }
        let mut rest = member.rest();
        if Compression::of(rest.peek(3)?) == Some(D::COMPRESSION) {
            *now = Some(D::begin(rest));
        } else {
            rest.drain()?;
        }
    }
    Ok(0)
}

/// Frames of LZ4, one behind the other; zeros behind the last one.
enum Lz4<R: Read> {
    Between(Ahead<R>),
    Frame(FrameDecoder<ToEnd<R>>),
    Done,
}

/// Remembers that it came to its end. The decoder takes an end in front of a block for the frame's own.
struct ToEnd<R> {
    reader: Ahead<R>,
    is_at_end: bool,
}

impl<R: Read> Read for ToEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.is_at_end |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(self, Self::Done) {
                Self::Done => return Ok(0),
                Self::Between(mut packed) => match packed.peek(8)? {
                    [] | [0, ..] => {
                        if !packed.drain()? {
                            return Err(io::Error::other(BEHIND));
                        }
                    }
                    // To be skipped, as in zstd.
                    [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d] => {
                        let len = 8 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
                        if io::copy(&mut (&mut packed).take(len), &mut io::sink())? < len {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        *self = Self::Between(packed);
                    }
                    head if head.starts_with(LZ4_FRAME) => {
                        let packed = ToEnd { reader: packed, is_at_end: false };
                        *self = Self::Frame(FrameDecoder::new(packed));
                    }
                    _ => return Err(io::Error::other(BEHIND)),
                },
                Self::Frame(mut frame) => {
                    let read = frame.read(buffer)?;
                    if read > 0 {
                        *self = Self::Frame(frame);
                        return Ok(read);
                    }
                    let ToEnd { reader, is_at_end } = frame.into_inner();
                    if is_at_end {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *self = Self::Between(reader);
                }
            }
        }
    }
}

/// Frames of all kinds, one behind the other; zeros behind the last one.
struct Zstd<R> {
    packed: Ahead<R>,
    decoder: zstd::stream::raw::Decoder<'static>,
    /// Whether the next byte begins a frame.
    between: bool,
}

impl<R: Read> Zstd<R> {
    fn new(packed: Ahead<R>) -> io::Result<Self> {
        let mut decoder = zstd::stream::raw::Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
        Ok(Self { packed, decoder, between: true })
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.between {
                // No frame begins with a zero.
                if self.packed.peek(1)?.first().is_none_or(|first| *first == 0) {
                    let zeros = self.packed.drain()?;
                    return if zeros { Ok(0) } else { Err(io::Error::other(BEHIND)) };
                }
                self.decoder.reinit()?;
                self.between = false;
            }
            let packed = self.packed.fill_buf()?;
            let is_end = packed.is_empty();
            let status = self.decoder.run_on_buffers(packed, buffer)?;
            self.packed.consume(status.bytes_read);
            self.between = status.remaining == 0;
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if is_end && !self.between {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Gives one byte at a time.
    struct Slow(io::Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn unpack(compression: Compression, packed: &[u8]) -> Result<Vec<u8>, String> {
        let read = |mut reader: Box<dyn Read>| {
            let mut out = Vec::new();
            reader.read_to_end(&mut out).map(|_| out).map_err(|e| e.to_string())
        };
        let whole = read(unpacked(compression, Ahead::new(io::Cursor::new(packed.to_vec()))).unwrap());
        let slow = read(unpacked(compression, Ahead::new(Slow(io::Cursor::new(packed.to_vec())))).unwrap());
        assert_eq!(whole, slow);
        whole
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn skipped(len: u32) -> Vec<u8> {
        [&b"\x50\x2a\x4d\x18"[..], &len.to_le_bytes(), &vec![7; len as usize]].concat()
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        for pack in [gzip as fn(&[u8]) -> Vec<u8>, zstd, bzip2, lz4] {
            let packed = [pack(b"one "), pack(b""), pack(&[b'2'; 1 << 20]), pack(b" three")].concat();
            let compression = Compression::of(&packed).unwrap();
            let expected = [&b"one "[..], &[b'2'; 1 << 20], b" three"].concat();
            assert_eq!(unpack(compression, &packed), Ok(expected), "{compression}");
            for cut in [packed.len() - 1, packed.len() - 20, 1] {
                assert!(unpack(compression, &packed[..cut]).is_err(), "{compression} cut at {cut}");
            }
        }
        for pack in [zstd as fn(&[u8]) -> Vec<u8>, lz4] {
            let framed =
                [skipped(4), pack(b"a"), skipped(0), skipped(300_000), pack(b"b"), skipped(17)].concat();
            let compression = Compression::of(&framed).unwrap();
            assert_eq!(unpack(compression, &framed), Ok(b"ab".to_vec()));
            for cut in [framed.len() - 1, 3] {
                assert!(unpack(compression, &framed[..cut]).is_err(), "{compression} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_follows_the_last_one_is_left_out_where_its_tool_does() {
        for behind in [&[0; 5][..], &[0; 300_000], b"FWx0 and more", &[0, 0, 0x1f, 0x8b, 8]] {
            assert_eq!(
                unpack(Compression::Gzip, &[&gzip(b"disk")[..], behind].concat()),
                Ok(b"disk".to_vec())
            );
            assert_eq!(
                unpack(Compression::Bzip2, &[&bzip2(b"disk")[..], behind].concat()),
                Ok(b"disk".to_vec())
            );
            for (compression, packed) in
                [(Compression::Zstd, zstd(b"disk")), (Compression::Lz4, lz4(b"disk"))]
            {
                let frame = unpack(compression, &[&packed[..], behind].concat());
                assert_eq!(frame.is_ok(), behind.iter().all(|byte| *byte == 0), "{frame:?}");
            }
        }
        // Wherever a frame is cut.
        let packed = lz4(&[&[b'1'; 70_000][..], &[b'2'; 70_000]].concat());
        for cut in 1..packed.len() {
            assert!(unpack(Compression::Lz4, &packed[..cut]).is_err(), "cut at {cut}");
        }
        // Another member is one that has to be whole.
        assert!(unpack(Compression::Gzip, &[&gzip(b"disk")[..], &gzip(b"more")[..12]].concat()).is_err());
        assert!(unpack(Compression::Bzip2, &[&bzip2(b"disk")[..], &bzip2(b"more")[..12]].concat()).is_err());
    }

    /// Whatever a stream's bytes are, it ends or is refused, and no more is held than its decoder may hold.
    #[test]
    fn damaged_streams_end() {
        let disk: Vec<u8> = (0..20_000_u32).flat_map(|n| (n / 64).to_le_bytes()).collect();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % below
        };
        for pack in [gzip as fn(&[u8]) -> Vec<u8>, zstd, bzip2, lz4] {
            let whole = [skipped(3), pack(&disk[..40_000]), pack(&disk[40_000..])].concat();
            let start = if Compression::of(&whole[11..]) == Compression::of(&whole) { 0 } else { 11 };
            for _ in 0..300 {
                let mut packed = whole[start..].to_vec();
                for _ in 0..=random(4) {
                    let at = random(packed.len());
                    packed[at] = u8::try_from(random(256)).unwrap();
                }
                packed.truncate(packed.len() - random(3) * random(packed.len()) / 4);
                let Some(compression) = Compression::of(&packed) else { continue };
                let mut out = Vec::new();
                let stream = unpacked(compression, Ahead::new(io::Cursor::new(packed))).unwrap();
                let _ = stream.take(1 << 20).read_to_end(&mut out);
            }
        }
    }
}
