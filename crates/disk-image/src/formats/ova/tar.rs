//! Members of a tar of the "ustar" kind: plain files in no directory.

use std::collections::HashSet;

use super::{UNTAR, bad};
use crate::{
    error::{Code, Error, Result},
    formats::view::View,
};

const BLOCK: u64 = 512;
/// Descriptor, manifest, certificate, disks, an ISO or two, message bundles.
const MAX_MEMBERS: usize = 64;

/// A plain file of the archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// Of its bytes.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// All members up to the two empty blocks that end the archive.
pub(super) fn members(view: View<'_>) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    let mut names = HashSet::new();
    let mut at = 0;
    loop {
        if !view.holds(at, BLOCK) {
            return Err(Error::refused(Code::Truncated, format!("OVA: the archive has no end at byte {at}")));
        }
        let header = view.read(at, BLOCK, "tar header")?;
        if header.iter().all(|b| *b == 0) {
            return Ok(members);
        }
        let member = parse(header, at + BLOCK)?;
        if !view.holds(member.offset, member.size) {
            return Err(Error::refused(
                Code::Truncated,
                format!("OVA: the member \"{}\" ends outside of the file", member.name.escape_default()),
            ));
        }
        if !names.insert(member.name.to_ascii_lowercase()) {
            return Err(bad(format!("two members are named \"{}\"", member.name.escape_default())));
        }
        at = (member.offset + member.size)
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| bad("offsets beyond 64 bits"))?;
        members.push(member);
        if members.len() > MAX_MEMBERS {
            return Err(Error::refused(Code::TableTooLarge, format!("OVA: more than {MAX_MEMBERS} members")));
        }
    }
}

fn parse(header: &[u8], offset: u64) -> Result<Member> {
    let field = |from: usize, to: usize| header.get(from..to).unwrap_or_default();
    let place = offset - BLOCK;
    // The first tars had nothing there.
    if !matches!(field(257, 262), b"ustar" | [0, 0, 0, 0, 0]) {
        return Err(bad(format!("no tar header at byte {place}")));
    }
    if !is_header(header) {
        return Err(bad(format!("the checksum of the tar header at byte {place} is wrong")));
    }
    match header.get(156) {
        Some(b'0' | 0) => {}
        Some(b'1' | b'2') => return Err(bad(format!("the member at byte {place} is a link"))),
        Some(b'x' | b'g' | b'L' | b'K') => {
            return Err(bad(format!("an extension header at byte {place}; {UNTAR}")));
        }
        Some(b'S') => return Err(bad(format!("the member at byte {place} is a sparse file; {UNTAR}"))),
        kind => {
            let kind = kind.copied().unwrap_or_default().escape_ascii();
            return Err(bad(format!("the member at byte {place} is no plain file (type {kind})")));
        }
    }
    let size =
        number(field(124, 136)).ok_or_else(|| bad(format!("the size of the member at byte {place}")))?;
    if field(345, 346) != [0] && field(257, 263) == b"ustar\0" {
        return Err(unsafe_name(&text(field(345, 500)), place));
    }
    let name = text(field(0, 100));
    let plain = name.strip_prefix("./").unwrap_or(&name);
    let bad_character = |c: char| c.is_control() || "/\\:\u{fffd}".contains(c);
    if plain.is_empty() || plain.starts_with('.') || plain.contains(bad_character) {
        return Err(unsafe_name(&name, place));
    }
    Ok(Member { name: plain.to_owned(), offset, size })
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

fn unsafe_name(name: &str, place: u64) -> Error {
    Error::refused(
        Code::UnsafeName,
        format!("OVA: the member \"{}\" at byte {place} is not a plain file name", name.escape_default()),
    )
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
