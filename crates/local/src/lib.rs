//! The local stack's library half: what tests need of a running stack.
//!
//! - [`Coordinates`]: where the stack listens and what it deployed, as the
//!   runner wrote it.
//! - [`GRANTS`]: whom its Keystone knows.
//! - [`SourceServer`]: an HTTP server of images that misbehaves on request and
//!   counts what it was asked.
//! - [`pattern`]: bytes of any length, the same on every machine, readable at
//!   any offset without being stored.
//! - `Stack` (feature `kit`): SDK clients on the running stack, its functions'
//!   processes, what S3 was asked.
//!
//! The runner (`cargo local`) is the binary of this package. It brings up the
//! emulators, deploys `template.yaml` and serves the API; docs/local-stack.md
//! says what differs from AWS.

mod accounts;
mod coordinates;
pub mod pattern;
mod source;

#[cfg(feature = "kit")]
mod kit;
#[cfg(feature = "kit")]
mod s3;

pub use accounts::{DOMAIN, GRANTS, Grant, PROJECTS, clouds};
pub use coordinates::{
    COORDINATES_VARIABLE, Coordinates, Deployment, HASH_BEFORE_ACTIVE, Resource, S3_DISTURBANCES,
    S3_REQUESTS, StackError,
};
#[cfg(feature = "kit")]
pub use kit::Stack;
#[cfg(feature = "kit")]
pub use s3::{Disturbance, Disturbed, S3Request};
pub use source::{
    AskedRange, Bearer, Content, Cut, EntityTag, Lie, RangeSupport, Revision, SeenRequest, Source,
    SourceServer,
};
