//! A simulation, not a measurement: what clones, imports and exports would take and cost on AWS, by the plans that the flows
//! make, under what AWS publishes.
//!
//!     cargo run -q -p image-tasks-domain --example simulate
//!
//! Model: a Map runs its batches on at most 40 workers, each batch goes to the worker that is free first; a worker has some
//! requests on their way, each at the rate of one request and all of them at most at the rate of the worker. What is assumed
//! and not published says so. Prices are those of us-east-1, before free tiers and discounts.

#![allow(clippy::print_stdout, reason = "its output is a table")]

use image_tasks_domain::copying::{CopyCut, CopyRules};
use image_tasks_domain::transfer::{Batch, MAX_BATCHES, TransferPlan, WORKERS, batches};

const GIB: f64 = 1_073_741_824.0;
const MB: f64 = 1e6;

// S3 user guide, "Performance guidelines": requests a second for one prefix that writes, and what one request moves
// ("one concurrent request for each 85-90 MB/s").
const S3_WRITES_PER_SECOND: f64 = 3500.0;
const REQUEST_RATE: f64 = 85.0 * MB;
// The same guide: latencies of 100 to 200 ms for the first byte.
const REQUEST_LATENCY: f64 = 0.2;
// Lambda developer guide, "Lambda quotas": 15 minutes; 15 s of them are kept for the answer (`TIME_TO_ANSWER`).
const INVOCATION: f64 = 885.0;
// Assumed: AWS publishes no figure for a function's network.
const WORKER_RATE: f64 = 75.0 * MB;
// Assumed: libdeflate level 1 on one vCPU, as the benchmark `write_qcow2` measures it on a server's core.
const DEFLATE_RATE: f64 = 140.0 * MB;
// Assumed of an exported disk: half of it holds data, which shrinks to a half.
const DATA: f64 = 0.5;
const DEFLATED: f64 = 0.5;
// The flows' own bounds (`image_tasks_flows::bounds`): copies, parts of an import, and bytes of a read while hashing.
const COPIES_AT_ONCE: f64 = 8.0;
const PARTS_AT_ONCE: f64 = 2.0;
const HASH_READ: f64 = 8.0 * 1_048_576.0;
// Larger objects are hashed in a relay of so many workers, a chunk a turn. The rate of all together is what the simulation in
// `crates/flows/src/relay` comes to, the requests are those of a chunk: its state is saved, and waited for.
const HASH_INLINE: u64 = 4 << 30;
const HASH_CHUNK: f64 = 256.0 * 1_048_576.0;
const HASH_WORKERS: f64 = 4.0;
const RELAY_RATE: f64 = 219.0 * MB;
const CHUNK_LOOKS: f64 = 15.0;
// Default of `HASH_BEFORE_ACTIVE_BYTES`: larger images are active before they are hashed.
const HASHED_FIRST: u64 = 128 << 30;
const WINDOW: f64 = 8.0 * 1_048_576.0;

// AWS Lambda pricing: arm64, per GB-second and per request; template.yaml gives a worker 1769 MB.
const LAMBDA_GB_SECOND: f64 = 0.000_013_333_4;
const LAMBDA_REQUEST: f64 = 0.2 / 1e6;
const WORKER_GB: f64 = 1769.0 / 1024.0;
// AWS Step Functions pricing: standard workflows, per transition.
const TRANSITION: f64 = 0.025 / 1e3;
// Amazon S3 pricing: PUT, COPY, POST, LIST; GET; between regions (us-east-1 to eu-west-1), per GB.
const S3_WRITE: f64 = 0.005 / 1e3;
const S3_READ: f64 = 0.0004 / 1e3;
const BETWEEN_REGIONS: f64 = 0.02;
// Amazon DynamoDB pricing: on demand, per write unit; a worker writes an item of less than 1 KB every three seconds
// (`image_tasks_flows::bounds::TELL_EVERY`).
const DYNAMO_WRITE: f64 = 0.625 / 1e6;
const TELL_EVERY: f64 = 3.0;

/// What a worker does with a piece.
struct Work {
    bytes: f64,
    at_once: f64,
    /// Bytes a second of one request, and of the worker.
    request: f64,
    worker: f64,
}

/// Seconds to the end, and what was used.
#[derive(Default)]
struct Used {
    seconds: f64,
    /// Seconds of work that goes on after the task's end.
    later: f64,
    worker_seconds: f64,
    invocations: f64,
    transitions: f64,
    writes: f64,
    reads: f64,
    between_regions: f64,
}

impl Used {
    fn dollars(&self) -> f64 {
        self.worker_seconds * WORKER_GB * LAMBDA_GB_SECOND
            + self.invocations * LAMBDA_REQUEST
            + self.transitions * TRANSITION
            + self.writes * S3_WRITE
            + self.reads * S3_READ
            + self.worker_seconds / TELL_EVERY * DYNAMO_WRITE
            + self.between_regions / GIB * BETWEEN_REGIONS
    }

    /// One call after another.
    fn call(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.worker_seconds += seconds;
        self.invocations += (seconds / INVOCATION).ceil().max(1.0);
        self.transitions += 2.0 * (seconds / INVOCATION).ceil().max(1.0);
    }

    /// A Map over batches.
    fn map(&mut self, batches: &[Batch], work: &Work) {
        let mut free = vec![0.0_f64; usize::try_from(WORKERS).unwrap_or(1)];
        let mut pieces = 0.0;
        for batch in batches {
            let count = f64::from(batch.last - batch.first + 1);
            let rate = work.request.min(work.worker / work.at_once.min(count));
            let seconds = (count / work.at_once).ceil() * (REQUEST_LATENCY + work.bytes / rate);
            let first = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap_or(0);
            free[first] += seconds;
            let calls = (seconds / INVOCATION).ceil().max(1.0);
            self.worker_seconds += seconds;
            self.invocations += calls;
            // The task and the choice behind it, for each call; the end of the iteration.
            self.transitions += 2.0 * calls + 1.0;
            // The parts that are there already are listed first.
            self.writes += calls;
            pieces += count;
        }
        self.seconds += free.iter().copied().fold(pieces / S3_WRITES_PER_SECOND, f64::max);
        self.writes += pieces;
    }
}

fn clone(size: u64, request: f64) -> Used {
    let plan = TransferPlan::new(size).ok();
    // An image of ours: stored in parts of the same plan.
    let etag = plan.map(|plan| format!("\"0-{}\"", plan.parts())).unwrap_or_default();
    let mut used = Used { between_regions: size as f64, ..Used::default() };
    used.call(2.0);
    if let Ok(CopyCut::Parts(parts)) = CopyRules::default().plan(size, &etag) {
        // No byte passes the worker: only S3's own rate counts.
        let bytes = parts.part_size as f64;
        used.map(&parts.batches(), &Work { bytes, at_once: COPIES_AT_ONCE, request, worker: f64::INFINITY });
    }
    used.call(3.0);
    used
}

fn import(size: u64) -> Used {
    let mut used = Used::default();
    used.call(2.0);
    if let Ok(plan) = TransferPlan::new(size) {
        let bytes = plan.part_size as f64;
        let work = Work { bytes, at_once: PARTS_AT_ONCE, request: REQUEST_RATE, worker: WORKER_RATE };
        used.map(&plan.batches(), &work);
    }
    // What is stored is read once more and hashed.
    used.reads += size as f64 / HASH_READ;
    if size <= HASH_INLINE {
        used.call(3.0 + size as f64 / WORKER_RATE);
        return used;
    }
    used.call(3.0);
    let hashing = size as f64 / RELAY_RATE;
    let calls = HASH_WORKERS * (hashing / INVOCATION).ceil();
    used.worker_seconds += HASH_WORKERS * hashing;
    used.invocations += calls;
    used.transitions += 2.0 * calls + HASH_WORKERS;
    used.writes += size as f64 / HASH_CHUNK;
    used.reads += size as f64 / HASH_CHUNK * CHUNK_LOOKS;
    used.call(3.0);
    if size > HASHED_FIRST {
        used.later = hashing;
    } else {
        used.seconds += hashing;
    }
    used
}

fn export(size: u64) -> Used {
    let mut used = Used::default();
    used.call(2.0);
    let blobs = f64::from(u32::try_from(MAX_BATCHES).unwrap_or(u32::MAX));
    let data = size as f64 * DATA;
    let rate = WORKER_RATE.min(DEFLATE_RATE);
    let work = Work { bytes: data / blobs, at_once: 1.0, request: rate, worker: rate };
    used.map(&batches(u32::try_from(MAX_BATCHES).unwrap_or(u32::MAX)), &work);
    used.reads += data / WINDOW;
    used.writes += data * DEFLATED / (64.0 * 1_048_576.0);
    used.call(5.0);
    used
}

fn main() {
    println!("Simulated, not measured.\n");
    println!("| | 10 GiB | 100 GiB | 1 TiB | 10 TiB |");
    println!("|---|---|---|---|---|");
    let row = |name: &str, of: &dyn Fn(u64) -> Used| {
        let cells = [10u64, 100, 1024, 10_240].map(|gib| {
            let used = of(gib << 30);
            let later = match used.later {
                0.0 => String::new(),
                seconds => format!(" (hashed {:.1} h later)", seconds / 3600.0),
            };
            format!("{:.1} min{later}, ${:.2}", used.seconds / 60.0, used.dollars())
        });
        println!("| {name} | {} |", cells.join(" | "));
    };
    row("clone, 85 MB/s a copy", &|size| clone(size, REQUEST_RATE));
    row("clone, an eighth of that", &|size| clone(size, REQUEST_RATE / 8.0));
    row("clone within a region", &|size| Used { between_regions: 0.0, ..clone(size, REQUEST_RATE) });
    row("import as it is", &import);
    row("export to compressed qcow2, half full", &export);
}
