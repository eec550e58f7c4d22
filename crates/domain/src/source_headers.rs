//! Headers that a source's server wants before it gives its bytes: a bearer token, a password, a cookie.
//!
//! Threat model: their values are good for all that their owner may do. Whoever names them could also try to forge what
//! this service itself says to a server. Invariants:
//! - Nothing shows a value but [`SourceHeaders::expose`], which only those call who send them. A task's input has
//!   [`HIDDEN`] in their places.
//! - None of them frames a message, chooses its bytes or names its host.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use crate::input::{Checked, Members, quoted, type_of};
use crate::secret::Secret;

/// The key of an import's input.
pub const KEY: &str = "import_from_headers";
/// Most headers.
pub const MOST: usize = 8;
/// Most characters of all names and values. However they are escaped, they are kept as one [`Secret`].
pub const MOST_CHARACTERS: usize = 3000;
/// What a task's input shows instead of a value.
pub const HIDDEN: &str = "***";

/// Headers that this service sets itself, and those between two hops (RFC 9110, section 7.6.1).
const OURS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a source's server is told of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A token of OpenStack's, for a Glance elsewhere.
    Token(Secret),
    /// What the user wrote.
    Headers(SourceHeaders),
}

/// Names in lower case, and values.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceHeaders(Vec<(String, String)>);

impl SourceHeaders {
    /// Reads them of an import's input, if they are there.
    pub(crate) fn parse(members: &Members<'_>) -> Checked<Option<Self>> {
        let map = match members.get(KEY) {
            None => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(other) => {
                return members
                    .refuse(KEY, format!("must be an object of names and values, not {}", type_of(other)));
            }
        };
        if !(1..=MOST).contains(&map.len()) {
            return members.refuse(KEY, format!("must have 1 to {MOST} headers, not {}", map.len()));
        }
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in map {
            let refuse = |told: &str| members.refuse(KEY, format!("{} {told}", quoted(name)));
            let lower = name.to_ascii_lowercase();
            if lower.is_empty() || !lower.bytes().all(is_token) {
                return refuse("is not the name of a header");
            }
            if OURS.contains(&lower.as_str()) {
                return refuse("is set by this service itself");
            }
            if headers.iter().any(|(before, _)| *before == lower) {
                return refuse("is there twice");
            }
            // The value is quoted nowhere: it is what must not be shown.
            let Value::String(value) = value else { return refuse("must have a string as its value") };
            let value = value.trim();
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
                return refuse("must have a value of visible ASCII characters and blanks");
            }
            headers.push((lower, value.to_owned()));
        }
        if headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MOST_CHARACTERS {
            return members.refuse(KEY, format!("must have at most {MOST_CHARACTERS} characters in all"));
        }
        Ok(Some(Self(headers)))
    }

    /// The names and values themselves.
    pub fn expose(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As they are kept for a task.
    pub fn kept(&self) -> Option<Secret> {
        let map: Map<_, _> =
            self.0.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        Secret::new(&BASE64_STANDARD.encode(Value::Object(map).to_string()))
    }

    /// From what was kept.
    pub fn from_kept(kept: &Secret) -> Option<Self> {
        let map: Map<_, _> = serde_json::from_slice(&BASE64_STANDARD.decode(kept.expose()).ok()?).ok()?;
        let headers = map.into_iter().map(|(name, value)| Some((name, value.as_str()?.to_owned())));
        headers.collect::<Option<_>>().map(Self)
    }

    /// An input as it may be stored and shown.
    pub fn hidden(mut input: Value) -> Value {
        if let Some(Value::Object(headers)) = input.get_mut(KEY) {
            headers.values_mut().for_each(|value| *value = HIDDEN.into());
        }
        input
    }
}

impl fmt::Debug for SourceHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceHeaders").field(&self.0.len()).finish()
    }
}

/// A character of a header's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(headers: Value) -> Checked<Option<SourceHeaders>> {
        SourceHeaders::parse(&Members::of(&json!({KEY: headers}), "input", "").unwrap())
    }

    #[test]
    fn they_are_kept_whole_and_shown_by_nothing() {
        let headers =
            parse(json!({"Authorization": "Bearer s3cret", "cookie": " a=b; c=d "})).unwrap().unwrap();
        let exposed: Vec<_> = headers.expose().collect();
        assert_eq!(exposed, [("authorization", "Bearer s3cret"), ("cookie", "a=b; c=d")]);
        assert_eq!(SourceHeaders::from_kept(&headers.kept().unwrap()), Some(headers.clone()));
        assert_eq!(format!("{:?}", Login::Headers(headers)), "Headers(SourceHeaders(2))");
        let input = json!({"import_from": "x", KEY: {"Authorization": "Bearer s3cret"}});
        let hidden = SourceHeaders::hidden(input);
        assert_eq!(hidden, json!({"import_from": "x", KEY: {"Authorization": "***"}}));
        // What is stored is read again.
        assert!(SourceHeaders::parse(&Members::of(&hidden, "input", "").unwrap()).unwrap().is_some());
        let most: Map<_, _> = (0..8).map(|n| (format!("x-{n}"), "\"".repeat(372).into())).collect();
        let most = parse(Value::Object(most)).unwrap().unwrap();
        assert_eq!(SourceHeaders::from_kept(&most.kept().unwrap()), Some(most));
    }

    #[test]
    fn refusals_name_the_header_and_never_its_value() {
        let many: Map<_, _> = (0..9).map(|n| (format!("x-{n}"), "v".into())).collect();
        for (headers, part) in [
            (json!("Authorization: x"), "an object of names and values, not a string"),
            (json!({}), "1 to 8 headers, not 0"),
            (Value::Object(many), "not 9"),
            (json!({"": "s3cret"}), "is not the name"),
            (json!({"a b": "s3cret"}), "\"a b\" is not the name"),
            (json!({"a\r\nb": "s3cret"}), "is not the name"),
            (json!({"Host": "s3cret"}), "\"Host\" is set by this service"),
            (json!({"RANGE": "s3cret"}), "is set by this service"),
            (json!({"Transfer-Encoding": "s3cret"}), "is set by this service"),
            (json!({"A": "x", "a": "s3cret"}), "is there twice"),
            (json!({"Authorization": 5}), "a string as its value"),
            (json!({"Authorization": " "}), "visible ASCII"),
            (json!({"Authorization": "s3cret\r\nHost: evil"}), "visible ASCII"),
            (json!({"Authorization": "s3cret\u{e9}"}), "visible ASCII"),
            (json!({"Authorization": "s3cret".repeat(700)}), "at most 3000 characters"),
        ] {
            let refused = parse(headers.clone()).unwrap_err();
            assert_eq!(refused.parameter, KEY);
            assert!(refused.message.contains(part) && !refused.message.contains("s3cret"), "{refused}");
        }
    }
}
