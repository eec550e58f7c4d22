//! What people who wrote none of this code do with the stack.
//!
//! - [`session`]: real commands of stock clients with what they have to show, read from `clients/*.session`.
//! - [`pages`]: the commands that README and the pages show; `pages.txt` lists those that aren't run.
//! - [`printed`]: what a client printed, as JSON.
//! - [`tempest`]: OpenStack's own tests, held against the list of what is expected of each, `tempest.txt`.
//!
//! Requests that schemathesis makes up from the API's OpenAPI document need no list: `schemathesis.toml` says how many.
//!
//! The tests of this package are ignored unless `cargo local conformance` runs them: they take minutes.

pub mod expected;
pub mod pages;
pub mod printed;
pub mod session;
pub mod tempest;
