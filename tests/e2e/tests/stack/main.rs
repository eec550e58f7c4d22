//! What is deployed, on the local stack, as a client sees it; one binary, so that the SDKs are linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod api;
mod blobs;
mod clone;
mod clone_failures;
mod convert;
mod expiry;
mod export;
mod failures;
mod glance;
mod import;
mod lambda;
mod lies;
mod memory;
mod regions;
mod registry;
mod relay;
mod same_id;
mod semantics;
mod uploads;
