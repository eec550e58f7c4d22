//! Every format against `qemu-img`, sound and hostile; one binary, so that the crate is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod boot;
mod foreign;
mod hostile;
mod judge;
mod mutated;
mod ova;
mod plain;
mod qcow2;
mod tables;
mod vmdk;
mod write;
