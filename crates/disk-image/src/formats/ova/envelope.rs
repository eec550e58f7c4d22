//! The OVF descriptor: which members are disks.
//!
//! Threat model: XML of an attacker. Document type definitions, so entities, are refused; nothing is fetched; one pass, no recursion.

use std::collections::HashMap;

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use super::bad;
use crate::error::{Code, Error, Result};

/// Honest descriptors have a handful.
const MAX_FILES: usize = 64;

/// A disk that the descriptor names.
pub(super) struct Disk {
    /// The member's name.
    pub(super) name: String,
    /// Its length, where the descriptor tells.
    pub(super) size: Option<u64>,
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
        if found.iter().any(|d| d.name == file.href) {
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
                        "OVA: a file is compressed ({}); only streamOptimized disks are read in place",
                        value.escape_default()
                    ),
                ));
            }
            "chunkSize" => {
                return Err(Error::refused(Code::UnsupportedFeature, "OVA: a file is split in chunks"));
            }
            _ => {}
        }
    }
    let (Some(id), Some(href)) = (id, href) else {
        return Err(bad("a file in the descriptor has no id or no href"));
    };
    // A URL or a path would be fetched or opened by others; a member's name has neither.
    if href.is_empty() || href.starts_with('.') || href.contains(['/', '\\', ':']) {
        return Err(Error::refused(
            Code::UnsafeName,
            format!(
                "OVA: the descriptor refers to \"{}\", which is not a plain file name",
                href.escape_default()
            ),
        ));
    }
    if files.insert(id, File { href, size }).is_some() {
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
                    "OVA: a disk of the descriptor has a parent disk",
                ));
            }
            _ => {}
        }
    }
    Ok(reference)
}

/// Local names and values.
fn attributes(tag: &BytesStart<'_>) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|e| bad(format!("the descriptor is no sound XML: {e}")))?;
        let key = attribute.key.local_name().as_ref().to_owned();
        let value = attribute.value.into_owned();
        if value.contains('&') {
            return Err(bad(format!(
                "a reference in the attribute {} of the descriptor",
                key.escape_default()
            )));
        }
        if found.iter().any(|(known, _)| *known == key) {
            return Err(bad(format!("the attribute {} is there twice", key.escape_default())));
        }
        found.push((key, value));
    }
    Ok(found)
}
