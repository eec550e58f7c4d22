//! The Images v2 wire: routes, schemas, links, pagination, errors; over plain `http` types.
//!
//! Goal: one [`App`] answers a request with what OpenStack's clients expect,
//! whoever carries the bytes: API Gateway and Lambda, or a test.
//!
//! Invariants:
//! - Every answer carries `x-openstack-request-id`; every error is JSON with `message`, `code` and `title`.
//! - No input leads to a 5xx. A 5xx is a fault of ours, logged with its cause and told with the request id.
//! - A handler decodes, calls one use case of the domain, and encodes.

mod app;
mod body;
mod error;
mod identity;
mod images;
mod info;
mod links;
mod openapi;
mod page;
mod reply;
mod router;
mod schemas;
mod tasks;
mod versions;

pub use app::{App, RequestId};
pub use identity::{IamPrincipal, Identity, Keystone, MappedPrincipals};
