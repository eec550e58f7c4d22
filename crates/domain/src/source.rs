//! Where a user may have an image fetched from.
//!
//! Threat model: the location is chosen by an attacker who wants this system to
//! fetch from where only it can reach (metadata services, private networks,
//! other tenants' buckets). URL parsers are lenient where attackers are
//! inventive (`http://0x7f.1`, `http:\\host`, tabs inside), so the raw text is
//! judged before and beside what the parser makes of it.
//!
//! Invariants:
//! - A [`SourceLocation`] has one reading only: what was checked is what is fetched.
//! - Names are judged when they are resolved, by [`AddressPolicy`], at each hop.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::address::{AddressPolicy, AddressRefused};
use crate::oci::OciLocation;

/// What a location may begin with; what a user is told.
pub const SUPPORTED: &str =
    "http://, https://, s3://bucket/key, container/object, oci://registry/repository:tag";

/// Longest URL taken, bytes: what servers take too (RFC 9110, section 4.1, asks for 8000).
const MAX_URL: usize = 8000;
/// Longest key, bytes (S3 user guide, "Naming Amazon S3 objects").
const MAX_KEY: usize = 1024;

/// A place an image can be read from; its text form has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceLocation {
    /// A web server.
    Http(Url),
    /// An object in a bucket that the operator allows.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
    },
    /// Something that an OCI registry has.
    Oci(Box<OciLocation>),
    /// An upload in staging. Nobody writes this: [`SourceLocation::parse`] never gives it.
    Staged {
        /// The work bucket.
        bucket: String,
        /// Key.
        key: String,
    },
}

/// Why a location isn't taken, in words for the user who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceRefused {
    /// Neither a URL nor `container/object`.
    #[error("it is none of {SUPPORTED}")]
    NotALocation,
    /// A scheme that is not supported.
    #[error("scheme '{0}' is not supported; supported are {SUPPORTED}")]
    Scheme(String),
    /// Longer than anything honest.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// Control characters, blanks or backslashes, which readers of URLs disagree about.
    #[error("it holds blanks, control characters or backslashes")]
    Characters,
    /// The URL can't be read.
    #[error("it is not a valid URL: {0}")]
    BadUrl(String),
    /// No host.
    #[error("it names no host")]
    NoHost,
    /// `user:password@`.
    #[error("user names and passwords in URLs are not taken")]
    UserInfo,
    /// `#...`
    #[error("a fragment ('#...') can't be fetched")]
    Fragment,
    /// An IP address in octal, hex, digits only or other disguise.
    #[error("the IP address must be written as {0}")]
    OddAddress(String),
    /// The address or port may not be fetched from.
    #[error(transparent)]
    Address(#[from] AddressRefused),
    /// Not a bucket's name.
    #[error("'{0}' is not a bucket name")]
    BadBucket(String),
    /// No key, or one that is too long or may be read in two ways.
    #[error("the object's key is empty, longer than {MAX_KEY} bytes or has '.' or '..' as a segment")]
    BadKey,
    /// Not a registry's name of something.
    #[error(
        "it must be oci://registry/repository:tag or oci://registry/repository@sha256:digest, in lower case"
    )]
    BadReference,
    /// No digest that is verified here.
    #[error("the digest after '@' must be sha256: or sha512: and so many lower-case hexadecimal digits")]
    BadDigest,
    /// Nothing that says which of a repository's images is meant.
    #[error("it names no tag and no digest; say which image of the repository is meant, such as :latest")]
    NoTag,
    /// A bucket that the operator has not allowed.
    #[error("bucket '{0}' is not among those that images may be imported from")]
    BucketNotAllowed(String),
}

impl SourceLocation {
    /// Reads what a user wrote. What it says of addresses and buckets is for [`SourcePolicy::check`].
    ///
    /// # Errors
    /// [`SourceRefused`] for anything but one clear location.
    pub fn parse(text: &str) -> Result<Self, SourceRefused> {
        if text.len() > MAX_URL {
            return Err(SourceRefused::TooLong(MAX_URL));
        }
        if text.chars().any(char::is_control) {
            return Err(SourceRefused::Characters);
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return if text.contains('/') { s3_object(text) } else { Err(SourceRefused::NotALocation) };
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => http_url(text, rest),
            "oci" | "oci+http" => {
                let scheme = if scheme.len() == 3 { "https" } else { "http" };
                let rest = rest.strip_prefix("//").ok_or(SourceRefused::NoHost)?;
                OciLocation::parse(scheme, rest).map(|location| Self::Oci(Box::new(location)))
            }
            "s3" => s3_object(rest.strip_prefix("//").ok_or(SourceRefused::NotALocation)?),
            other => Err(SourceRefused::Scheme(other.to_owned())),
        }
    }
}

/// Without a query: it may hold a signature or token, and this text ends in messages and logs.
impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&shown(url)),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Oci(location) => location.fmt(f),
            Self::Staged { .. } => f.write_str("the upload"),
        }
    }
}

/// A URL without query, fragment and user, fit for messages.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Which sources the operator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcePolicy {
    /// Which addresses may be connected to.
    pub addresses: AddressPolicy,
    /// Buckets that `s3://` sources may name.
    pub buckets: BTreeSet<String>,
}

impl SourcePolicy {
    /// Everything that can be known without resolving a name.
    ///
    /// # Errors
    /// [`SourceRefused`] for a bucket, address or port that isn't allowed.
    pub fn check(&self, location: &SourceLocation) -> Result<(), SourceRefused> {
        match location {
            SourceLocation::Staged { .. } => Ok(()),
            SourceLocation::S3 { bucket, .. } if self.buckets.contains(bucket) => Ok(()),
            SourceLocation::S3 { bucket, .. } => Err(SourceRefused::BucketNotAllowed(bucket.clone())),
            SourceLocation::Http(url) => self.check_host(url),
            SourceLocation::Oci(location) => self.check_host(&location.registry),
        }
    }

    fn check_host(&self, url: &Url) -> Result<(), SourceRefused> {
        let port = url.port_or_known_default().unwrap_or(0);
        match url.host().ok_or(SourceRefused::NoHost)? {
            Host::Ipv4(ip) => self.addresses.check(ip.into(), port)?,
            Host::Ipv6(ip) => self.addresses.check(ip.into(), port)?,
            Host::Domain(_) => self.addresses.check_name_port(port)?,
        }
        Ok(())
    }
}

impl SourcePolicy {
    /// Whether others may change its bytes on their way. What lies in the operator's networks is the operator's.
    pub fn is_exposed(&self, location: &SourceLocation) -> bool {
        let url = match location {
            SourceLocation::Http(url) => url,
            SourceLocation::Oci(location) if !location.is_pinned() => &location.registry,
            SourceLocation::Oci(_) | SourceLocation::S3 { .. } | SourceLocation::Staged { .. } => {
                return false;
            }
        };
        url.scheme() != "https"
            && match url.host() {
                Some(Host::Ipv4(ip)) => !self.addresses.is_own(ip.into()),
                Some(Host::Ipv6(ip)) => !self.addresses.is_own(ip.into()),
                Some(Host::Domain(_)) | None => true,
            }
    }
}

/// `scheme:rest` as RFC 3986, section 3.1, has it; a `/` before the `:` means there is none.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut chars = scheme.chars();
    let first = chars.next()?.is_ascii_alphabetic();
    let others = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (first && others).then_some((scheme, rest))
}

fn http_url(text: &str, rest: &str) -> Result<SourceLocation, SourceRefused> {
    if text.chars().any(|c| c.is_whitespace() || c == '\\') {
        return Err(SourceRefused::Characters);
    }
    let rest = rest.strip_prefix("//").ok_or(SourceRefused::NoHost)?;
    if rest.contains('#') {
        return Err(SourceRefused::Fragment);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(SourceRefused::UserInfo);
    }
    // An IPv6 literal holds colons itself; what follows `]` is the port.
    let host = match authority.rfind(']') {
        Some(end) => authority.get(..=end).unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        return Err(SourceRefused::NoHost);
    }
    let url = Url::parse(text).map_err(|e| SourceRefused::BadUrl(e.to_string()))?;
    match url.host() {
        Some(Host::Ipv4(ip)) if ip.to_string() != host => Err(SourceRefused::OddAddress(ip.to_string())),
        // `%31` and full-width digits become plain ones; a name has no use for them.
        Some(Host::Domain(_)) if host.contains('%') => {
            Err(SourceRefused::BadUrl("percent sign in host".to_owned()))
        }
        Some(_) => Ok(SourceLocation::Http(url)),
        None => Err(SourceRefused::NoHost),
    }
}

/// `scheme://host[:port]`, by the rules of all URLs.
pub(crate) fn origin(scheme: &str, host: &str) -> Result<Url, SourceRefused> {
    let rest = format!("//{host}/");
    match http_url(&format!("{scheme}:{rest}"), &rest)? {
        SourceLocation::Http(url) if url.path() == "/" && url.query().is_none() => Ok(url),
        _ => Err(SourceRefused::NoHost),
    }
}

fn s3_object(text: &str) -> Result<SourceLocation, SourceRefused> {
    let (bucket, key) = text.split_once('/').ok_or(SourceRefused::BadKey)?;
    if !is_bucket_name(bucket) {
        return Err(SourceRefused::BadBucket(bucket.to_owned()));
    }
    // Path-style endpoints have the key in the path, where `..` would climb into another bucket.
    let climbs = key.split('/').any(|segment| matches!(segment, "." | ".."));
    if key.is_empty() || key.len() > MAX_KEY || climbs {
        return Err(SourceRefused::BadKey);
    }
    Ok(SourceLocation::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
}

/// S3 user guide, "General purpose bucket naming rules": 3 to 63 of these characters, no IP address.
pub fn is_bucket_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (3..=63).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-'))
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> SourceRefused {
        SourceLocation::parse(text).expect_err(text)
    }

    #[test]
    fn locations_that_are_taken() {
        for (text, shown) in [
            ("http://example.com/a.img", "http://example.com/a.img"),
            ("HTTPS://Example.COM/a.img?sig=secret", "https://example.com/a.img"),
            ("http://example.com", "http://example.com/"),
            ("http://example.com:8080/a%20b", "http://example.com:8080/a%20b"),
            ("https://example.com:443/x", "https://example.com/x"),
            ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
            ("http://192.0.2.7/x@y", "http://192.0.2.7/x@y"),
            ("http://[2001:DB8:0::1]:80/x", "http://[2001:db8::1]/x"),
            ("s3://images/a/b c?d#e.qcow2", "s3://images/a/b c?d#e.qcow2"),
            ("images/a:b.qcow2", "s3://images/a:b.qcow2"),
        ] {
            assert_eq!(SourceLocation::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn locations_that_are_not() {
        use SourceRefused::*;
        for text in ["", "image", "s3:images/key"] {
            assert_eq!(refused(text), NotALocation, "{text:?}");
        }
        for (text, scheme) in [
            ("file:///etc/passwd", "file"),
            ("FTP://example.com/x", "ftp"),
            ("swift://a/b", "swift"),
            ("gopher:x", "gopher"),
            ("localhost:8080/x", "localhost"),
        ] {
            assert_eq!(refused(text), Scheme(scheme.into()), "{text}");
        }
        for text in ["http://a/\n", "ht\ttp://a/", "http://a b/", "http://a\\b/", "http:\\\\a/", "\0"] {
            assert_eq!(refused(text), Characters, "{text:?}");
        }
        for text in ["http://u@example.com/", "http://u:p@example.com/x", "http://@example.com/"] {
            assert_eq!(refused(text), UserInfo, "{text}");
        }
        for text in ["http:///x", "http://:80/x", "http:example.com", "http:/example.com/", "http://?x"] {
            assert_eq!(refused(text), NoHost, "{text}");
        }
        for text in ["http://a.example/x#y", "http://a.example#@b.example/"] {
            assert_eq!(refused(text), Fragment, "{text}");
        }
        for text in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://127.000.000.001/",
            "http://%31%32%37.0.0.1/",
            "http://１２７.0.0.1/",
            "http://127。0。0。1/",
        ] {
            assert_eq!(refused(text), OddAddress("127.0.0.1".into()), "{text}");
        }
        for text in
            ["http://[::1", "http://[::1%25eth0]/", "http://a:99999/", "http://a:b:80/", "http://a%2e.b/"]
        {
            assert!(matches!(refused(text), BadUrl(_)), "{text}");
        }
        for text in
            ["s3:///key", "s3://UPPER/key", "s3://ab/key", "s3://-ab/key", "s3://1.2.3.4/k", "s3://a..b/k"]
        {
            assert!(matches!(refused(text), BadBucket(_)), "{text}");
        }
        for text in ["s3://images", "s3://images/", "s3://images/../other/key", "images/a/./b"] {
            assert_eq!(refused(text), BadKey, "{text}");
        }
        assert_eq!(refused(&format!("s3://images/{}", "k".repeat(1025))), BadKey);
        assert_eq!(refused(&format!("http://a.example/{}", "k".repeat(8000))), TooLong(8000));
    }

    #[test]
    fn the_policy_decides_what_needs_no_resolving() {
        let check = |policy: &SourcePolicy, text: &str| policy.check(&SourceLocation::parse(text).unwrap());
        let strict = SourcePolicy::default();
        assert!(check(&strict, "https://example.com/x").is_ok());
        assert!(check(&strict, "http://198.41.0.4/x").is_ok());
        assert!(check(&strict, "http://[2606:4700::1]/x").is_ok());
        for text in
            ["http://127.0.0.1/x", "http://[::1]/x", "http://example.com:8080/x", "http://[::ffff:8.8.8.8]/x"]
        {
            assert!(matches!(check(&strict, text), Err(SourceRefused::Address(_))), "{text}");
        }
        assert_eq!(check(&strict, "s3://images/x"), Err(SourceRefused::BucketNotAllowed("images".into())));

        let open = SourcePolicy {
            addresses: AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]),
            buckets: ["images".to_owned()].into(),
        };
        assert!(check(&open, "images/x").is_ok());
        assert!(check(&open, "http://127.0.0.1:8080/x").is_ok());
        // A name may turn out to lie in an allowed network; the connection decides.
        assert!(check(&open, "http://localhost:8080/x").is_ok());
        assert!(check(&open, "http://10.0.0.1/x").is_err());
    }
}
