//! Reading what a caller sent: JSON values checked one by one.
//!
//! Threat model: the values are an attacker's; sizes, depths, types and spellings
//! are arbitrary. Every refusal names the parameter and what would be accepted;
//! a value is quoted only shortened, so that an answer can't be blown up.

use serde_json::{Map, Value};

/// An input that can't be taken: which parameter, and what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {message}")]
pub struct InvalidInput {
    /// The parameter, as a path: `import_from`, `image_properties.min_disk`.
    pub parameter: String,
    /// What is wrong, and what would be accepted.
    pub message: String,
}

impl InvalidInput {
    /// A refusal of this parameter.
    pub fn new(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), message: message.into() }
    }
}

/// Result of reading an input.
pub type Checked<T> = Result<T, InvalidInput>;

/// The JSON name of a value's type, for messages.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A text in quotation marks for a message, cut after 64 characters. What can't be seen is escaped. Marks inside are not:
/// the message is a JSON string, which escapes them, and nobody reads `\\\"`.
pub fn quoted(text: &str) -> String {
    const MOST: usize = 64;
    let (text, rest) = match text.char_indices().nth(MOST) {
        Some((cut, _)) => (&text[..cut], "..."),
        None => (text, ""),
    };
    let shown = text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match c {
            '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
        shown
    });
    format!("\"{shown}\"{rest}")
}

/// An object's members under the name that messages give them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Members<'a> {
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Members<'a> {
    /// `value` as an object; `prefix` (`""` or `image_properties.`) goes before each key in messages.
    pub(crate) fn of(value: &'a Value, name: &str, prefix: &'a str) -> Checked<Self> {
        match value {
            Value::Object(map) => Ok(Self { prefix, map }),
            other => Err(InvalidInput::new(name, format!("must be an object, not {}", type_of(other)))),
        }
    }

    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(crate) fn refuse<T>(&self, key: &str, message: impl Into<String>) -> Checked<T> {
        Err(InvalidInput::new(self.path(key), message))
    }

    /// A refusal for want of one of `required`, with a hint where one of them seems to be there misspelt.
    pub(crate) fn missing<T>(
        &self,
        key: &str,
        message: impl Into<String>,
        required: &[&'static str],
        known: &[&'static str],
    ) -> Checked<T> {
        let hint = hint(self.map.keys().map(String::as_str), required, known);
        self.refuse(key, message.into() + &hint)
    }

    fn mistyped<T>(&self, key: &str, wanted: &str, found: &Value) -> Checked<T> {
        self.refuse(key, format!("must be {wanted}, not {}", type_of(found)))
    }

    /// A string, if the key is there. `null` is not a string.
    pub(crate) fn string(&self, key: &str) -> Checked<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => self.mistyped(key, "a string", other),
        }
    }

    /// A string of at most `most` characters, if the key is there.
    pub(crate) fn short_string(&self, key: &str, most: usize) -> Checked<Option<&'a str>> {
        let text = self.string(key)?;
        match text.map(|t| t.chars().count()) {
            Some(length) if length > most => {
                self.refuse(key, format!("has {length} characters; at most {most} are kept"))
            }
            _ => Ok(text),
        }
    }

    /// One of `names`, if the key is there.
    pub(crate) fn one_of(&self, key: &str, names: &[&'static str]) -> Checked<Option<&'static str>> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        match names.iter().find(|name| **name == text) {
            Some(name) => Ok(Some(name)),
            None => self.refuse(key, format!("must be one of {}, not {}", names.join(", "), quoted(text))),
        }
    }

    /// A boolean, if the key is there.
    pub(crate) fn boolean(&self, key: &str) -> Checked<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => self.mistyped(key, "true or false", other),
        }
    }

    /// A whole number from 0 to 2^31 - 1 (Glance's column), if the key is there.
    pub(crate) fn count(&self, key: &str) -> Checked<Option<u32>> {
        const MOST: u32 = 2_147_483_647;
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                match number.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= MOST) {
                    Some(n) => Ok(Some(n)),
                    None => {
                        self.refuse(key, format!("must be a whole number from 0 to {MOST}, not {number}"))
                    }
                }
            }
            Some(other) => self.mistyped(key, "a whole number", other),
        }
    }

    /// A hash as `digits` hexadecimal digits, in lower case, if the key is there.
    pub(crate) fn hex(&self, key: &str, digits: usize) -> Checked<Option<String>> {
        let Some(text) = self.string(key)? else { return Ok(None) };
        if text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Some(text.to_ascii_lowercase()))
        } else {
            self.refuse(key, format!("must be {digits} hexadecimal digits, not {}", quoted(text)))
        }
    }
}

/// The known key that `unknown` looks like a misspelling of, if any: the same
/// letters but for case and separators, or few edits away for its length.
pub(crate) fn lookalike(unknown: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer than any misspelling; also bounds the quadratic comparison.
    if unknown.len() > 64 {
        return None;
    }
    let plain = |s: &str| -> Vec<u8> {
        s.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase()).collect()
    };
    let wanted = plain(unknown);
    known
        .iter()
        .map(|name| (edits(&wanted, &plain(name)), *name))
        // One at least, so that `url` is seen to be meant for `uri`.
        .filter(|(distance, name)| *distance <= (name.len().min(12) / 4).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// What is told beside "is required": the key among those sent that looks like one of `required` misspelt. Nothing if none
/// does. `known` are all keys that mean something there.
pub fn hint<'k>(
    sent: impl IntoIterator<Item = &'k str>,
    required: &[&'static str],
    known: &[&'static str],
) -> String {
    let mut unknown = sent.into_iter().filter(|key| !known.contains(key));
    let found = unknown.find_map(|key| {
        let meant = lookalike(key, known).filter(|name| required.contains(name))?;
        Some(format!("; {} is not known, did you mean {meant}?", quoted(key)))
    });
    found.unwrap_or_default()
}

/// What a caller should know of keys that were ignored: those that look misspelt. `place` is what stands before a key.
pub(crate) fn remarks(members: &Members<'_>, place: &str, known: &[&'static str]) -> Vec<String> {
    // A handful says enough; a thousand misspelt keys don't make a message of a megabyte.
    const MOST: usize = 5;
    members
        .iter()
        .filter(|(key, _)| !known.contains(key))
        .filter_map(|(key, _)| Some((key, lookalike(key, known)?)))
        .take(MOST)
        .map(|(key, known)| format!("{place}{key} is not known and was ignored; did you mean {known}?"))
        .collect()
}

/// Levenshtein distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let best = (corner + usize::from(x != y)).min(left + 1).min(*cell + 1);
            corner = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KNOWN: &[&str] = &["import_from", "import_from_format", "image_properties", "checksum"];

    #[test]
    fn misspelt_keys_are_seen_and_others_are_not() {
        for (unknown, meant) in [
            ("import_form", "import_from"),
            ("importFrom", "import_from"),
            ("import-from-format", "import_from_format"),
            ("import_from_fromat", "import_from_format"),
            ("image_propertys", "image_properties"),
            ("Checksum", "checksum"),
            ("check_sum", "checksum"),
        ] {
            assert_eq!(lookalike(unknown, KNOWN), Some(meant), "{unknown}");
        }
        for unknown in ["", "x", "note", "source", "from", "properties_of_mine", &"import_from".repeat(9)] {
            assert_eq!(lookalike(unknown, KNOWN), None, "{unknown}");
        }
        for (unknown, meant) in [("url", Some("uri")), ("URI", Some("uri")), ("u", None), ("url2", None)] {
            assert_eq!(lookalike(unknown, &["uri"]), meant, "{unknown}");
        }
    }

    #[test]
    fn what_is_missing_is_hinted_at_where_it_was_misspelt() {
        let hinted = |sent: &[&str]| hint(sent.iter().copied(), &["import_from"], KNOWN);
        assert_eq!(hinted(&["import_frm"]), "; \"import_frm\" is not known, did you mean import_from?");
        assert_eq!(
            hinted(&["note", "importFrom"]),
            "; \"importFrom\" is not known, did you mean import_from?"
        );
        // A known key is meant as it stands, and one that looks like another is no hint.
        for sent in
            [&[] as &[&str], &["note"], &["import_from_format"], &["import_from_fromat"], &["Checksum"]]
        {
            assert_eq!(hinted(sent), "", "{sent:?}");
        }
    }

    #[test]
    fn a_text_is_quoted_once() {
        assert_eq!(quoted("bogus"), "\"bogus\"");
        assert_eq!(quoted("\"bogus\""), "\"\"bogus\"\"");
        assert_eq!(quoted("a\nb\u{7}\\"), "\"a\\nb\\u{7}\\\\\"");
        assert_eq!(quoted(&"ö".repeat(65)), format!("\"{}\"...", "ö".repeat(64)));
    }

    #[test]
    fn distances() {
        assert_eq!(edits(b"", b""), 0);
        assert_eq!(edits(b"", b"abc"), 3);
        assert_eq!(edits(b"abc", b""), 3);
        assert_eq!(edits(b"kitten", b"sitting"), 3);
        assert_eq!(edits(b"flaw", b"lawn"), 2);
    }

    #[test]
    fn a_refusal_names_the_parameter_and_stays_short() {
        let value = json!({"n": "x".repeat(5000), "list": [], "big": 4_294_967_296_u64, "half": 0.5});
        let members = Members::of(&value, "image_properties", "image_properties.").unwrap();
        let told = members.one_of("n", &["a", "b"]).unwrap_err().to_string();
        assert!(told.starts_with("image_properties.n: must be one of a, b, not \"xxx"), "{told}");
        assert!(told.len() < 150, "{told}");
        assert_eq!(
            members.boolean("list").unwrap_err().to_string(),
            "image_properties.list: must be true or false, not an array"
        );
        for key in ["big", "half"] {
            assert!(
                members.count(key).unwrap_err().to_string().contains("whole number from 0 to 2147483647")
            );
        }
        assert_eq!(members.count("absent").unwrap(), None);
        assert_eq!(
            Members::of(&json!(5), "input", "").unwrap_err().to_string(),
            "input: must be an object, not a number"
        );
    }
}
