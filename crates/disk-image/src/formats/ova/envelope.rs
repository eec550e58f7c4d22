//! The OVF descriptor: which members are disks.
//!
//! Threat model: XML of an attacker. Document type definitions, so entities of its own, are refused; nothing is fetched; one
//! pass, no recursion.

use std::{borrow::Cow, collections::HashMap};

use quick_xml::{
    Reader,
    escape::unescape,
    events::{BytesStart, Event},
};

use super::{UNTAR, bad, tar::plain_path};
use crate::error::{Code, Error, Result};

/// Honest descriptors have a handful.
const MAX_FILES: usize = 64;

/// A disk that the descriptor names.
pub(super) struct Disk {
    /// The member's path, from the descriptor's folder.
    pub(super) name: String,
    /// Its length, where the descriptor tells.
    pub(super) size: Option<u64>,
}

impl Disk {
    /// The name without a URL's percent signs.
    pub(super) fn unescaped(&self) -> Cow<'_, str> {
        without_percents(&self.name)
    }
}

/// `<File ovf:id ovf:href ovf:size>` of the references.
struct File {
    href: String,
    size: Option<u64>,
}

/// Every disk with a file, in the descriptor's order.
pub(super) fn disks(xml: &[u8]) -> Result<Vec<Disk>> {
    let text = std::str::from_utf8(xml).map_err(|_| bad("the descriptor is not in UTF-8"))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut files: HashMap<String, File> = HashMap::new();
    let mut disks = Vec::new();
    loop {
        match reader.read_event() {
            Err(e) => return Err(bad(format!("the descriptor is no sound XML: {e}"))),
            Ok(Event::Eof) => break,
            Ok(Event::DocType(_)) => {
                return Err(bad("the descriptor has a document type definition, which is not accepted"));
            }
            Ok(Event::Start(tag) | Event::Empty(tag)) => match tag.local_name().as_ref() {
                "File" => add_file(&tag, &mut files)?,
                "Disk" => disks.extend(file_reference(&tag)?),
                _ => {}
            },
            Ok(_) => {}
        }
        if files.len() > MAX_FILES || disks.len() > MAX_FILES {
            return Err(Error::refused(
                Code::TableTooLarge,
                format!("OVA: the descriptor names more than {MAX_FILES} files"),
            ));
        }
    }
    let mut found: Vec<Disk> = Vec::new();
    for id in disks {
        let file = files
            .get(&id)
            .ok_or_else(|| bad(format!("a disk refers to no file (\"{}\")", id.escape_default())))?;
        if found.iter().any(|d| d.unescaped() == without_percents(&file.href)) {
            return Err(bad(format!("two disks refer to the file \"{}\"", file.href.escape_default())));
        }
        found.push(Disk { name: file.href.clone(), size: file.size });
    }
    Ok(found)
}

fn add_file(tag: &BytesStart<'_>, files: &mut HashMap<String, File>) -> Result<()> {
    let (mut id, mut href, mut size) = (None, None, None);
    for (key, value) in attributes(tag)? {
        match key.as_str() {
            "id" => id = Some(value),
            "href" => href = Some(value),
            "size" => {
                size = Some(value.parse().map_err(|_| bad("a file's size in the descriptor is no number"))?)
            }
            "compression" if value != "identity" && !value.is_empty() => {
                return Err(Error::refused(
                    Code::UnsupportedFeature,
                    format!(
                        "OVA: a file is compressed ({}), and disks are read where they lie; {UNTAR}",
                        value.escape_default()
                    ),
                ));
            }
            "chunkSize" => {
                return Err(Error::refused(
                    Code::UnsupportedFeature,
                    "OVA: a file is split in chunks; export the machine again without them",
                ));
            }
            _ => {}
        }
    }
    let (Some(id), Some(href)) = (id, href) else {
        return Err(bad("a file in the descriptor has no id or no href"));
    };
    // A URL or another folder's path would be fetched or opened by others; a member beside the descriptor is named by neither.
    let Some(href) = plain_path(&href).filter(|_| plain_path(&without_percents(&href)).is_some()) else {
        return Err(Error::refused(
            Code::UnsafeName,
            format!(
                "OVA: the descriptor refers to \"{}\", which is not a plain file name",
                href.escape_default()
            ),
        ));
    };
    if files.insert(id, File { href: href.to_owned(), size }).is_some() {
        return Err(bad("two files in the descriptor have one id"));
    }
    Ok(())
}

/// The file of a disk; a disk without one is empty and made anew.
fn file_reference(tag: &BytesStart<'_>) -> Result<Option<String>> {
    let mut reference = None;
    for (key, value) in attributes(tag)? {
        match key.as_str() {
            "fileRef" => reference = Some(value),
            "parentRef" => {
                return Err(Error::refused(
                    Code::BackingFile,
                    "OVA: a disk of the descriptor has a parent disk; export the machine without snapshots",
                ));
            }
            _ => {}
        }
    }
    Ok(reference)
}

/// The text that percent signs stand for, where they stand for one.
fn without_percents(name: &str) -> Cow<'_, str> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let digits = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// Local names and values.
fn attributes(tag: &BytesStart<'_>) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|e| bad(format!("the descriptor is no sound XML: {e}")))?;
        let key = attribute.key.local_name().as_ref().to_owned();
        let Ok(value) = unescape(&attribute.value).map(Cow::into_owned) else {
            return Err(bad(format!(
                "a reference in the attribute {} of the descriptor that XML doesn't define",
                key.escape_default()
            )));
        };
        if found.iter().any(|(known, _)| *known == key) {
            return Err(bad(format!("the attribute {} is there twice", key.escape_default())));
        }
        found.push((key, value));
    }
    Ok(found)
}
