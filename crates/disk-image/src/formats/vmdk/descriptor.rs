//! The text inside a VMDK: read only to be refused unless it is plain.
//!
//! Threat model: VMware, QEMU and VirtualBox read this text differently (QEMU by searching for substrings, also in comments), so
//! what isn't understood is refused: unknown keys, repeated keys, anything behind the text's end. The strings that name
//! other files are searched in all bytes that QEMU would search.
//!
//! The one extent's own name is whatever the file was called while it was made. Nobody needs it, since the extent is the
//! file that the text lies in: QEMU and VirtualBox don't look at it either.

use std::collections::HashSet;

use super::{JOIN, SECTOR};
use crate::{
    error::{Code, Error, Result},
    formats::view::View,
};

/// QEMU reads the descriptor at this sector whatever the header says.
const PLACE: u64 = 1;
/// Sectors QEMU reads, whatever the header says (`DESC_SIZE`).
const QEMU_SECTORS: u64 = 20;
/// Honest descriptors have 20 sectors.
const MAX_SECTORS: u64 = 2048;
/// Linux's `PATH_MAX`.
const MAX_NAME: usize = 4096;

/// What the header says about the disk.
pub(super) struct Expected {
    pub(super) compressed: bool,
    /// Sectors of the disk and of a grain.
    pub(super) capacity: u64,
    pub(super) grain: u64,
}

/// Reads the descriptor of `len` sectors at sector `at` and refuses what isn't plain.
pub(super) fn check(view: View<'_>, at: u64, len: u64, expected: &Expected) -> Result<()> {
    if at == 0 || len == 0 {
        return Err(no_text());
    }
    if at != PLACE {
        return Err(bad(format!("at sector {at} instead of {PLACE}")));
    }
    if len > MAX_SECTORS {
        return Err(Error::refused(
            Code::TableTooLarge,
            format!("VMDK descriptor: {len} sectors, more than {MAX_SECTORS}"),
        ));
    }
    if !view.holds(at * SECTOR, len * SECTOR) {
        return Err(Error::refused(
            Code::OutOfBounds,
            format!("VMDK descriptor: {len} sectors at sector {at} are outside of the file"),
        ));
    }
    let area = (len.max(QEMU_SECTORS) * SECTOR).min(view.size() - at * SECTOR);
    let searched = view.read(at * SECTOR, area, "VMDK descriptor")?;
    let declared = usize::try_from(len * SECTOR).ok().and_then(|len| searched.get(..len)).unwrap_or_default();
    refuse_names(searched, declared)?;
    let end = declared.iter().position(|b| *b == 0).unwrap_or(declared.len());
    let (text, padding) = declared.split_at(end);
    // QEMU keeps room for a text in each part of a split disk, and writes none.
    if padding.iter().all(|b| *b == 0) && text.trim_ascii().is_empty() {
        return Err(no_text());
    }
    if !is_padding(text, padding) {
        return Err(bad("there are bytes behind its end"));
    }
    if let Some(control) = text.iter().find(|b| b.is_ascii_control() && !b"\n\r\t".contains(b)) {
        return Err(bad(format!("control character {control:#04x} in it")));
    }
    parse(text, expected)
}

fn no_text() -> Error {
    bad(format!("there is none, so the file is one part of a split disk, as disk-s001.vmdk is; {JOIN}"))
}

/// Zeros; or what QEMU leaves when it writes a shorter CID: the rest of the text moves forward by up to 7 bytes, and the text's old
/// end stays behind the zero byte that now ends it.
fn is_padding(text: &[u8], padding: &[u8]) -> bool {
    const CID_DIGITS: usize = 8;
    let used = padding.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let left = padding.get(1..used).unwrap_or_default();
    left.len() < CID_DIGITS && text.ends_with(left)
}

/// Names of other files, anywhere QEMU's search would find them: to the first zero byte of what it reads.
fn refuse_names(searched: &[u8], declared: &[u8]) -> Result<()> {
    let until_zero = searched.iter().position(|b| *b == 0).unwrap_or(searched.len());
    let text = searched.get(..until_zero.max(declared.len())).unwrap_or(searched).to_ascii_lowercase();
    let found = |needle: &[u8]| text.windows(needle.len()).any(|w| w == needle);
    if found(b"parentfilenamehint") {
        return Err(Error::refused(
            Code::BackingFile,
            "VMDK descriptor: parentFileNameHint names a parent disk",
        ));
    }
    if found(b"changetrackpath") {
        return Err(Error::refused(
            Code::ExternalData,
            "VMDK descriptor: changeTrackPath names another file",
        ));
    }
    Ok(())
}

fn parse(text: &[u8], expected: &Expected) -> Result<()> {
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    // Usually "# Disk DescriptorFile"; stream converters write words of their own.
    if lines.next().is_none_or(|title| !title.starts_with(b"#")) {
        return Err(bad("it does not begin with a comment, as \"# Disk DescriptorFile\""));
    }
    let mut keys = HashSet::new();
    let mut extents = 0_u32;
    for line in lines.filter(|line| !line.starts_with(b"#")) {
        if is_extent(line) {
            extents += 1;
            if extents > 1 {
                return Err(Error::refused(Code::ExternalData, "VMDK descriptor: more than one extent"));
            }
            check_extent(line, expected)?;
            continue;
        }
        let at =
            line.iter().position(|b| *b == b'=').ok_or_else(|| bad(format!("the line {}", shown(line))))?;
        let (key, value) =
            (line[..at].trim_ascii().to_ascii_lowercase(), unquoted(line[at + 1..].trim_ascii()));
        check_key(&key, value, expected)?;
        // What a tool tells about the machine it may tell twice; no reader's disk depends on it.
        if !key.starts_with(b"ddb.") && !keys.insert(key) {
            return Err(bad(format!("the key {} is there twice", shown(&line[..at]))));
        }
    }
    if extents == 0 {
        return Err(bad("it names no extent"));
    }
    if !keys.contains(&b"createtype"[..]) {
        return Err(bad("it has no createType"));
    }
    Ok(())
}

fn check_key(key: &[u8], value: &[u8], expected: &Expected) -> Result<()> {
    match key {
        b"version" | b"encoding" | b"isnativesnapshot" | b"cid" => Ok(()),
        b"parentcid" if value.eq_ignore_ascii_case(b"ffffffff") => Ok(()),
        b"parentcid" => Err(Error::refused(
            Code::BackingFile,
            format!("VMDK descriptor: parentCID {} names a parent disk", shown(value)),
        )),
        b"createtype" => check_type(value, expected),
        b"ddb.uuid.parent" | b"ddb.uuid.parentmodification" if value.iter().any(|b| !b"0-{}".contains(b)) => {
            Err(Error::refused(
                Code::BackingFile,
                format!("VMDK descriptor: {} {}", shown(key), shown(value)),
            ))
        }
        b"ddb.nativeparenthint" | b"ddb.nativeparentcid" => Err(Error::refused(
            Code::BackingFile,
            format!("VMDK descriptor: {} names a parent disk", shown(key)),
        )),
        _ if key.starts_with(b"encryption") => {
            Err(Error::refused(Code::Encrypted, format!("VMDK descriptor: the key {}", shown(key))))
        }
        // Geometry, adapter, tool versions: about the disk, never about files.
        _ if key.starts_with(b"ddb.") => Ok(()),
        _ => Err(Error::refused(
            Code::UnsupportedFeature,
            format!("VMDK descriptor: unknown key {}", shown(key)),
        )),
    }
}

fn check_type(value: &[u8], expected: &Expected) -> Result<()> {
    match value {
        b"monolithicSparse" if !expected.compressed => Ok(()),
        b"streamOptimized" if expected.compressed => Ok(()),
        b"monolithicSparse" | b"streamOptimized" => {
            Err(bad(format!("createType {} contradicts the header's compression", shown(value))))
        }
        _ => Err(Error::refused(
            Code::UnsupportedFormat,
            format!(
                "VMDK createType {}; monolithicSparse and streamOptimized are read; {JOIN}",
                shown(value)
            ),
        )),
    }
}

/// Extent lines begin with an access mode; all others are `key = value`.
fn is_extent(line: &[u8]) -> bool {
    let mut words = line.split(|b| b.is_ascii_whitespace());
    words.next().is_some_and(|word| {
        [&b"RW"[..], b"RDONLY", b"NOACCESS"].iter().any(|mode| word.eq_ignore_ascii_case(mode))
    })
}

/// `RW <sectors> SPARSE "<name>"`: this file itself, of the header's capacity. VirtualBox rounds that up to whole grains,
/// and QEMU goes by it.
fn check_extent(line: &[u8], expected: &Expected) -> Result<()> {
    let (words, name) = match line.iter().position(|b| *b == b'"') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => return Err(bad(format!("the extent line {} names no file", shown(line)))),
    };
    let words: Vec<_> = words.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty()).collect();
    let &[mode, sectors, kind] = words.as_slice() else {
        return Err(bad(format!("the extent line {}", shown(line))));
    };
    if mode.eq_ignore_ascii_case(b"NOACCESS") {
        return Err(bad("the extent is marked NOACCESS"));
    }
    if kind != b"SPARSE" {
        return Err(Error::refused(
            Code::ExternalData,
            format!("VMDK descriptor: an extent of type {} lies in another file; {JOIN}", shown(kind)),
        ));
    }
    let Some(name) = name.strip_suffix(b"\"") else {
        return Err(bad(format!("the extent line {} goes on behind the name", shown(line))));
    };
    let sectors = std::str::from_utf8(sectors).ok().and_then(|n| n.parse::<u64>().ok());
    let whole_grains = sectors.and_then(|sectors| sectors.checked_next_multiple_of(expected.grain));
    if sectors != Some(expected.capacity) && whole_grains != Some(expected.capacity) {
        return Err(bad(format!(
            "the extent's size is not the header's capacity of {} sectors",
            expected.capacity
        )));
    }
    check_name(name)
}

/// Any name that a file can have, wherever it lay. What QEMU would take for more than a file's name is no tool's writing.
fn check_name(name: &[u8]) -> Result<()> {
    let is_url = name.windows(3).any(|part| part == b"://");
    if !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains(&b'"')
        && !is_url
        && !name.starts_with(b"json:")
    {
        return Ok(());
    }
    Err(Error::refused(
        Code::UnsafeName,
        format!("VMDK descriptor: the extent's name {} is no file's name", shown(name)),
    ))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value)
}

/// A few bytes of the image, fit for a message.
fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..bytes.len().min(64)).unwrap_or(bytes);
    format!("\"{}\"", cut.escape_ascii())
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::refused(Code::BadHeader, format!("VMDK descriptor: {message}"))
}

#[cfg(test)]
mod tests {
    use super::is_padding;

    #[test]
    fn only_the_texts_own_end_may_stay_behind_it() {
        let text = b"ddb.toolsVersion = \"2147483647\"\n";
        assert!(is_padding(text, b""));
        assert!(is_padding(text, &[0; 100]));
        assert!(is_padding(text, b"\0\n\0\0"));
        assert!(is_padding(text, b"\083647\"\n\0\0"));
        assert!(!is_padding(text, b"\x00483647\"\n\0\0"), "a CID has 8 digits at most");
        assert!(!is_padding(text, b"\0x\0"));
        assert!(!is_padding(text, b"\0\0\n"));
    }
}
