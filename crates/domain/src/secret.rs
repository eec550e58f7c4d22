//! A caller's token for a service elsewhere, on its way to where it is used.
//!
//! Threat model: values get printed, serialised, compared and logged in passing, and a token is good for all that its
//! owner may do. Invariant: nothing shows it but [`Secret::expose`], which only those call who send or store it.

use std::fmt;

/// Most characters of a token: what API Gateway lets through in all headers together is 10,240 bytes (API Gateway
/// developer guide, "Quotas for configuring and running an HTTP API").
const MOST: usize = 8192;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What tokens look like, for messages.
    pub const SHAPE: &'static str = "1 to 8192 visible ASCII characters";

    /// A token as it stands in a header; `None` where it is not of that [shape](Self::SHAPE).
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=MOST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing() {
        let secret = Secret::new("gAAAAABk-token").unwrap();
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(..) Some(Secret(..))");
        assert_eq!(secret.expose(), "gAAAAABk-token");
    }

    #[test]
    fn only_what_can_be_a_header_is_a_token() {
        assert!(Secret::new(&"x".repeat(MOST)).is_some());
        for bad in ["", "a b", "a\r\nHost: evil", "a\u{7f}", "größe", &"x".repeat(MOST + 1)] {
            assert!(Secret::new(bad).is_none(), "{bad:?}");
        }
        assert!(Secret::SHAPE.contains(&MOST.to_string()));
    }
}
