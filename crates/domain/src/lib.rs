//! Tasks and images: their life, their rules, and the ports to the outside.
//!
//! Goal: everything that makes the product what it is, in plain values and
//! functions, with no AWS, HTTP or runtime in sight.
//!
//! Invariants:
//! - A task moves `pending -> processing | failure`, `processing -> success | failure`; end states are final.
//! - `expires_at` exists exactly in end states; past it a task is gone for every reader.
//! - An image is `active` only in the same transaction that makes its task a success.

pub mod address;
pub mod caller;
pub mod clone_input;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod copying;
pub mod export_input;
pub mod failure;
pub mod glance;
pub mod iam_projects;
pub mod image;
pub mod image_import;
pub mod image_properties;
pub mod images;
pub mod import_input;
pub mod input;
pub mod keystone;
pub mod member;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod oci;
pub mod policy;
pub mod ports;
pub mod progress;
pub mod regions;
pub mod rejection;
pub mod secret;
pub mod source;
pub mod source_headers;
pub mod sums;
pub mod task;
pub mod tasks;
pub mod time;
pub mod transfer;
pub mod uploads;

pub use caller::Caller;
pub use clone_input::{CloneInput, CloneSource};
pub use export_input::ExportInput;
pub use failure::{Failure, FailureCode};
pub use glance::{GlanceEndpoints, GlanceImage};
pub use iam_projects::IamProjects;
pub use image::{
    Image, ImageHashes, ImageId, ImageStatus, MultipartUpload, Publication, StagedBytes, StoredObject,
    Visibility,
};
pub use import_input::ImportInput;
pub use input::InvalidInput;
pub use keystone::{KeystoneToken, Scope};
pub use member::{Member, MemberStatus};
pub use progress::{Meter, Progress, Report, Step};
pub use secret::Secret;
pub use source_headers::{Login, SourceHeaders};
pub use task::{ExecutionName, Task, TaskId, TaskStatus, TaskType, Unsettled};
pub use time::Timestamp;
