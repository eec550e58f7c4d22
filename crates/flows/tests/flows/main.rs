//! Whole imports over stores in memory: what ends well, what fails, and that nothing is left whatever goes wrong where.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod allocation;
mod blobs;
mod boot;
mod cancels;
mod cases;
mod clone;
mod convert;
mod disks;
mod execution;
mod export;
mod export_causes;
mod faults;
mod fills;
mod glance;
mod glance_download;
mod import;
mod inputs;
mod late_hashes;
mod lies;
mod lifecycle;
mod mirrors;
mod nested;
mod objects;
mod oci;
mod outlive;
mod patience;
mod progress;
mod property;
mod qcow2;
mod relay;
mod resilience;
mod same_id;
mod side_by_side;
mod simulation;
mod sources;
mod stores;
mod streams;
mod sums;
mod sweeps;
mod versions;
mod world;
