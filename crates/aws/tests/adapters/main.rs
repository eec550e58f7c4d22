//! The adapters against what they speak to; one binary, so that the SDKs are linked once.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

#[path = "../objects/mod.rs"]
mod objects;
#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod dynamo;
mod dynamo_images;
mod glance;
mod identity;
mod many;
mod mirrors;
mod oci;
mod reach;
mod s3;
mod s3_strict;
mod sources;
mod staging;
