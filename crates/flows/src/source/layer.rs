//! The disk in a layer of a container image: the one file in its folder `disk`, as KubeVirt's containerDisks have it.
//!
//! Threat model: the archive is hostile. Nothing is unpacked to a file, so no name can lead anywhere; what is held of a
//! header is bounded, and a disk of two readings is none.

use std::io::{self, Read};

use image_tasks_domain::{Failure, FailureCode};

use super::press::Carried;

const BLOCK: usize = 512;
/// Bytes of a header in front of a member: a name, times, attributes.
const MAX_EXTENSION: u64 = 64 << 10;
/// Members of a layer that are looked at: whole distributions have some 100,000.
const MAX_MEMBERS: u32 = 1 << 20;
/// Most bytes beside the disk: a few compressed ones unpack to any number. Whole distributions have some GiB.
const MAX_BESIDE: u64 = 32 << 30;
/// Beyond any size, so that adding to it is safe.
const MOST: u64 = 1 << 60;
const FOLDER: &str = "disk/";

/// A tar, read as the disk in it.
pub(super) struct Disk<R> {
    tar: R,
    /// Of the disk, still to come.
    left: u64,
    /// Behind the disk's last byte.
    padding: u64,
    found: Option<String>,
    members: u32,
    /// Bytes beside the disk that may still come.
    beside: u64,
    ended: bool,
}

/// What the headers in front of a member say of it.
#[derive(Default)]
struct Said {
    name: Option<String>,
    size: Option<u64>,
}

impl<R: Read> Disk<R> {
    pub(super) fn new(tar: R) -> Self {
        Self { tar, left: 0, padding: 0, found: None, members: 0, beside: MAX_BESIDE, ended: false }
    }

    /// Goes on to the disk, if there is one more; else to the archive's end.
    fn seek(&mut self) -> io::Result<bool> {
        let mut said = Said::default();
        loop {
            let Some(header) = self.header()? else {
                if io::copy(&mut (&mut self.tar).take(self.beside + 1), &mut io::sink())? > self.beside {
                    return Err(too_much());
                }
                self.ended = true;
                return match &self.found {
                    Some(_) => Ok(false),
                    None => {
                        Err(bad("there is no file in its folder /disk, where a containerDisk has its image"))
                    }
                };
            };
            self.members += 1;
            if self.members > MAX_MEMBERS {
                return Err(bad("it has more than a million members"));
            }
            let kind = header[156];
            let own = number(&header[124..136]).ok_or_else(|| bad("the size of a member can't be read"))?;
            if let b'x' | b'L' = kind {
                said.add(kind, &self.extension(own)?)?;
                continue;
            }
            // Of all members, and a link's long name: nothing here goes by them.
            if let b'g' | b'K' = kind {
                self.extension(own)?;
                continue;
            }
            let Said { name, size } = std::mem::take(&mut said);
            let (name, size) = (name.unwrap_or_else(|| own_name(&header)), size.unwrap_or(own));
            // Of links and devices the size means nothing.
            let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
            let padding = size.next_multiple_of(BLOCK as u64) - size;
            match name.trim_start_matches("./").trim_start_matches('/').strip_prefix(FOLDER) {
                Some("") | None => {}
                // A whiteout of a layer below, and what is no file.
                Some(name) if name.starts_with(".wh.") || kind == b'5' => {}
                Some(name) if !matches!(kind, 0 | b'0' | b'7') => {
                    return Err(bad(&format!(
                        "\"{}\" in its folder /disk is no plain file",
                        name.escape_default()
                    )));
                }
                Some(name) => {
                    if let Some(first) = &self.found {
                        let both =
                            format!("\"{}\" and \"{}\"", first.escape_default(), name.escape_default());
                        return Err(bad(&format!("its folder /disk has two files, {both}; leave one")));
                    }
                    (self.found, self.left, self.padding) = (Some(name.to_owned()), size, padding);
                    return Ok(true);
                }
            }
            self.skip(size + padding)?;
        }
    }

    /// The next header; none at the archive's end, where there are blocks of zeros or nothing.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut header = Vec::with_capacity(BLOCK);
        (&mut self.tar).take(BLOCK as u64).read_to_end(&mut header)?;
        let Ok(header) = <[u8; BLOCK]>::try_from(header) else {
            return Err(bad("it ends early; push it again"));
        };
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |(at, byte): (usize, &u8)| u64::from(if (148..156).contains(&at) { b' ' } else { *byte });
        if octal(&header[148..156]) != Some(header.iter().enumerate().map(sum).sum()) {
            return Err(bad("it is no tar archive"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(bad("a header in it is larger than any honest one"));
        }
        let mut bytes = Vec::new();
        (&mut self.tar).take(size).read_to_end(&mut bytes)?;
        self.skip(size.next_multiple_of(BLOCK as u64) - bytes.len() as u64)?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.beside = self.beside.checked_sub(bytes).ok_or_else(too_much)?;
        if io::copy(&mut (&mut self.tar).take(bytes), &mut io::sink())? == bytes {
            Ok(())
        } else {
            Err(bad("it ends early; push it again"))
        }
    }
}

impl<R: Read> Read for Disk<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let padding = std::mem::take(&mut self.padding);
            self.skip(padding)?;
            if self.ended || buffer.is_empty() || !self.seek()? {
                return Ok(0);
            }
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.tar.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(bad("it ends early; push it again"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl Said {
    fn add(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let unreadable = || bad("a header in it can't be read");
        if kind == b'L' {
            self.name = Some(text(bytes));
            return Ok(());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, value, behind) = record(rest).ok_or_else(unreadable)?;
            match key {
                b"path" => self.name = Some(text(value)),
                b"size" => {
                    let size = text(value).parse().ok().filter(|size| *size < MOST);
                    self.size = Some(size.ok_or_else(unreadable)?);
                }
                _ if key.starts_with(b"GNU.sparse.") => return Err(bad("a sparse file in it is not read")),
                _ => {}
            }
            rest = behind;
        }
        Ok(())
    }
}

/// The first `<length> <key>=<value>\n` of a pax header, and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(bytes.get(..blank)?).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    Some((pair.get(..equals)?, pair.get(equals + 1..)?, rest))
}

fn own_name(header: &[u8; BLOCK]) -> String {
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    let is_ustar = header[257..263] == *b"ustar\0";
    if is_ustar && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(if digits.is_empty() { "0" } else { digits }, 8)
        .ok()
        .filter(|_| !digits.starts_with('+'))
}

/// Sizes beyond 8 GiB are in base 256 with the first bit set, where a writer chose GNU's way.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first != 0x80 {
        return octal(field);
    }
    let (high, low) = rest.split_last_chunk::<8>()?;
    high.iter().all(|b| *b == 0).then(|| u64::from_be_bytes(*low)).filter(|size| *size < MOST)
}

fn too_much() -> io::Error {
    bad(&format!("it has more than {} GiB beside the disk", MAX_BESIDE >> 30))
}

fn bad(what: &str) -> io::Error {
    let message = format!("the layer with the disk can't be used: {what}");
    io::Error::other(Carried(Failure::new(FailureCode::BadArchive, message)))
}
