//! What finding zeros adds to the worker that hashes a stored disk: CPU time of MD5 and SHA-512 over the same chunks, with and
//! without the scan.
//!
//! `cargo bench -p image-tasks-flows --bench hash`

#![allow(clippy::print_stdout, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use disk_image::AllocationScanner;
use md5::{Digest as _, Md5};
use sha2::Sha512;

/// As a network read gives.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 4096;
/// More than caches hold, as what comes from a network.
const BUFFER: usize = 64 << 20;
const RUNS: usize = 5;

fn main() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(BUFFER / 8)
    .flatten()
    .collect();
    // Clusters whose only data is their last byte: the scan's worst.
    let mut late = vec![0; BUFFER];
    late.chunks_mut(CHUNK).for_each(|cluster| cluster[CHUNK - 1] = 1);
    // As a copy, or most of it would be the kernel's one page of zeros.
    let late = late.clone();
    for (name, bytes) in [("noise", noise), ("zeros but for each cluster's end", late)] {
        let chunks = || bytes.chunks(CHUNK).cycle().take(CHUNKS);
        let hashed = best(|| {
            let (mut md5, mut sha512) = (Md5::new(), Sha512::new());
            for chunk in chunks() {
                md5.update(black_box(chunk));
                sha512.update(black_box(chunk));
            }
            black_box((md5.finalize(), sha512.finalize()));
        });
        let scanned = best(|| {
            let mut scanner = AllocationScanner::default();
            chunks().for_each(|chunk| scanner.update(black_box(chunk)));
            black_box(scanner.finish());
        });
        let share = scanned.as_secs_f64() / hashed.as_secs_f64() * 100.0;
        println!("{name}: the scan takes {share:.2}% of what the hashes take");
    }
}

fn best(work: impl Fn()) -> Duration {
    let timed = || {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    (0..RUNS).map(|_| timed()).min().unwrap_or_default()
}
