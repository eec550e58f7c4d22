//! The wire, request by request, over the stores in memory: every rule of the
//! HTTP contract for tasks and images, with status and message.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what isn't there is a failed test")]

mod cancel;
mod change_images;
mod clones;
mod contract;
mod discovery;
mod identity;
mod images;
mod lifetime;
mod list_images;
mod list_tasks;
mod multipart;
mod multipart_races;
mod post_tasks;
mod schema;
mod service;
mod share_images;
mod uploads;
mod usage;
mod who;
