//! Writing disk images for S3: in parallel, in one pass, with no scratch disk.
//!
//! Goal: a worker sees a range of the virtual disk once and turns it into bytes that need no later change; what ties the ranges
//! together is computed at the end, from small indexes alone, and goes to the front of the file, which S3 puts together from it
//! and copies of what the workers made.
//!
//! - [`qcow2`]: the format, in map ([`BlobWriter`](qcow2::BlobWriter)) and reduce ([`File`](qcow2::File),
//!   [`Assembly`](qcow2::Assembly)) form, and the copy of a raw object's ranges ([`CopyPlan`](qcow2::CopyPlan)).
//! - [`parts`]: S3's rules for parts, and how a disk is cut by them.
//! - [`rope`]: what workers hand on, without copies of what needs no change.

pub mod parts;
pub mod qcow2;
pub mod rope;
