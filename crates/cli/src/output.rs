//! What a person or a script reads: results on stdout, all else on stderr.
//!
//! Threat model: names and messages are other people's texts. Control characters in them could move the cursor or
//! recolour a terminal, so none is printed but as a replacement.

use std::io::Write;

use serde_json::Value;

use crate::failure::Failure;

/// Where texts go, and how much of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Results as the service's JSON.
    pub(crate) json: bool,
    /// No progress.
    pub(crate) quiet: bool,
}

impl Output {
    /// A line of a result.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        self.text(&format!("{}\n", plain(text)))
    }

    /// A document, as the service gave it.
    pub(crate) fn document(self, value: &Value) -> Result<(), Failure> {
        // serde_json escapes control characters.
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        self.text(&format!("{text}\n"))
    }

    /// The document, or else its members line by line.
    pub(crate) fn record(self, value: &Value) -> Result<(), Failure> {
        if self.json {
            return self.document(value);
        }
        let members: Vec<_> = value.as_object().into_iter().flatten().collect();
        let width = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        members.iter().try_for_each(|(name, value)| self.line(&format!("{name:width$}  {}", shown(value))))
    }

    /// The documents, or else these members of each as a table.
    pub(crate) fn list(self, values: &[Value], columns: &[&str]) -> Result<(), Failure> {
        if self.json {
            return self.document(&Value::from(values));
        }
        let rows: Vec<Vec<String>> =
            std::iter::once(columns.iter().map(|name| name.to_uppercase()).collect())
                .chain(
                    values
                        .iter()
                        .map(|value| columns.iter().map(|name| plain(&shown(&value[*name]))).collect()),
                )
                .collect();
        let widths: Vec<usize> = (0..columns.len())
            .map(|n| {
                rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    /// A remark beside the result.
    pub(crate) fn note(self, text: &str) {
        // Nobody may read stderr; then nobody misses it.
        let _closed = writeln!(std::io::stderr(), "{}", plain(text));
    }

    /// Text as it is.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::Here(format!("standard output can't be written: {error}")))
    }
}

/// A value in a line: texts without quotes, no value as nothing.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A member that is a text, or else nothing.
pub(crate) fn text_of<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// Without characters that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Bytes with a unit, as the service writes them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let Some(power) = bytes.checked_ilog2().map(|bits| bits / 10).filter(|power| *power > 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    let unit = UNITS.get(power as usize - 1).copied().unwrap_or("EiB");
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\r\n\u{9b}1m"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}1m");
        assert_eq!(plain("größe 🖴"), "größe 🖴");
    }

    #[test]
    fn sizes_have_one_digit_after_the_point() {
        let sizes = [0, 1023, 1024, 1536, 5 << 30, u64::MAX];
        let told = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 GiB", "15.9 EiB"];
        assert_eq!(sizes.map(size), told);
    }
}
