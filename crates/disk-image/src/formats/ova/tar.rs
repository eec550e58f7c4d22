//! Members of a tar: plain files, in folders or not.
//!
//! Goal: every dialect that tar programs write by default: ustar, GNU's, pax's, and the ones before there was a standard.
//! Long names and sizes beyond 8 GiB are in a header of their own, in front of the member's.
//!
//! Threat model: two programs that read such headers differently see two archives. So nothing may be told twice, a header
//! for all members may change none, and a name that leaves the archive's own folder is refused. Names are only compared.

use std::collections::HashSet;

use super::{UNTAR, bad};
use crate::{
    error::{Code, Error, Result},
    formats::{holes::HolesLayout, view::View},
    regions::ByteRange,
};

const BLOCK: u64 = 512;
/// Descriptor, manifest, certificate, disks, an ISO or two, message bundles.
const MAX_MEMBERS: usize = 64;
/// With folders, the headers in front of members, and what macOS adds to each.
const MAX_HEADERS: usize = 512;
/// Bytes that are read for a header.
const AHEAD: u64 = 16 << 10;
/// Pieces of a sparse file: 1.6 MiB of blocks.
const MAX_RUNS: usize = 1 << 16;
/// Bytes of a header in front of a member: a name, times, attributes.
const MAX_EXTENSION: u64 = 64 << 10;

/// A plain file of the archive.
#[derive(Debug)]
pub(super) struct Member {
    /// Its path.
    pub(super) name: String,
    /// Of its bytes.
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Where they belong, where holes are left out.
    pub(super) holes: Option<HolesLayout>,
}

impl Member {
    /// The name without folders.
    pub(super) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }
}

/// What headers in front of a member say of it.
#[derive(Debug, Default)]
struct Said {
    name: Option<String>,
    size: Option<u64>,
}

/// All plain files up to the empty blocks that end the archive, but for those that macOS makes of attributes.
pub(super) fn members(view: View<'_>) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    let mut names = HashSet::new();
    let mut said = Said::default();
    let mut at = 0;
    for _ in 0..MAX_HEADERS {
        if !view.holds(at, BLOCK) {
            let message =
                format!("OVA: the archive has no end at byte {at}; a part of it is missing, fetch it again");
            return Err(Error::refused(Code::Truncated, message));
        }
        let header = header_at(view, at)?;
        if header.iter().all(|b| *b == 0) {
            return Ok(members);
        }
        let kind = check_header(header, at)?;
        let size = match number(&header[124..136]) {
            // The header's own field has no room for it.
            size if kind.is_member() => said.size.or(size),
            size => size,
        };
        let size = size.ok_or_else(|| bad(format!("the size of the member at byte {at}")))?;
        let mut offset = at + BLOCK;
        let holes = match kind {
            Kind::Sparse => Some(holes(view, header, &mut offset, size)?),
            _ => None,
        };
        if !view.holds(offset, size) {
            return Err(Error::refused(
                Code::Truncated,
                format!(
                    "OVA: the member \"{}\" ends outside of the file; a part of it is missing, fetch it again",
                    text(&header[..100]).escape_default()
                ),
            ));
        }
        match kind {
            Kind::Extension(kind) => said.add(kind, extension(view, offset, size)?, at)?,
            Kind::Folder if size > 0 => return Err(bad(format!("the folder at byte {at} has bytes"))),
            Kind::Folder | Kind::File | Kind::Sparse => {
                let name = std::mem::take(&mut said).name.unwrap_or_else(|| own_name(header));
                add(Member { name, offset, size, holes }, &kind, at, &mut members, &mut names)?;
            }
        }
        at = (offset + size).checked_next_multiple_of(BLOCK).ok_or_else(|| bad("offsets beyond 64 bits"))?;
    }
    Err(too_many())
}

/// The block at `at`. Small members follow each other closely, so some of them come with it.
fn header_at(view: View<'_>, at: u64) -> Result<&[u8]> {
    match view.read(at, BLOCK, "tar header") {
        Err(Error::Need(_)) => {
            view.need(&[ByteRange { start: at, end: view.size().min(at + AHEAD) }])?;
            view.read(at, BLOCK, "tar header")
        }
        there => there,
    }
}

/// Keeps a file, under its plain path.
fn add(
    member: Member,
    kind: &Kind,
    at: u64,
    members: &mut Vec<Member>,
    names: &mut HashSet<String>,
) -> Result<()> {
    let is_folder = matches!(kind, Kind::Folder);
    let told = if is_folder { member.name.trim_end_matches('/') } else { member.name.as_str() };
    if is_folder && matches!(told, "" | ".") {
        return Ok(());
    }
    let Some(name) = plain_path(told) else {
        return Err(Error::refused(
            Code::UnsafeName,
            format!(
                "OVA: the member \"{}\" at byte {at} has no plain name; pack it with another one",
                told.escape_default()
            ),
        ));
    };
    if is_folder || name.rsplit('/').next().is_some_and(is_of_macos) {
        return Ok(());
    }
    if !names.insert(name.to_ascii_lowercase()) {
        return Err(bad(format!("two members are named \"{}\"", name.escape_default())));
    }
    members.push(Member { name: name.to_owned(), ..member });
    if members.len() > MAX_MEMBERS { Err(too_many()) } else { Ok(()) }
}

fn too_many() -> Error {
    Error::refused(
        Code::TableTooLarge,
        format!("OVA: more than {MAX_MEMBERS} files or {MAX_HEADERS} headers; {UNTAR}"),
    )
}

/// What a header stands before.
enum Kind {
    File,
    /// A file without its holes, as GNU tar has it where no standard is asked for.
    Sparse,
    Folder,
    /// What is told of the next member, by this letter.
    Extension(u8),
}

impl Kind {
    const fn is_member(&self) -> bool {
        matches!(self, Self::File | Self::Sparse | Self::Folder)
    }
}

fn check_header(header: &[u8], at: u64) -> Result<Kind> {
    // The first tars had nothing there.
    if !matches!(&header[257..262], b"ustar" | [0, 0, 0, 0, 0]) {
        return Err(bad(format!("no tar header at byte {at}")));
    }
    if !is_header(header) {
        return Err(bad(format!("the checksum of the tar header at byte {at} is wrong")));
    }
    match header[156] {
        // Nor had they a letter for folders.
        0 | b'0' if text(&header[..100]).ends_with('/') => Ok(Kind::Folder),
        // `7` is a file that should lie in one piece.
        0 | b'0' | b'7' => Ok(Kind::File),
        b'5' => Ok(Kind::Folder),
        kind @ (b'x' | b'g' | b'L') => Ok(Kind::Extension(kind)),
        b'1' | b'2' => Err(bad(format!("the member at byte {at} is a link"))),
        b'S' if header[257..265] == *b"ustar  \0" => Ok(Kind::Sparse),
        b'S' => Err(sparse(at)),
        kind => Err(bad(format!("the member at byte {at} is no plain file (type {})", kind.escape_ascii()))),
    }
}

/// Reads where a sparse file's bytes belong: four runs in its header, 21 in each block behind it (tar.h of GNU tar). `at` is
/// where these blocks begin, and then where they end.
fn holes(view: View<'_>, header: &[u8], at: &mut u64, size: u64) -> Result<HolesLayout> {
    const FIRST: std::ops::Range<usize> = 386..482;
    const MORE: std::ops::Range<usize> = 0..504;
    let begin = *at;
    let unsound =
        || bad(format!("the places in the sparse file at byte {begin} contradict each other; {UNTAR}"));
    let real_size = header.get(483..495).and_then(number).ok_or_else(unsound)?;
    let mut runs = Vec::new();
    let (mut places, mut follows) = (header.get(FIRST), header.get(482));
    loop {
        for place in places.unwrap_or_default().chunks_exact(24) {
            let (start, len) = place.split_at(12);
            if len.first() != Some(&0) {
                runs.push(number(start).zip(number(len)).ok_or_else(unsound)?);
            }
        }
        if follows.is_none_or(|flag| *flag == 0) {
            return HolesLayout::new(real_size, size, runs).ok_or_else(unsound);
        }
        if runs.len() > MAX_RUNS {
            return Err(Error::refused(
                Code::TableTooLarge,
                format!("OVA: the sparse file at byte {begin} has more than {MAX_RUNS} pieces; {UNTAR}"),
            ));
        }
        let block = header_at(view, *at)?;
        (places, follows) = (block.get(MORE), block.get(504));
        *at += BLOCK;
    }
}

fn sparse(at: u64) -> Error {
    bad(format!("the member at byte {at} is a sparse file; {UNTAR}"))
}

fn extension(view: View<'_>, offset: u64, size: u64) -> Result<&[u8]> {
    if size > MAX_EXTENSION {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("OVA: a header of {size} bytes at byte {offset}, more than {MAX_EXTENSION}; {UNTAR}"),
        ));
    }
    view.read(offset, size, "tar extension header")
}

impl Said {
    fn add(&mut self, kind: u8, bytes: &[u8], at: u64) -> Result<()> {
        if kind == b'L' {
            return self.told_name(text(bytes), at);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, value, behind) =
                record(rest).ok_or_else(|| bad(format!("a pax header at byte {at} that can't be read")))?;
            rest = behind;
            match key {
                b"path" | b"size" if kind == b'g' => {
                    return Err(bad(format!("a header at byte {at} that changes every member")));
                }
                b"path" => self.told_name(text(value), at)?,
                b"size" => {
                    let size =
                        std::str::from_utf8(value).ok().filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
                    let size = size.and_then(|n| n.parse().ok());
                    let size = size.ok_or_else(|| bad(format!("the size in the header at byte {at}")))?;
                    if self.size.replace(size).is_some() {
                        return Err(bad(format!("the header at byte {at} tells a size again")));
                    }
                }
                _ if key.starts_with(b"GNU.sparse.") => return Err(sparse(at)),
                // Times, owners, attributes.
                _ => {}
            }
        }
        Ok(())
    }

    fn told_name(&mut self, name: String, at: u64) -> Result<()> {
        match self.name.replace(name) {
            None => Ok(()),
            Some(_) => Err(bad(format!("the header at byte {at} tells a name again"))),
        }
    }
}

/// The first `<length> <key>=<value>\n` of a pax header, and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|b| *b == b' ')?;
    let digits = bytes.get(..blank).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let len: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    Some((pair.get(..equals)?, pair.get(equals + 1..)?, rest))
}

/// The name of a header's own fields.
fn own_name(header: &[u8]) -> String {
    let name = text(&header[..100]);
    // GNU keeps times there, and the first tars nothing.
    let prefix = if header[257..263] == *b"ustar\0" { text(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// A path without the "./" in front, if no program could take it for more than a path within the archive's folder.
pub(super) fn plain_path(path: &str) -> Option<&str> {
    let path = path.trim_start_matches("./");
    let is_bad = |c: char| c.is_control() || "\\:\u{fffd}".contains(c);
    let is_plain = |part: &str| !part.is_empty() && (!part.starts_with('.') || is_of_macos(part));
    (!path.contains(is_bad) && path.split('/').all(is_plain)).then_some(path)
}

/// Files that macOS adds: a file's attributes (AppleDouble), how a folder is shown.
fn is_of_macos(name: &str) -> bool {
    name.starts_with("._") || name == ".DS_Store"
}

/// Whether a block has the checksum of a member's header: the sum of its bytes, the checksum's own as blanks. Some old
/// programs took bytes for signed.
pub(crate) fn is_header(block: &[u8]) -> bool {
    let (mut sum, mut signed) = (0_u64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        sum += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    let told = block.get(148..156).and_then(octal);
    told.is_some_and(|told| told == sum || i64::try_from(told) == Ok(signed))
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// Octal digits, padded with spaces and zero bytes.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with('+'))
}

/// Sizes beyond 8 GiB are in base 256 with the first bit set: a GNU extension that writers of OVAs use.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first != 0x80 {
        return octal(field);
    }
    let (high, low) = rest.split_last_chunk::<8>()?;
    high.iter().all(|b| *b == 0).then(|| u64::from_be_bytes(*low))
}
