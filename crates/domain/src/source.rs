//! Where a user may have an image fetched from.
//!
//! Threat model: the location is chosen by an attacker who wants this system to
//! fetch from where only it can reach (metadata services, private networks,
//! other tenants' buckets).

use serde::{Deserialize, Serialize};
use url::Url;

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
}
