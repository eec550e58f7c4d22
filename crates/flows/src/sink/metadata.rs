//! What an exported object says of itself, as S3 user metadata.
//!
//! S3 takes 2 KB of names and values in US-ASCII (S3 user guide, "Working with object metadata"). Texts are written as in JSON,
//! with `\uXXXX` for what isn't ASCII, so that nothing gets lost; properties that don't fit are left out and counted.

use image_tasks_domain::export_input::ExportFormat;
use image_tasks_domain::{Image, TaskId};

use crate::ports::Metadata;

/// Names the task that made the object.
pub(crate) const TASK: &str = "image-task-id";
/// Bytes that a name may have.
const MOST_NAME: usize = 512;
/// Bytes that all properties together may have.
const MOST_PROPERTIES: usize = 1200;

pub(crate) fn metadata(task: TaskId, image: &Image, format: ExportFormat) -> Metadata {
    let mut all = Metadata::from([
        (TASK.to_owned(), task.to_string()),
        ("image-id".to_owned(), image.id.to_string()),
        ("image-disk-format".to_owned(), format.name().to_owned()),
    ]);
    if let Some(name) = &image.name {
        all.insert("image-name".to_owned(), cut(name, MOST_NAME));
    }
    let (mut properties, mut omitted) = (String::new(), 0u32);
    for (name, value) in &image.properties {
        let pair = format!("\"{}\":\"{}\"", ascii(name), ascii(value));
        if properties.len() + pair.len() > MOST_PROPERTIES {
            omitted += 1;
            continue;
        }
        if !properties.is_empty() {
            properties.push(',');
        }
        properties.push_str(&pair);
    }
    if !properties.is_empty() {
        all.insert("image-properties".to_owned(), format!("{{{properties}}}"));
    }
    if omitted > 0 {
        all.insert("image-properties-omitted".to_owned(), omitted.to_string());
    }
    all
}

/// A character as in a JSON string, in ASCII.
fn escaped(c: char) -> String {
    match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        _ => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    }
}

fn ascii(text: &str) -> String {
    text.chars().map(escaped).collect()
}

/// As much of a text as fits.
fn cut(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars().map(escaped) {
        if out.len() + c.len() > most {
            break;
        }
        out.push_str(&c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_json_in_ascii() {
        for text in ["plain", "a \"quoted\" \\ one", "Grüße 🐧", "tab\tand\u{7f}"] {
            let ascii = ascii(text);
            assert!(ascii.bytes().all(|b| (b' '..=b'~').contains(&b)), "{ascii}");
            assert_eq!(serde_json::from_str::<String>(&format!("\"{ascii}\"")).unwrap(), text);
        }
        assert_eq!(cut("äöü", 13), "\\u00e4\\u00f6");
    }
}
