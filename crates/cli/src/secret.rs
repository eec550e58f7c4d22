//! Tokens and passwords, on their way to where they are used.
//!
//! Invariant: nothing shows one but [`Secret::expose`], which only those call who send it.

use std::fmt;

use reqwest::header::HeaderValue;

use crate::failure::Failure;

/// A token or a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// As a header's value that HTTP libraries don't print.
    pub(crate) fn header(&self) -> Result<HeaderValue, Failure> {
        let mut value = HeaderValue::from_str(&self.0)
            .map_err(|_| Failure::Usage("the token holds characters that no header can".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// For the parser of the command line.
impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing() {
        let secret = Secret::new("gAAAAABk-token");
        let header = secret.header().unwrap();
        let shown = format!("{secret:?} {header:?} {:?}", Secret::new("a\nb").header());
        assert!(!shown.contains("gAAAA") && !shown.contains("a\nb"), "{shown}");
        assert_eq!(header.to_str().unwrap(), "gAAAAABk-token");
    }
}
