//! One transfer engine: the phases of import, export and clone, and the life of a task around them.
//!
//! Goal: what happens to an image's bytes, over ports: the same code runs in a Lambda over S3 and in a test over memory.
//! A task is a job: a source, a recipe and a sink. These know nothing of each other and nothing of tasks; the module of a
//! task's type makes a job of its input, the [engine](Engine) takes it through the phases.
//!
//! Invariants:
//! - Every phase may be repeated or run twice at once, and a fault at any call of any port leaves a state from which repeating
//!   ends the task.
//! - What is published was judged, after its last byte was written.
//! - Memory is bounded by the constants in [`bounds`], not by an image's size.
//! - An error is a [`Failure`](image_tasks_domain::Failure): its code is what a state machine matches, its message what the user reads.

mod boot;
pub mod bounds;
mod deadline;
mod digests;
mod disk;
mod engine;
mod error;
pub mod events;
mod hash;
mod job;
mod judge;
mod lifecycle;
mod pace;
pub mod ports;
mod recipe;
mod relay;
mod reporter;
mod retry;
mod rounds;
mod settings;
mod sink;
mod source;
mod stores;
mod tasks;
mod undo;
mod verdict;

pub use deadline::Deadline;
pub use engine::Engine;
pub use lifecycle::Lifecycle;
pub use reporter::Reporter;
pub use settings::{ExportRules, ImportPolicy, Settings};
pub use source::glance::GlanceImages;
pub use source::region::RegionImages;
pub use source::remote::Remote;
pub use stores::Stores;
pub use tasks::{Clones, Exports, Imports};
