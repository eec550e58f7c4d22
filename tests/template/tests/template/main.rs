//! What the template says, held against the code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod configuration;
mod data;
mod help;
mod permissions;
mod state_machines;
mod watch;
