//! The wire, request by request, over the stores in memory: every rule of the
//! HTTP contract for tasks, with status and message.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what isn't there is a failed test")]

mod cancel;
mod clones;
mod discovery;
mod images;
mod lifetime;
mod list_tasks;
mod post_tasks;
mod service;
