//! The phases of import and lifecycle: typed state in, typed state out.
//!
//! Goal: what happens to an image's bytes, over ports: the same code runs in a Lambda over S3 and in a test over memory.
//!
//! Invariants:
//! - Every phase may be repeated, and a fault at any call of any port leaves a state from which repeating ends the task.
//! - Memory is bounded by the constants in [`bounds`], not by an image's size.
//! - An error is a [`Failure`](image_tasks_domain::Failure): its code is what a state machine matches, its message what the user reads.

pub mod bounds;
mod cleanup;
mod clone;
mod deadline;
mod digests;
mod disk;
mod error;
pub mod events;
mod export;
mod import;
mod lifecycle;
mod origin;
mod parts;
pub mod ports;
mod qcow2;
mod settings;
mod verdict;

pub use clone::{Cloner, Clones};
pub use deadline::Deadline;
pub use export::Exporter;
pub use import::{Asks, Importer, RemoteClones};
pub use lifecycle::Lifecycle;
pub use settings::{ExportRules, ImportPolicy, Settings};
