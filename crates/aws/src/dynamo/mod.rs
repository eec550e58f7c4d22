//! Tasks and images in DynamoDB.
//!
//! Tables and indexes are in docs/data.md and template.yaml; a test makes
//! its tables from the latter.
//!
//! Invariants:
//! - No scan: every list is a query of an index, or a merge of a few.
//! - A write that depends on a state demands it in its condition; task and image change in one transaction.
//! - Lists are eventually consistent (indexes are); reads of one record are strongly consistent.

mod credentials;
mod image_tasks;
mod images;
mod images_change;
mod images_find;
mod images_usage;
mod item;
mod life;
mod merge;
mod progress;
mod shares;
mod tasks;
mod write;

pub use images::DynamoImages;
pub use item::{Item, image_item, task_item};
pub use tasks::DynamoTasks;
