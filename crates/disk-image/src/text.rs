//! Whether what is said to be a raw disk looks like a text.
//!
//! Any bytes may be a raw disk, so this is never a reason to refuse. But a server that answers with a page instead of the
//! file is the usual cause.

use crate::{
    error::Result,
    formats::view::View,
    inspect::{HEAD, ends},
    regions::Regions,
};

/// Bytes that are looked at.
const LOOKED_AT: usize = 512;

/// What a file begins like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// HTML.
    WebPage,
    /// A text of another kind.
    Plain,
}

/// Whether a file begins like a text: at least 16 bytes of printable characters, and no other in the first 512.
///
/// # Errors
/// [`Error::Need`](crate::Error::Need) for head and tail, as [`inspect`](crate::inspect::inspect) has it.
pub fn text(regions: &Regions) -> Result<Option<Text>> {
    let head = ends(View::whole(regions))?.head;
    Ok(of(head.get(..LOOKED_AT).unwrap_or(head)))
}

const _: () = assert!(LOOKED_AT as u64 <= HEAD);

fn of(head: &[u8]) -> Option<Text> {
    const LEAST: usize = 16;
    let cut_off = |error: std::str::Utf8Error| (error.error_len().is_none()).then(|| error.valid_up_to());
    let readable = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(head.get(..cut_off(error)?)?).ok()?,
    };
    let start = readable.trim_start_matches('\u{feff}').trim_start();
    let is_printable = |c: char| !c.is_control() || c.is_ascii_whitespace();
    if start.len() < LEAST || !readable.chars().all(is_printable) {
        return None;
    }
    let start = start.to_ascii_lowercase();
    let is_page = start.starts_with("<!doctype html") || start.contains("<html") || start.contains("<head");
    Some(if is_page { Text::WebPage } else { Text::Plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_texts_are_told_from_disks() {
        for (bytes, expected) in [
            (&b"\n<!DOCTYPE HTML PUBLIC>\n<title>404</title>"[..], Some(Text::WebPage)),
            (b"\xef\xbb\xbf<html lang=\"en\"><body>", Some(Text::WebPage)),
            (b"<?xml version=\"1.0\"?><html xmlns=\"x\">", Some(Text::WebPage)),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", Some(Text::Plain)),
            (b"{\"error\": \"no such image\"}\r\n", Some(Text::Plain)),
            (b"404: not found", None),
            (b"a disk with\0zeros in its text", None),
            (b"\xeb\x58\x90mkfs.fat\0\x02\x08\x20\0 and more", None),
            (b"                                ", None),
            (b"", None),
            (&[0; 512], None),
        ] {
            assert_eq!(of(bytes), expected, "{}", bytes.escape_ascii());
        }
        // A character that is cut in its middle.
        let mut long = b"0123456789abcdef".repeat(32);
        long.truncate(LOOKED_AT - 1);
        long.push(0xc3);
        assert_eq!(of(&long), Some(Text::Plain));
        long[100] = 0xc3;
        assert_eq!(of(&long), None);
    }
}
